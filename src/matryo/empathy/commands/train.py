"""`matryo empathy train`: gridworld → trained agents."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from matryo.empathy.agents.config import LearnConfig
from matryo.empathy.commands.options import TrainOptions, part, resume_line
from matryo.spine.config import from_toml
from matryo.spine.progress import progress, say
from matryo.spine.run import RunFolder


def train(
    recipe: str | None = None,
    *,
    options: Annotated[TrainOptions | None, Parameter(name="*")] = None,
    resume: Path | None = None,
    runs: Path = Path("runs"),
    log: tuple[str, ...] = (),
) -> int:
    """Train one or many agents on a gridworld, all of them at once as one batched ensemble.

    Every combination of --agent, --selfishness (or --penalty, --aup-lambda) and seed is one member; what it learns does
    not depend on the others beside it.

    Examples
    --------
        matryo empathy train --steps 300 --prefill 200 --epsilon-steps 200
        matryo empathy train --env sharing --agent empathic --agent dqn --selfishness 0.25 --seeds 2 --steps 200 --prefill 200

    Parameters
    ----------
    recipe
        Named config to start from; `matryo empathy recipes` lists them.
    resume
        Unfinished training run to go on with, with its own settings; another value of one is refused.
    runs
        Folder of the runs.
    log
        Also log to tensorboard, wandb or trackio (each must be installed).
    """
    if resume is not None and options is None:
        options = from_toml(TrainOptions, resume / "config.toml")
    with stop_on_interrupt() as should_stop:
        run, finished = train_run(options or TrainOptions(), runs, recipe or "train", resume, log, should_stop)
    if not finished:
        say(f"interrupted; {resume_line('train', run)}", run=str(run))
        return 130
    say(f"trained: {run}", run=str(run))
    return 0


def train_run(
    options: TrainOptions,
    runs: Path,
    name: str = "train",
    resume: Path | None = None,
    log: tuple[str, ...] = (),
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[Path, bool]:
    """Train into a new run folder, or an unfinished one; return it and whether training came to its end."""
    import torch

    from matryo.empathy.agents import EmpathicDQN, save_agent
    from matryo.empathy.envs import make_world
    from matryo.empathy.train import Checkpoints, Interrupted, Training
    from matryo.empathy.train import train as fit

    # Members are shared among threads of ours: the products of one step are too small to be shared among PyTorch's.
    threads = options.threads or torch.get_num_threads()
    torch.set_num_threads(1)
    config, rules = part(options, LearnConfig), options.rules_config()
    world = make_world(options.env, rules)
    agent = EmpathicDQN(options.members(), world.planes, rules.others, config, threads)
    if resume:
        run = RunFolder.reopen(resume, options, log)
    else:
        run = RunFolder.create(runs, name, "empathy train", options, (), log)
    with run:
        checkpoints = Checkpoints(run.path / "checkpoints")
        training = Training(world, agent)
        with progress(f"train {len(agent.members)} on {world.name}", config.steps + config.prefill, "steps") as bar:

            def on_log(step: int, numbers: dict[str, float]) -> None:
                if options.evaluate_every and (step % options.evaluate_every == 0 or step == config.steps):
                    numbers |= _greedy(world, agent, options)
                run.log(step=step, epsilon=config.epsilon_at(step), **numbers)

            def on_step(n: int) -> None:
                bar.advance(n)

            try:
                fit(
                    training,
                    log_every=options.log_every,
                    on_log=on_log,
                    on_step=on_step,
                    checkpoints=checkpoints,
                    checkpoint_every=options.checkpoint_every,
                    resume=resume is not None,
                    should_stop=should_stop,
                )
            except Interrupted:
                return run.path, False
        save_agent(agent, run.path / "agents.safetensors")
        checkpoints.remove()
        outputs = {"agents": "agents.safetensors", "env": options.env, "rules": rules, "steps": config.steps}
        run.finish(outputs | {"members": [member.name for member in agent.members]})
    return run.path, True


def _greedy(world: Any, agent: Any, options: TrainOptions) -> dict[str, float]:
    """Greedy episodes of every member, as "member/greedy number"."""
    from matryo.empathy.evaluate import play

    shown = ("steps", "total", "others_killed", "got_killed", "equality")
    found = play(world, lambda views: agent.select_action(views, 0), len(agent.members), options.curve_episodes, seed=1)
    means = {key: getattr(found, key).mean(1) for key in shown}
    return {
        f"{member.name}/greedy_{key}": float(means[key][m]) for m, member in enumerate(agent.members) for key in shown
    }


@contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C, or SIGTERM as batch systems send it, asks training to stop after its step; the second ends it."""
    asked, signals = False, (signal.SIGINT, signal.SIGTERM)

    def ask(*_: Any) -> None:
        nonlocal asked
        asked = True
        for each in signals:
            signal.signal(each, signal.default_int_handler)

    before = {each: signal.signal(each, ask) for each in signals}
    try:
        yield lambda: asked
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
