"""`matryo sae meta`: an SAE's decoder rows → a meta-SAE, what it explains, decompositions, a report."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from matryo.sae.commands.options import part
from matryo.sae.commands.sites import check_one_site
from matryo.sae.compare.meta.config import MetaConfig
from matryo.sae.evaluate.runs import open_model
from matryo.sae.sources import NamedSAE, read_saes, runs_of, settled
from matryo.spine.config import to_dict, write_text
from matryo.spine.errors import unknown
from matryo.spine.progress import progress, say, to_json
from matryo.spine.run import RunFolder

if TYPE_CHECKING:
    from torch import Tensor

    from matryo.sae.compare.labels import Label
    from matryo.sae.compare.meta import FamilyStudy, MetaStudy, PairedGap
    from matryo.sae.compare.meta_page import MetaView
    from matryo.sae.lm import LM


@dataclass(frozen=True, kw_only=True)
class MetaOptions(MetaConfig):
    """A meta-SAE, and what to measure of it."""

    sae: tuple[str, ...] = ()
    "Which autoencoders to take apart, repeatable; all of RUN when not given."
    smaller: tuple[str, ...] = ()
    "Where smaller autoencoders to compare with are, besides those of RUN itself, named like RUN; repeatable."
    latent: int | None = None
    "The latent to show the graph and edits of; when not given, the most decomposable one that fires."
    add_meta: tuple[int, ...] = ()
    "Also try this meta-latent added to that latent, at its mean activation; repeatable."
    baselines: bool = True
    "Refit encoders for random directions and for the smaller autoencoders' rows, which takes longer than training."
    label_tokens: int = 50_000
    "Tokens read to say what latents respond to; 0 to leave text and model out."
    edit_rows: int = 4
    "Token rows in which edits of the chosen latent are tried in the model; 0 for none."
    device: str = "cpu"
    "Where models run."
    lm_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    "Number format of the language model."

    def __post_init__(self) -> None:
        """Check the values."""
        MetaConfig.__post_init__(self)
        for name in ("label_tokens", "edit_rows"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 or more")


def meta(
    run: tuple[str, ...] = ("runs/latest",),
    *,
    recipe: str | None = None,
    options: Annotated[MetaOptions | None, Parameter(name="*")] = None,
    runs: Path = Path("runs"),
) -> None:
    """Take autoencoders apart: train a meta-SAE on each one's decoder rows, and report what the rows are made of.

    The defaults are the paper's setting; --recipe meta-saebench is SAEBench's. Autoencoders of a run that differ in
    levels only are compared in pairs, those that differ in size only as a family.

    Examples
    --------
        matryo sae meta runs/latest --steps 100 --label-tokens 2000 --edit-rows 1
        matryo sae meta --run runs/latest --recipe meta-saebench --steps 50 --label-tokens 0 --no-baselines

    Parameters
    ----------
    run
        Finished runs with SAEs, runs made from some, or single SAEs: RUN/saes/NAME, an SAE folder, or
        hf:OWNER/REPO[:SUBFOLDER], with @LEVEL behind it for its first latents.
    recipe
        Named config to start from; `matryo sae recipes` lists them.
    runs
        Folder of the runs.
    """
    path, views = meta_run(run, options or MetaOptions(), runs, recipe or "meta")
    for view in views:
        scores = view.study.scores
        explained = {"meta-SAE": scores.variance_explained, **scores.baselines}
        told = ", ".join(f"{name} {100 * share:.1f} %" for name, share in explained.items())
        say(f"{view.name}: {scores.n_meta:,} meta-latents, L0 {scores.l0:.2f}; decoder variance explained: {told}")
    say(f"report (open it in a browser): {path / 'report.html'}", run=str(path))
    say(f"written: {path / 'scores.json'}")


def meta_run(
    sources: Sequence[str | Path], options: MetaOptions, runs: Path, name: str = "meta"
) -> tuple[Path, "list[MetaView]"]:
    """Train and measure into a new run folder."""
    from matryo.sae.compare.meta_page import write_page
    from matryo.sae.lm.load import usable_device

    usable_device(options.device)
    read = read_saes(sources)
    more = read_saes(options.smaller, read)
    check_one_site([*read, *more])
    given, others = ({one.name: one for one in saes} for saes in (read, more))
    wanted = _wanted(given, options)
    config = {"run": [settled(source) for source in sources], **to_dict(options)}
    with RunFolder.create(runs, name, "sae meta", config, runs_of([*read, *more])) as folder:
        views, outputs = [], {}
        for sae_name, one in wanted.items():
            study = _study(one, given, others, options, folder)
            outputs[sae_name] = _write(one, study, folder.path, sae_name)
            views.append(_view(sae_name, one, study, options))
        gaps, families = _gaps(views, wanted), _families(given, options, folder)
        scores = {"saes": {view.name: to_dict(view.study.scores) for view in views}, "pairs": to_dict(gaps)}
        scores["families"] = {key: family.scores() for key, family in families.items()}
        write_text(folder.path / "scores.json", to_json(scores, 1) + "\n")
        title = ", ".join(dict.fromkeys(one.site or name for name, one in wanted.items()))
        write_page(folder.path / "report.html", title, views, gaps, families)
        folder.finish({"meta": outputs, "scores": "scores.json", "report": "report.html"})
    return folder.path, views


def _wanted(given: Mapping[str, NamedSAE], options: MetaOptions) -> dict[str, NamedSAE]:
    for name in options.sae:
        if name not in given:
            raise unknown("sae", name, given, fix="the run's own names")
    wanted = {name: one for name, one in given.items() if not options.sae or name in options.sae}
    options.train_config(1)  # what its own values are checked by
    for name, one in wanted.items():
        if options.latent is not None and not 0 <= options.latent < len(one.sae.W_dec):
            raise ValueError(f"latent is {options.latent}; {name} has 0 to {len(one.sae.W_dec) - 1}")
        size = options.sae_config(*one.sae.W_dec.shape).n_latents
        for number in options.add_meta:
            if not 0 <= number < size:
                raise ValueError(f"add_meta is {number}; the meta-SAE of {name} has 0 to {size - 1}")
    return wanted


def _study(
    one: NamedSAE,
    given: Mapping[str, NamedSAE],
    others: Mapping[str, NamedSAE],
    options: MetaOptions,
    folder: RunFolder,
) -> "MetaStudy":
    from matryo.sae.compare.meta import decoder_directions, family_of, study_meta

    relatives = family_of(one.name, {name: other.sae.config for name, other in given.items()})
    beside = {name: given[name] for name in relatives} | dict(others)
    smaller = {
        name: decoder_directions(other.sae).to(options.device)
        for name, other in beside.items()
        if len(other.sae.W_dec) < len(one.sae.W_dec)
    }
    directions = decoder_directions(one.sae).to(options.device)
    config = part(options, MetaConfig)
    with progress(f"meta-SAE of {one.name}", config.steps, "steps") as bar:
        return study_meta(directions, config, smaller, options.baselines, _on_step(bar, folder, one.name))


def _on_step(bar: Any, folder: RunFolder, name: str) -> Callable[[int, dict[str, float]], None]:
    def on_step(step: int, numbers: dict[str, float]) -> None:
        shown = {key.removeprefix("meta/"): value for key, value in numbers.items()}
        folder.log(step=step, sae=name, **shown)
        bar.advance(step - bar.done, fvu=shown["fvu"], l0=shown["l0"])

    return on_step


def _view(name: str, one: NamedSAE, study: "MetaStudy", options: MetaOptions) -> "MetaView":
    """What the page shows of one SAE: with labels and edits in the model where there is one."""
    from matryo.sae.compare.meta_page import MetaView
    from matryo.sae.compare.meta_view import choose_shown

    wanted = one.run and options.label_tokens
    lm, _ = open_model(one.outputs, options.device, options.lm_dtype) if wanted else (None, None)
    if lm is None:
        shown = choose_shown(study.decomposition, options.latent)
        return MetaView(name, study, shown.latent, shown.most, shown.least)
    shown, labels = _labelled(one, study, options, lm)
    effects = _effects(one, study, options, lm, shown.latent, labels[shown.latent])
    return MetaView(name, study, shown.latent, shown.most, shown.least, labels, tuple(effects))


def _effects(
    one: NamedSAE, study: "MetaStudy", options: MetaOptions, lm: "LM", latent: int, label: "Label"
) -> list[tuple[Any, ...]]:
    """Edits of one latent in the model; none where there is nothing to edit, which is said."""
    from matryo.sae.compare.meta_view import effect_rows

    if not options.edit_rows or not label.rows:
        return []
    tokens, site = _strongest_rows(one, label, options.edit_rows), one.outputs["site"]
    with progress(f"edits of {one.name} latent {latent}", None, "tokens") as bar:
        try:
            return effect_rows(lm, tokens, site, one.sae, study, latent, options.add_meta, bar.advance)
        except ValueError as error:
            bar.note(f"left out: {error}")  # the training before it is not lost
            return []


def _labelled(one: NamedSAE, study: "MetaStudy", options: MetaOptions, lm: "LM") -> "tuple[Any, dict[int, Label]]":
    from matryo.sae.compare.labels import label_latents
    from matryo.sae.compare.meta_view import choose_shown
    from matryo.sae.text import TokenRows

    rows = TokenRows.load(Path(one.outputs["rows"]) / "train")
    chosen: list[Any] = []

    def choose(_: "Tensor", firings: "Tensor") -> Sequence[int]:
        chosen.append(choose_shown(study.decomposition, options.latent, firings))
        return chosen[0].latents

    with progress(f"tokens of {one.name}", options.label_tokens, "tokens") as bar:

        def read() -> Any:
            for first, x in _activations(one, lm, rows):
                if first >= options.label_tokens:
                    return
                yield first, x
                bar.advance(len(x))

        labels = label_latents(one.sae.to(options.device), read, rows, lm, choose)
    return chosen[0], labels


def _activations(one: NamedSAE, lm: "LM", rows: Any) -> Any:
    """The site's activations in token order, from the store where there is one."""
    from matryo.sae.activations import chunks
    from matryo.sae.store import ActivationStore, open_activations

    outputs = one.outputs
    store = open_activations(outputs["store"]) if outputs.get("store") else None
    if isinstance(store, ActivationStore):
        return store.in_token_order()
    return ((first, found[outputs["site"]].float()) for first, found in chunks(lm, rows, [outputs["site"]]))


def _strongest_rows(one: NamedSAE, label: "Label", count: int) -> "Tensor":
    """The rows in which a latent is most active, cut where the last of them peaks."""
    import torch

    from matryo.sae.text import TokenRows

    rows = TokenRows.load(Path(one.outputs["rows"]) / "train")
    stop = 1 + max(label.ends[:count])
    return torch.as_tensor(rows.tokens[list(label.rows[:count])][:, :stop]).long()


def _write(one: NamedSAE, study: "MetaStudy", path: Path, name: str) -> dict[str, str]:
    """The meta-SAE and its tables; their places relative to the run."""
    from matryo.sae.compare.meta import tables
    from matryo.spine.fetch import file_sha256

    told = {"hook_name": one.site, "model_name": None, "base_sae": name}
    if one.place.level is None:  # of a prefix there is no such file
        told["base_weights_sha256"] = file_sha256(one.weights)
    study.meta.cpu().save(path / "meta" / name, told)
    (path / "tables" / name).mkdir(parents=True)
    outputs = {"meta_sae": f"meta/{name}"}
    makers = {"latents": tables.latent_columns, "edges": tables.edge_columns, "meta_latents": tables.meta_columns}
    for key, make in makers.items():
        outputs[key] = f"tables/{name}/{key}.parquet"
        tables.write_parquet(make(study), path / outputs[key])
    return outputs


def _gaps(views: "Sequence[MetaView]", wanted: Mapping[str, NamedSAE]) -> "dict[str, PairedGap]":
    from matryo.sae.compare.meta import measure_gap, pair_up

    share = {view.name: view.study.scores.variance_explained for view in views}
    groups = pair_up({name: one.sae.config for name, one in wanted.items()})
    return {key: measure_gap((share[a], share[b]) for a, b in pairs) for key, pairs in groups.items()}


def _families(given: Mapping[str, NamedSAE], options: MetaOptions, folder: RunFolder) -> "dict[str, FamilyStudy]":
    from matryo.sae.compare.meta import decoder_directions, find_families, study_family, tables

    found, config = {}, part(options, MetaConfig)
    for key, names in find_families({name: one.sae.config for name, one in given.items()}).items():
        rows = {name: decoder_directions(given[name].sae).to(options.device) for name in names}
        with progress(f"meta-SAE of the family of {key}", config.steps, "steps") as bar:
            found[key] = study_family(rows, config, on_step=_on_step(bar, folder, f"family {key}"))
        found[key].meta.cpu().save(folder.path / "meta" / f"family-{key}", {"hook_name": given[key].site})
        (folder.path / "tables").mkdir(exist_ok=True)
        tables.write_parquet(tables.split_columns(found[key]), folder.path / "tables" / f"splits-{key}.parquet")
    return found
