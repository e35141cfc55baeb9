from .catalogue import WORLDS, make_world
from .coexistence import Coexistence
from .drawing import draw_game, print_game
from .parallel import GridworldParallelEnv
from .rules import N_ACTIONS, RulesConfig, make_rules
from .sharing import Sharing
from .single import GridworldEnv
from .streams import Streams
from .vector import GridworldVectorEnv
from .world import Outcome, State, World, stepped

__all__ = [
    "N_ACTIONS",
    "WORLDS",
    "Coexistence",
    "GridworldEnv",
    "GridworldParallelEnv",
    "GridworldVectorEnv",
    "Outcome",
    "RulesConfig",
    "Sharing",
    "State",
    "Streams",
    "World",
    "draw_game",
    "make_rules",
    "make_world",
    "print_game",
    "stepped",
]
