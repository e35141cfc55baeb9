"""`matryo empathy activations`: a trained Q-network's hidden layer → a file that `matryo sae train` accepts."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from matryo.empathy.commands.evaluate import training_runs, world_of
from matryo.spine.errors import unknown
from matryo.spine.progress import say
from matryo.spine.run import FinishedRun, RunFolder

if TYPE_CHECKING:
    from matryo.empathy.agents import EmpathicDQN


def activations(
    run: Path = Path("runs/latest"),
    *,
    member: str | None = None,
    net: Literal["q", "q_emp"] = "q_emp",
    layer: Literal[1, 2] = 2,
    rows: int = 20_000,
    epsilon: float = 0.1,
    seed: int = 0,
    runs: Path = Path("runs"),
) -> None:
    """Write a Q-network's hidden activations while its agent plays, for a sparse autoencoder to be trained on.

    RUN/activations.safetensors holds one tensor (rows, hidden), RUN/games.safetensors what each row belongs to: view,
    action, cells, who is alive, coins, game and step.

    Examples
    --------
        matryo empathy activations runs/latest --rows 2000
        matryo empathy activations --run runs/latest --net q --layer 1 --rows 500 --epsilon 0.5

    Parameters
    ----------
    run
        Finished training run, or one made from such.
    member
        Whose network, such as empathic-b0.5-s0; the first member's when not given.
    net
        q (its own value) or q_emp (what it acts on).
    layer
        1 or 2, after the ReLU.
    rows
        How many activations.
    epsilon
        Share of random moves, for more different situations.
    seed
        Seed of the games.
    runs
        Folder of the runs.
    """
    if rows < 1:
        raise ValueError(f"rows is {rows}; expected a whole number of 1 or more")
    if not 0 <= epsilon <= 1:
        raise ValueError(f"epsilon is {epsilon}; expected 0 to 1")
    trained = training_runs(run)[0]
    agent, chosen = load_member(trained, member)
    hidden, games = _collect(trained, agent, net, layer, rows, epsilon, seed)
    config = {"run": str(trained.path), "member": chosen, "net": net, "layer": layer, "rows": rows, "epsilon": epsilon}
    from safetensors.numpy import save_file

    with RunFolder.create(
        runs, "activations", "empathy activations", config | {"seed": seed}, [trained.path]
    ) as folder:
        path = folder.path / "activations.safetensors"
        save_file({"activations": hidden}, path)
        save_file(games, folder.path / "games.safetensors")
        folder.finish({"activations": path.name, "games": "games.safetensors", "width": hidden.shape[1]})
    _say(path, chosen, hidden.shape, len({view.tobytes() for view in games["view"]}))


def _say(path: Path, member: str, shape: tuple[int, int], distinct: int) -> None:
    rows, width = shape
    say(f"{rows:,} activations of {member}, {width} wide, of {distinct:,} different views: {path}", file=str(path))
    say(f"train on them with: matryo sae train --data {path} --kind topk --n-latents {2 * width} --k 8")


def load_member(trained: FinishedRun, member: str | None) -> "tuple[EmpathicDQN, str]":
    """One member of a training run by itself, the first if none is named, and its name."""
    from matryo.empathy.agents import load_agent

    agent = load_agent(trained.path / trained.outputs["agents"])
    names = [one.name for one in agent.members]
    if member is not None and member not in names:
        raise unknown("member", member, names)
    chosen = member or names[0]
    return agent.alone(names.index(chosen)), chosen


def _collect(
    trained: FinishedRun, agent: "EmpathicDQN", net: str, layer: int, rows: int, epsilon: float, seed: int
) -> tuple[Any, dict[str, Any]]:
    from matryo.empathy.evaluate import collect_hidden

    def see(views: Any) -> Any:
        return agent.hidden(views[None], layer, net)[0], agent.select_action(views[None], 0)[0]

    return collect_hidden(world_of(trained), see, rows, epsilon=epsilon, seed=seed)
