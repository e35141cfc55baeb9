from .animation import write_gif
from .page import write_report
from .player import player_fragment, write_player

__all__ = ["player_fragment", "write_gif", "write_player", "write_report"]
