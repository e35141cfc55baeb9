"""Shape annotations are checked at run time in the tests, and only there; PyTorch uses one thread per process."""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# A job started in the background by a shell ignores Ctrl-C, and so would every process the tests start and interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# As the front door does: PyTorch's threads and numba's would otherwise spin against each other.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from jaxtyping import install_import_hook

# Not the compiled kernels: numba reads plain functions only.
KERNELS = [f"matryo.sae.kernels.{name}" for name in ("entries", "fused", "select", "sparse", "tiled", "watch")]
COMPARE = ["matryo.sae.compare.meta"]
COMPARE += [f"matryo.sae.compare.{name}" for name in ("greedy", "insertion", "match", "pairs", "path", "roc", "stitch")]
install_import_hook(["matryo.sae.nn", "matryo.sae.metrics", *KERNELS, *COMPARE], "beartype.beartype")
