"""Every kind's loss, dense and by autograd, written from the equations in the papers' notation; nothing here is sparse.

With x (batch, d_in), all parameters given by name, and `selected` (batch, n_latents) the entries the implementation
chose to look at, so that both sides differentiate the same branch:

    pre = (x − b_dec) W_enc + b_enc  (transcoder: x W_enc + b_enc),   x̂_m = z[:, :m] W_dec[:m] + b_dec
    L = Σ_m w_m mean‖target − x̂_m‖²/d_out + α · aux + sparsity
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Dense:
    total: Tensor
    per_level: list[Tensor]
    aux: Tensor
    sparsity: Tensor
    z: Tensor


def pre_acts(p, config, x):
    return (x if config.d_out else x - p["b_dec"]) @ p["W_enc"] + p["b_enc"]


def straight_through(value: Tensor, slope: Tensor, theta: Tensor) -> Tensor:
    """`value`, with ∂/∂θ equal to `slope`."""
    return value + slope.detach() * (theta - theta.detach())


def latents(p, config, x, selected):
    """(z, gate pre-activations or None, soft 1[z > 0] or None)."""
    pre = pre_acts(p, config, x)
    if config.kind == "gated":
        magnitude = (pre - p["b_enc"]) * torch.exp(p["r_mag"]) + p["b_mag"]
        return torch.where(selected, torch.relu(magnitude), 0.0), torch.where(selected, torch.relu(pre), 0.0), None
    if config.kind == "jumprelu":
        theta, width = p["threshold"].expand_as(pre), config.bandwidth
        active = (selected & (pre > theta) & (pre > 0)).to(pre)
        window = (selected & ((pre - theta).abs() < width / 2)).to(pre)
        z = straight_through(pre * active, -theta / width * window, theta)
        return z, None, straight_through(active, -window / width, theta)
    return torch.where(selected, pre, 0.0), None, None


def nested(z, W_dec, b_dec, target, levels):
    return [(target - (z[:, :m] @ W_dec[:m] + b_dec)).pow(2).mean(0).sum() / target.shape[1] for m in levels]


def mixed(losses, config):
    weights = torch.tensor(config.level_weights or [1.0] * len(losses), dtype=torch.float64)
    return sum(float(w) * loss for w, loss in zip(weights / weights.sum(), losses, strict=True))


def auxiliary(p, config, x, e, dead):
    """mean‖e − ê‖² / mean‖e − ē‖², ê from the top aux_k dead latents of every token; their relu is straight-through."""
    if dead is None or not dead.any():
        return e.new_zeros(())
    pre = pre_acts(p, config, x)
    z = pre + (torch.relu(pre) - pre).detach()
    wanted = min(config.aux_k or max(1, config.d_in // 2), int(dead.sum()))
    ranked = pre.masked_fill(~dead, -torch.inf).argsort(dim=1, descending=True)[:, :wanted]
    chosen = torch.zeros_like(pre).scatter(1, ranked, 1.0)
    e_hat = (z * chosen) @ p["W_dec"]
    return (e - e_hat).pow(2).sum(1).mean() / (e - e.mean(0)).pow(2).sum(1).mean()


def dense_loss(p, config, x, target, selected, levels, dead=None, sparsity_scale=1.0) -> Dense:
    z, gate, on = latents(p, config, x, selected)
    per_level = nested(z, p["W_dec"], p["b_dec"], target, levels)
    sparsity = z.new_zeros(())
    if config.kind == "relu":
        penalty = (z * p["W_dec"].pow(2).sum(1).sqrt()).sum(1).mean() / config.d_in
        sparsity = sparsity_scale * config.l1 * penalty
    elif config.kind == "gated":
        held = nested(gate, p["W_dec"].detach(), p["b_dec"].detach(), target, levels)
        sparsity = sparsity_scale * config.l1 * gate.sum(1).mean() / config.d_in + mixed(held, config)
    elif config.kind == "jumprelu":
        sparsity = sparsity_scale * config.l0_weight * (on.sum(1).mean() / config.k - 1) ** 2
    e = (target - (z @ p["W_dec"] + p["b_dec"])).detach()
    aux = auxiliary(p, config, x, e, dead)
    total = mixed(per_level, config) + config.aux_weight * aux + sparsity
    return Dense(total, per_level, aux, sparsity, z)


def rule(p, config, x):
    """Which entries training must look at, by brute force on the dense matrix (no ties assumed)."""
    pre = pre_acts(p, config, x)
    if config.kind == "jumprelu":
        return pre > p["threshold"] - config.bandwidth / 2
    if config.kind == "topk":
        return (pre > 0) & (pre >= pre.sort(1, descending=True).values[:, config.k - 1 : config.k])
    if config.kind == "batch_topk":
        return (pre > 0) & (pre >= pre.flatten().sort(descending=True).values[config.k * len(x) - 1])
    return pre > 0
