"""The evaluations by name, and how several of them run on several groups of autoencoders. Imports no torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from matryo.sae.evaluate.outcome import Measured, Outcome
from matryo.spine.errors import INSTALL, unknown

if TYPE_CHECKING:
    from matryo.sae.evaluate.subjects import Subjects

Advance = Callable[..., None]
"""Told how many units of work were done, and numbers to show beside."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One evaluation: its name, and where its parts are.

    Attributes:
        name: what `--tasks` takes.
        line: what it measures, in one line.
        measure: "module:function" of `(subjects, config, advance) -> Outcome`, imported when it runs.
        config: "module:Class" of its frozen config, whose fields the command's flags fill by name; the module imports
            no torch. None for a task without choices, which is then given None.
        columns: the scores of the main table, in order: name, label, explanation.
        lines: what further scores are, by name: shown in the report.
        draw: "module:function" of `(outcomes) -> pairs of SVG and caption`, the report's figures.
        unit: what `advance` counts.
    """

    name: str
    line: str
    measure: str
    config: str | None = None
    columns: tuple[tuple[str, str, str], ...] = ()
    lines: tuple[tuple[str, str], ...] = ()
    draw: str | None = None
    unit: str = "tokens"


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="reconstruction",
            line="FVU, L0, dead latents, bias, cosine, decoder overlap on held-out tokens",
            measure="matryo.sae.evaluate.reconstruction:reconstruction_task",
            draw="matryo.sae.evaluate.figures:draw_reconstruction",
            lines=(
                ("l1", "mean Σ_j z_j"),
                ("mse", "mean ‖x − x̂‖² / d_in"),
                ("norm", "mean ‖x‖"),
                ("norm_hat", "mean ‖x̂‖"),
                ("norm_ratio", "mean ‖x̂‖ / ‖x‖"),
                ("cosine", "mean cosine of x and x̂"),
                ("relative_bias", "E‖x̂‖² / E[x · x̂]; below 1, reconstructions are too short"),
                ("encoder_cosine", "as decoder_cosine, of the encoder's columns"),
                ("over_one_percent", "share of latents active on more than 1 % of the tokens"),
                ("over_ten_percent", "share of latents active on more than 10 % of the tokens"),
                ("firings_over_one_percent", "share of all firings that the former have"),
                ("firings_over_ten_percent", "share of all firings that the latter have"),
                *((f"l0_q{q}", f"active latents that {q} % of the tokens do not exceed") for q in (5, 25, 50, 75, 95)),
            ),
            columns=(
                ("fvu", "FVU", "fraction of variance unexplained on held-out tokens, Σ‖x − x̂‖² / Σ‖x − x̄‖²"),
                ("l0", "L0", "mean active latents per held-out token"),
                ("dead", "dead", "share of latents active on no held-out token"),
                ("decoder_cosine", "overlap", "mean over latents of the largest cosine with another decoder row"),
            ),
        ),
        Task(
            name="downstream",
            line="cross-entropy and KL of the language model with the reconstruction spliced in",
            measure="matryo.sae.evaluate.downstream:downstream_task",
            config="matryo.sae.evaluate.config:DownstreamConfig",
            draw="matryo.sae.evaluate.figures:draw_downstream",
            lines=(
                ("kl_zero", "KL(clean ‖ edited) with the activations set to 0, nats/token"),
                ("kl_mean", "with the activations set to their mean"),
                ("kl_spliced", "with the reconstruction in place of the activations"),
                ("kl_recovered", "1 − KL spliced / KL zero"),
                ("fvu_spliced", "FVU on these tokens, sinks left out"),
                ("fvu_with_sinks", "FVU on these tokens, sinks too"),
            ),
            columns=(
                ("ce_clean", "CE clean", "the model's cross-entropy, nats/token"),
                ("ce_spliced", "CE spliced", "with the reconstruction in place of the activations"),
                ("ce_zero", "CE zero", "with the activations set to 0"),
                ("ce_mean", "CE mean", "with the activations set to their mean"),
                ("ce_recovered", "recovered", "(CE zero − CE spliced) / (CE zero − CE clean)"),
            ),
        ),
        Task(
            name="absorption",
            line="feature absorption on first letters and WordNet's kinds, and split latents",
            measure="matryo.sae.evaluate.absorption.task:absorption_task",
            config="matryo.sae.evaluate.absorption.config:AbsorptionConfig",
            draw="matryo.sae.evaluate.absorption.telling:draw",
            columns=(
                (
                    "full_absorption",
                    "absorbed",
                    "share of words whose concept's own latents are silent and are spoken for",
                ),
                ("fraction_absorption", "fraction", "mean share of the concept's projection brought by other latents"),
                ("split_latents", "split", "mean number of main latents of a concept"),
            ),
            lines=(
                ("wordnet_full_absorption", "full absorption, concepts being what WordNet's nouns are a kind of"),
                ("wordnet_fraction_absorption", "the fraction, for WordNet's kinds"),
                ("wordnet_split_latents", "main latents of a concept, for WordNet's kinds"),
            ),
            unit="words",
        ),
        Task(
            name="explanations",
            line="templated explanations of latents, a judge's on request, and how well they predict firing",
            measure="matryo.sae.evaluate.explain.task:explanations_task",
            config="matryo.sae.evaluate.explain.config:ExplainConfig",
            columns=(
                ("token_rule", "token rule", "accuracy of guessing where latents fire by their tokens alone"),
                (
                    "judge",
                    "judge",
                    "accuracy of a judge's guesses by its own explanations; none without --explain-judge",
                ),
            ),
            lines=(
                ("judge_random_inactive", "the judge's, if random windows are taken to be inactive, as SAEBench does"),
                ("latents", "latents explained"),
            ),
        ),
        Task(
            name="probing",
            line="sparse probing: how well classes of texts can be told from k latents",
            measure="matryo.sae.evaluate.probing:probing_task",
            config="matryo.sae.evaluate.probing_config:ProbingConfig",
            draw="matryo.sae.evaluate.probing_figures:draw_probing",
            columns=(
                ("top1_accuracy", "probe 1", "test accuracy of a probe on 1 latent, mean over tasks"),
                ("top5_accuracy", "probe 5", "test accuracy of a probe on 5 latents, mean over tasks"),
            ),
        ),
        Task(
            name="tpp",
            line="targeted probe perturbation: ablating a class's latents hurts its probe and no other",
            measure="matryo.sae.evaluate.erasure_tasks:tpp_task",
            config="matryo.sae.evaluate.probing_config:TppConfig",
            draw="matryo.sae.evaluate.probing_figures:draw_tpp",
            columns=(("tpp_20", "TPP 20", "targeted probe perturbation, 20 latents ablated, mean over tasks"),),
        ),
        Task(
            name="scr",
            line="spurious correlation removal: ablating an attribute's latents cures a biased probe",
            measure="matryo.sae.evaluate.erasure_tasks:scr_task",
            config="matryo.sae.evaluate.probing_config:ScrConfig",
            draw="matryo.sae.evaluate.probing_figures:draw_scr",
            columns=(("scr_20", "SCR 20", "spurious correlation removal, 20 latents ablated, mean over pairs"),),
        ),
    )
}
"""In the order in which they run and are shown."""

QUICK = ("reconstruction", "downstream")
"""What runs when no task is named."""


def named_tasks(names: Iterable[str]) -> list[Task]:
    """The tasks of these names in the order of TASKS, "all" for all of them.

    Raises:
        ValueError: there is no such task; the nearest is offered.
    """
    wanted = set(names)
    for name in sorted(wanted - TASKS.keys() - {"all"}):
        raise unknown("task", name, [*TASKS, "all"])
    return [task for task in TASKS.values() if task.name in wanted or "all" in wanted]


def found_at(place: str) -> Any:
    """The object at "module:name"."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


@dataclass
class Suite:
    """Tasks to run on groups of autoencoders; what one refuses is kept, and the others still run."""

    tasks: Sequence[Task]
    configs: Callable[[type], Any]
    "Makes a task's config of its class."
    watch: Callable[[Task, Subjects], Any]
    "A context manager whose value has `advance`, shown while a task runs."
    measured: list[Measured] = field(default_factory=list)

    def run(self, groups: Iterable[Subjects]) -> Iterator[Measured]:
        """Every task on every group, one by one as they are done."""
        for subjects in groups:
            for task in self.tasks:
                one = self._measure(task, subjects)
                self.measured.append(one)
                yield one

    def _measure(self, task: Task, subjects: Subjects) -> Measured:
        began, outcome, failure = time.monotonic(), None, None
        try:
            config = self.configs(found_at(task.config)) if task.config else None
            with self.watch(task, subjects) as shown:
                outcome: Outcome | None = found_at(task.measure)(subjects, config, shown.advance)
        except (ValueError, OSError) as error:
            failure = " ".join(str(error).split())
        except ModuleNotFoundError as error:
            if (error.name or "matryo").partition(".")[0] == "matryo":
                raise
            failure = f"the package {error.name!r} is not installed; {INSTALL}"
        seconds = time.monotonic() - began
        return Measured(task.name, tuple(subjects.saes), outcome, failure, seconds)
