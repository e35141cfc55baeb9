"""The linear probes of the absorption measurement, each as SAEBench fits it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from matryo.sae.kernels import Entries, decode
from matryo.sae.nn import SAE

Rows = Tensor | Entries
LR, END_LR = 1e-2, 1e-5
"""Adam's learning rate, falling exponentially from epoch to epoch (SAEBench)."""

BETAS, EPSILON = (0.9, 0.999), 1e-8
"""Adam's other constants, PyTorch's defaults."""


def fit_one_vs_rest(
    x: Rows,
    labels: Bool[Tensor, "rows classes"],
    *,
    epochs: int,
    batch: int,
    weight_decay: float,
    l1: float = 0.0,
    generator: torch.Generator,
    advance: Callable[[int], None] = lambda epochs: None,
) -> tuple[Float[Tensor, "width classes"], Float[Tensor, "classes"]]:
    """One logistic probe per class, all at once: weights W and biases b of logits x W + b.

        L = mean over rows and classes of −[p_c y log σ + (1 − y) log(1 − σ)] + l1 · mean_c Σ_i |W_ic|

    with p_c = negatives / positives of the class. Adam on random batches, learning rate 0.01 → 1e-5. SAEBench starts
    from random weights; here they start at 0, so that latents that are never active keep none.

    Args:
        x: rows × width, dense or as lists of active entries.
        labels: each class with at least one positive.
        epochs: passes over the rows.
        batch: rows per step.
        weight_decay: Adam's, of W and b.
        l1: weight of the penalty.
        generator: shuffles the rows.
        advance: told 1 after each epoch.
    """
    rows, classes = labels.shape
    width = x.n_latents if isinstance(x, Entries) else x.shape[1]
    positives = labels.sum(0)
    weight = (rows - positives) / positives
    y = labels.float()
    theta = torch.zeros(width + 1, classes, device=labels.device)  # b is the last row
    first, second = torch.zeros_like(theta), torch.zeros_like(theta)
    step = 0
    for epoch in range(epochs):
        rate = LR * (END_LR / LR) ** (epoch / epochs)
        order = torch.randperm(rows, generator=generator).to(labels.device)
        for chosen in order.split(batch):
            part = x[chosen] if isinstance(x, Tensor) else take_rows(x, chosen)
            sigma = torch.sigmoid(_product(part, theta[:-1], theta[-1]))
            target = y[chosen]
            slope = (sigma - target * (sigma + weight * (1 - sigma))) / sigma.numel()
            gradient = torch.cat([_transposed_product(part, slope), slope.sum(0, keepdim=True)])
            if l1:
                gradient[:-1] += theta[:-1].sign() * (l1 / classes)
            gradient.add_(theta, alpha=weight_decay)
            step += 1
            first.lerp_(gradient, 1 - BETAS[0])
            second.lerp_(gradient.square_(), 1 - BETAS[1])
            scale = (1 - BETAS[1] ** step) ** 0.5
            theta.addcdiv_(first, second.sqrt().div_(scale).add_(EPSILON), value=-rate / (1 - BETAS[0] ** step))
        advance(1)
    return theta[:-1], theta[-1]


def _product(x: Rows, W: Tensor, b: Tensor) -> Tensor:
    return torch.addmm(b, x, W) if isinstance(x, Tensor) else decode(x.value, x, W, b)


def _transposed_product(x: Rows, slope: Tensor) -> Tensor:
    if isinstance(x, Tensor):
        return x.T @ slope
    order = _order_by_latent(x)
    start = torch.zeros(x.n_latents + 1, dtype=torch.long, device=order.device)
    torch.cumsum(torch.bincount(x.latent, minlength=x.n_latents), 0, out=start[1:])
    flipped = Entries(start, x.row[order], x.value[order], x.n_rows)
    return decode(flipped.value, flipped, slope, slope.new_zeros(slope.shape[1]))


def _order_by_latent(x: Entries) -> Tensor:
    """As the first half of `by_latent`; on a CPU by NumPy, whose stable sort of 16-bit numbers is ten times faster."""
    if x.latent.device.type != "cpu" or x.n_latents > 1 << 16:
        return x.by_latent[0]
    return torch.from_numpy(np.argsort(x.latent.numpy().astype(np.uint16), kind="stable"))


def take_rows(entries: Entries, rows: Int[Tensor, "chosen"]) -> Entries:
    """The entries of some rows, in that order."""
    counts = entries.row_start.diff()[rows]
    start = torch.zeros(len(rows) + 1, dtype=torch.long, device=rows.device)
    torch.cumsum(counts, 0, out=start[1:])
    shift = torch.repeat_interleave(entries.row_start[rows] - start[:-1], counts)
    index = torch.arange(len(shift), device=rows.device) + shift
    return Entries(start, entries.latent[index], entries.value[index], entries.n_latents)


def columns(entries: Entries, latents: Int[Tensor, "k"]) -> Float[Tensor, "rows k"]:
    """Dense columns of a few latents."""
    order, start = entries.by_latent
    out = entries.value.new_zeros(entries.n_rows, len(latents))
    for i, latent in enumerate(latents.tolist()):
        mine = order[start[latent] : start[latent + 1]]
        out[entries.row[mine], i] = entries.value[mine]
    return out


@torch.no_grad()
def encode_words(sae: SAE, x: Float[Tensor, "words d"]) -> Entries:
    """Active latents of every word, in units in which decoder rows have norm 1."""
    parts = [sae.eval().encode_sparse(part.to(sae.W_dec)) for part in x.split(4096)]
    norms = sae.W_dec.detach().norm(dim=1)
    counts = torch.cat([part.row_start.diff() for part in parts])
    start = torch.zeros(len(counts) + 1, dtype=torch.long, device=counts.device)
    torch.cumsum(counts, 0, out=start[1:])
    latent = torch.cat([part.latent for part in parts])
    value = torch.cat([part.value for part in parts]).float() * norms[latent].float()
    return Entries(start, latent, value, sae.config.n_latents)


def fit_balanced_logistic(
    x: Float[Tensor, "rows k"], y: Bool[Tensor, "rows"], C: float = 1.0
) -> tuple[Float[Tensor, "k"], float]:
    """Weights w and bias b of scikit-learn's LogisticRegression(class_weight="balanced"), by Newton's method.

        C Σ_r s_r [log(1 + exp(z_r)) − y_r z_r] + ½‖w‖²,   z = x w + b,   s_r = rows / (2 · rows of r's class)

    Rows of zeros, most of them when x are latents, are counted rather than read.

    Raises:
        ValueError: y has one class only.
    """
    if bool(y.all()) or not bool(y.any()):
        raise ValueError("labels of one class only; expected positives and negatives")
    weight = torch.where(y, len(y) / (2 * y.sum()), len(y) / (2 * (~y).sum())).double() * C
    live = (x != 0).any(1)
    rest = [(~live & y, 1.0), (~live & ~y, 0.0)]
    ones = torch.ones(int(live.sum()) + 2, 1, dtype=torch.double, device=x.device)
    X = torch.cat([torch.cat([x[live].double(), x.new_zeros(2, x.shape[1]).double()]), ones], 1)
    s = torch.cat([weight[live], torch.stack([weight[rows].sum() for rows, _ in rest])])
    t = torch.cat([y[live].double(), torch.tensor([target for _, target in rest], device=x.device).double()])
    ridge = torch.ones(X.shape[1], dtype=torch.double, device=x.device)
    ridge[-1] = 0.0
    theta = torch.zeros_like(ridge)

    def objective(theta: Tensor) -> Tensor:
        z = X @ theta
        return (s * (torch.nn.functional.softplus(z) - t * z)).sum() + 0.5 * (ridge * theta * theta).sum()

    value = objective(theta)
    for _ in range(100):
        sigma = torch.sigmoid(X @ theta)
        gradient = X.T @ (s * (sigma - t)) + ridge * theta
        curvature = (X * (s * sigma * (1 - sigma))[:, None]).T @ X + torch.diag(ridge + 1e-10)
        step = torch.linalg.solve(curvature, gradient)
        rate = 1.0
        while (new := objective(theta - rate * step)) > value and rate > 1e-6:
            rate /= 2
        theta, gain, value = theta - rate * step, value - new, new
        if gain <= 1e-12 * value.abs():
            break
    return theta[:-1], float(theta[-1])


def f1_score(predicted: Bool[Tensor, "rows"], y: Bool[Tensor, "rows"]) -> float:
    """2 TP / (2 TP + FP + FN); 0 when there is nothing to find and nothing found."""
    hits = int((predicted & y).sum())
    total = int(predicted.sum()) + int(y.sum())
    return 2 * hits / total if total else 0.0
