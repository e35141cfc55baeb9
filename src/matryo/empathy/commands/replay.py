"""`matryo empathy replay`: a trained agent's game, to look at."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matryo.empathy.commands.evaluate import training_runs, world_of
from matryo.empathy.commands.options import ReplayFormat
from matryo.spine.errors import unknown
from matryo.spine.progress import say
from matryo.spine.run import FinishedRun, RunFolder

if TYPE_CHECKING:
    from matryo.empathy.evaluate import Recording


def replay(
    run: Path = Path("runs/latest"),
    *,
    member: tuple[str, ...] = (),
    game: int = 0,
    epsilon: float = 0.0,
    steps: int | None = None,
    form: ReplayFormat = "both",
    gif_frames: int = 150,
    runs: Path = Path("runs"),
) -> None:
    """Show games of trained agents: an animated GIF, and an HTML page that plays them and opens without a server.

    Beneath the board stand the values of every action: to itself (Q), to the other (the other's part of Q_emp), and what
    the agent acts on (Q_emp). All members shown meet the same game.

    Examples
    --------
        matryo empathy replay runs/latest --steps 40
        matryo empathy replay --run runs/latest --form gif --game 3 --gif-frames 20

    Parameters
    ----------
    run
        Finished training run, or one made from such.
    member
        Members to show side by side, repeatable, such as empathic-b0.5-s0; else the first seed of up to three groups.
    game
        Number of the game: a seed.
    epsilon
        Share of random moves.
    steps
        Longest game shown; the world's own limit when not given.
    form
        gif, html or both.
    gif_frames
        Frames of the GIF at most.
    runs
        Folder of the runs.
    """
    for name, value in (("steps", steps), ("gif_frames", gif_frames)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; expected a whole number of 1 or more")
    if not 0 <= epsilon <= 1:
        raise ValueError(f"epsilon is {epsilon}; expected 0 to 1")
    trained = training_runs(run)[0]
    recordings = record_games(trained, member, game, epsilon, steps)
    config = {"run": str(trained.path), "member": [r.title for r in recordings], "game": game, "epsilon": epsilon}
    with RunFolder.create(runs, "replay", "empathy replay", config, [trained.path]) as folder:
        outputs = write_replays(recordings, folder.path, form, gif_frames)
        folder.finish(outputs)
    for recording in recordings:
        say(f"{recording.title}: {len(recording.frames) - 1} steps, {recording.ending}")
    for key, name in outputs.items():
        say(f"{key}: {folder.path / name}", **{key: str(folder.path / name)})


def write_replays(recordings: "Sequence[Recording]", folder: Path, form: str, gif_frames: int) -> dict[str, Any]:
    """Write the files asked for; returns their names."""
    from matryo.empathy.report import write_gif, write_player

    outputs = {}
    if form in ("html", "both"):
        write_player(recordings, folder / "replay.html", f"{recordings[0].world.name}: a replay")
        outputs["html"] = "replay.html"
    if form in ("gif", "both"):
        write_gif(recordings, folder / "replay.gif", gif_frames)
        outputs["gif"] = "replay.gif"
    return outputs


def record_games(
    trained: FinishedRun, member: Sequence[str] = (), game: int = 0, epsilon: float = 0.0, steps: int | None = None
) -> "list[Recording]":
    """One game of each member asked for."""
    from matryo.empathy.agents import load_agent
    from matryo.empathy.evaluate import record

    world, agent = world_of(trained), load_agent(trained.path / trained.outputs["agents"])
    names = [one.name for one in agent.members]
    chosen = list(member) or _first_of_groups(names)
    recordings = []
    for name in chosen:
        if name not in names:
            raise unknown("member", name, names)
        alone = agent.alone(names.index(name))
        one = alone.members[0]
        beta = one.selfishness if one.agent in ("empathic", "own_value") else 1.0
        recordings.append(record(world, name, lambda view, a=alone: a.values(view)[:2], beta, game, epsilon, steps))
    return recordings


def _first_of_groups(names: list[str]) -> list[str]:
    """The first seed of the first, the middle and the last group."""
    first = list({name.rpartition("-s")[0]: name for name in reversed(names)}.values())[::-1]
    return [first[i] for i in sorted({0, len(first) // 2, len(first) - 1})]
