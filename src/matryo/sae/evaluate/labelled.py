"""Labelled tasks with the model's and the autoencoders' mean activations: read once, shared by probing, TPP and SCR."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from matryo.sae.evaluate.hub_tasks import HUB, check_folder, make_hub
from matryo.sae.evaluate.intervals import Estimate
from matryo.sae.evaluate.offline_tasks import OFFLINE, make_offline
from matryo.sae.evaluate.tasks import LEAST, TEST_SHARE, CrossedTask, Problem, Rows, Task, limited
from matryo.sae.evaluate.text_activations import PooledLatents, TextActivations, merge_pooled, pool_latents, read_texts
from matryo.spine.errors import unknown

if TYPE_CHECKING:
    from matryo.sae.evaluate.probing_config import LabelledConfig
    from matryo.sae.evaluate.subjects import Subjects
    from matryo.sae.nn import SAE

T = TypeVar("T", Task, CrossedTask)

BLOCK_TEXTS = 2_048
"""Texts run through the model at a time; with a cache, an evaluation that was interrupted goes on behind the last."""

SETS = {"offline": tuple(OFFLINE), "saebench": tuple(HUB)}


@dataclass(eq=False)
class TextBank:
    """Mean activations of all texts met so far at one site of one model; the model runs once over each."""

    place: dict[str, int] = field(default_factory=dict)
    "Number of every text."
    blocks: list[TextActivations] = field(default_factory=list)
    residuals: list[Tensor] = field(default_factory=list)
    pooled: dict[int, tuple[SAE, int, PooledLatents]] = field(default_factory=dict)
    tasks: dict[Any, Task | CrossedTask | str] = field(default_factory=dict)
    "Tasks made, or why they could not be."

    def add(self, texts: Iterable[str], read: Callable[[Sequence[str]], TextActivations]) -> None:
        """Run the model over the texts that are new, some thousand at a time: each block is kept as it is done."""
        new = list(dict.fromkeys(text for text in texts if text not in self.place))
        for start in range(0, len(new), BLOCK_TEXTS):
            part = new[start : start + BLOCK_TEXTS]
            block = read(part)
            self.residuals.append(block.mean())
            self.blocks.append(block)
            self.place |= {text: len(self.place) + at for at, text in enumerate(part)}

    def residual(self) -> Tensor:
        """Mean activation of every text (texts, d_in)."""
        return torch.cat(self.residuals)

    def latents(self, sae: SAE, advance: Callable[[int], object]) -> PooledLatents:
        """Mean latents of every text."""
        _, done, pooled = self.pooled.get(id(sae), (sae, 0, None))
        parts = [pool_latents(sae, block, advance) for block in self.blocks[done:]]
        if pooled is not None:
            parts.insert(0, pooled)
        pooled = merge_pooled(parts) if len(parts) > 1 else parts[0]
        self.pooled[id(sae)] = (sae, len(self.blocks), pooled)
        return pooled


@dataclass(frozen=True, eq=False)
class Material:
    """Tasks of one kind, and the numbers of their texts in the bank."""

    tasks: dict[str, Any]
    "Task or CrossedTask by name."
    bank: TextBank
    missing: dict[str, str]

    def rows(self, name: str) -> Rows:
        """The place in the bank of every text of a task."""
        return np.array([self.bank.place[text] for text in self.tasks[name].texts], dtype=np.int64)

    def placed(self, name: str, problem: Problem) -> Problem:
        """A problem whose texts are numbered as in the bank."""
        rows = self.rows(name)
        return Problem(rows[problem.train], problem.is_train, rows[problem.test], problem.is_test)

    def data(self) -> dict[str, Any]:
        """Where every task's texts come from, with a hash of texts, labels and documents."""
        return {
            name: {"sha256": task.digest(), "texts": len(task.texts), "documents": len(set(task.groups)), **task.source}
            for name, task in self.tasks.items()
        }


def open_material(
    subjects: Subjects,
    config: LabelledConfig,
    kind: type[T],
    advance: Callable[[int], object],
    wanted: Callable[[T], bool] = lambda task: True,
) -> Material:
    """The tasks asked for that are of a kind, their texts run through the model.

    A task that cannot be made is told in `missing`.

    Raises:
        ValueError: none can be; or the runs have no language model.
    """
    key = ("labelled", config.probing_tokens, subjects.lm_dtype, config.probing_cache)
    bank: TextBank = subjects.cache.setdefault(key, TextBank())
    tasks: dict[str, Task | CrossedTask] = {}
    missing: dict[str, str] = {}
    for name, folder in named_sets(config.probing_data):
        if (crossed := _is_crossed(name)) is not None and crossed != (kind is CrossedTask):
            continue
        made = _made(bank, name, folder, config)
        if isinstance(made, str):
            missing[name] = made
        elif isinstance(made, kind) and wanted(made):
            tasks[name] = made
    if not tasks:
        reason = next(iter(missing.values()), f"{', '.join(config.probing_data)} has no task of this kind")
        raise ValueError(f"no labelled task can be used: {reason}")
    if subjects.site is None:
        raise ValueError(f"{subjects.label} was trained on an array; expected a run with a language model")
    folder = Path(config.probing_cache).expanduser() if config.probing_cache else None
    bank.add(
        (text for task in tasks.values() for text in task.texts),
        lambda new: read_texts(subjects.lm, str(subjects.site), new, config.probing_tokens, folder, advance),
    )
    return Material(tasks, bank, missing)


def named_sets(names: Iterable[str]) -> dict[tuple[str, str | None], None]:
    """Name and folder of every task asked for, each once."""
    found: dict[tuple[str, str | None], None] = {}
    for told in names:
        name, _, folder = told.partition("=")
        found |= {(one, folder or None): None for one in SETS.get(name, (name,))}
    return found


def _is_crossed(name: str) -> bool | None:
    made = OFFLINE.get(name) or HUB.get(name)
    return None if made is None else made.crossed


def _made(bank: TextBank, name: str, folder: str | None, config: LabelledConfig) -> Task | CrossedTask | str:
    each = (config.probing_train + config.probing_test) // 2
    key = (name, folder, each, config.probing_limit)
    if key not in bank.tasks:
        try:
            if name in OFFLINE and folder is None:
                made = make_offline(name)
            elif name in HUB:
                made = make_hub(name, folder, min(each, config.probing_limit or each))
            elif folder is not None:
                check_folder(name, folder)
                raise AssertionError
            else:
                raise unknown("labelled task", name, [*SETS, *OFFLINE, *HUB])
            bank.tasks[key] = limited(made, config.probing_limit)
        except (ValueError, OSError) as error:
            copy = f" (a local copy is read with {name}=FOLDER)" if name in HUB and folder is None else ""
            bank.tasks[key] = " ".join(str(error).split()) + copy
    return bank.tasks[key]


def constants(config: LabelledConfig) -> dict[str, Any]:
    """What all three measurements share."""
    return {
        "tokens_per_text": config.probing_tokens,
        "pooling": "mean over tokens, BOS left out; latents times the norm of their decoder row",
        "train_at_most": config.probing_train,
        "test_at_most": config.probing_test,
        "limit_per_class": config.probing_limit or None,
        "test_share": TEST_SHARE,
        "least_texts_per_class": LEAST,
        "split": "by document",
        "interval": "95 %, Student's t over seeds: each draws its own split, sample and start. Seeds share the texts",
    }


def seeds_of(config: LabelledConfig) -> tuple[int, ...]:
    """Seeds 0, 1, … as many as asked for."""
    return tuple(range(config.probing_seeds))


def flat(estimates: dict[str, Estimate]) -> tuple[dict[str, Any], dict[str, tuple[float, float]]]:
    """Scores and those intervals that there are."""
    found = {name: one.interval for name, one in estimates.items()}
    return {name: one.mean for name, one in estimates.items()}, {name: ends for name, ends in found.items() if ends}
