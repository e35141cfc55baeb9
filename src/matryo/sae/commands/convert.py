"""`matryo sae convert`: an SAE of one library → a folder that another reads."""

from pathlib import Path
from typing import Literal

from matryo.spine.progress import say


def convert(
    source: str,
    *,
    out: Path,
    to: Literal["saelens", "dictionary_learning"] = "saelens",
    threshold: float | None = None,
) -> None:
    """Read an SAE of any known format, say what it is, and write it in another, exactly or not at all.

    Read: SAELens (release 6 and before), dictionary_learning, sparsify, Gemma Scope's params.npz, and the sae.pt of the
    BatchTopK and Matryoshka authors. SAELens folders are what every other command here takes. What was written is read
    back and compared.

    Examples
    --------
        matryo sae convert runs/latest/saes/jumprelu-256-k32-s0 --to dictionary_learning --out exported
        matryo sae convert hf:google/gemma-scope-2b-pt-res:layer_12/width_16k/average_l0_82 --out gemma-12  # downloads 300 MB

    Parameters
    ----------
    source
        An SAE folder, a weight file in it, RUN/saes/NAME, or hf:OWNER/REPO[:SUBFOLDER]; @LEVEL behind it takes its
        first latents.
    out
        The new folder.
    to
        The format to write.
    threshold
        Inference threshold of a BatchTopK SAE that has none.
    """
    from matryo.sae.interop import largest_difference, load_foreign, write_sae
    from matryo.sae.sources import one_sae

    found = one_sae(source).found
    config = found.sae.config
    levels = f", levels {' '.join(map(str, config.lengths))}" if config.nested else ""
    k = f", k {config.k}" if config.kind in ("topk", "batch_topk") else ""
    shape = f"{config.n_latents:,} latents on width {config.d_in}{k}{levels}"
    say(f"found: {found.what}; {config.kind}, {shape}", what=found.what, kind=config.kind, source=source)
    if threshold is not None:
        found.set_threshold(threshold)
    folded = write_sae(found.sae, to, out, found.metadata)
    for note in (*found.notes, *folded):
        say(f"  {note}")
    difference = largest_difference(found.sae, load_foreign(out).sae)
    say(f"written: {out} ({to}); read back, reconstructions differ by {difference:.1g} of the largest value at most")
