"""`matryo sae demo`: the whole job on a laptop, from text to a report."""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from matryo.sae.commands.evaluate import as_text, evaluate_run
from matryo.sae.commands.harvest import harvest_run
from matryo.sae.commands.index import IndexOptions, index_runs
from matryo.sae.commands.options import EvaluateOptions, HarvestOptions, TrainOptions
from matryo.sae.commands.train import train_run
from matryo.sae.evaluate.evaluation import Evaluation
from matryo.sae.recipes import recipe
from matryo.sae.sources import located
from matryo.spine import figures, report
from matryo.spine.progress import progress, say
from matryo.spine.run import RunFolder, read_metrics, read_run

if TYPE_CHECKING:
    from matryo.sae.evaluate import Passages
    from matryo.sae.lm import LM
    from matryo.sae.nn import SAE
    from matryo.sae.text import TokenRows

LATENTS = 30
"""Latents shown in the report, half of each autoencoder."""

RECIPE_OF = {"smollm2": "smollm2-both", "tiny": "tiny"}


def demo(
    *,
    lm: Literal["smollm2", "tiny"] = "smollm2",
    tokens: int | None = None,
    ce_tokens: int = 4096,
    runs: Path = Path("runs"),
) -> None:
    """Train a BatchTopK and a Matryoshka SAE on a real language model, measure them, and write a report.

    Five runs are made: a store of activations, the training, the evaluation, the index of the dashboard, and the report,
    which a browser opens without a server. SmolLM2 takes up to ten minutes on two cores after its download (93 MB, once), tiny about one.

    Examples
    --------
        matryo sae demo --lm tiny --tokens 20000 --ce-tokens 1024
        matryo sae demo --lm tiny --tokens 15000 --ce-tokens 512 --runs more-runs

    Parameters
    ----------
    lm
        smollm2 (SmolLM2-135M) or tiny (the 4-layer model that comes with the package).
    tokens
        Tokens of training text; the recipe's own number when not given.
    ce_tokens
        Held-out tokens run through the model for cross-entropies.
    runs
        Folder of the runs.
    """
    began = time.monotonic()
    if tokens is not None and tokens < 1:
        raise ValueError(f"tokens is {tokens}; expected a whole number of 1 or more")
    values = recipe(RECIPE_OF[lm]) | ({"tokens": tokens} if tokens else {})
    measure = EvaluateOptions(ce_tokens=ce_tokens, ce_levels=False)  # first: a wrong value is said before the work
    harvested = harvest_run(_options(HarvestOptions, values), runs, f"demo-{lm}-store")
    trained, _ = train_run(_options(TrainOptions, values | {"data": str(harvested)}), runs, f"demo-{lm}-train")
    evaluated, measured = evaluate_run([trained], measure, runs, f"demo-{lm}-evaluate")
    indexed = index_runs([trained], IndexOptions(), runs, name=f"demo-{lm}-index")
    config = {"lm": lm, "tokens": values["tokens"], "ce_tokens": ce_tokens}
    with RunFolder.create(runs, f"demo-{lm}", "sae demo", config, [trained, evaluated]) as run:
        page = run.path / "report.html"
        _write_report(page, lm, harvested, trained, measured)
        run.finish({"report": "report.html"})
    say(as_text(measured))
    say(f"done in {time.monotonic() - began:.0f} s", seconds=round(time.monotonic() - began, 1))
    say(f"report (open it in a browser): {page}", report=str(page))
    say(f"autoencoders (SAELens folders): {trained / 'saes'}", saes=str(trained / "saes"))
    say(f"activations: {harvested}\nmeasurements: {evaluated / 'report.html'}")
    say(f"to explore the latents in the browser: {explore_line(indexed)}", index=str(indexed))


def explore_line(index: Path) -> str:
    """What to type to open the dashboard of an index, wherever this matryo is installed."""
    script = Path(sys.argv[0])
    typed = os.path.relpath(script) if script.name == "matryo" and script.is_file() else "matryo"
    return f"{typed if len(typed) < len(str(script)) else script} sae serve {os.path.relpath(index)}"


def _options(cls: type, values: dict[str, Any]) -> Any:
    """The recipe's values that a command's options have."""
    return cls(**{key: value for key, value in values.items() if key in cls.__dataclass_fields__})


@dataclass(frozen=True)
class _Shown:
    """A latent of one autoencoder, with what the report says of it."""

    sae: str
    level: str
    passages: "Passages"
    promoted: tuple[str, ...]


def _write_report(page: Path, lm_name: str, harvested: Path, trained: Path, measured: Evaluation) -> None:
    from matryo.sae.lm import load_lm
    from matryo.sae.nn import SAE
    from matryo.sae.text import TokenRows

    outputs, store = located(trained, read_run(trained).outputs), read_run(harvested).outputs
    lm = load_lm(lm_name)
    rows = TokenRows.load(harvested / "rows" / "train")
    saes = {name: SAE.load(trained / folder) for name, folder in outputs["saes"].items()}
    shown = _choose(saes, lm, rows, outputs)
    out = report.Report(
        f"BatchTopK and Matryoshka on {lm_name}",
        f"{outputs['site']}, {store['tokens']['train']:,} training tokens, {outputs['steps']:,} steps",
    )
    out.section(
        "Held-out measurements", report.table(measured.headers, measured.rows()), report.text(*measured.notes())
    )
    out.section("Training", *_curves(trained, saes))
    out.section("Data", report.text(*_about(store, read_run(harvested).config["tokens"])))
    out.section(
        "Latents",
        report.text(
            f"{len(shown)} latents drawn at random among those active on at least {MIN_FIRINGS} tokens, not picked for "
            "their looks; of the Matryoshka SAE equally many from each level. Passages are the strongest of the training "
            "text, one per row; the tint is the activation (point at a token for its value). Promoted tokens are those "
            "whose logits the latent's decoder row raises most, without the model's final norm."
        ),
    )
    for name, sae in saes.items():
        kind = "Matryoshka" if sae.config.nested else "BatchTopK"
        html = [block for item in shown if item.sae == name for block in _latent(item, lm, rows)]
        out.section(f"{kind} latents ({name})", *html)
    out.write(page)


MIN_FIRINGS = 20


def _choose(saes: "dict[str, SAE]", lm: "LM", rows: "TokenRows", outputs: dict[str, Any]) -> list[_Shown]:
    import torch

    from matryo.sae.evaluate import collect_passages
    from matryo.sae.store import ActivationStore
    from matryo.spine.seeding import numpy_generator

    store, shown = ActivationStore(Path(outputs["store"])), []
    with progress("passages", rows.tokens[:, 1:].size * len(saes), "tokens") as bar:
        for name, sae in saes.items():
            bands = list(zip((0, *sae.config.lengths[:-1]), sae.config.lengths, strict=True))
            share = LATENTS // len(saes) // len(bands)

            def draw(_: Any, firings: Any, bands: Any = bands, share: int = share, name: str = name) -> Sequence[int]:
                chosen = []
                for low, high in bands:
                    alive = [i for i in range(low, high) if int(firings[i]) >= MIN_FIRINGS]
                    take = min(share, len(alive))
                    chosen += sorted(numpy_generator(0, "demo", name, low).choice(alive, take, replace=False).tolist())
                return chosen

            def read() -> Any:
                for first, x in store.in_token_order():
                    yield first, x
                    bar.advance(len(x))

            found = collect_passages(sae, read, rows.tokens.shape[1], draw)
            unembed = lm.unembed().float()
            for item in found:
                logits = sae.W_dec[item.latent].detach() @ unembed
                top = torch.topk(logits - logits.mean(), 8).indices.tolist()
                low = next(low for low, high in reversed(bands) if item.latent >= low)
                level = f"{low:,}–{dict(bands)[low]:,}" if len(bands) > 1 else "–"
                shown.append(_Shown(name, level, item, tuple(lm.decode_tokens(top))))
    return shown


def _latent(item: _Shown, lm: "LM", rows: "TokenRows") -> list[Any]:
    html: list[Any] = [report.raw(f"<h3>latent {item.passages.latent}</h3>")]
    head = f"active on {100 * item.passages.density:.3f} % of tokens, largest activation {item.passages.largest:.3g}"
    if item.level != "–":
        head += f", level {item.level}"
    html.append(report.text(head, "promoted tokens: " + "  ".join(f"«{piece}»" for piece in item.promoted)))
    for passage in item.passages.passages:
        ids = rows.tokens[passage.row][passage.first : passage.first + len(passage.values)].tolist()
        html.append(report.tokens(lm.decode_tokens(ids), passage.values, item.passages.largest))
    return html


def _curves(trained: Path, saes: "dict[str, SAE]") -> list[Any]:
    lines = read_metrics(trained)
    steps = [line["step"] for line in lines]
    drawn = []
    captions = {
        "fvu": "Fraction of variance unexplained, by step.",
        "loss": "Loss, by step: of Matryoshka the mean over its levels, hence higher.",
    }
    for key, caption in captions.items():
        series = {name: (steps, [float(line[f"{name}/{key}"]) for line in lines]) for name in saes}
        drawn.append(report.figure(figures.lines(series, "step", f"{key} of the training batch", logy=True), caption))
    last = "; ".join(f"{name}: {100 * float(lines[-1][f'{name}/dead']):.2f} %" for name in saes)
    return [*drawn, report.text(f"Latents silent for longer than the recipe allows, at the end: {last}.")]


def _about(store: dict[str, Any], asked: int) -> list[str]:
    count = store["tokens"]
    lines = [
        f"Language model: {store['lm']}. Tokens: {count['train']:,} for training, {count['calibration']:,} of other "
        f"modules to set thresholds on, {count['heldout']:,} of others again held out."
    ]
    for text in store["text"]:
        facts = ", ".join(f"{key} {value}" for key, value in text.items() if isinstance(value, str | int))
        lines.append(f"Text: {facts}.")
    lines.append(f"Made with: matryo sae demo --lm {store['lm']} --tokens {asked}")
    return lines
