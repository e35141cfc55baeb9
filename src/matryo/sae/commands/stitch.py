"""`matryo sae stitch`: what a larger SAE has that a smaller one has not, and the path between them."""

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
    published,
    save_stitched,
    say_pair,
    seal,
    walk_paths,
    write_found,
    write_scores,
)
from matryo.sae.sources import one_sae, settled
from matryo.spine.config import to_dict
from matryo.spine.progress import say
from matryo.spine.run import RunFolder

if TYPE_CHECKING:
    from matryo.sae.compare import Compared
    from matryo.sae.compare import Path as Way


def stitch(
    small: str | None = None,
    large: str | None = None,
    *,
    options: Annotated[StitchOptions | None, Parameter(name="*")] = None,
    save_step: tuple[int, ...] = (),
    resume: Path | None = None,
    runs: Path = Path("runs"),
) -> int:
    """Sort a larger SAE's latents into novel and reconstruction beside a smaller SAE's, and go from one to the other.

    Saved are the smaller SAE with all novel latents in, and the one in which similar latents have changed places too;
    they are SAELens folders, which evaluate, stitch and every other command take.

    Examples
    --------
        matryo sae stitch runs/latest@128 runs/latest --tokens 4000 --ce-tokens 256
        matryo sae stitch runs/latest/saes/inserted runs/latest/saes/swapped --order published --ce-tokens 0

    Parameters
    ----------
    small
        The SAE that latents are added to: RUN/saes/NAME, a run that has one alone, an SAE folder, or
        hf:OWNER/REPO[:SUBFOLDER]; @LEVEL behind it takes its first latents, such as a Matryoshka prefix.
    large
        The SAE that they come from; one of the same size is a control.
    save_step
        Also save the stitched SAE of this step of the path of the first --order, repeatable.
    resume
        Unfinished run to go on with, with its own settings; another value of one is refused.
    runs
        Folder of the runs.
    """
    if resume is not None:
        told, stored = stored_options(resume, StitchOptions, "small", "large")
        small, large = as_told(small, told["small"]), as_told(large, told["large"])
        options, save_step = options or stored, save_step or tuple(told.get("save_step", ()))
    if small is None or large is None:
        raise ValueError("two SAEs are needed; expected SMALL and LARGE, such as RUN/saes/NAME, or --resume with a run")
    with interruptible("stitch") as ended:
        path = stitch_run(small, large, options or StitchOptions(), runs, save_step, resume, ended)
        say(f"report (open it in a browser): {path / 'report.html'}", report=str(path / "report.html"))
        say(f"measure the stitched SAEs with: matryo sae evaluate {path}", run=str(path))
    return ended["code"]


def stitch_run(
    small: str,
    large: str,
    options: StitchOptions,
    runs: Path,
    save_step: tuple[int, ...] = (),
    resume: Path | None = None,
    ended: dict[str, Any] | None = None,
) -> Path:
    """Stitch into a new run folder, or an unfinished one, and return it."""
    from matryo.sae.compare import phase_scores, write_table

    # Whatever can be refused without a run folder is refused before there is one.
    work = prepare_work([one_sae(small), one_sae(large)], options)
    ((pair, one),) = compare_all(work, [tuple(work.named)]).items()  # pyright: ignore[reportArgumentType]
    steps = len(published(work, one))
    for step in save_step:
        if not 0 <= step <= steps:
            raise ValueError(f"step is {step}; expected 0 to {steps}, the steps of the path")
    keep = str if resume else settled
    config = {"small": keep(small), "large": keep(large), "save_step": list(save_step), **to_dict(options)}
    config["data"] = options.data and keep(options.data)
    with (
        RunFolder.reopen(resume, config)
        if resume
        else RunFolder.create(runs, "stitch", "sae stitch", config, work.parents)
    ) as run:
        if ended is not None:
            ended["run"] = run.path
        write_found(work, run, {pair: one}, {}, {})  # so that nothing is lost that is known by now
        paths, steps = walk_paths(work, {pair: one}, run)
        write_table(steps, run.path / "steps.parquet")
        more = phase_scores(steps)
        saes = _save(work, run.path, one, paths[pair], save_step)
        write_found(work, run, {pair: one}, paths, more)
        scores = one.scores() | more[pair]
        write_scores(run, scores | {"config": to_dict(options)})
        _page(work, run.path, one, steps, scores)
        seal(work, run, saes)
    say_pair(scores)
    return run.path


def _save(work: Work, run: Path, one: "Compared", path: "Way", save_step: tuple[int, ...]) -> dict[str, str]:
    from matryo.sae.compare import path_of

    small, large = (work.saes[name] for name in (one.small, one.large))
    by_phase = path_of(published(work, one), small.config.n_latents, large.config.n_latents)
    phases = [unit.phase for unit in by_phase.units]
    ends = {name: 1 + max(at for at, phase in enumerate(phases) if phase == key) for name, key in ENDS if key in phases}
    steps = {name: (by_phase, step) for name, step in ends.items()}
    steps |= {f"step-{step}": (path, step) for step in save_step}
    made = {name: way.at(step, small, large) for name, (way, step) in steps.items()}
    told = {
        name: {
            "small": one.small,
            "large": one.large,
            "step": step,
            "of_steps": len(way.units),
            "from_small": int((way.leaves > step).sum()),
            "from_large": int((way.enters <= step).sum()),
            "b_dec": "large" if step >= way.b_dec_step else "small",
        }
        for name, (way, step) in steps.items()
    }
    return save_stitched(work, run, made, told)


ENDS = (("inserted", "insert"), ("swapped", "swap"))


BIAS = {"small": "smaller", "large": "larger"}


def _page(work: Work, run: Path, one: "Compared", steps: Any, scores: dict[str, Any]) -> None:
    from matryo.sae.compare import write_page

    site = work.site.outputs.get("site") or "activations"
    write_page(
        run / "report.html",
        f"{one.small} and {one.large}",
        f"{site}, insertion test on {one.insertion.tokens:,} held-out tokens, b_dec of the {BIAS[work.options.b_dec]} "
        "SAE",
        [one],
        steps,
        {(one.small, one.large): scores},
        notes=work.notes,
    )
