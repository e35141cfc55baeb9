"""What all autoencoders share: parameters, reconstruction, the one loss, scaling, prefixes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from matryo.sae.kernels import Entries, Mesh, Watch, decode, decode_losses, pre_acts_at
from matryo.sae.nn.auxiliary import aux_loss
from matryo.sae.nn.config import SAEConfig
from matryo.sae.nn.folding import first_latents, fold_scale
from matryo.sae.nn.initial import geometric_median
from matryo.sae.nn.levels import draw_levels, level_weights
from matryo.sae.nn.loss import Active, Loss


class SAE(nn.Module, ABC):
    """A sparse autoencoder, or a transcoder when `config.d_out` is set.

    With x (batch, d_in), latents z (batch, n_latents) ≥ 0:

        pre = (x − b_dec) W_enc + b_enc                     (a transcoder does not subtract b_dec)
        z   = σ(pre), σ the rule of the subclass
        x̂_m = z[:, :m] W_dec[:m] + b_dec                    for every level m; x̂ = x̂_n_latents

        L = Σ_m w_m mean‖target − x̂_m‖² / d_out + aux_weight · aux + sparsity,   Σ w_m = 1

    aux is Gao et al.'s (2024) auxiliary loss on dead latents (see `aux_loss`), sparsity the subclass's penalty.
    Parameters: W_enc (d_in, n_latents), a transposed view of contiguous rows; b_enc (n_latents,); W_dec
    (n_latents, d_out), whose rows are the dictionary; b_dec (d_out,).
    In training mode the batch decides what is active where the rule says so; in eval mode every token is treated alone.

    Reference: Bussmann, Leask & Nanda, "BatchTopK Sparse Autoencoders" (2024) and "Learning Multi-Level Features with
    Matryoshka Sparse Autoencoders" (2025).
    """

    unit_rows = True
    """Whether decoder rows are kept at unit norm."""

    mesh = Mesh()
    """Processes that share a training step; with others' latents, the parameters here are `first`'s and the next ones'
    of a dictionary of config.n_latents."""

    first = 0

    def __init__(self, config: SAEConfig) -> None:
        super().__init__()
        self.config = config
        d_in, n = config.d_in, config.n_latents
        d_out = config.d_out or d_in
        generator = torch.Generator().manual_seed(config.seed)
        rows = torch.randn(n, d_out, generator=generator)
        rows = rows / rows.norm(dim=1, keepdim=True)
        enc = rows.clone() if not config.transcoder else torch.randn(n, d_in, generator=generator)
        self.W_enc = nn.Parameter((enc / enc.norm(dim=1, keepdim=True)).t())
        self.b_enc = nn.Parameter(torch.zeros(n))
        self.W_dec = nn.Parameter(rows)
        self.b_dec = nn.Parameter(torch.zeros(d_out))

    # What a subclass says ---------------------------------------------------------------------------------------

    @abstractmethod
    def _select(self, centred: Float[Tensor, "batch d_in"], hint: float | None, watch: Watch | None = None) -> Entries:
        """The entries whose pre-activations the rule needs, with those pre-activations as values."""

    @abstractmethod
    def _activate(self, pre: Float[Tensor, "entries"], entries: Entries) -> Float[Tensor, "entries"]:
        """Latents z at the entries, differentiable."""

    @abstractmethod
    def _sparsity(self, active: Active, scale: float) -> Float[Tensor, ""]:
        """The rule's own penalty, its sparsity term times `scale`; 0 where it has none."""

    @abstractmethod
    def _start(self, centred: Float[Tensor, "batch d_in"]) -> None:
        """Set the rule's own parameters from a first batch."""

    @abstractmethod
    def calibrate(self, batches: Iterable[Float[Tensor, "_ d_in"]]) -> None:
        """Set what inference needs from held-back training batches; nothing for rules that learn it."""

    @abstractmethod
    def _own_tensors(self) -> dict[str, int]:
        """The rule's own tensors, (n_latents,) or scalar, with the power of the activation scale they carry."""

    # Public -----------------------------------------------------------------------------------------------------

    def encode_sparse(self, x: Float[Tensor, "batch d_in"]) -> Entries:
        """The active latents of every row as a list of entries, detached; rows × latents is never stored."""
        with torch.no_grad():
            entries = self._select(self._centred(x), None)
            z = self._activate(entries.value, entries)
            keep = z > 0
            if bool(keep.all()):
                return entries.with_value(z)
            return Entries.from_pairs(
                entries.row[keep], entries.latent[keep], z[keep], entries.n_rows, entries.n_latents
            )

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch n_latents"]:
        """Latents z of every token, dense and differentiable."""
        z, entries = self._entries(x.reshape(-1, x.shape[-1]))
        dense = z.new_zeros(entries.n_rows, entries.n_latents).index_put((entries.row, entries.latent), z)
        return dense.view(*x.shape[:-1], entries.n_latents)

    def decode(self, z: Float[Tensor, "*batch n_latents"]) -> Float[Tensor, "*batch d_out"]:
        """x̂ = z W_dec + b_dec."""
        return z @ self.W_dec + self.b_dec

    def decode_sparse(self, entries: Entries, level: int | None = None) -> Float[Tensor, "batch d_out"]:
        """x̂ of a list of entries, from the first `level` latents only when a level is given."""
        if level is not None and level < entries.n_latents:
            entries = entries.prefix(level)
        return decode(entries.value, entries, self.W_dec[: entries.n_latents], self.b_dec)

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """x̂ of every token, differentiable, computed at the active entries only."""
        z, entries = self._entries(x.reshape(-1, x.shape[-1]))
        return decode(z, entries, self.W_dec, self.b_dec).view(*x.shape[:-1], self.W_dec.shape[1])

    def loss(
        self,
        x: Float[Tensor, "batch d_in"],
        target: Float[Tensor, "batch d_out"] | None = None,
        *,
        dead: Bool[Tensor, "n_latents"] | None = None,
        hint: float | None = None,
        generator: torch.Generator | None = None,
        sparsity_scale: float = 1.0,
    ) -> Loss:
        """The training loss L of one batch (equation in the class docstring).

        Args:
            x: activations, scaled so that E‖x‖² = d_in for the coefficients to have their usual meaning.
            target: what to reconstruct; x itself when not given.
            dead: latents to be revived by the auxiliary loss.
            hint: a guess of the smallest selected pre-activation (`Loss.smallest` of the last batch); speed only.
            generator: draws sampled levels.
            sparsity_scale: multiplies the L1 or L0 penalty, for its warm-up.

        Raises:
            ValueError: x or target has another width than the configuration.
        """
        target = self._checked(x, target)
        centred = self._centred(x)
        entries = self._select(centred, hint)
        pre = self._pre_acts(x, centred, entries)
        z = self._activate(pre, entries)
        levels = draw_levels(self.config, generator)
        # Gradients are summed over processes: b_dec, which all of them have, is the first one's there.
        b_dec = self.b_dec if self.mesh.latents.rank == 0 else self.b_dec.detach()
        per_level, residual = decode_losses(z, entries, self.W_dec, b_dec, target, self._here(levels), self.mesh)
        norms = None if self.unit_rows else torch.linalg.vector_norm(self.W_dec, dim=1)
        sparsity = self._sparsity(Active(pre, z, entries, target, levels, norms), sparsity_scale)
        if x.requires_grad:
            centred = centred + (x - x.detach()).to(centred)
        aux = aux_loss(self, centred, residual, dead)
        weights = level_weights(self.config, len(levels), per_level)
        total = (weights * per_level).sum() + self.config.aux_weight * aux + sparsity
        return Loss(
            total=total,
            levels=levels,
            per_level=per_level.detach(),
            aux=aux.detach(),
            sparsity=sparsity.detach(),
            residual=residual,
            entries=(found := entries.with_value(z)),
            active=self.mesh.l0(found),
            fired=self.mesh.fired(found.fired),
            smallest=self.mesh.smallest(entries.value),
        )

    def prefix(self, level: int) -> SAE:
        """The autoencoder made of the first `level` latents alone, with copied parameters."""
        return first_latents(self, level)

    def save(self, folder: Path | str, metadata: dict[str, Any] | None = None) -> None:
        """Write a SAELens-6 folder: cfg.json and sae_weights.safetensors (see `matryo.sae.nn.folder`)."""
        from matryo.sae.nn.folder import save_sae

        save_sae(self, Path(folder), metadata or {})

    @staticmethod
    def load(folder: Path | str) -> SAE:
        """Read a SAELens-6 folder, written here or by SAELens."""
        from matryo.sae.nn.folder import load_sae

        return load_sae(Path(folder))

    # For the trainer --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def initialise(self, x: Float[Tensor, "batch d_in"], target: Float[Tensor, "batch d_out"] | None = None) -> None:
        """Set b_dec to the geometric median of a first batch, and the rule's own parameters from it."""
        self.b_dec.copy_(geometric_median(self._checked(x, target)))
        self._start(self._centred(x))

    @torch.no_grad()
    def rescale(self, scale_in: float, scale_out: float | None = None) -> None:
        """Fold an activation scale: afterwards sae(x) equals what sae(x · scale_in) / scale_out gave before.

        Decoder rows keep their norms; latents, biases and thresholds are then in the units of the raw target.
        """
        fold_scale(self, scale_in, scale_in if scale_out is None else scale_out)

    @torch.no_grad()
    def project_gradient(self) -> None:
        """Remove from each decoder row's gradient the part parallel to the row, where rows have unit norm."""
        if self.unit_rows and self.W_dec.grad is not None:
            parallel = torch.linalg.vecdot(self.W_dec.grad, self.W_dec)
            self.W_dec.grad.addcmul_(self.W_dec, parallel[:, None], value=-1)

    @torch.no_grad()
    def normalise_rows(self) -> None:
        """Bring decoder rows back to unit norm, where the rule asks for it."""
        if self.unit_rows:
            self.W_dec.div_(torch.linalg.vector_norm(self.W_dec, dim=1, keepdim=True))

    # Inside -----------------------------------------------------------------------------------------------------

    def _entries(self, x: Float[Tensor, "batch d_in"]) -> tuple[Float[Tensor, "entries"], Entries]:
        centred = self._centred(x)
        entries = self._select(centred, None)
        return self._activate(self._pre_acts(x, centred, entries), entries), entries

    def _centred(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_in"]:
        """What the encoder's product reads, detached and in the weights' dtype."""
        self._check_width(x, self.config.d_in, "x")
        x = x.detach()
        if not self.config.transcoder:
            x = x - self.b_dec.detach()
        elif x.is_inference():
            x = x.clone()  # autograd refuses to keep what a model computed in inference mode
        return x.to(self.W_enc.dtype)

    def _here(self, levels: tuple[int, ...]) -> tuple[int, ...]:
        """How many of this process's latents are in each level."""
        n = len(self.W_dec)
        return levels if n == self.config.n_latents else tuple(min(max(m - self.first, 0), n) for m in levels)

    def _pre_acts(
        self, x: Float[Tensor, "batch d_in"], centred: Float[Tensor, "batch d_in"], entries: Entries
    ) -> Float[Tensor, "entries"]:
        b_in = None if self.config.transcoder else self.b_dec
        return pre_acts_at(x, self.W_enc, self.b_enc, b_in, centred, entries)

    def _checked(self, x: Tensor, target: Tensor | None) -> Tensor:
        """The target, x itself when not given, both of the right width."""
        self._check_width(x, self.config.d_in, "x")
        target = x if target is None else target
        self._check_width(target, self.W_dec.shape[1], "target")
        return target

    def _check_width(self, x: Tensor, width: int, name: str) -> None:
        if x.shape[-1] != width:
            raise ValueError(
                f"{name} has width {x.shape[-1]}; expected {width}: give activations of the SAE's own site"
            )

    def extra_repr(self) -> str:
        """The configuration's short name."""
        return f"{self.config.name}, d_in={self.config.d_in}"


def unit_scale(x: Float[Tensor, "batch d_in"]) -> float:
    """The factor that gives x a mean squared norm of d_in."""
    mean = float(x.double().square().sum(1).mean())
    if not mean > 0 or not math.isfinite(mean):
        raise ValueError(f"activations have a mean squared norm of {mean}; expected a positive number: check the data")
    return math.sqrt(x.shape[1] / mean)


def build(config: SAEConfig) -> SAE:
    """A fresh autoencoder of the configuration's kind."""
    from matryo.sae.nn import BatchTopK, Gated, JumpReLU, ReLU, TopK

    kinds: dict[str, type[SAE]] = {
        "relu": ReLU, "gated": Gated, "topk": TopK, "batch_topk": BatchTopK, "jumprelu": JumpReLU
    }  # fmt: skip
    return kinds[config.kind](config)
