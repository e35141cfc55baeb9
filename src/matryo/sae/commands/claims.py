"""`matryo sae claims`: what the papers say, measured."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from matryo.sae.claims import (
    FULL,
    SHORT,
    Form,
    Results,
    Unit,
    as_markdown,
    family,
    lines,
    plan,
    read_results,
    run_units,
)
from matryo.sae.commands.evaluate import evaluate_run
from matryo.sae.commands.harvest import harvest_run
from matryo.sae.commands.meta import MetaOptions, meta_run
from matryo.sae.commands.options import EvaluateOptions, HarvestOptions, TrainOptions, resume_line
from matryo.sae.commands.train import train_run
from matryo.sae.compare.meta.config import MetaConfig
from matryo.sae.evaluate.evaluation import aligned
from matryo.sae.evaluate.suite import TASKS
from matryo.sae.evaluate.toy.config import ToyConfig
from matryo.sae.recipes import recipe
from matryo.sae.sources import read_saes
from matryo.spine.config import to_dict, write_text
from matryo.spine.progress import progress, say, to_json
from matryo.spine.run import RunFolder


def claims(
    *,
    short: bool = False,
    only: tuple[str, ...] = (),
    resume: Path | None = None,
    runs: Path = Path("runs"),
) -> int:
    """Measure the claims of the BatchTopK and Matryoshka papers: toy worlds, and SmolLM2 over several seeds.

    Takes a few hours on two cores, in units of at most 20 minutes: Ctrl-C at any time, and go on with --resume. --short
    takes minutes: the tiny model, two seeds, fewer steps. Writes claims.json and claims.md, also after an interruption.

    Examples
    --------
        matryo sae claims --short --only toy-paper
        matryo sae claims --resume runs/latest  # downloads the model

    Parameters
    ----------
    short
        The short form.
    only
        Only units whose name begins so, repeatable: toy-paper, toy-generated, toy-meta, basic-k32, absorption,
        probing, tpp, meta.
    resume
        Unfinished claims run to go on with.
    runs
        Folder of the runs.
    """
    if resume is not None:
        begun = "short" in json.loads((_begun(resume)).read_text())["form"]
        if short and not begun:
            raise ValueError(f"--short is given and {resume} is of the full form; expected --resume without it")
        short = begun
    form = SHORT if short else FULL
    units = plan(form, list(TASKS))
    if only and not any(unit.name.startswith(only) for unit in units):
        kinds = dict.fromkeys(re.sub(r"-[ks]\d.*", "", unit.name) for unit in units)
        raise ValueError(f"only is {' '.join(only)}; expected the beginning of a unit's name: {', '.join(kinds)}")
    config = {"form": "short" if short else "full", **asdict(form)}
    folder = RunFolder.reopen(resume, config) if resume else RunFolder.create(runs, "claims", "sae claims", config)
    with folder:
        write_text(folder.path / "form.json", json.dumps({"form": config["form"]}))
        interrupted = _work_off(folder, units, form, only)
        results = read_results(units, folder.path / "units")
        told = lines(results, units)
        write_text(folder.path / "claims.md", as_markdown(told))
        write_text(folder.path / "claims.json", to_json([asdict(line) for line in told], 1) + "\n")
        say(aligned(HEADERS, table(told)))
        say(f"written: {folder.path / 'claims.md'}", run=str(folder.path))
        if interrupted or len(results) < len(units):
            say(resume_line("claims", folder.path))
            return 130 if interrupted else 0
        folder.finish({"claims": "claims.json", "table": "claims.md", "units": "units"})
    return 0


HEADERS = ("claim", "k", "first", "second", "difference", "verdict")


def table(told: list[Any]) -> list[list[str]]:
    """The lines for a terminal."""
    rows = []
    for line in told:
        judged = line.equal_l0 or line.difference
        shown = f"{judged.mean:+.4f}"
        if judged.count > 1:
            shown += f" [{judged.low:+.4f}, {judged.high:+.4f}]"
        values = [f"{line.first.mean:.4f}", f"{line.second.mean:.4f}", shown]
        rows.append([line.claim.statement, "–" if line.k is None else str(line.k), *values, line.verdict])
    return rows


def _begun(path: Path) -> Path:
    file = path.resolve() / "form.json"
    if not file.is_file():
        raise ValueError(f"{path} is no run of `sae claims`; expected one that is not finished")
    return file


def _work_off(folder: RunFolder, units: list[Unit], form: Form, only: tuple[str, ...]) -> bool:
    """Do the units; whether that was interrupted."""
    place = folder.path / "work"

    def work(unit: Unit, needed: Results) -> dict[str, Any]:
        return WORK[unit.kind](unit, form, needed, place)

    try:
        for unit, _, new in run_units(units, folder.path / "units", work, only):
            if new:
                say(f"done: {unit.name}", unit=unit.name)
    except KeyboardInterrupt:
        say("interrupted")
        return True
    return False


def _toy(unit: Unit, form: Form, needed: Results, place: Path) -> dict[str, Any]:
    from matryo.sae.evaluate.toy import run_toy

    seeds = tuple(unit.values["seeds"])
    config = ToyConfig(world=unit.values["world"], toy_seeds=len(seeds), toy_steps=form.toy_steps)
    total = 2 * config.steps * (1 if config.world == "paper" else len(seeds))
    with progress(unit.name, total, "steps") as bar:
        found = run_toy(config, seeds, bar.advance)
    return {kind: [asdict(one.recovery) for one in many] for kind, many in found.found.items()} | {"seeds": seeds}


def _toy_meta(unit: Unit, form: Form, needed: Results, place: Path) -> dict[str, Any]:
    from matryo.sae.compare.meta import explain_planted

    seeds = unit.values["seeds"]
    config = ToyConfig(world="families", toy_steps=form.toy_steps)
    metas = {
        "decoder_explained": _meta_config(MetaConfig, form, recipe("meta-saebench")),
        "decoder_explained_small": _meta_config(MetaConfig, form, {}),
    }
    total = 2 * len(seeds) * (config.steps + sum(meta.steps for meta in metas.values()))
    with progress(unit.name, total, "steps") as bar:
        found = [explain_planted(seed, config, metas, bar.advance) for seed in seeds]
    return {kind: [one[kind] for one in found] for kind in found[0]} | {"seeds": seeds}


def _meta_config(cls: type, form: Form, values: Mapping[str, Any]) -> Any:
    """A setting of meta-SAEs, with what the form limits: the steps of a short one."""
    return cls(**{**values, **{key: form.limits[key] for key in ("steps",) if key in form.limits}})


def _harvest(unit: Unit, form: Form, needed: Results, place: Path) -> dict[str, Any]:
    return {"run": str(harvest_run(_options(HarvestOptions, form, {}), place, unit.name).relative_to(place.resolve()))}


def _train(unit: Unit, form: Form, needed: Results, place: Path) -> dict[str, Any]:
    data = str(place.resolve() / needed["harvest"]["run"])
    path, finished = train_run(_options(TrainOptions, form, {**unit.values, "data": data}), place, unit.name)
    if not finished:
        raise KeyboardInterrupt
    return {"run": str(path.relative_to(place.resolve()))}


def _evaluate(unit: Unit, form: Form, needed: Results, place: Path) -> dict[str, Any]:
    options = EvaluateOptions(tasks=tuple(unit.values["tasks"]), ce_tokens=form.ce_tokens, ce_levels=False)
    # Labelled texts are the same for all seeds: the model reads them once.
    wanted = {"probing_cache": str(place / "labelled")} | form.limits
    known = {key: value for key, value in wanted.items() if key in EvaluateOptions.__dataclass_fields__}
    trained = [place.resolve() / needed[need]["run"] for need in unit.needs]
    path, found = evaluate_run(trained, replace(options, **known), place, unit.name)
    if all(one.outcome is None for one in found.measured):
        raise ValueError(f"{unit.name}: {found.missing()[0]}")
    scores: dict[str, dict[str, Any]] = {}
    for sae, config in found.configs.items():
        mine = scores.setdefault(family(config), {})
        for one in found.measured:
            mine |= one.outcome.scores.get(sae, {}) if one.outcome else {}
        if _has(mine, "ce_spliced", "ce_clean"):
            mine["ce_cost"] = mine["ce_spliced"] - mine["ce_clean"]
    return {"run": str(path.relative_to(place.resolve())), "scores": scores, "missing": found.missing()}


def _meta(unit: Unit, form: Form, needed: Results, place: Path) -> dict[str, Any]:
    """A meta-SAE of each of a pair, as `matryo sae meta --recipe meta-saebench` trains it."""
    own = recipe("meta-saebench") | {"baselines": False, "label_tokens": 0}
    trained = [place.resolve() / needed[need]["run"] for need in unit.needs]
    path, views = meta_run(trained, _meta_config(MetaOptions, form, own), place, unit.name)
    kinds = {one.name: family(to_dict(one.sae.config)) for one in read_saes(trained)}
    scores = {kinds[view.name]: {"decoder_explained": view.study.scores.variance_explained} for view in views}
    return {"run": str(path.relative_to(place.resolve())), "scores": scores}


def _has(scores: Mapping[str, Any], *keys: str) -> bool:
    return all(scores.get(key) is not None for key in keys)


WORK = {
    "toy": _toy,
    "toy-meta": _toy_meta,
    "harvest": _harvest,
    "train": _train,
    "evaluate": _evaluate,
    "meta": _meta,
}


def _options(cls: type, form: Form, own: dict[str, Any]) -> Any:
    """The recipe's values, the form's and the unit's own, as far as a command's options have them."""
    values = recipe(form.recipe) | form.values | own
    return cls(**{key: value for key, value in values.items() if key in cls.__dataclass_fields__})
