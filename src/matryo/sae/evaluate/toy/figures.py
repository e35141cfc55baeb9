"""Heat-maps of what was found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matryo.spine import figures

if TYPE_CHECKING:
    from torch import Tensor

    from matryo.sae.evaluate.toy.experiment import Toy

SHOWN = 40
"""Features in a heat-map; of a larger tree the first families."""

CAPTIONS = {
    "cosines": "Cosine of each feature's matched decoder row (down) with every feature's direction (across), first "
    "seed. The truth is the diagonal; a child's row that also points along its parent is a mark beside it.",
    "together": "Share of tokens with a feature (across) on which each feature's matched latent (down) is active, "
    "first seed. A parent's latent should be active in its own column and in its children's.",
}


def heat_maps(toy: Toy, what: str) -> str:
    """Vanilla and Matryoshka side by side, with the truth for `together`; as SVG."""
    shown = min(SHOWN, toy.worlds[0].tree.size)
    panels = {kind: getattr(found[0], what) for kind, found in toy.found.items()}
    if what == "together":
        panels = {"truth": true_together(toy)} | panels
    low = -1.0 if what == "cosines" else 0.0

    def draw(axes: Any) -> None:
        figure = axes.figure
        axes.remove()
        image: Any = None
        for place, (name, values) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
            image = place.imshow(values[:shown, :shown].numpy(), vmin=low, vmax=1, cmap="RdBu_r" if low else "viridis")
            place.set(title=name, xlabel="feature")
            place.grid(False)
            place.locator_params(integer=True)
        figure.colorbar(image, ax=figure.axes, shrink=0.8)

    return figures.svg(draw, "", "", size=(3.2 * len(panels), 3.2))


def true_together(toy: Toy) -> Tensor:
    """P(row active | column active), of the first world's tree by sampling."""
    from matryo.spine.seeding import torch_generator

    active = toy.worlds[0].tree.sample(toy.config.samples, torch_generator(0, "toy truth")).float()
    return (active.t() @ active) / active.sum(0).clamp(min=1)
