from .attainable import AttainableUtilities
from .config import FIXED, LEARNERS, LearnConfig, MemberConfig
from .empathic import EmpathicDQN, scaled
from .fixed import HarmlessAgent, RandomAgent
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
