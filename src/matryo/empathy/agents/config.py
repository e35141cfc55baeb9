"""Which agents there are, and how they learn. Imports no torch, so that command lines stay quick."""

from dataclasses import dataclass
from typing import Literal

from matryo.empathy.swap import AGGREGATIONS, Aggregation
from matryo.spine.errors import unknown

AgentName = Literal["empathic", "dqn", "kill_penalty", "own_value", "true_reward", "aup"]
LEARNERS: dict[str, str] = {
    "empathic": "Empathic DQN: β of its own value, 1 − β of the other's.",
    "dqn": "Double DQN: β = 1.",
    "kill_penalty": "Double DQN on the reward minus a penalty for each kill.",
    "own_value": "Control: 1 − β of its own next value in the place of the other's.",
    "true_reward": "Control: Double DQN on β of its own reward and 1 − β of the others' true mean reward.",
    "aup": "Attainable-utility preservation: a penalty for changing what random rewards could still be had.",
}
FIXED: dict[str, str] = {
    "random": "Every action with probability 1/5.",
    "harmless": "Written by hand: keeps two steps away, so that nobody dies (Coexistence).",
}


@dataclass(frozen=True, kw_only=True)
class MemberConfig:
    """One agent of an ensemble."""

    agent: AgentName = "empathic"
    "What it learns from."
    selfishness: float = 0.5
    "β, 0 to 1: the weight of its own value (of its own reward for true_reward)."
    strength: float = 0.0
    "kill_penalty: taken off for each kill. aup: λ."
    seed: int = 0
    "Seed of weights, exploration, games and samples."

    def __post_init__(self) -> None:
        """Check the values."""
        if self.agent not in LEARNERS:
            raise unknown("agent", str(self.agent), LEARNERS)
        if not 0 <= self.selfishness <= 1:
            raise ValueError(f"selfishness is {self.selfishness}; expected 0 (only the other) to 1 (only itself)")
        if not 0 <= self.strength < float("inf"):
            raise ValueError(f"strength is {self.strength}; expected 0 or more")
        if self.agent == "dqn" and self.selfishness != 1:
            raise ValueError(f"selfishness is {self.selfishness} for dqn; expected 1: dqn is β = 1")

    @property
    def name(self) -> str:
        """What it is called in logs and files."""
        values = {"dqn": "", "kill_penalty": f"-p{self.strength:g}", "aup": f"-l{self.strength:g}"}
        return f"{self.agent}{values.get(self.agent, f'-b{self.selfishness:g}')}-s{self.seed}"

    @property
    def group(self) -> str:
        """The same without the seed: what is averaged over."""
        return self.name.rpartition("-s")[0]


@dataclass(frozen=True, kw_only=True)
class LearnConfig:
    """How all members of a run learn; defaults are the published ones but for the shorter schedule of sweeps."""

    steps: int = 200_000
    "Environment steps of each member, one update each."
    epsilon_steps: int = 100_000
    "Steps over which ε falls linearly; published 1,000,000."
    epsilon_end: float = 0.01
    "Where ε ends."
    target_every: int = 2_000
    "Steps between copies of Q to the target network; published 10,000."
    buffer: int = 500_000
    "Transitions remembered for each member."
    prefill: int = 20_000
    "Random transitions before the first update."
    batch_size: int = 32
    "Transitions of an update."
    lr: float = 1e-3
    "Adam's learning rate."
    gamma: float = 0.99
    "Discount."
    hidden: int = 128
    "Width of both hidden layers."
    aggregation: Aggregation = "closest"
    "How several others become one value: closest, mean or minimum."

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("steps", "epsilon_steps", "target_every", "buffer", "prefill", "batch_size", "hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a whole number of 1 or more")
        for name in ("epsilon_end", "gamma"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 to 1")
        if not 0 < self.lr < float("inf"):
            raise ValueError(f"lr is {self.lr}; expected a positive number, such as 1e-3")
        if self.aggregation not in AGGREGATIONS:
            raise unknown("aggregation", str(self.aggregation), AGGREGATIONS)
        if self.prefill < self.batch_size:
            raise ValueError(f"prefill is {self.prefill}; expected at least one batch, {self.batch_size}")

    def epsilon_at(self, step: int) -> float:
        """ε at a step: linear from 1 to `epsilon_end`, then constant."""
        return 1 + (self.epsilon_end - 1) * min(step / self.epsilon_steps, 1.0)
