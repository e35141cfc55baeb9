"""`matryo sae share`: latents of an index → files for people without it."""

from pathlib import Path
from typing import Literal

from matryo.sae.commands.serve import find_index
from matryo.spine.config import write_text
from matryo.spine.progress import progress, say


def share(
    run: str = "runs/latest",
    *,
    out: Path,
    sae: str | None = None,
    where: str = "",
    sort: str = "-density",
    most: int | None = None,
    form: Literal["html", "site", "neuronpedia", "csv", "parquet"] = "html",
) -> None:
    """Write latents of an index as files: one HTML file, a folder of pages, or tables.

    Examples
    --------
        matryo sae share runs/latest --out latents.html --where 'firings>20' --most 5
        matryo sae share --run runs/latest --out site --form site --most 5

    Parameters
    ----------
    run
        An index, or what one was made of: a run, or RUN/saes/NAME, with @LEVEL behind it for its first latents.
    out
        The file, or for a site the folder, to write.
    sae
        Name of the SAE; the first of the index by default.
    where
        Filter, as on the page of latents.
    sort
        Column to sort by, with - for falling order.
    most
        Latents written at most; of an HTML file 100 by default, otherwise all.
    form
        html (one file, up to 500 latents), site (a page each), neuronpedia (JSON), csv or parquet.
    """
    if most is not None and most < 1:
        raise ValueError(f"most is {most}; expected 1 or more")
    count, name = _write(run, out, sae, where, sort, most, form)
    say(f"written: {out} ({count:,} latents of {name})", out=str(out))


def _write(
    run: str, out: Path, name: str | None, where: str, sort: str, most: int | None, form: str
) -> tuple[int, str]:
    """Write the file or files; how many latents, and of which SAE."""
    import json

    from matryo.sae.dashboard.index.opened import open_index
    from matryo.sae.dashboard.server.notes import Notes
    from matryo.sae.dashboard.share.neuronpedia import neuronpedia
    from matryo.sae.dashboard.share.standalone import write_file, write_site
    from matryo.sae.dashboard.share.tables import table_bytes
    from matryo.sae.dashboard.views.table import sorted_latents

    index = open_index(find_index((run,)).path)
    one = index.sae(name or next(iter(index.saes)))
    labels = Notes(index.folder / "notes.sqlite").labels(one.name)
    order = sorted_latents(one, where, sort, labels)
    order = order[: most if most is not None else 100 if form == "html" else None]
    latents = order.tolist()
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.is_dir() and form != "site":
        raise ValueError(f"{out} is a folder; expected the name of a file to write")
    if form == "html":
        write_file(one, latents, out, labels)
    elif form == "site":
        with progress("site", len(latents), "pages") as bar:
            for _ in write_site(one, latents, out, labels):
                bar.advance()
    elif form == "neuronpedia":
        write_text(out, json.dumps([neuronpedia(one, latent) for latent in latents], ensure_ascii=False))
    else:
        out.write_bytes(table_bytes(one, order, form, labels)[0])
    return len(latents), one.name
