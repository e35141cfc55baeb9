"""The room's commands by name; a command's module is imported when the command is named, not before."""

from cyclopts import App

COMMANDS = {
    "train": "Train agents on a gridworld, many at once.",
    "evaluate": "Measure trained agents in greedy games.",
    "report": "Write one page of evaluations.",
    "replay": "Show trained agents at play: GIF and HTML player.",
    "activations": "Write a Q-network's hidden activations for `matryo sae train`.",
    "sweep": "Train a grid of agents and seeds, measure it, and write the report.",
    "exact": "Compute what policies come to in Coexistence, without sampling.",
    "demo": "Do the whole job at once on both gridworlds: a small sweep, replays, a report.",
    "recipes": "List the named configs, or show one.",
}

app = App(name="empathy", help="Empathic DQN, its gridworlds, and what side effects its agents have.")
for _place, (_name, _line) in enumerate(COMMANDS.items()):
    app.command(f"matryo.empathy.commands.{_name}:{_name}", name=_name, help=_line, sort_key=_place)
