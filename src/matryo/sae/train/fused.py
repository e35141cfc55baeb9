"""A step without autograd over weights: gradients are formed, used by Adam and forgotten, one weight row at a time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from matryo.sae.kernels import Watch, has_compiled, total_of
from matryo.sae.nn import SAE, Loss
from matryo.sae.nn.auxiliary import aux_with_gradient
from matryo.sae.nn.levels import draw_levels, level_weights
from matryo.sae.nn.loss import Active
from matryo.sae.train.adam import EPS, Adam, Moments


class FusedStep:
    """The loss of one batch and the update of an autoencoder, at its active entries.

    The rule of the autoencoder (which entries, z(pre), its penalty) is the subclass's own code with autograd, over the
    entries only; decoding, weight gradients and Adam of the two weight matrices are compiled loops. Adam's moments are
    those of the optimiser it is given, which goes on to serve the small parameters.

    In bfloat16 (rounded at random, without bias) they take half the memory; docs/sae/training.md has what that costs.
    """

    def __init__(self, sae: SAE, optimiser: Adam, short_moments: bool = False) -> None:
        """Prepare to train; with `short_moments` the weight matrices' moments are kept in bfloat16.

        Raises:
            ValueError: short moments are asked for where steps without compiled loops are taken.
        """
        if short_moments and (not self.serves(sae) or sae.W_dec.dtype != torch.float32 or sae.config.kind == "relu"):
            raise ValueError(
                f"moments is bfloat16 for a {sae.config.kind} SAE in {sae.W_dec.dtype} on {sae.W_dec.device}; expected "
                "topk, batch_topk or jumprelu in float32 on a CPU: use moments float32"
            )
        self.sae, self.optimiser, self.short_moments = sae, optimiser, short_moments
        self._slope: Tensor | None = None

    @staticmethod
    def serves(sae: SAE) -> bool:
        """Whether this autoencoder can be trained by compiled loops, where it is."""
        return has_compiled(sae.W_dec) and sae.config.kind != "gated"

    def loss(
        self,
        x: Tensor,
        target: Tensor | None,
        dead: Tensor,
        hint: float | None,
        generator: torch.Generator,
        sparsity_scale: float,
    ) -> Loss:
        """`SAE.loss` of a batch, its gradient kept: small parameters' in .grad, the weights' to be formed."""
        from matryo.sae.kernels.fused import WeightGradient, decode_with_gradient

        sae, config = self.sae, self.sae.config
        target = sae._checked(x, target).detach().contiguous()
        centred = sae._centred(x).contiguous()
        mesh, batch = sae.mesh, sae.mesh.batch(x)
        revive = config.aux_weight > 0 and total_of(int(dead.sum()), mesh.latents, x) > 0
        watch = Watch.of(dead, centred) if revive else None
        entries = sae._select(centred, hint, watch)
        levels = draw_levels(config, generator)
        weights, ends = level_weights(config, len(levels), target), sae._here(levels)

        pre = entries.value.clone().requires_grad_()
        z = sae._activate(pre, entries)
        norms = None
        if not sae.unit_rows:
            norms = torch.linalg.vector_norm(sae.W_dec.detach(), dim=1).requires_grad_()
        sparsity = sae._sparsity(Active(pre, z, entries, target, levels, norms), sparsity_scale)
        if self._slope is None or self._slope.shape != (len(levels), *target.shape):
            self._slope = target.new_empty(len(levels), *target.shape)
        decoded = decode_with_gradient(
            z.detach(), entries, sae.W_dec.detach(), sae.b_dec.detach(), target, ends, weights,
            batch=batch, want_residual=revive, slope=self._slope, latents=mesh.latents,
        )  # fmt: skip
        roots, slopes = [z], [decoded.grad_z]
        if sparsity.requires_grad:
            roots, slopes = [z, sparsity], [decoded.grad_z, torch.ones_like(sparsity)]
        torch.autograd.backward(roots, slopes)

        aux, more = target.new_zeros(()), None
        if watch is not None:
            assert decoded.residual is not None
            aux, more = aux_with_gradient(sae, watch, centred, decoded.residual)
        pull = None if norms is None or norms.grad is None else norms.grad / norms.detach().clamp_min(1e-30)
        assert pre.grad is not None
        self.gradient = WeightGradient(
            sae.W_enc.detach(), sae.W_dec.detach(), centred, entries, z.detach(), pre.grad, decoded.slope, ends,
            pull, more,
        )  # fmt: skip
        self.grad_b_dec = decoded.grad_b_dec
        per_level = mesh.rows.sum_(decoded.per_level)
        total = (weights * per_level).sum() + config.aux_weight * aux + sparsity.detach()
        found = entries.with_value(z)
        return Loss(
            total=total, levels=levels, per_level=per_level, aux=aux, sparsity=sparsity.detach(),
            residual=decoded.residual, entries=found, active=mesh.l0(found), fired=mesh.fired(found.fired),
            smallest=mesh.smallest(entries.value),
        )  # fmt: skip

    @torch.no_grad()
    def update(self, clip: float) -> None:
        """One step of Adam with the gradient of the last loss, clipped to a global norm (0: not at all)."""
        sae, of_input, factor = self.sae, not self.sae.config.transcoder, 1.0
        mesh, own = sae.mesh, self._own_gradients()
        if mesh.rows.size > 1:
            self.gradient = self.gradient.summed(mesh.rows)
            for grad in (self.grad_b_dec, *own):
                mesh.rows.sum_(grad)
        if clip:
            squares, of_centring = self.gradient.squared_norm(sae.unit_rows, of_input)
            squares += sum(float(grad.double().square().sum()) for grad in own)
            squares = float(mesh.latents.sum_(torch.tensor(squares, dtype=torch.float64)))
            squares += float(self._of_b_dec(of_centring).double().square().sum())
            factor = min(1.0, clip / (math.sqrt(squares) + 1e-6))
        adam, (enc, dec) = self.optimiser, (self._moments(name) for name in ("W_enc", "W_dec"))
        for moments in (enc, dec):
            moments.step += 1
        grad_b_enc, of_centring = self.gradient.apply_adam(
            (enc.m.t(), enc.v.t()),
            (dec.m, dec.v),
            step=enc.step,
            lr=adam.lr,
            betas=adam.betas,
            eps=EPS,
            clip=factor,
            unit_rows=sae.unit_rows,
            of_input=of_input,
        )
        sae.b_enc.grad, sae.b_dec.grad = grad_b_enc, self._of_b_dec(of_centring)
        for grad in (sae.b_enc.grad, sae.b_dec.grad, *own):
            grad.mul_(factor)
        adam.step()  # of what has a gradient: biases and the rule's own parameters
        del self.gradient

    def _of_b_dec(self, of_centring: Tensor | None) -> Tensor:
        """b_dec's whole gradient: as the decoder's bias, and through all latents as what is subtracted from x."""
        return self.grad_b_dec if of_centring is None else self.grad_b_dec + self.sae.mesh.latents.sum_(of_centring)

    def _own_gradients(self) -> list[Tensor]:
        shared = {"W_enc", "W_dec", "b_enc", "b_dec"}
        return [p.grad for name, p in self.sae.named_parameters() if name not in shared and p.grad is not None]

    def _moments(self, name: str) -> Moments:
        """Adam's state of a weight matrix, in the number type asked for."""
        adam = self.optimiser
        if name not in adam.moments:
            weights = adam.parameters[name]
            adam.moments[name] = Moments.zero(weights, torch.bfloat16 if self.short_moments else weights.dtype)
        return adam.moments[name]
