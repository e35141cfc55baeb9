"""Replacing the value at a site while the rest of the model runs on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from matryo.sae.lm.hooks import attach, whole_passes
from matryo.sae.lm.sites import Site, resolve_site

if TYPE_CHECKING:
    from jaxtyping import Bool

    from matryo.sae.lm.model import LM

Replacement = Callable[[Tensor], Tensor]


@contextmanager
def splice(
    lm: LM,
    replacements: Mapping[str, Replacement],
    error_term: bool = False,
    where: Bool[Tensor, "rows pos"] | None = None,
) -> Iterator[None]:
    """Within the block, the value x at every site is replaced by what its function makes of it.

        value = f(x)                            by default
        value = f(x) + (x − f(x)).detach()      with `error_term`
        value = x                               wherever `where` is False

    With the error term the logits stay what they were, up to rounding, while gradients and edits of the latents flow
    through f. A function that returns its own argument leaves the logits bit-equal. Splices nest, and end with the
    block whatever happens in it.

    Args:
        lm: the model.
        replacements: by site, an SAE or any function from (rows, pos, d) to the same shape. A module with parameters
            in another number type, or on another device, is given x in its own and its result is brought back.
        error_term: add what the function misses, as a constant.
        where: which tokens to replace, of the batches that will be run inside the block.

    Raises:
        ValueError: unknown or repeated site, or (in the forward pass) a result of another shape.
    """
    places: dict[Site, tuple[str, Replacement]] = {}
    for name, function in replacements.items():
        site = resolve_site(lm, name)
        if site in places:
            raise ValueError(f"sites {places[site][0]!r} and {name!r} are the same place: splice it once")
        places[site] = (name, function)
    with ExitStack() as stack:
        if where is not None:
            stack.enter_context(whole_passes())
        for site, (name, function) in places.items():
            _install(lm, site, _Splice(name, function, error_term, where), stack)
        yield


def _install(lm: LM, site: Site, replace: _Splice, stack: ExitStack) -> None:
    module = lm.model.get_submodule(site.module_path)
    if site.carrier is None:
        stack.callback(attach(module, site.at, replace).remove)
        return
    # The value also goes around the module, on the residual path: there its change is added to the block's output.
    change: list[Tensor] = []

    def visit(x: Tensor) -> Tensor | None:
        change.clear()
        new = replace(x)
        if new is not None and new is not x:
            change.append(new - x)
        return new

    def carry(x: Tensor) -> Tensor | None:
        return x + change.pop() if change else None

    stack.callback(attach(module, site.at, visit).remove)
    stack.callback(attach(lm.model.get_submodule(site.carrier), "output", carry).remove)


class _Splice:
    """What happens to the value at one site."""

    def __init__(self, name: str, function: Replacement, error_term: bool, where: Tensor | None) -> None:
        self._name, self._function = name, function
        self._error_term, self._where = error_term, where

    def __call__(self, x: Tensor) -> Tensor | None:
        new = self._apply(x)
        if new is x:
            return None
        if self._error_term:
            new = new + (x - new).detach()
        if self._where is None:
            return new
        if self._where.shape != x.shape[: self._where.dim()] or self._where.dtype != torch.bool:
            raise ValueError(
                f"splice at {self._name!r}: where is {self._where.dtype} of shape {tuple(self._where.shape)}, "
                f"expected torch.bool of shape {tuple(x.shape[:2])}, one per token of the batch"
            )
        spliced = self._where.to(x.device)
        return torch.where(spliced.reshape(*spliced.shape, *[1] * (x.dim() - spliced.dim())), new, x)

    def _apply(self, x: Tensor) -> Tensor:
        given = x
        if isinstance(self._function, nn.Module):
            own = next((p for p in self._function.parameters() if p.is_floating_point()), None)
            given = x if own is None else x.to(device=own.device, dtype=own.dtype)
        new = self._function(given)
        if not isinstance(new, Tensor) or new.shape != x.shape:
            got = tuple(new.shape) if isinstance(new, Tensor) else type(new).__name__
            raise ValueError(
                f"splice at {self._name!r}: the replacement gave {got}, expected a tensor of shape {tuple(x.shape)}"
            )
        return new.to(device=x.device, dtype=x.dtype)
