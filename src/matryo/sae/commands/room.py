"""The room's commands by name; a command's module is imported when the command is named, not before."""

from cyclopts import App

COMMANDS = {
    "harvest": "Run a language model over text and store its activations.",
    "train": "Train sparse autoencoders on stored or streamed activations.",
    "convert": "Read an SAE of another library, or write one for it.",
    "adopt": "Make a run of pretrained SAEs, with the model and text to measure them on.",
    "evaluate": "Measure trained autoencoders on held-out activations and in the model.",
    "meta": "Take autoencoders apart by meta-SAEs of their decoder rows.",
    "stitch": "Sort a larger SAE's latents into novel and known beside a smaller one's, and walk from one to the other.",
    "family": "The same along a whole ladder of sizes, with controls.",
    "index": "Index the SAEs of runs over their text, for the dashboard.",
    "serve": "Open the dashboard of an index in the browser.",
    "share": "Write latents of an index as one HTML file, a site, or tables.",
    "demo": "Do the whole job at once: harvest, train, evaluate, and an HTML report.",
    "toy": "Recover planted features that form a tree, vanilla against Matryoshka.",
    "claims": "Measure the papers' claims, in units that can be interrupted.",
    "recipes": "List the named configs, or show one.",
}

app = App(name="sae", help="Sparse autoencoders on a language model's activations.")
for _place, (_name, _line) in enumerate(COMMANDS.items()):
    app.command(f"matryo.sae.commands.{_name}:{_name}", name=_name, help=_line, sort_key=_place)
