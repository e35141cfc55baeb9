from .attainable import AttainableUtilities
from .config import FIXED, LEARNERS, LearnConfig, MemberConfig
from .empathic import EmpathicDQN
from .fixed import HarmlessAgent, RandomAgent
from .learner import scaled
from .networks import Adam, StackedMLP
from .saving import load_agent, save_agent

__all__ = [
    "FIXED",
    "LEARNERS",
    "Adam",
    "AttainableUtilities",
    "EmpathicDQN",
    "HarmlessAgent",
    "LearnConfig",
    "MemberConfig",
    "RandomAgent",
    "StackedMLP",
    "load_agent",
    "save_agent",
    "scaled",
]
