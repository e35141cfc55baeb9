"""Many logistic regressions at once: those of a few columns each, and those that share one matrix.

All minimise what scikit-learn's `LogisticRegression(C=1)` does, with s = ±1 the class and the intercept b free:

    L(w, b) = ½‖w‖² + C Σ_i log(1 + exp(−s_i (x_i·w + b))).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

C = 1.0
"""scikit-learn's default, and SAEBench's."""

Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Values and gradients of many columns."""


def fit_columns(
    x: Float[Tensor, "problems rows k"],
    positive: Bool[Tensor, "problems rows"],
    real: Bool[Tensor, "problems rows"],
    steps: int = 100,
    tolerance: float = 1e-9,
) -> tuple[Float[Tensor, "problems k"], Float[Tensor, "problems"]]:
    """Fit every problem on its own few columns by Newton's method, all of them in each step.

    A step that would raise a problem's L is halved for that problem. `real` is False where rows only fill up.
    """
    x = torch.cat([x.double(), torch.ones_like(x[..., :1], dtype=torch.float64)], 2) * real[..., None]
    sign = torch.where(positive, 1.0, -1.0).double()
    ridge = torch.ones(x.shape[2], dtype=torch.float64)
    ridge[-1] = 0.0
    w = torch.zeros(len(x), x.shape[2], dtype=torch.float64)

    def value(w: Tensor) -> Tensor:
        margin = sign * torch.einsum("pnk,pk->pn", x, w)
        return 0.5 * (ridge * w * w).sum(1) + C * (F.softplus(-margin) * real).sum(1)

    now = value(w)
    for _ in range(steps):
        p = torch.sigmoid(torch.einsum("pnk,pk->pn", x, w))
        gradient = ridge * w + C * torch.einsum("pnk,pn->pk", x, (p - positive.double()) * real)
        curved = C * torch.einsum("pnk,pn,pnl->pkl", x, p * (1 - p) * real, x) + torch.diag(ridge + 1e-10)
        step = torch.linalg.solve(curved, gradient)
        size = torch.ones(len(x), dtype=torch.float64)
        new = value(w - step)
        for _ in range(30):
            worse = new > now + 1e-12 * now.abs()
            if not bool(worse.any()):
                break
            size = torch.where(worse, size / 2, size)
            new = value(w - size[:, None] * step)
        better = new < now
        w = torch.where(better[:, None], w - size[:, None] * step, w)
        # Half the Newton decrement estimates how far L is above its minimum.
        if float((gradient * step).sum(1).max()) / 2 < tolerance * max(1.0, float(now.max())):
            break
        now = torch.where(better, new, now)
    return w[:, :-1].float(), w[:, -1].float()


def fit_shared(
    x: Float[Tensor, "rows d"],
    sign: Float[Tensor, "rows problems"],
    steps: int = 300,
    tolerance: float = 0.02,
    memory: int = 10,
) -> tuple[Float[Tensor, "d problems"], Float[Tensor, "problems"]]:
    """Fit many problems on rows of one matrix: `sign` is ±1 for rows of a problem, 0 for those it leaves out.

    L-BFGS of all problems in step, so that each evaluation is two matrix products. It runs in the coordinates
    u = D⁻¹Vᵀw, with XᵀX = V diag(λ) Vᵀ of the centred rows and D = (1 + C λ n_p/4n)^(−½), in which L's Hessian is at
    most about the identity. It stops where ‖∂L/∂u‖ ≤ `tolerance`: L is then within about tolerance²/2 of its minimum,
    which moves no probability visibly.
    """
    mean = x.mean(0)
    centred = x - mean
    used = sign.abs()
    share = float(used.sum(0).mean()) / len(x)
    spectrum, vectors = torch.linalg.eigh((centred.T @ centred).double())
    scale = (1 + C * share * spectrum.clamp_min(0) / 4).rsqrt().float()
    basis = vectors.float() * scale
    features = torch.cat([centred @ basis, torch.full((len(x), 1), (4 / (share * len(x) * C)) ** 0.5)], 1)
    ridge = torch.cat([scale.square(), torch.zeros(1)])[:, None]

    def evaluate(u: Tensor) -> tuple[Tensor, Tensor]:
        margin = sign * (features @ u)
        value = 0.5 * (ridge * u * u).sum(0) + C * (F.softplus(-margin) * used).sum(0)
        return value, ridge * u - C * (features.T @ (sign * torch.sigmoid(-margin)))

    u = torch.zeros(features.shape[1], sign.shape[1])
    u = _lbfgs(evaluate, u, steps, tolerance, memory)
    w = basis @ u[:-1]
    b = u[-1] * features[0, -1] - mean @ w
    return w, b


def _lbfgs(
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor]], u: Tensor, steps: int, tolerance: float, memory: int
) -> Tensor:
    """L-BFGS of independent columns; a column whose step does not lower its value tries half of it."""
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    value, gradient = evaluate(u)
    for _ in range(steps):
        if float(gradient.norm(dim=0).max()) <= tolerance:
            break
        direction = -_two_loops(gradient, pairs)
        slope = (direction * gradient).sum(0)
        direction = torch.where(slope < 0, direction, -gradient)
        slope = (direction * gradient).sum(0)
        size = torch.ones_like(value)
        new_value, new_gradient = evaluate(u + direction)
        for _ in range(20):
            bad = new_value > value + 1e-4 * size * slope
            if not bool(bad.any()):
                break
            size = torch.where(bad, size / 2, size)
            new_value, new_gradient = evaluate(u + size * direction)
        # In float32 a column at its minimum may find no lower value: it stays.
        move = torch.where(new_value <= value, size, torch.zeros_like(size)) * direction
        change = torch.where(new_value <= value, new_gradient - gradient, torch.zeros_like(gradient))
        curvature = (move * change).sum(0)
        pairs = [*pairs[-memory + 1 :], (move, change, curvature)]
        u = u + move
        gradient = gradient + change
        if not bool((move != 0).any()):
            break
        value = torch.minimum(value, new_value)
    return u


def _two_loops(gradient: Tensor, pairs: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """The inverse Hessian that the last pairs (step, change of gradient) imply, times the gradient, by columns.

    A pair without positive curvature, as of a column that stayed, counts for nothing.
    """
    q, left = gradient.clone(), []
    for move, change, curvature in reversed(pairs):
        usable = curvature > 1e-12
        rho = torch.where(usable, 1 / curvature.clamp_min(1e-12), torch.zeros_like(curvature))
        alpha = rho * (move * q).sum(0)
        q = q - alpha * change
        left.append((rho, alpha))
    if pairs:
        _, change, curvature = pairs[-1]
        gamma = curvature / change.square().sum(0).clamp_min(1e-12)
        q = q * torch.where(curvature > 1e-12, gamma, torch.ones_like(gamma))
    for (move, change, _), (rho, alpha) in zip(pairs, reversed(left), strict=True):
        q = q + move * (alpha - rho * (change * q).sum(0))
    return q
