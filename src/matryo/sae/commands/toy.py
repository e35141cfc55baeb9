"""`matryo sae toy`: planted features, recovered by a vanilla and a Matryoshka autoencoder."""

import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from matryo.sae.evaluate.evaluation import aligned
from matryo.sae.evaluate.toy.config import ToyConfig
from matryo.spine import report
from matryo.spine.progress import progress, say
from matryo.spine.run import RunFolder

if TYPE_CHECKING:
    from matryo.sae.evaluate.intervals import Interval
    from matryo.sae.evaluate.toy import Toy

LINES = {
    "cosine": "cosine of a feature's direction with its latent's decoder row",
    "parent_active": "share of tokens with a child on which its parent's latent is active",
    "absorption": "share of a child's tokens on which its latent is active and its parent's is not",
    "mixing": "cosine of a child's decoder row with its parent's direction; 0 in the truth",
    "split": "latents that a feature is spread over; 1 in the truth",
    "f1": "F1 of a feature's latent being active",
    "dead": "share of latents active on no sample",
    "l0": "mean active latents per sample",
    "true_l0": "mean active features per sample",
    "fvu": "fraction of variance unexplained",
}


def toy(*, options: Annotated[ToyConfig | None, Parameter(name="*")] = None, runs: Path = Path("runs")) -> None:
    """Plant features that form a tree, and see what a vanilla and a Matryoshka autoencoder make of them.

    The truth is known, so absorption and splitting are counted, not estimated by probes. Writes toy.json, a CSV of all
    features, and report.html with heat-maps.

    Examples
    --------
        matryo sae toy --toy-steps 300 --toy-seeds 2
        matryo sae toy --world generated --features 40 --width 32 --toy-l0 2 --toy-steps 100 --toy-seeds 1

    Parameters
    ----------
    runs
        Folder of the runs.
    """
    path, found = toy_run(options or ToyConfig(), runs)
    say(aligned(HEADERS, table(found)))
    say(f"Seeds: {len(found.worlds)}; [low, high] is the 95 % interval of the mean over seeds.")
    say(f"report (open it in a browser): {path / 'report.html'}", run=str(path))


HEADERS = ("score", "vanilla", "Matryoshka", "difference")


def toy_run(config: ToyConfig, runs: Path) -> "tuple[Path, Toy]":
    """Run the experiment into a new run folder."""
    from matryo.sae.evaluate.toy.experiment import run_toy

    with RunFolder.create(runs, f"toy-{config.world}", "sae toy", config) as folder:
        total = 2 * config.steps * (1 if config.world == "paper" else config.toy_seeds)
        with progress(f"toy world {config.world}", total, "steps") as bar:
            found = run_toy(config, advance=bar.advance)
        (folder.path / "toy.json").write_text(json.dumps(as_json(found), indent=1) + "\n", encoding="utf-8")
        _write_features(found, folder.path / "features.csv")
        _write_report(found, folder.path / "report.html")
        folder.finish({"toy": "toy.json", "features": "features.csv", "report": "report.html"})
    return folder.path, found


def table(found: "Toy") -> list[list[str]]:
    """Each score with its interval: both kinds, and the paired difference."""
    rows = []
    for score, told in found.summary().items():
        rows.append([score, *(_shown(told[key]) for key in ("vanilla", "matryoshka", "difference"))])
    return rows


def _shown(interval: "Interval") -> str:
    if interval.count < 2:
        return f"{interval.mean:.3f}"
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def as_json(found: "Toy") -> dict[str, Any]:
    """Scores by seed, their summary, and the trees."""
    trees = [asdict(world.tree) | {"l0": world.tree.l0} for world in found.worlds]
    recovery = {kind: [asdict(one.recovery) for one in many] for kind, many in found.found.items()}
    summary = {
        score: {key: asdict(value) for key, value in told.items() if value.count > 1}
        for score, told in found.summary().items()
    }
    return {"config": asdict(found.config), "explained": LINES, "seeds": recovery, "summary": summary, "trees": trees}


def _write_features(found: "Toy", path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        heads = list(found.found["vanilla"][0].per_feature[0])
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["kind", "seed", "feature", *heads])
        for kind, many in found.found.items():
            for seed, one in enumerate(many):
                writer.writerows([kind, seed, i, *row.values()] for i, row in enumerate(one.per_feature))


def _write_report(found: "Toy", path: Path) -> None:
    from matryo.sae.evaluate.toy.figures import CAPTIONS, heat_maps

    tree = found.worlds[0].tree
    page = report.Report(
        f"Planted features: the {found.config.world} world",
        f"{tree.size} features, {len(tree.parents)} of them parents, mean {tree.l0:.3g} active; seeds: {len(found.worlds)}",
    )
    rows = [[*row, LINES[row[0]]] for row in table(found)]
    caption = "Mean over seeds with its 95 % interval; the difference is paired, Matryoshka − vanilla."
    page.section("Recovery", report.table([*HEADERS, "what it is"], rows, caption))
    for what, heading in (("cosines", "Directions"), ("together", "Activity")):
        page.section(heading, report.figure(heat_maps(found, what), CAPTIONS[what]))
    page.write(path)
