"""Activations made of known directions, so that what was learned can be told from what was not."""

from collections.abc import Iterator

import torch
from torch import Tensor

from matryo.sae.nn import SAE, SAEConfig, build

D_IN, FEATURES, ACTIVE = 20, 31, 3


def directions(features: int = FEATURES, d_in: int = D_IN, seed: int = 0) -> Tensor:
    """Unit vectors, (features, d_in)."""
    rows = torch.randn(features, d_in, generator=torch.Generator().manual_seed(seed))
    return rows / rows.norm(dim=1, keepdim=True)


def planted(rows: int, seed: int = 1, *, scale: float = 1.0, active: float = ACTIVE, noise: float = 0.02) -> Tensor:
    """Rows (rows, D_IN): each feature present with probability active / FEATURES, 1 to 2 strong; plus an offset."""
    generator = torch.Generator().manual_seed(seed)
    present = torch.rand(rows, FEATURES, generator=generator) < active / FEATURES
    strength = 1 + torch.rand(rows, FEATURES, generator=generator)
    offset = torch.linspace(-1, 1, D_IN)
    return scale * ((present * strength) @ directions() + offset + noise * torch.randn(rows, D_IN, generator=generator))


def batches(count: int, size: int = 256, seed: int = 1, **options: float) -> list[Tensor]:
    """Planted batches, all different."""
    return list(planted(count * size, seed, **options).split(size))


def make(kind: str = "batch_topk", **options) -> SAE:
    return build(SAEConfig(kind=kind, **({"d_in": D_IN, "n_latents": 48, "k": ACTIVE, "seed": 1} | options)))


def weights(sae: SAE) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in sae.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Bit for bit, NaN where NaN."""
    return a.keys() == b.keys() and all(
        torch.equal(torch.nan_to_num(a[name], 1e30), torch.nan_to_num(b[name], 1e30)) for name in a
    )


def fvu(sae: SAE, x: Tensor, target: Tensor | None = None) -> float:
    target = x if target is None else target
    with torch.no_grad():
        return float((target - sae(x)).square().sum() / (target - target.mean(0)).square().sum())


def l0(sae: SAE, x: Tensor) -> float:
    return sae.encode_sparse(x).l0


def recovered(sae: SAE) -> Tensor:
    """For every planted direction the largest cosine with a dictionary row."""
    rows = sae.W_dec.detach() / sae.W_dec.detach().norm(dim=1, keepdim=True)
    return (directions() @ rows.t()).max(1).values


class Counting:
    """An iterable that counts what is asked of it."""

    def __init__(self, items: list) -> None:
        self.items, self.begun, self.read = items, 0, 0

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator:
        self.begun += 1
        for item in self.items:
            self.read += 1
            yield item
