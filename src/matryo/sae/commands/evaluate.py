"""`matryo sae evaluate`: finished training runs → one table."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from matryo.sae.commands.options import EvaluateOptions
from matryo.spine.config import to_dict
from matryo.spine.progress import progress, say
from matryo.spine.run import FinishedRun, RunFolder, read_run

if TYPE_CHECKING:
    from torch import Tensor

    from matryo.sae.evaluate import Downstream, Reconstruction
    from matryo.sae.lm import LM


def evaluate(
    run: tuple[Path, ...] = (Path("runs/latest"),),
    *,
    options: Annotated[EvaluateOptions | None, Parameter(name="*")] = None,
    runs: Path = Path("runs"),
) -> None:
    """Measure trained autoencoders on held-out tokens: FVU, L0, dead latents, and cross-entropy in the model.

    Examples
    --------
        matryo sae evaluate runs/latest --ce-tokens 1024
        matryo sae evaluate --run runs/latest --ce-tokens 0

    Parameters
    ----------
    run
        Finished training runs, or runs made from some.
    runs
        Folder of the runs.
    """
    path, measured = evaluate_run(run, options or EvaluateOptions(), runs)
    say(as_text(measured))
    say(f"written: {path / 'evaluation.json'}", run=str(path))


@dataclass(frozen=True)
class Measured:
    """What was measured of the autoencoders of one training run."""

    run: str
    reconstruction: "dict[str, Reconstruction]"
    downstream: "Downstream | None"


def evaluate_run(
    trained: Iterable[Path], options: EvaluateOptions, runs: Path, name: str = "evaluate"
) -> tuple[Path, list[Measured]]:
    """Measure training runs into a new run folder."""
    from matryo.sae.lm.load import usable_device

    usable_device(options.device)
    finished = [run for path in trained for run in training_runs(path)]
    config = {"runs": [run.path.name for run in finished], **to_dict(options)}
    with RunFolder.create(runs, name, "sae evaluate", config, [run.path for run in finished]) as folder:
        measured = [_measure(run.path, run.outputs, options) for run in finished]
        (folder.path / "evaluation.json").write_text(json.dumps(to_dict(measured), indent=1), encoding="utf-8")
        folder.finish({"evaluation": "evaluation.json"})
    return folder.path, measured


def training_runs(path: Path) -> list[FinishedRun]:
    """The training run at a path, or those that the run there was made from, such as an evaluation's."""
    run = read_run(path)
    if "saes" in run.outputs:
        return [run]
    found = [made for parent in run.parents for made in training_runs(Path(parent))]
    if not found:
        raise ValueError(f"{run.path} is a run of `{run.command}`; expected one of `sae train`, or made from one")
    return found


def _measure(path: Path, outputs: dict[str, Any], options: EvaluateOptions) -> Measured:
    from matryo.sae.evaluate import measure_downstream, measure_reconstruction
    from matryo.sae.nn import SAE

    outputs = located(path, outputs)
    saes = {name: SAE.load(path / folder).to(options.device) for name, folder in outputs["saes"].items()}
    lm, rows = open_model(outputs, options)
    reconstruction = measure_reconstruction(saes, _heldout(outputs, lm, rows))
    downstream = None
    if lm is not None and rows is not None and options.ce_tokens:
        import torch

        tokens = torch.as_tensor(spread_rows(rows, options.ce_tokens)).long()
        with progress(f"cross-entropy of {path.name}", tokens.numel(), "tokens") as bar:
            downstream = measure_downstream(lm, tokens, outputs["site"], saes, site_mean(outputs), bar.advance)
    return Measured(path.name, reconstruction, downstream)


def located(run: Path, outputs: dict[str, Any]) -> dict[str, Any]:
    """A training run's outputs with the places of its rows and store, which are told relative to it, made whole."""
    told = {key: outputs.get(key) for key in ("rows", "store")}
    return outputs | {key: place and os.path.normpath(run.resolve() / place) for key, place in told.items()}


def open_model(outputs: dict[str, Any], options: EvaluateOptions) -> "tuple[LM | None, Any]":
    """The language model and held-out rows of a training run, where it has them and they are needed."""
    if not outputs.get("lm") or not outputs.get("rows") or (outputs.get("store") and not options.ce_tokens):
        return None, None
    from matryo.sae.lm import load_lm, processed
    from matryo.sae.text import TokenRows

    rows = TokenRows.load(Path(outputs["rows"]) / "heldout")
    # Adopted SAEs may have been trained on processed weights.
    return processed(load_lm(outputs["lm"], options.device, options.lm_dtype), outputs.get("processing") or {}), rows


def spread_rows(rows: Any, tokens: int) -> Any:
    """About `tokens` tokens as whole rows, evenly spread over the split."""
    import numpy as np

    count = min(len(rows.tokens), max(1, round(tokens / rows.tokens.shape[1])))
    return rows.tokens[np.linspace(0, len(rows.tokens) - 1, count).round().astype(int)]


def _heldout(outputs: dict[str, Any], lm: "LM | None", rows: Any) -> "Iterable[Tensor]":
    from matryo.sae.store import in_order, open_activations

    if outputs.get("store"):
        return in_order(open_activations(outputs["store"]), "heldout", 4096)
    from matryo.sae.activations import chunks, without_outliers

    assert lm is not None
    return (without_outliers(found[outputs["site"]].float()) for _, found in chunks(lm, rows, [outputs["site"]]))


def site_mean(outputs: dict[str, Any]) -> "Tensor | None":
    """The site's mean activation, where a store knows it."""
    import torch

    from matryo.sae.store import ActivationStore, open_activations

    if not outputs.get("store"):
        return None
    store = open_activations(outputs["store"])
    return torch.tensor(store.manifest["mean"]) if isinstance(store, ActivationStore) else None


HEADERS = (
    ("SAE", "kind, latents, k, levels, seed"),
    ("FVU", "fraction of variance unexplained on held-out tokens, Σ‖x − x̂‖² / Σ‖x − x̄‖²"),
    ("L0", "mean active latents per held-out token"),
    ("dead %", "latents active on no held-out token"),
    ("CE clean", "the model's cross-entropy, nats/token"),
    ("CE spliced", "with the reconstruction in place of the activations"),
    ("CE zero", "with the activations set to 0"),
    ("CE mean", "with the activations set to their mean"),
    ("recovered", "(CE zero − CE spliced) / (CE zero − CE clean)"),
)


def table_rows(measured: Iterable[Measured]) -> list[list[Any]]:
    """One row for each autoencoder, under HEADERS."""
    rows = []
    for one in measured:
        for name, found in one.reconstruction.items():
            ce = one.downstream
            row: list[Any] = [name, found.fvu, found.l0, 100 * found.dead]
            row += [ce.ce_clean, ce.ce_spliced[name], ce.ce_zero, ce.ce_mean, ce.recovered[name]] if ce else [None] * 5
            rows.append(row)
    return rows


def notes(measured: Iterable[Measured]) -> list[str]:
    """What the table leaves out: token counts, sinks, levels."""
    lines = []
    for one in measured:
        first = next(iter(one.reconstruction.values()))
        lines.append(f"{one.run}: FVU, L0 and dead latents on {first.tokens:,} held-out tokens.")
        if one.downstream:
            ce = one.downstream
            lines.append(
                f"CE over {ce.tokens:,} predictions; position 0 and {ce.sinks} sink tokens (norm above 10 × the median) "
                "stay unspliced in every condition."
            )
            for name in ce.fvu:
                lines.append(f"{name}: FVU {ce.fvu[name]:.4f} without sinks, {ce.fvu_with_sinks[name]:.4f} with them.")
        for name, found in one.reconstruction.items():
            if len(found.level_fvu) > 1:
                levels = ", ".join(
                    f"{level:,}: {fvu:.3f} (L0 {found.level_l0[level]:.1f})" for level, fvu in found.level_fvu.items()
                )
                lines.append(f"{name}: FVU by level: {levels}.")
    return lines


def as_text(measured: list[Measured]) -> str:
    """The table and its notes for a terminal."""
    rows = [[_shown(cell) for cell in row] for row in table_rows(measured)]
    head = [label for label, _ in HEADERS]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (head, *rows)
    ]
    return "\n".join([*lines, *notes(measured)])


def _shown(cell: Any) -> str:
    if cell is None:
        return "n/a"
    return cell if isinstance(cell, str) else f"{cell:.3f}"
