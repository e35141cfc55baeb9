"""The same measure on pairs of SAEs that differ in one thing only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from matryo.sae.nn.config import SAEConfig


@dataclass(frozen=True)
class PairedGap:
    """A measure of plain SAEs against their Matryoshka twins, pair by pair."""

    plain: tuple[float, ...]
    nested: tuple[float, ...]
    mean_plain: float
    mean_nested: float
    gap: float
    "Mean of plain − nested."
    sd: float | None
    "Standard deviation of the differences, n − 1; None with one pair."
    standard_error: float | None
    positive: int
    "Pairs in which the plain SAE has more."

    @property
    def pairs(self) -> int:
        """Number of pairs."""
        return len(self.plain)


def pair_up(configs: Mapping[str, SAEConfig]) -> dict[str, list[tuple[str, str]]]:
    """Names of (plain, Matryoshka) SAEs that agree in all but levels: kind, size, k, width, seed.

    By what the pairs of a group have in common, all but the seed, as the Matryoshka's name says it.
    """
    plain = {_without_levels(config): name for name, config in configs.items() if not config.nested}
    groups: dict[str, list[tuple[str, str]]] = {}
    for name, config in configs.items():
        if config.nested and (twin := plain.get(_without_levels(config))) is not None:
            groups.setdefault(replace(config, seed=0).name.removesuffix("-s0"), []).append((twin, name))
    return groups


def find_families(configs: Mapping[str, SAEConfig]) -> dict[str, list[str]]:
    """Names of SAEs that agree in all but size, ascending, where there are two sizes or more.

    By the largest one's name.
    """
    groups: dict[SAEConfig, list[str]] = {}
    for name, config in sorted(configs.items(), key=lambda item: item[1].n_latents):
        groups.setdefault(_without_size(config), []).append(name)
    return {names[-1]: names for names in groups.values() if len({configs[name].n_latents for name in names}) > 1}


def family_of(name: str, configs: Mapping[str, SAEConfig]) -> list[str]:
    """Names of the SAEs that agree with one in all but size, itself among them."""
    own = _without_size(configs[name])
    return [other for other, config in configs.items() if _without_size(config) == own]


def _without_size(config: SAEConfig) -> SAEConfig:
    """What a family has in common; prefix lengths are sizes too."""
    levels = config.levels if isinstance(config.levels, str) else "none"
    return replace(config, n_latents=config.k, levels=levels, level_weights=())


def _without_levels(config: SAEConfig) -> SAEConfig:
    return replace(config, levels="none", level_weights=(), sampled_levels=1)


def measure_gap(values: Iterable[tuple[float, float]]) -> PairedGap:
    """The difference of paired measures.

    Raises:
        ValueError: there is no pair.
    """
    pairs: Sequence[tuple[float, float]] = list(values)
    if not pairs:
        raise ValueError("there are 0 pairs; expected SAEs that differ in levels only, of at least one seed")
    n, differences = len(pairs), [a - b for a, b in pairs]
    mean = sum(differences) / n
    sd = math.sqrt(sum((d - mean) ** 2 for d in differences) / (n - 1)) if n > 1 else None
    plain, nested = (tuple(values) for values in zip(*pairs, strict=True))
    return PairedGap(
        plain=plain,
        nested=nested,
        mean_plain=sum(plain) / n,
        mean_nested=sum(nested) / n,
        gap=mean,
        sd=sd,
        standard_error=None if sd is None else sd / math.sqrt(n),
        positive=sum(d > 0 for d in differences),
    )
