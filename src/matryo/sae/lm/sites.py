"""Names of the places in a model where activations are read or replaced, and the modules they stand for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from matryo.sae.lm.families import FAMILIES, Family, family_of
from matryo.spine.errors import unknown

if TYPE_CHECKING:
    from matryo.sae.lm.hooks import At
    from matryo.sae.lm.model import LM

_BLOCK_SITE = re.compile(r"blocks\.(\d+)\.(.+)")
_SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "attn_z", "mlp_post")
_ALIASES = {
    "hook_resid_pre": "resid_pre",
    "hook_resid_mid": "resid_mid",
    "hook_resid_post": "resid_post",
    "hook_attn_out": "attn_out",
    "hook_mlp_out": "mlp_out",
    "attn.hook_z": "attn_z",
    "mlp.hook_post": "mlp_post",
}
"""TransformerLens' names within a block, and ours."""


def transformer_lens_name(site: str) -> str:
    """What TransformerLens, and SAELens' metadata, call a site of a block; any other name as it is."""
    match = _BLOCK_SITE.fullmatch(site)
    theirs = {ours: alias for alias, ours in _ALIASES.items()}
    return f"blocks.{match[1]}.{theirs.get(match[2], match[2])}" if match else site


def one_name(site: str) -> str:
    """TransformerLens' name of a site, the stream after a block being the stream before the next one."""
    name = transformer_lens_name(site)
    after = re.fullmatch(r"blocks\.(\d+)\.hook_resid_post", name)
    return f"blocks.{int(after[1]) + 1}.hook_resid_pre" if after else name


@dataclass(frozen=True)
class Site:
    """A place in a model: the first input or the (first) output of one of its modules.

    `name` is the site's canonical name, without aliases.
    """

    name: str
    module_path: str
    at: At
    carrier: str | None = None
    """For resid_mid, which no module outputs: the block, to whose output a replacement's change is added."""


def resolve_site(lm: LM, site: str) -> Site:
    """The module a site's name stands for in this model.

    Names, N counting blocks from 0 (widths are d_model unless said):

    * `blocks.N.resid_pre`, `blocks.N.resid_post`: the residual stream before and after block N;
    * `blocks.N.attn_out`, `blocks.N.mlp_out`: the terms attention and MLP *add* to the stream, after the post-norm
      in families that have one, so that resid_post = resid_pre + attn_out + mlp_out;
    * `blocks.N.resid_mid` = resid_pre + attn_out, in families whose MLP reads it;
    * `blocks.N.attn_z`: the heads' outputs side by side, before the output projection (n_heads · d_head);
    * `blocks.N.mlp_post`: the neurons that enter the MLP's last linear map (d_mlp);
    * `module:PATH` or `module:PATH@output`: what a submodule returns (its first tensor); `module:PATH@input`: the
      first tensor it is given.

    TransformerLens' names (`blocks.8.hook_resid_pre`, `blocks.8.attn.hook_z`, ...) are accepted.

    Raises:
        ValueError: unknown name, layer, module or family; the message names the nearest that exists.
    """
    if site.startswith("module:"):
        return _module_site(lm, site)
    match = _BLOCK_SITE.fullmatch(site)
    kind = _ALIASES.get(match[2], match[2]) if match else ""
    if match is None or kind not in _SITES:
        raise _unknown_site(lm, site)
    family = family_of(lm.model)
    if family is None:
        known = ", ".join(sorted(FAMILIES))
        raise ValueError(
            f"site {site!r}: {lm.name} is a {_type_name(lm)}, which has no row in the table of families ({known}): "
            "name the module itself, module:PATH"
        )
    layer, n_layers = int(match[1]), lm.n_layers
    if layer >= n_layers:
        raise ValueError(f"site {site!r}: {lm.name} has {n_layers} layers, blocks.0 to blocks.{n_layers - 1}")
    return _block_site(lm, family, layer, kind)


def _unknown_site(lm: LM, site: str) -> ValueError:
    path = site.partition("@")[0]
    if any(path == name for name, _ in lm.model.named_modules() if name):
        options = [f"module:{site}"]
    else:
        digits = re.search(r"\d+", site)
        layer = int(digits[0]) if digits else 0
        options = [f"blocks.{layer}.{name}" for name in (*_SITES, *_ALIASES)]
    return unknown("site", site, options, "or module:PATH for any submodule")


def _block_site(lm: LM, family: Family, layer: int, kind: str) -> Site:
    block, name = f"{family.blocks}.{layer}", f"blocks.{layer}.{kind}"
    if kind == "resid_mid":
        if family.mid is None:
            raise ValueError(
                f"site {name!r}: attention and MLP of {lm.name} both read resid_pre, so nothing lies between them: "
                f"use blocks.{layer}.resid_pre, attn_out or mlp_out"
            )
        return Site(name, f"{block}.{family.mid}", "input", carrier=block)
    places: dict[str, tuple[str, At]] = {
        "resid_pre": (block, "input"),
        "resid_post": (block, "output"),
        "attn_out": (f"{block}.{family.attn}", "output"),
        "mlp_out": (f"{block}.{family.mlp}", "output"),
        "attn_z": (f"{block}.{family.attn_proj}", "input"),
        "mlp_post": (f"{block}.{family.mlp_proj}", "input"),
    }
    path, at = places[kind]
    return Site(name, path, at)


def _module_site(lm: LM, site: str) -> Site:
    path, _, at = site.removeprefix("module:").partition("@")
    if at not in ("", "input", "output"):
        raise ValueError(f"site {site!r}: after @ comes input or output, not {at!r}")
    paths = {name for name, _ in lm.model.named_modules() if name}
    if path not in paths:
        raise unknown(f"module of {lm.name}", path, paths)
    chosen: At = "input" if at == "input" else "output"
    return Site(f"module:{path}@{chosen}" if chosen == "input" else f"module:{path}", path, chosen)


def _type_name(lm: LM) -> str:
    config = getattr(lm.model, "config", None)
    return getattr(config, "model_type", "") or type(lm.model).__name__
