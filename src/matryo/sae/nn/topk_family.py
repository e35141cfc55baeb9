"""What TopK and BatchTopK share: an inference threshold calibrated on held-back training tokens."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from matryo.sae.kernels import Entries, Group, Watch, largest, select_above, select_batch_topk, total_of
from matryo.sae.nn.base import SAE
from matryo.sae.nn.config import SAEConfig
from matryo.sae.nn.loss import Active


class TopKFamily(SAE):
    """An SAE whose training rule is a top-k and whose inference rule may be one threshold θ for all latents.

    At inference z = pre · 1[pre > θ], with θ such that calibration tokens have k active latents on average. One θ
    serves all levels: a latent's activity then does not depend on the others', so that any prefix can be used alone.
    """

    threshold: Tensor

    def __init__(self, config: SAEConfig) -> None:
        super().__init__(config)
        self.register_buffer("threshold", torch.tensor(float("nan")))

    @abstractmethod
    def _select_in_batch(
        self, centred: Float[Tensor, "batch d_in"], hint: float | None, watch: Watch | None = None
    ) -> Entries:
        """The training rule."""

    @property
    def by_threshold(self) -> bool:
        """Whether inference uses θ."""
        return True

    @property
    def calibrated(self) -> bool:
        """Whether θ has been set."""
        return not bool(torch.isnan(self.threshold))

    def calibrate(self, batches: Iterable[Float[Tensor, "_ d_in"]]) -> None:
        """Set θ, where the rule uses one, so that mean L0 over all tokens of the batches is k.

        Raises:
            ValueError: there is no token to calibrate on.
        """
        if not self.by_threshold:
            return
        batches = list(batches)
        if not sum(len(x) for x in batches):
            raise ValueError("calibration has 0 tokens; expected at least one batch held back from training")
        self.threshold.fill_(_mean_l0_threshold(self, batches))

    def _select(self, centred: Float[Tensor, "batch d_in"], hint: float | None, watch: Watch | None = None) -> Entries:
        if self.training or not self.by_threshold:
            return self._select_in_batch(centred, hint, watch)
        if not self.calibrated:
            raise ValueError(
                f"this {self.config.kind} SAE has no inference threshold; expected one from training: "
                "call sae.calibrate(batches), or sae.train() to select by batch"
            )
        return select_above(centred, self.W_enc, self.b_enc, float(self.threshold), watch)

    def _activate(self, pre: Float[Tensor, "entries"], entries: Entries) -> Float[Tensor, "entries"]:
        return pre

    def _sparsity(self, active: Active, scale: float) -> Tensor:
        return active.pre.new_zeros(())

    def _start(self, centred: Float[Tensor, "batch d_in"]) -> None:
        """Nothing: the rule has no parameters of its own."""

    def _own_tensors(self) -> dict[str, int]:
        return {"threshold": 1}


def _at_place(pool: Float[Tensor, "_"], place: int, group: Group) -> float:
    """The `place`-th largest number of a group's pools, 0 where there are fewer."""
    if group.size > 1:
        return max(0.0, largest(pool, place, group)[0])
    return float(torch.topk(pool, place, sorted=False).values.min()) if len(pool) >= place else 0.0


@torch.no_grad()
def _mean_l0_threshold(sae: SAE, batches: list[Tensor]) -> float:
    """The value that exactly k · tokens positive pre-activations of all the batches exceed; 0 when there are fewer."""
    group = sae.mesh.all
    rows = [sae.mesh.batch(x) for x in batches]
    wanted = sae.config.k * sum(rows)
    spread = 2
    while True:
        # A batch may hold more than its share of the largest values: keep `spread` times its share, verify, widen.
        values, cut_at = [], 0.0
        for x, count in zip(batches, rows, strict=True):
            share = min(spread * sae.config.k, sae.config.n_latents) * count
            value = select_batch_topk(sae._centred(x), sae.W_enc, sae.b_enc, share, group=group).value
            values.append(value)
            full = 0 < share == total_of(len(value), group, x)
            if full and spread * sae.config.k < sae.config.n_latents:
                cut_at = max(cut_at, sae.mesh.smallest(value) or 0.0)
        threshold = _at_place(torch.cat(values), wanted + 1, group)
        if threshold >= cut_at:
            return threshold
        spread *= 2
