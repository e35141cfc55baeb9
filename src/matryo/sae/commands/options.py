"""Flags that several commands share, and how they become the parts' own configs. Imports no torch."""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from matryo.sae.evaluate.absorption.config import AbsorptionConfig
from matryo.sae.evaluate.config import DownstreamConfig
from matryo.sae.evaluate.explain.config import ExplainConfig
from matryo.sae.evaluate.probing_config import ProbingConfig, ScrConfig, TppConfig
from matryo.sae.nn.config import Kind, SAEConfig
from matryo.sae.sources import settled
from matryo.sae.store.config import StoreConfig
from matryo.sae.train.config import TrainConfig
from matryo.spine.config import from_dict, read_toml
from matryo.spine.errors import unknown

T = TypeVar("T")
LEVELS = ("none", "nested", "sampled")


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """A language model reading text."""

    lm: str = "smollm2"
    "Language model: smollm2, tiny, or any Hugging Face causal LM by name or local folder."
    text: tuple[str, ...] = ("pydocs",)
    "Text source, repeatable: pydocs, pydocs:package, pack:NAME, file:PATH or hf:NAME[:CONFIG][:SPLIT]."
    tokens: int = 160_000
    "Tokens of training text."
    row_length: int = 256
    "Tokens per row, BOS included."
    heldout_fraction: float = 0.1
    "Share of the text held out for evaluation, in whole groups (a module, a file, ...)."
    calibration_fraction: float = 0.1
    "Share of the text reserved from training to set inference thresholds on, in groups of its own; 0 for none."
    lm_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    "Number format of the language model."
    device: str = "cpu"
    "Where models run: cpu, cuda, cuda:1, mps."
    seed: int = 0
    "Seed of splits and shuffles."


@dataclass(frozen=True, kw_only=True)
class HarvestOptions(TextOptions, StoreConfig):
    """What to store."""

    site: tuple[str, ...] = ("blocks.10.resid_pre",)
    "Where in the model, repeatable: blocks.N.resid_pre | resid_post | attn_out | mlp_out, or module:PATH."


@dataclass(frozen=True, kw_only=True)
class TrainOptions(TextOptions, TrainConfig):
    """What to train on what: one autoencoder for every combination of kind, n-latents, k, levels and sae-seed."""

    steps: int | None = None
    "Batches to train on; as many as --passes come to when not given."
    data: str | None = None
    "A harvest run, or a .npy or .safetensors file of activations; without it they are streamed from the model."
    site: tuple[str, ...] = ()
    "Which site, when the data has several or is streamed."
    kind: tuple[Kind, ...] = ("batch_topk",)
    "Activation rule, repeatable: relu, gated, topk, batch_topk, jumprelu."
    n_latents: tuple[int, ...] = (4608,)
    "Dictionary size, repeatable."
    k: tuple[int, ...] = (32,)
    "Mean active latents per token, repeatable."
    levels: tuple[str, ...] = ("none",)
    "Matryoshka levels, repeatable: none, nested (n/16, n/8, n/4, n/2, n), sampled, or lengths such as 288,1152,4608."
    level_weights: tuple[float, ...] = ()
    "Weight of every level, in order; equal when not given."
    sampled_levels: int = 10
    "With levels sampled: prefixes drawn per batch."
    sae_seed: tuple[int, ...] = (0,)
    "Seed of the initial weights, repeatable."
    l1: float = 5.0
    "relu, gated: weight of the L1 penalty."
    l0_weight: float = 1.0
    "jumprelu: weight of the penalty (L0 / k − 1)²."
    bandwidth: float = 0.5
    "jumprelu: width of the straight-through window."
    aux_k: int | None = None
    "Dead latents that reconstruct the residual of each token; d_in // 2 when not given."
    aux_weight: float = 1 / 32
    "Weight of the auxiliary loss; 0 turns it off."
    batch_size: int = 2048
    "Activations per step."
    passes: float = 5.0
    "Passes over the data, when --steps is not given."
    buffer_tokens: int = 65_536
    "Streaming: activations held and shuffled at a time."

    def __post_init__(self) -> None:
        """Check the values that no part checks."""
        TrainConfig.__post_init__(self)
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; expected a whole number of 1 or more")
        if not 0 < self.passes < math.inf:
            raise ValueError(f"passes is {self.passes}; expected a positive number")
        for name in ("kind", "n_latents", "k", "levels", "sae_seed"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name} is {values}; expected one or more different values")

    @property
    def count(self) -> int:
        """Number of autoencoders."""
        return math.prod(map(len, (self.kind, self.n_latents, self.k, self.levels, self.sae_seed)))

    def grid(self, d_in: int) -> list[SAEConfig]:
        """The configuration of every autoencoder."""
        made = [
            SAEConfig(
                kind=kind,
                d_in=d_in,
                n_latents=n_latents,
                k=k,
                levels=parse_levels(levels),
                level_weights=self.level_weights,
                sampled_levels=self.sampled_levels,
                l1=self.l1,
                l0_weight=self.l0_weight,
                bandwidth=self.bandwidth,
                aux_k=self.aux_k,
                aux_weight=self.aux_weight,
                seed=seed,
            )
            for kind in self.kind
            for n_latents in self.n_latents
            for k in self.k
            for levels in self.levels
            for seed in self.sae_seed
        ]
        names = [config.name for config in made]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"{name} is asked for twice; expected different SAEs: relu and gated have no k, give one"
                )
        return made


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Where and how the language model runs."""

    device: str = "cpu"
    "Where models run."
    lm_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    "Number format of the language model."


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """What to measure."""

    tasks: tuple[str, ...] = ()
    """Evaluation, repeatable: reconstruction, downstream, absorption, explanations, probing, tpp, scr, or all; the first
    two when not given."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(
    ExplainConfig, AbsorptionConfig, ScrConfig, TppConfig, ProbingConfig, DownstreamConfig, ModelOptions, TaskOptions
):
    """What to measure, and how much. Help lists the fields of the last base first."""

    def __post_init__(self) -> None:
        """Check the values of every task."""
        DownstreamConfig.__post_init__(self)
        AbsorptionConfig.__post_init__(self)
        ExplainConfig.__post_init__(self)
        ProbingConfig.__post_init__(self)
        TppConfig.__post_init__(self)
        ScrConfig.__post_init__(self)


def parse_levels(text: str) -> Any:
    """`none`, `nested`, `sampled`, or a tuple of prefix lengths from `288,1152,4608`."""
    if not text[:1].isdigit():
        if text not in LEVELS:
            raise unknown("levels", text, LEVELS, fix="or prefix lengths, such as 288,1152,4608")
        return text
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"levels is {text!r}; expected whole numbers with commas, such as 288,1152,4608") from None


def part(options: Any, cls: type[T]) -> T:
    """The config of one part, from options that have all its fields."""
    return cls(**{field.name: getattr(options, field.name) for field in fields(cls)})  # pyright: ignore[reportArgumentType]


def stored_options(run: Path, cls: type[T], *own: str) -> tuple[dict[str, Any], T]:
    """What an unfinished run was told: all of it, and the options among it. Runs of the command have the keys `own`.

    Raises:
        ValueError: there is no run, it is another command's, or its config was altered.
    """
    if not (run / "config.toml").is_file():
        raise ValueError(f"{run} is no run folder; expected an unfinished run")
    told = read_toml(run / "config.toml")
    if not told.keys() >= set(own):
        raise ValueError(f"{run} is a run of another command; expected an unfinished one of this")
    names = {field.name for field in fields(cls)}  # pyright: ignore[reportArgumentType]
    return told, from_dict(cls, {key: value for key, value in told.items() if key in names}, str(run))


def as_told(given: str | None, told: str) -> str:
    """A source given beside --resume as the run's config would tell it; what the run was told where none is given."""
    return told if given in (None, told) else settled(given)


def resume_line(command: str, run: Path) -> str:
    """What to type to go on with an interrupted run."""
    return f"go on with: matryo sae {command} --resume {run}"
