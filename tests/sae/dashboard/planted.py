"""An SAE whose latents are known by construction, on the tiny model's token embeddings.

At blocks.0.resid_pre an activation is its token's embedding. The text has fewer distinct tokens than the model has
dimensions, so there are encoders that give any table of (token, latent) pre-activations exactly.
"""

from pathlib import Path

import numpy as np
import torch

from matryo.sae.lm import load_lm
from matryo.sae.nn import SAEConfig, build
from matryo.sae.text import TokenRows
from matryo.spine.run import RunFolder

SITE = "blocks.0.resid_pre"
DIGITS, THE, STOP, SCRIPT = 2, 0, 1, 3
"""Latents of the lowest level: any digit but 9; « the»; full stops; the pieces of « <script>»."""
SEVEN, NINE, TWIN, DEAD = 7, 9, 10, 11
"""Of the upper level: digit 7; digit 9, on which its parent is silent; a copy of SEVEN; one that never fires."""
NESTED, SMALL = "planted-nested", "planted-small"
LENGTHS = (4, 12)

SENTENCES = (
    "In 1977 the whale met 47 men of the sea.",
    "The law <script>alert(1)</script> of the sea has 9 parts and 27 & 7 more.",
    "She saw the ship in 1970. He saw 9 ships.",
    "The men of the ship met the law at 7 and 7 times.",
)


def rows_of(lm, length=24, count=40):
    ids = [i for n in range(400) for i in lm.encode([SENTENCES[n % 4] + (" And the sea." if n % 3 == 0 else "")])[0]]
    per_row = length - 1
    tokens = np.full((count, length), lm.bos_id, np.int32)
    tokens[:, 1:] = np.array(ids[: count * per_row]).reshape(count, per_row)
    document = np.arange(count)[:, None].repeat(length, 1).astype(np.int32) // 4
    document[:, 0] = -1
    return TokenRows(tokens, document, tuple(f"book <b>{i}</b>" for i in range(count)))


def table_of(lm, ids):
    """(tokens, latents): the activation of every latent on every token of the text."""
    pieces, table = lm.decode_tokens(ids), torch.zeros(len(ids), 12)
    for i, piece in enumerate(pieces):
        if piece.isdigit() and piece != "9":
            table[i, DIGITS] = 1 + int(piece) / 10
        table[i, THE] = 2.0 if piece.strip().lower() == "the" else 0
        table[i, STOP] = 1.5 if piece == "." else 0
        table[i, SCRIPT] = {"sc": 1.0, "ript": 3.0, ">": 0.75}.get(piece, 0)
        table[i, SEVEN] = table[i, TWIN] = 2.5 if piece == "7" else 0
        table[i, NINE] = 1.25 if piece == "9" else 0
        table[i, 4] = 1.0 if piece == "1" else 0
        table[i, 5] = 1.1 if piece.strip() in ("sea", "ship", "whale") else 0
        table[i, 6] = 1.2 if piece.strip() == "men" else 0
        table[i, 8] = 1.3 if piece.strip() == "law" else 0
    return table


def saes_of(lm, rows):
    ids = np.unique(rows.tokens[:, 1:])
    embedded = lm.model.get_input_embeddings().weight.detach()[torch.from_numpy(ids).long()]
    assert len(ids) < embedded.shape[1]
    table = table_of(lm, ids)
    encoder = torch.linalg.pinv(embedded.double()) @ (table.double() - 0.25)
    basis = torch.linalg.qr(torch.randn(256, 12, generator=torch.Generator().manual_seed(5)))[0].t()
    decoder = basis.clone()
    for child in (SEVEN, NINE):
        decoder[child] = 0.6 * basis[DIGITS] + 0.8 * basis[child]
    decoder[TWIN] = 0.99 * decoder[SEVEN] + (1 - 0.99**2) ** 0.5 * basis[TWIN]
    made = {}
    for name, keep, levels in ((NESTED, slice(None), LENGTHS), (SMALL, slice(0, 6), "none")):
        part = decoder[keep]
        sae = build(SAEConfig(kind="jumprelu", d_in=256, n_latents=len(part), k=2, levels=levels))
        with torch.no_grad():
            sae.W_enc.copy_(encoder.float()[:, keep])
            sae.b_enc.fill_(0.25)
            sae.W_dec.copy_(part)
            sae.threshold.fill_(0.5)
        made[name] = sae.eval()
    return made


def make_run(runs: Path) -> Path:
    """A finished run as `sae train` leaves one, of the planted SAEs."""
    lm = load_lm("tiny")
    rows = rows_of(lm)
    with RunFolder.create(runs, "planted", "sae train", {"planted": True}) as run:
        for split in ("train", "heldout"):
            rows.save(run.path / "rows" / split)
        for name, sae in saes_of(lm, rows).items():
            sae.save(run.path / "saes" / name)
        for step in range(30):
            run.log(step=step, **{f"{NESTED}/fvu": 1 / (step + 1), f"{NESTED}/loss": 2 / (step + 1)})
        saes = {name: f"saes/{name}" for name in (NESTED, SMALL)}
        run.finish({"saes": saes, "site": SITE, "lm": "tiny", "rows": "rows", "store": None})
    return run.path
