"""Flags that several commands share, and how they become the parts' own configs. Imports no torch."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from matryo.empathy.agents.config import LEARNERS, LearnConfig, MemberConfig
from matryo.empathy.envs.rules import Preset, RulesConfig, make_rules
from matryo.spine.errors import unknown

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class EnvOptions:
    """A gridworld: which, by which preset's rules, and single rules that differ from the preset."""

    env: str = "coexistence"
    "Gridworld: coexistence, sharing, or module:Class of your own."
    rules: Preset = "corrected"
    "Preset of the rules: corrected, or published as in the authors' code."
    size: int | None = None
    "Rows and columns of the torus (7)."
    others: int | None = None
    "Number of other agents (1)."
    time_limit: int | None = None
    "Steps after which an episode ends (500)."
    weapons_wrap: bool | None = None
    "Rule: weapons reach across the border, as movement does."
    same_cell_kills: bool | None = None
    "Rule: on the other's cell the learner dies unless it moved down or right."
    kill_step_shows_other: bool | None = None
    "Rule: the learner still sees the other in the step in which it was killed."
    one_step_more: bool | None = None
    "Rule: Coexistence ends one step after the time limit."
    dead_other_counts: bool | None = None
    "Rule: the value of an all-zero view counts as a dead other's."
    final_other_counts: bool | None = None
    "Rule: the other's value counts after the episode has terminated."
    other_obs_of_next_episode: bool | None = None
    "Rule: the other's view after a terminal step is the next episode's first."
    time_limit_terminates: bool | None = None
    "Rule: the time limit counts as a terminal state."
    separate_planes: bool | None = None
    "Rule: coins and agents have a plane each."
    distance_wraps: bool | None = None
    "Rule: the closest other is the closest on the torus."
    equality_bonus: bool | None = None
    "Rule: equality from totals that are 0.1 per coin above the returns."

    def rules_config(self) -> RulesConfig:
        """The preset's rules with what differs."""
        names = {field.name for field in fields(RulesConfig)} & {field.name for field in fields(EnvOptions)}
        return make_rules(self.rules, **{name: getattr(self, name) for name in names})


@dataclass(frozen=True, kw_only=True)
class TrainOptions(LearnConfig, EnvOptions):
    """Whom to train on what: one member for every combination of agent, its values and seed, all at once."""

    agent: tuple[str, ...] = ("empathic",)
    "Agent, repeatable: empathic, dqn, kill_penalty, own_value, true_reward, aup."
    selfishness: tuple[float, ...] = (0.5,)
    "β, repeatable, 0 to 1: of empathic, own_value and true_reward."
    penalty: tuple[float, ...] = (1.0,)
    "kill_penalty: what a kill costs, repeatable."
    aup_lambda: tuple[float, ...] = (0.1,)
    "aup: λ, repeatable."
    seeds: int = 1
    "Number of seeds of every combination."
    first_seed: int = 0
    "The first of them."
    log_every: int = 1000
    "Steps between lines of metrics."
    checkpoint_every: int = 25_000
    "Steps between checkpoints; each holds the whole memory."
    evaluate_every: int = 10_000
    "Steps between greedy evaluations for the curves; 0 for none."
    curve_episodes: int = 20
    "Episodes of such an evaluation."
    threads: int | None = None
    "Threads that update members, a share of them each; as many as PyTorch would take when not given. No bit depends on it."

    def __post_init__(self) -> None:
        """Check the values that no part checks."""
        LearnConfig.__post_init__(self)
        self.rules_config()
        for name in ("agent", "selfishness", "penalty", "aup_lambda"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name} is {values}; expected one or more different values")
        for name, least in (("seeds", 1), ("log_every", 1), ("checkpoint_every", 1), ("evaluate_every", 0),
                            ("curve_episodes", 1), ("threads", 1)):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}; expected a whole number of {least} or more")
        self.members()

    def members(self) -> list[MemberConfig]:
        """Every member of the ensemble."""
        made = []
        for agent in self.agent:
            if agent not in LEARNERS:
                raise unknown("agent", agent, LEARNERS)
            if agent == "kill_penalty" and self.env == "sharing":
                raise ValueError(
                    "agent is kill_penalty and env is sharing; expected a world in which others can be killed"
                )
            if agent in ("kill_penalty", "aup"):
                values = [(1.0, value) for value in (self.penalty if agent == "kill_penalty" else self.aup_lambda)]
            else:
                values = [(beta, 0.0) for beta in ((1.0,) if agent == "dqn" else self.selfishness)]
            for beta, strength in values:
                for seed in range(self.first_seed, self.first_seed + self.seeds):
                    made.append(MemberConfig(agent=agent, selfishness=beta, strength=strength, seed=seed))  # pyright: ignore[reportArgumentType]
        return made


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """How much to measure."""

    episodes: int = 200
    "Episodes of every member at each ε."
    epsilon: tuple[float, ...] = (0.0, 0.01)
    "Share of random actions, repeatable; the first is what the report shows."
    eval_seed: int = 0
    "Seed of the games."
    resamples: int = 2000
    "Bootstrap resamples of an interval."
    baseline: str = "empathic-b1"
    "Group that the others are compared with, seed by seed, where a run has it."

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("episodes", "resamples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a whole number of 1 or more")
        for value in self.epsilon:
            if not 0 <= value <= 1:
                raise ValueError(f"epsilon is {value}; expected 0 to 1")
        if not self.epsilon:
            raise ValueError("epsilon is (); expected one or more values, such as 0")


@dataclass(frozen=True, kw_only=True)
class SweepOptions(EvaluateOptions, TrainOptions):
    """A sweep: what is trained, and how much is measured."""

    selfishness: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    "β, repeatable, 0 to 1: of empathic, own_value and true_reward."
    seeds: int = 10
    "Number of seeds of every combination."

    def __post_init__(self) -> None:
        """Check the values."""
        TrainOptions.__post_init__(self)
        EvaluateOptions.__post_init__(self)


def part(options: Any, cls: type[T]) -> T:
    """The config of one part, from options that have all its fields."""
    return cls(**{field.name: getattr(options, field.name) for field in fields(cls)})  # pyright: ignore[reportArgumentType]


def resume_line(command: str, run: Path) -> str:
    """What to type to go on with an interrupted run."""
    return f"go on with: matryo empathy {command} --resume {run}"


ReplayFormat = Literal["gif", "html", "both"]
