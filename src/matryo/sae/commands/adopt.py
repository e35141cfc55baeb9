"""`matryo sae adopt`: pretrained SAEs → a run that `evaluate` and the other commands take like a training run."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from matryo.sae.commands.harvest import check_text, pack_first, token_rows
from matryo.sae.commands.options import TextOptions
from matryo.sae.commands.training_data import sae_metadata
from matryo.sae.sources import read_saes, settled
from matryo.spine.config import to_dict
from matryo.spine.progress import say
from matryo.spine.run import RunFolder

if TYPE_CHECKING:
    from matryo.sae.interop import Foreign
    from matryo.sae.lm import LM


@dataclass(frozen=True, kw_only=True)
class AdoptOptions(TextOptions):
    """What the SAEs belong to: a model and a site, and the text to measure them on."""

    site: str | None = None
    "Where in the model; what the SAEs' own files say when not given."
    center_writing_weights: bool = False
    "The SAEs were trained on TransformerLens' centred residual stream; where their files say so, this is not needed."


def adopt(
    source: tuple[str, ...],
    *,
    options: Annotated[AdoptOptions | None, Parameter(name="*")] = None,
    runs: Path = Path("runs"),
) -> None:
    """Make a run of pretrained SAEs of any known format, for `matryo sae evaluate`.

    The text is split as `harvest` and `train` split it with the same flags, so that adopted SAEs are measured on the
    same held-out tokens as trained ones. A BatchTopK SAE without inference threshold gets one from the text that is
    set aside for it.

    Examples
    --------
        matryo sae adopt hf:EleutherAI/sae-pythia-70m-32k:layers.3 --lm EleutherAI/pythia-70m --site blocks.3.resid_post  # downloads the model and the SAE
        matryo sae adopt exported --lm tiny --site blocks.2.resid_pre --tokens 20000

    Parameters
    ----------
    source
        SAE folders, weight files, runs, RUN/saes/NAME, or hf:OWNER/REPO[:SUBFOLDER]; @LEVEL behind one takes its first
        latents.
    runs
        Folder of the runs.
    """
    path = adopt_run(source, options or AdoptOptions(), runs)
    say(f"adopted: {path}; measure with: matryo sae evaluate {path}", run=str(path))


def adopt_run(sources: tuple[str, ...], options: AdoptOptions, runs: Path) -> Path:
    """Read the SAEs and make the run."""
    from matryo.sae.activations import capture_batches, site_width
    from matryo.sae.interop import write_sae
    from matryo.sae.lm import load_lm, processed, resolve_site

    # Whatever can be refused without a run folder is refused before there is one.
    check_text(options)
    if not sources:
        raise ValueError("source is empty; expected SAE folders, or hf:OWNER/REPO[:SUBFOLDER]")
    found = {one.name: one.found for one in read_saes(sources)}
    asked = _site(found, options.site)
    lm = load_lm(options.lm, options.device, options.lm_dtype, notify=say)
    site = resolve_site(lm, asked).name
    width = site_width(lm, site, options.row_length)
    for name, one in found.items():
        _check(name, one, lm, site, width, options)
    processing = _processing(found, lm, site, options)
    lm = processed(lm, processing)
    config = {"source": [settled(source) for source in sources], **to_dict(options)}
    packed = pack_first(options, lm, runs)
    with RunFolder.create(runs, "adopt", "sae adopt", config) as run:
        splits, texts = token_rows(options, lm, run.path, packed=packed)
        told = sae_metadata(options.lm, site, options.row_length, texts)
        told["model_from_pretrained_kwargs"] = processing
        for name, one in found.items():
            say(f"{name}: {one.what}; {one.sae.config.name}", sae=name, what=one.what)
            for note in (*one.notes, *_elsewhere(one, lm, site)):
                say(f"  {note}")
            if one.uncalibrated:
                one.sae.calibrate(capture_batches(lm, splits["calibration"], site, 2048))
                say("  a threshold was set on text kept apart for it")
            write_sae(one.sae, "saelens", run.path / "saes" / name, told)
        saes = {name: f"saes/{name}" for name in found}
        outputs = {"saes": saes, "site": site, "lm": options.lm, "processing": processing}
        run.finish(outputs | {"rows": "rows", "store": None})
    return run.path


def _site(found: "dict[str, Foreign]", given: str | None) -> str:
    """The one site, as given or as the SAEs' files tell."""
    told = {one.metadata.get("hook_name") for one in found.values()}
    if given is None and (len(told) != 1 or None in told):
        names = ", ".join(sorted(map(str, told)))
        raise ValueError(f"the SAEs' files tell of the sites {names}; expected one: give --site")
    return given or str(told.pop())


def _elsewhere(one: "Foreign", lm: "LM", site: str) -> list[str]:
    """What an SAE's own file says of model and site where that is not what it is measured on."""
    from matryo.sae.lm.sites import one_name

    told = {"model": one.metadata.get("model_name"), "site": one.metadata.get("hook_name")}
    model = lm.name.partition("@")[0].rpartition("/")[2].casefold()
    if told["model"] and str(told["model"]).rpartition("/")[2].casefold().removesuffix("-small") == model:
        del told["model"]
    if told["site"] and one_name(str(told["site"])) == one_name(site):
        del told["site"]
    used = {"model": lm.name, "site": site}
    return [
        f"its file says {what} {said}, here it is measured on {used[what]}: see that they are the same"
        for what, said in told.items()
        if said
    ]


def _processing(found: "dict[str, Foreign]", lm: "LM", site: str, options: AdoptOptions) -> dict[str, bool]:
    """The weight processing that all the SAEs ask for, as TransformerLens' arguments; empty for none."""
    from matryo.sae.lm.processing import check_processing

    flag = {"center_writing_weights": True} if options.center_writing_weights else {}
    asked = {}
    for name, one in found.items():
        told = (one.metadata.get("model_from_pretrained_kwargs") or {}) | flag
        asked[name] = check_processing(lm, {"model_from_pretrained_kwargs": told, "hook_name": site})
    if len(set(asked.values())) > 1:
        names = ", ".join(name for name, wanted in asked.items() if wanted)
        raise ValueError(f"{names} need center_writing_weights and the others do not: adopt them apart")
    return {"center_writing_weights": True} if all(asked.values()) else {}


def _check(name: str, one: "Foreign", lm: "LM", site: str, width: int, options: AdoptOptions) -> None:
    config = one.sae.config
    if config.transcoder:
        raise ValueError(f"{name} is a transcoder; expected SAEs, which reconstruct the site they read")
    if config.d_in != width:
        raise ValueError(
            f"{name} has width {config.d_in}, {site} of {lm.name} has {width}; expected an SAE of this site: give its "
            "own --lm and --site"
        )
    if one.uncalibrated and not options.calibration_fraction:
        raise ValueError(f"{name} has no inference threshold; expected text to set one on: --calibration-fraction 0.1")
