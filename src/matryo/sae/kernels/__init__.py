"""The sparse step: one contract over lists of active entries, in PyTorch operations and, for CPUs, compiled loops.

The contract, for any device and floating dtype:

* `select_batch_topk`, `select_row_topk`, `select_above`: x, W, b → `Entries` (which latents are active, with
  their pre-activations), scanning the encoder product tile by tile so that (batch, n_latents) is never stored;
* `pre_acts_at`: the same pre-activations as a differentiable function of x, W, b at those entries only;
* `at_latents`: a vector over latents, at the entries;
* `decode`, `decode_losses`: the decoder and the (nested) squared error at those entries only;
* `fused` (float32 and float64 on a CPU): the same gradients without autograd, formed latent by latent inside Adam.
* `Mesh`: processes that share a step, over whose rows and latents the same results are computed.

`use("triton")` computes the weighted sums inside these by Triton kernels, which have not yet been run on hardware;
nothing chooses them by itself.

Kernels are called from one thread. A dense autograd reference of each lives in the tests.
"""

from matryo.sae.kernels.counting import largest, mark_row_largest
from matryo.sae.kernels.entries import Entries
from matryo.sae.kernels.mesh import ALONE, Group, Mesh, shared_sum, total_of
from matryo.sae.kernels.select import select_above, select_batch_topk, select_row_topk
from matryo.sae.kernels.sparse import at_latents, decode, decode_losses, pre_acts_at
from matryo.sae.kernels.switch import has_compiled, use
from matryo.sae.kernels.watch import Watch

__all__ = [
    "ALONE",
    "Entries",
    "Group",
    "Mesh",
    "Watch",
    "at_latents",
    "decode",
    "decode_losses",
    "has_compiled",
    "largest",
    "mark_row_largest",
    "pre_acts_at",
    "select_above",
    "select_batch_topk",
    "select_row_topk",
    "shared_sum",
    "total_of",
    "use",
]
