"""The task `explanations` of `matryo sae evaluate`."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from matryo.sae.evaluate.explain.config import ExplainConfig
from matryo.sae.evaluate.explain.examples import Examples, draw_examples
from matryo.sae.evaluate.explain.firings import Firings, collect_firings
from matryo.sae.evaluate.explain.judge import (
    EXPLANATION_TOKENS,
    Judge,
    JudgeError,
    answer_tokens,
    detection_question,
    explanation_question,
    read_explanation,
    read_numbers,
)
from matryo.sae.evaluate.explain.templated import Templated, accuracy, describe, mark, token_rule
from matryo.sae.evaluate.outcome import Number, Outcome, Table
from matryo.spine.config import to_dict
from matryo.spine.seeding import numpy_generator

if TYPE_CHECKING:
    from matryo.sae.evaluate.subjects import Subjects
    from matryo.sae.lm import LM
    from matryo.sae.nn import SAE


@dataclass(frozen=True)
class Explained:
    """One latent: what fires it in the words of the template and, where there is one, of the judge."""

    latent: int
    density: float
    "Share of tokens on which it is active."
    examples: Examples
    templated: Templated
    rule: float
    "Accuracy of the token rule on the test windows."
    judged: str | None = None
    score: float | None = None
    "Accuracy of the judge's guesses."
    score_random_inactive: float | None = None
    "The same with random windows taken to be inactive, as SAEBench does."


def explanations_task(
    subjects: Subjects, config: ExplainConfig, advance: Callable[..., None] = lambda *_, **__: None
) -> Outcome:
    """Explain latents by a template, and by a judge where one is given; score both on windows kept apart.

    Raises:
        ValueError: no model or no held-out rows, or rows shorter than a window.
    """
    from matryo.sae.evaluate.subjects import spread_rows

    lm, rows = subjects.lm, subjects.rows
    if config.explain_tokens:
        rows = replace_tokens(rows, spread_rows(rows, config.explain_tokens))
    tokens = torch.from_numpy(rows.tokens).long()
    unembed = lm.unembed().float().cpu()
    firings = collect_firings(subjects.saes, lm, rows, str(subjects.site), advance)
    explained: dict[str, list[Explained]] = {}
    missing: dict[str, str] = {}
    for name, sae in subjects.saes.items():
        explained[name] = _templated(name, sae, lm, tokens, firings[name], unembed, config)
        if len(explained[name]) < config.explain_latents:
            missing[f"{name}, latents"] = (
                f"{len(explained[name])} fire often enough; expected {config.explain_latents}: read more tokens"
            )
    if config.explain_judge:
        judge = Judge.at(
            config.explain_judge, config.explain_judge_model, config.explain_judge_key, config.explain_judge_timeout
        )
        try:
            for name, found in explained.items():
                explained[name] = _judged(judge, lm, tokens, found, config.explain_judge_workers)
                unread = sum(one.score is None for one in explained[name])
                if unread:
                    missing[f"{name}, judge"] = f"{unread} of {len(found)} answers were no list of numbers"
        except JudgeError as error:
            missing["judge"] = " ".join(str(error).split())
    return Outcome(
        scores={name: _scores(found) for name, found in explained.items()},
        tables={"latents": _table(explained)},
        constants=to_dict(config) | {"tokens": int(tokens[:, 1:].numel()), "row_length": tokens.shape[1]},
        data={"heldout_rows": subjects.rows.digest(), "lm": lm.identity().get("weights")},
        seeds=(config.explain_seed,),
        notes=(
            "Explanations marked templated are filled in from token counts; no model wrote them. The token rule "
            "guesses that a latent fires wherever a token stands on which it fired in the windows shown.",
        ),
        missing=missing,
        extra={
            "explanations": {name: [_plain(one) for one in found] for name, found in explained.items()},
            "saebench": _saebench(explained, config),
        },
    )


def replace_tokens(rows: Any, tokens: Any) -> Any:
    """The same rows' container with some of its rows."""
    import numpy as np

    return replace(rows, tokens=tokens, document=np.full(tokens.shape, -1, np.int32))


def _templated(
    name: str, sae: SAE, lm: LM, tokens: Tensor, firings: Firings, unembed: Tensor, config: ExplainConfig
) -> list[Explained]:
    random = numpy_generator(config.explain_seed, "explanations", name)
    often = firings.often(config.explain_min_firings)
    latents = sorted(random.choice(often, min(len(often), config.explain_latents), replace=False).tolist())
    W_dec = sae.W_dec.detach().float().cpu()
    fits = unembed if W_dec.shape[1] == unembed.shape[0] else None
    found = []
    for latent, acts in firings.of(latents).items():
        examples = draw_examples(acts, config, numpy_generator(config.explain_seed, "explanations", name, latent))
        if examples is None:
            continue
        templated = describe(lm, tokens, acts, examples, W_dec[latent], fits)
        rule = accuracy(token_rule(tokens, examples), examples.tests)
        density = int(firings.counts[latent]) / tokens[:, 1:].numel()
        found.append(Explained(latent, density, examples, templated, rule))
    return found


def _judged(judge: Judge, lm: LM, tokens: Tensor, found: Sequence[Explained], workers: int) -> list[Explained]:
    """Ask for every latent's explanation, then where it fires by that explanation.

    Raises:
        JudgeError: the endpoint cannot be used; latents not yet asked about are left out.
    """

    def ask(one: Explained) -> Explained:
        shown = [mark(lm, tokens, example, "<<", ">>") for example in one.examples.shown]
        text = read_explanation(judge.ask(explanation_question(shown), EXPLANATION_TOKENS))
        tests = one.examples.tests
        question = detection_question(text, [mark(lm, tokens, example) for example in tests])
        numbers = read_numbers(judge.ask(question, answer_tokens(len(tests))))
        if numbers is None:
            return replace(one, judged=text)
        guesses = [i in numbers for i in range(1, len(tests) + 1)]
        scores = accuracy(guesses, tests), accuracy(guesses, tests, random_inactive=True)
        return replace(one, judged=text, score=scores[0], score_random_inactive=scores[1])

    if not found:
        return []
    first = ask(found[0])  # alone, so that an endpoint that is not there is asked once
    with ThreadPoolExecutor(workers) as pool:
        waiting = [pool.submit(ask, one) for one in found[1:]]
        try:
            return [first, *(one.result() for one in waiting)]
        except JudgeError:
            pool.shutdown(cancel_futures=True)
            raise


def _scores(found: Sequence[Explained]) -> dict[str, Number]:
    def mean(values: list[float | None]) -> Number:
        kept = [value for value in values if value is not None]
        return statistics.fmean(kept) if kept else None

    return {
        "token_rule": mean([one.rule for one in found]),
        "judge": mean([one.score for one in found]),
        "judge_random_inactive": mean([one.score_random_inactive for one in found]),
        "latents": len(found),
    }


def _table(explained: Mapping[str, Sequence[Explained]]) -> Table:
    headers = (
        ("SAE", "kind, latents, k, levels, seed"),
        ("latent", "its number"),
        ("active %", "share of held-out tokens"),
        (
            "templated explanation",
            "filled in from counts: tokens by share of its activation, what it promotes, a context",
        ),
        ("token rule", "accuracy of guessing by the tokens alone"),
        ("judge's explanation", "the judge's words"),
        ("judge", "accuracy of the judge's guesses"),
    )
    rows = [
        (name, one.latent, 100 * one.density, one.templated.text, one.rule, one.judged, one.score)
        for name, found in explained.items()
        for one in found
    ]
    return Table(headers, tuple(rows))


def _plain(one: Explained) -> dict[str, Any]:
    return {
        "latent": one.latent,
        "density": one.density,
        "templated": to_dict(one.templated),
        "token_rule": one.rule,
        "judged": one.judged,
        "judge": one.score,
    }


def _saebench(explained: Mapping[str, Sequence[Explained]], config: ExplainConfig) -> dict[str, Any]:
    """SAEBench's autointerp, where a judge was asked."""
    results: dict[str, Any] = {}
    for name, found in explained.items():
        scores = [one.score_random_inactive for one in found if one.score_random_inactive is not None]
        if scores:
            results[name] = {
                "eval_type_id": "autointerp",
                "config": {
                    "n_latents": config.explain_latents,
                    "dead_latent_threshold": config.explain_min_firings,
                    "random_seed": config.explain_seed,
                    "buffer": config.explain_context,
                    "act_threshold_frac": config.explain_threshold,
                },
                "metrics": {
                    "autointerp": {
                        "autointerp_score": statistics.fmean(scores),
                        "autointerp_std_dev": statistics.stdev(scores) if len(scores) > 1 else 0.0,
                    }
                },
            }
    return results
