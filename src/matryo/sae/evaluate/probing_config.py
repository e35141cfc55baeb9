"""What probing, TPP and SCR are given. Imports no torch, so that command lines stay quick."""

from dataclasses import dataclass

NS = (2, 5, 10, 20, 50, 100, 500)
"""Latents ablated by TPP and SCR, as in SAEBench 0.6.0."""


@dataclass(frozen=True, kw_only=True)
class LabelledConfig:
    """Labelled texts, as probing, TPP and SCR share them."""

    probing_data: tuple[str, ...] = ("offline",)
    """Labelled texts, repeatable: offline (packs and pydocs), saebench (its sets on Hugging Face), or a task by name;
    NAME=FOLDER reads such a set from a local copy."""
    probing_tokens: int = 24
    "Tokens read of each text, BOS not counted; SAEBench reads 127."
    probing_limit: int = 0
    "Texts of each class at most, to make it quick; 0 for as many as a task has."
    probing_train: int = 4000
    "Training texts of a probe at most, half of them of its class."
    probing_test: int = 1000
    "Test texts of a probe at most."
    probing_seeds: int = 5
    "Splits and samples drawn; the mean over them is reported, with an interval."
    probing_cache: str = ""
    "Folder that keeps the model's activations for later evaluations; a temporary file when not given."

    def __post_init__(self) -> None:
        """Check the values."""
        if not self.probing_data:
            raise ValueError("probing_data is empty; expected at least one, such as offline")
        for name, low in (("tokens", 1), ("limit", 0), ("train", 8), ("test", 4), ("seeds", 1)):
            value = getattr(self, f"probing_{name}")
            if value < low:
                raise ValueError(f"probing_{name} is {value}; expected {low} or more")


@dataclass(frozen=True, kw_only=True)
class ProbingConfig(LabelledConfig):
    """Sparse probing."""

    probing_k: tuple[int, ...] = (1, 2, 5)
    "Latents a probe may use, repeatable."

    def __post_init__(self) -> None:
        """Check the values."""
        LabelledConfig.__post_init__(self)
        _check_counts("probing_k", self.probing_k)


@dataclass(frozen=True, kw_only=True)
class TppConfig(LabelledConfig):
    """Targeted probe perturbation."""

    tpp_n: tuple[int, ...] = NS
    "Latents ablated, repeatable."

    def __post_init__(self) -> None:
        """Check the values."""
        LabelledConfig.__post_init__(self)
        _check_counts("tpp_n", self.tpp_n)


@dataclass(frozen=True, kw_only=True)
class ScrConfig(LabelledConfig):
    """Spurious correlation removal."""

    scr_n: tuple[int, ...] = NS
    "Latents ablated, repeatable."

    def __post_init__(self) -> None:
        """Check the values."""
        LabelledConfig.__post_init__(self)
        _check_counts("scr_n", self.scr_n)


def _check_counts(name: str, counts: tuple[int, ...]) -> None:
    if not counts or min(counts) < 1 or len(set(counts)) < len(counts):
        raise ValueError(f"{name} is {counts}; expected different whole numbers of 1 or more")
