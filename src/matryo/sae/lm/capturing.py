"""Activations at sites, from forward passes that stop at the last of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch

from matryo.sae.lm.hooks import attach, passes_are_whole
from matryo.sae.lm.sites import Site, resolve_site

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from matryo.sae.lm.model import LM

CPU_PASS_TOKENS = 2048
"""Tokens per forward pass on a CPU. The intermediate results of more leave the caches: passes of 2,048 run at 0.9 of
the matrix product's rate, passes of 8,192 at 0.7 (SmolLM2 and GPT-2 sizes, rows of 256, one thread)."""


class _ReachedLastSite(BaseException):
    """Ends a forward pass: every site has been read. Not an Exception, which a model's own code might catch."""


@torch.no_grad()
def capture(
    lm: LM, tokens: Int[Tensor, "rows pos"], sites: Sequence[str], *, pass_tokens: int | None = None
) -> dict[str, Float[Tensor, "rows pos d"]]:
    """Activations of every token at several sites.

    The rows go through the model without padding, attention causal over the whole row, no cache and no gradients; a
    pass stops as soon as it has seen every site, so neither later blocks nor logits are computed. Inside `splice`,
    what is captured includes the replacements made up to and at the site.

    Args:
        lm: the model.
        tokens: token ids.
        sites: names of sites (see `resolve_site`).
        pass_tokens: how many tokens to run through the model at a time, whole rows and at least one; 2,048 on a CPU
            by default, all at once elsewhere. Results agree up to the rounding of matrix products of other shapes.

    Returns:
        For every name in `sites` its activations, in the model's own number type: ordinary tensors of their own,
        which may be changed, kept or trained on.

    Raises:
        ValueError: no or unknown sites, tokens the model cannot take, or a module that the forward pass never ran.
    """
    if not sites:
        raise ValueError("capture was given no site: name at least one, such as blocks.0.resid_post")
    wanted = {name: resolve_site(lm, name) for name in sites}
    distinct = list(dict.fromkeys(wanted.values()))
    whole = lm.checked(tokens) if lm.is_hf else tokens
    values: dict[Site, Tensor] = {}
    start = 0
    for part in whole.split(_rows_per_pass(lm, whole, pass_tokens)):
        found = read_sites(lm, len(part), distinct, lambda part=part: lm.run(part))
        for site, value in found.items():
            if site not in values:
                values[site] = value.new_empty(whole.shape[0], *value.shape[1:])
            values[site][start : start + len(part)] = value
        start += len(part)
    shared = len(distinct) < len(wanted)  # two names for one site: each gets its own tensor
    return {name: values[site].clone() if shared else values[site] for name, site in wanted.items()}


def _rows_per_pass(lm: LM, tokens: Tensor, pass_tokens: int | None) -> int:
    if passes_are_whole() or (pass_tokens is None and lm.device.type != "cpu"):
        return tokens.shape[0]
    return max(1, (pass_tokens or CPU_PASS_TOKENS) // max(1, tokens[0].numel()))


def read_sites(lm: LM, rows: int, sites: Sequence[Site], run: Callable[[], object]) -> dict[Site, Tensor]:
    """The value at every site while `run` runs the model on so many rows, stopped once all have been seen.

    A later in-place operation of the model cannot reach the values.
    """
    seen: dict[Site, Tensor] = {}

    def reader(site: Site) -> Callable[[Tensor], None]:
        def read(value: Tensor) -> None:
            if site in seen:
                return  # a module that runs several times is read the first time
            if value.shape[0] != rows:
                raise ValueError(
                    f"site {site.name!r} gives {tuple(value.shape)} for {rows} rows of tokens: expected one "
                    "value per row, choose another module"
                )
            last = len(seen) == len(sites) - 1
            seen[site] = value if last else value.clone()
            if last:
                raise _ReachedLastSite

        return read

    with ExitStack() as hooks:
        for site in sites:
            hooks.callback(attach(lm.model.get_submodule(site.module_path), site.at, reader(site)).remove)
        try:
            with torch.inference_mode():
                run()
        except _ReachedLastSite:
            return seen
    missed = next(site for site in sites if site not in seen)
    raise ValueError(f"site {missed.name!r}: {lm.name} did not run this module in its forward pass, choose another")
