"""What `stitch` and `family` do alike: compare pairs of SAEs, walk their paths, and write what was found."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matryo.sae.commands.options import ModelOptions
from matryo.sae.commands.sites import Site, check_one_site, model_of, open_site, relative_outputs
from matryo.sae.compare.config import StitchConfig
from matryo.sae.evaluate.runs import site_mean, spread_rows
from matryo.sae.sources import NamedSAE, distinct, runs_of
from matryo.spine.config import to_dict, write_text
from matryo.spine.progress import progress, say, to_json
from matryo.spine.run import RunFolder

if TYPE_CHECKING:
    from matryo.sae.compare import Compared, Trace, Unit
    from matryo.sae.compare import Path as Way
    from matryo.sae.nn import JumpReLU

Pair = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class StitchOptions(StitchConfig, ModelOptions):
    """How to stitch, what to measure on, and how much."""

    data: str | None = None
    "Activations of the site: a harvest run, a store or an array; those of the SAEs' run when not given."
    ce_tokens: int = 2048
    "Held-out tokens run through the model for cross-entropies; 0 to leave the model out."

    def __post_init__(self) -> None:
        """Check the values of both parts."""
        StitchConfig.__post_init__(self)
        if self.ce_tokens < 0:
            raise ValueError(f"ce_tokens is {self.ce_tokens}; expected 0 or more")


@dataclass(frozen=True, eq=False)
class Work:
    """SAEs ready to be compared, all active by thresholds, and the activations to compare them on."""

    named: dict[str, NamedSAE]
    saes: "dict[str, JumpReLU]"
    site: Site
    options: StitchOptions
    notes: tuple[str, ...]

    @property
    def parents(self) -> list[Path]:
        """The runs that everything comes from."""
        runs = runs_of(self.named.values()) + ([self.site.parent] if self.site.parent else [])
        return list(dict.fromkeys(runs))


def prepare_work(found: Sequence[NamedSAE], options: StitchOptions) -> Work:
    """Check that the SAEs can be compared, and bring them to one form."""
    from matryo.sae.compare import as_jumprelu
    from matryo.sae.lm.load import usable_device
    from matryo.sae.nn import TopK

    usable_device(options.device)
    for one in found:
        if one.sae.config.transcoder:
            raise ValueError(f"{one.name} is a transcoder; expected SAEs, which reconstruct the site they read")
    check_one_site(found)
    site = open_site(found, options.data, options.tokens, options)
    named, saes, notes = {one.name: one for one in distinct(found)}, {}, []
    for name, one in named.items():
        per_token = isinstance(one.sae, TopK) and not one.sae.by_threshold
        saes[name] = as_jumprelu(one.sae, site.calibration() if per_token else ()).to(options.device)
        if per_token:
            notes.append(
                f"{name} keeps the k largest latents of every token; for stitching it has the threshold of mean L0 = k, "
                "set on tokens apart from those measured on where the data have some."
            )
    return Work(named, saes, site, options, tuple(notes))


def compare_all(work: Work, pairs: Sequence[Pair]) -> "dict[Pair, Compared]":
    """Test all latents of all pairs in one pass."""
    from matryo.sae.compare import compare_pairs

    with progress("insertion test", work.site.tokens, "tokens") as bar:
        compared = compare_pairs(work.saes, pairs, work.site.batches(), work.options, bar.advance)
    for (small, large), one in compared.items():
        for name, fvu in ((small, one.insertion.fvu_small), (large, one.insertion.fvu_large)):
            if not fvu < 1:
                raise ValueError(
                    f"{name} has FVU {fvu:.3g} on these activations, no better than their mean; expected an SAE of this "
                    "site and normalisation"
                )
    return compared


def walk_paths(work: Work, compared: "dict[Pair, Compared]", run: RunFolder) -> "tuple[dict[Pair, Way], Any]":
    """The paths of pairs by every order, step by step, as the paths by the first and one table.

    Each path is kept when it is done, so that a resumed run goes on with the next.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from matryo.sae.compare import path_of, steps_table, trace_path, write_table
    from matryo.sae.compare.config import Order

    kept = run.path / "kept"
    kept.mkdir(exist_ok=True)
    model, paths, tables = _Model(work), {}, []
    for number, (pair, one) in enumerate(compared.items()):
        small, large = work.saes[pair[0]], work.saes[pair[1]]
        n_small, n_large = small.config.n_latents, large.config.n_latents
        units = published(work, one)
        orders: tuple[Order, ...] = work.options.order
        for order in orders:
            file = kept / f"{number}-{order}.parquet"
            ordered = units if order == "published" else _kept_order(work, pair, units, file.with_suffix(".json"))
            path = path_of(ordered, n_small, n_large)
            paths.setdefault(pair, path)
            if not file.is_file():
                with progress(f"path {pair[0]} to {pair[1]}, {order}", work.site.tokens, "tokens") as bar:
                    trace = trace_path(path, small, large, work.site.batches(), bar.advance)
                write_table(steps_table(pair, order, path, trace, model.losses(pair, path, trace)), file)
            tables.append(pq.read_table(file))
    return paths, pa.concat_tables(tables)


def _kept_order(work: Work, pair: Pair, units: "list[Unit]", file: Path) -> "list[Unit]":
    """The greedy order, kept as the numbers of the units in the published one."""
    if not file.is_file():
        number = {unit: at for at, unit in enumerate(units)}
        write_text(file, json.dumps([number[unit] for unit in _greedy(work, pair, units)]))
    return [units[at] for at in json.loads(file.read_text(encoding="utf-8"))]


def published(work: Work, one: "Compared") -> "list[Unit]":
    """The steps from a pair's smaller SAE to its larger in the paper's order."""
    from matryo.sae.compare import published_units

    delta, nearest = one.insertion.delta_mse.numpy(), one.there.latent.cpu().numpy()
    return published_units(one.novel, delta, one.edges, nearest, len(one.back.latent), work.options.b_dec)


def _greedy(work: Work, pair: Pair, units: Any) -> Any:
    from matryo.sae.compare import greedy_units

    small, large = work.saes[pair[0]], work.saes[pair[1]]
    with progress(f"greedy order, {pair[0]} to {pair[1]}", work.site.tokens, "tokens") as bar:
        return greedy_units(units, small, large, work.site.batches(), work.options.b_dec, bar.advance)


class _Model:
    """The language model, loaded when a path first needs it."""

    def __init__(self, work: Work) -> None:
        self.work, self._opened = work, False
        self._lm: Any = None
        self._rows: Any = None

    def losses(self, pair: Pair, path: "Way", trace: "Trace") -> dict[int, tuple[float, float]]:
        """(CE spliced, CE recovered) at some steps; nothing without a model."""
        import torch

        from matryo.sae.compare import measured_steps
        from matryo.sae.evaluate import measure_downstream

        options, outputs = self.work.options, self.work.site.outputs
        if not self._opened:
            self._lm, self._rows = model_of(self.work.site, options)
            self._opened = True
        if self._lm is None or self._rows is None:
            return {}
        small, large = (self.work.saes[name] for name in pair)
        saes = {str(step): path.at(step, small, large) for step in measured_steps(path, options.ce_points)}
        tokens = torch.as_tensor(spread_rows(self._rows, options.ce_tokens)).long()
        with progress(f"cross-entropy at {len(saes)} steps", tokens.numel(), "tokens") as bar:
            found = measure_downstream(
                self._lm, tokens, outputs["site"], saes, site_mean(outputs.get("store")), advance=bar.advance
            )
        return {int(step): (found.ce_spliced[step], found.recovered[step]) for step in saes}


def save_stitched(
    work: Work, run: Path, made: "dict[str, JumpReLU]", told: dict[str, dict[str, Any]]
) -> dict[str, str]:
    """Save stitched SAEs as SAELens folders; what each is made of stands in `metadata.stitched`."""
    last = list(work.named.values())[-1]
    metadata = {key: value for key, value in last.metadata.items() if key not in ("matryo", "stitched")}
    for name, sae in made.items():
        sae.save(run / "saes" / name, metadata | {"stitched": told[name]})
    return {name: f"saes/{name}" for name in made}


def write_found(
    work: Work,
    run: RunFolder,
    compared: "dict[Pair, Compared]",
    paths: "dict[Pair, Way]",
    more: dict[Pair, dict[str, Any]],
) -> None:
    """Write the tables of latents, pairs and edges."""
    from matryo.sae.compare import edges_table, latents_table, pairs_table, write_table

    found = list(compared.values())
    write_table(latents_table(found), run.path / "latents.parquet")
    write_table(edges_table(found, paths), run.path / "edges.parquet")
    write_table(pairs_table(found, more), run.path / "pairs.parquet")


def write_scores(run: RunFolder, scores: dict[str, Any]) -> None:
    """Write scores.json; numbers that are not defined become null."""
    write_text(run.path / "scores.json", to_json(to_dict(scores), 1) + "\n")


def seal(work: Work, run: RunFolder, saes: dict[str, str]) -> None:
    """Finish a run that `evaluate` and every other command take like a training run."""
    files = {name: f"{name}.parquet" for name in ("latents", "pairs", "edges", "steps")}
    outputs = relative_outputs(work.site.outputs, run.path) if saes else {}
    told = {"saes": saes} if saes else {}
    shutil.rmtree(run.path / "kept")
    run.finish(outputs | told | files | {"scores": "scores.json", "report": "report.html"})


def say_pair(scores: dict[str, Any]) -> None:
    """One line for a pair."""
    say(
        f"{scores['small']} ({scores['n_small']:,}) to {scores['large']} ({scores['n_large']:,}): "
        f"{scores['novel']:,} novel ({100 * scores['novel_share']:.1f} %), {scores['reconstruction']:,} "
        "reconstruction, "
        f"{scores['shared']:,} shared, {scores['silent']:,} silent; FVU {scores['fvu_small']:.4f} to "
        f"{scores['fvu_large']:.4f}",
        **scores,
    )
