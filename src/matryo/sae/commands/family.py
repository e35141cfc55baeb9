"""`matryo sae family`: a ladder of sizes, stitched step by step."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from matryo.sae.commands.harvest import interruptible
from matryo.sae.commands.options import as_told, stored_options
from matryo.sae.commands.stitching import (
    StitchOptions,
    Work,
    compare_all,
    prepare_work,
    save_stitched,
    say_pair,
    seal,
    walk_paths,
    write_found,
    write_scores,
)
from matryo.sae.sources import NamedSAE, find_saes, read_saes, settled
from matryo.spine.config import to_dict
from matryo.spine.progress import progress, say
from matryo.spine.run import RunFolder

if TYPE_CHECKING:
    from matryo.sae.nn import JumpReLU

Pair = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class FamilyOptions(StitchOptions):
    """How to stitch a ladder."""

    prefixes: bool = False
    "Take the levels of each Matryoshka SAE as a ladder of its own."
    merged: bool = True
    "Also put together and save one SAE of all latents that are novel at their size."


def family(
    run: tuple[str, ...] = (),
    *,
    options: Annotated[FamilyOptions | None, Parameter(name="*")] = None,
    resume: Path | None = None,
    runs: Path = Path("runs"),
) -> int:
    """Stitch a ladder of SAEs from each size to the next, and compare same-size SAEs of different seeds as a control.

    Given training runs, every set of SAEs that differ in size alone is a ladder, each seed one of its own. Given single
    SAEs, they are one ladder, of whatever kinds. All insertion tests are made in one pass over the tokens.

    Examples
    --------
        matryo sae family runs/latest/saes/swapped@64 runs/latest/saes/swapped@128 runs/latest/saes/swapped --ce-tokens 256
        matryo sae family runs/latest@64 runs/latest --order published --ce-tokens 0

    Parameters
    ----------
    run
        Runs, or single SAEs: RUN/saes/NAME, an SAE folder, or hf:OWNER/REPO[:SUBFOLDER], with @LEVEL behind it for
        its first latents.
    resume
        Unfinished run to go on with, with its own settings; another value of one is refused.
    runs
        Folder of the runs.
    """
    if resume is not None:
        told, stored = stored_options(resume, FamilyOptions, "run", "prefixes")
        options = options or stored
        run = tuple(map(as_told, run, told["run"])) if len(run) == len(told["run"]) else run or tuple(told["run"])
    if not run:
        raise ValueError("run is empty; expected training runs or SAEs, or --resume with a run")
    with interruptible("family") as ended:
        path = family_run(run, options or FamilyOptions(), runs, resume, ended)
        say(f"report (open it in a browser): {path / 'report.html'}", report=str(path / "report.html"))
        say(f"written: {path}", run=str(path))
    return ended["code"]


def family_run(
    sources: Sequence[str],
    options: FamilyOptions,
    runs: Path,
    resume: Path | None = None,
    ended: dict[str, Any] | None = None,
) -> Path:
    """Stitch ladders into a new run folder, or an unfinished one, and return it."""
    from matryo.sae.compare import by_sizes, phase_scores, write_table

    # Whatever can be refused without a run folder is refused before there is one.
    found = read_saes(sources)
    if options.prefixes:
        found = [part for one in found for part in _prefixes(one)]
        if not found:
            raise ValueError(
                f"no SAE of {' '.join(sources)} has levels; expected Matryoshka SAEs: leave --prefixes out"
            )
    work = prepare_work(found, options)
    single = all(len(find_saes(source)) == 1 for source in sources) and not options.prefixes
    chains = [_by_size(work.named)] if single else ladders(work.named)
    links = [link for chain in chains for link in pairwise(chain)]
    controls = [] if single or options.prefixes else seeds_apart(work.named, chains)
    compared = compare_all(work, [*links, *controls])
    keep = str if resume else settled
    config = {"run": [keep(source) for source in sources], **to_dict(options)}
    config["data"] = options.data and keep(options.data)
    with (
        RunFolder.reopen(resume, config)
        if resume
        else RunFolder.create(runs, "family", "sae family", config, work.parents)
    ) as run:
        if ended is not None:
            ended["run"] = run.path
        write_found(work, run, compared, {}, {})  # so that nothing is lost that is known by now
        paths, steps = walk_paths(work, {link: compared[link] for link in links}, run)
        write_table(steps, run.path / "steps.parquet")
        more = phase_scores(steps)
        write_found(work, run, compared, paths, more)
        scores = {pair: one.scores() | more.get(pair, {}) for pair, one in compared.items()}
        saes, merged = _merge(work, run.path, chains) if options.merged else ({}, {})
        told: dict[str, Any] = {
            "by_sizes": by_sizes(scores[link] for link in links),
            "controls_by_sizes": by_sizes(scores[pair] for pair in controls),
            "mse_falls_from_size_to_size": all(scores[link]["mse_large"] < scores[link]["mse_small"] for link in links),
            "pairs": [scores[link] for link in links],
            "controls": [scores[pair] for pair in controls],
        }
        write_scores(run, told | {"merged": merged, "ladders": chains, "config": to_dict(options)})
        _page(work, run.path, compared, steps, scores, chains, links, controls, merged)
        seal(work, run, saes)
    for pair in [*links, *controls]:
        say_pair(scores[pair])
    return run.path


def ladders(named: dict[str, NamedSAE]) -> list[list[str]]:
    """Names of SAEs that differ in size alone, from the smallest on.

    Raises:
        ValueError: there are none, or two SAEs of a ladder have one size.
    """
    groups: dict[str, dict[str, NamedSAE]] = {}
    for name, one in named.items():
        groups.setdefault(_family(one), {})[name] = one
    found = [_by_size(group) for group in groups.values() if len(group) > 1]
    if not found:
        raise ValueError(
            f"no two of {', '.join(named)} differ in size alone; expected a ladder: train one with several "
            "--n-latents, or name "
            "single SAEs as RUN/saes/NAME"
        )
    return found


def seeds_apart(named: dict[str, NamedSAE], chains: Sequence[Sequence[str]]) -> list[Pair]:
    """Pairs of SAEs of ladders that differ in their seed alone, each seed with the next."""
    groups: dict[str, list[tuple[int, str]]] = {}
    for name in (name for chain in chains for name in chain):
        config = named[name].sae.config
        groups.setdefault(config.name.removesuffix(f"-s{config.seed}"), []).append((config.seed, name))
    return [(a[1], b[1]) for group in groups.values() for a, b in pairwise(sorted(group))]


def _family(one: NamedSAE) -> str:
    """What SAEs of one ladder have alike: their name without its size, and what a prefix is of."""
    whole, _, level = one.name.rpartition("@")
    config = one.sae.config
    return whole if level.isdigit() and whole else config.name.replace(f"-{config.n_latents}-", "-", 1)


def _by_size(group: dict[str, NamedSAE]) -> list[str]:
    sizes = {name: one.sae.config.n_latents for name, one in group.items()}
    if len(sizes) < 2 or len(set(sizes.values())) < len(sizes):
        told = ", ".join(f"{name} ({size:,})" for name, size in sizes.items())
        raise ValueError(f"a ladder of {told} was asked for; expected two or more SAEs, each of another size")
    return sorted(sizes, key=lambda name: sizes[name])


def _prefixes(one: NamedSAE) -> list[NamedSAE]:
    """The levels of a Matryoshka SAE, the last of which is the whole."""
    lengths = one.sae.config.lengths
    return [one.prefix(n) for n in lengths] if len(lengths) > 1 else []


def _merge(work: Work, run: Path, chains: Sequence[Sequence[str]]) -> tuple[dict[str, str], dict[str, Any]]:
    """One SAE of all that is novel along each ladder, saved and measured beside the ladder's own."""
    from matryo.sae.compare import merge_novel
    from matryo.sae.evaluate import measure_reconstruction

    made: dict[str, JumpReLU] = {}
    told: dict[str, dict[str, Any]] = {}
    for number, chain in enumerate(chains):
        name = "merged" if len(chains) == 1 else f"merged-{number}"
        saes = {sae: work.saes[sae] for sae in chain}
        with progress(
            f"{name}: novel latents of {len(chain)} SAEs", work.site.tokens * (len(chain) - 1), "tokens"
        ) as bar:
            made[name], given = merge_novel(saes, work.site.batches, bar.advance)
        told[name] = {"of": list(chain), "latents": given}
    for name, measured in measure_reconstruction(made, work.site.batches()).items():
        told[name] |= {"n_latents": made[name].config.n_latents, "fvu": measured.fvu, "l0": measured.l0}
    return save_stitched(work, run, made, told), told


def _page(
    work: Work,
    run: Path,
    compared: Any,
    steps: Any,
    scores: Any,
    chains: Sequence[Sequence[str]],
    links: Sequence[Pair],
    controls: Sequence[Pair],
    merged: dict[str, Any],
) -> None:
    from matryo.sae.compare import write_page

    notes = list(work.notes)
    for name, told in merged.items():
        parts = ", ".join(f"{count:,} of {sae}" for sae, count in told["latents"].items())
        notes.append(
            f"{name} (all latents that were novel when their SAE's turn came): {told['n_latents']:,} latents, "
            f"{parts}; FVU "
            f"{told['fvu']:.4f}, L0 {told['l0']:.1f}."
        )
    site = work.site.outputs.get("site") or "activations"
    write_page(
        run / "report.html",
        f"A family of {len(work.saes)} SAEs",
        f"{site}, insertion tests on {next(iter(compared.values())).insertion.tokens:,} held-out tokens",
        [compared[link] for link in links],
        steps,
        scores,
        [compared[pair] for pair in controls],
        notes,
        chains,
    )
