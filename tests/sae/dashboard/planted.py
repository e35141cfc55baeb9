"""An SAE whose latents are known by construction, on the tiny model's token embeddings.

At blocks.0.resid_pre an activation is its token's embedding. The text has fewer distinct tokens than the model has
dimensions, so there are encoders that give any table of (token, latent) pre-activations exactly.
"""

from dataclasses import fields
from pathlib import Path

import numpy as np
import torch

from matryo.sae.compare.meta import MetaScores, MetaStudy, decoder_directions, decompose, tables
from matryo.sae.lm import load_lm
from matryo.sae.nn import SAE, SAEConfig, build
from matryo.sae.nn.folder import WEIGHTS
from matryo.sae.text import TokenRows
from matryo.spine.fetch import file_sha256
from matryo.spine.run import RunFolder

SITE = "blocks.0.resid_pre"
DIGITS, THE, STOP, SCRIPT = 2, 0, 1, 3
"""Latents of the lowest level: any digit but 9; « the»; full stops; the pieces of « <script>»."""
SEVEN, NINE, TWIN, DEAD = 7, 9, 10, 11
"""Of the upper level: digit 7; digit 9, on which its parent is silent; a copy of SEVEN; one that never fires."""
NESTED, SMALL = "planted-nested", "planted-small"
FIT_LARGE, FIT_SMALL = "fitted-large", "fitted-small"
"""The same encoders with the decoders that reconstruct best, which is what stitching asks for."""

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


def basis():
    """(12, 256): orthonormal rows that the planted decoder rows are sums of."""
    return torch.linalg.qr(torch.randn(256, 12, generator=torch.Generator().manual_seed(5)))[0].t()


def read_text(lm, rows):
    """Embeddings of the text's distinct tokens, how often each occurs, and what every latent is on them."""
    ids, counts = np.unique(rows.tokens[:, 1:], return_counts=True)
    embedded = lm.model.get_input_embeddings().weight.detach()[torch.from_numpy(ids).long()]
    assert len(ids) < embedded.shape[1]
    return embedded, torch.from_numpy(counts), table_of(lm, ids)


def planted(encoder, decoder, b_dec=None, **config):
    sae = build(SAEConfig(kind="jumprelu", d_in=256, n_latents=len(decoder), k=2, **config))
    with torch.no_grad():
        sae.W_enc.copy_(encoder)
        sae.b_enc.fill_(0.25)
        sae.W_dec.copy_(decoder)
        sae.threshold.fill_(0.5)
        if b_dec is not None:
            sae.b_dec.copy_(b_dec)
            sae.b_enc += b_dec @ encoder
    return sae.eval()


def saes_of(lm, rows):
    embedded, _, table = read_text(lm, rows)
    encoder = torch.linalg.pinv(embedded.double()) @ (table.double() - 0.25)
    directions = basis()
    decoder = directions.clone()
    for child in (SEVEN, NINE):
        decoder[child] = 0.6 * directions[DIGITS] + 0.8 * directions[child]
    decoder[TWIN] = 0.99 * decoder[SEVEN] + (1 - 0.99**2) ** 0.5 * directions[TWIN]
    keep = {NESTED: (slice(None), LENGTHS), SMALL: (slice(0, 6), "none")}
    return {name: planted(encoder.float()[:, part], decoder[part], levels=of) for name, (part, of) in keep.items()}


def fitted_saes(lm, rows):
    """The planted encoders of NESTED and SMALL with least-squares decoders over the text."""
    embedded, counts, table = read_text(lm, rows)
    encoder = torch.linalg.pinv(embedded.double()) @ (table.double() - 0.25)
    weight = (counts / counts.sum()).double()[:, None]
    mean = (weight * embedded.double()).sum(0)
    made = {}
    for name, part, levels in ((FIT_LARGE, slice(None), LENGTHS), (FIT_SMALL, slice(0, 6), "none")):
        z, target = table[:, part].double() * weight.sqrt(), (embedded.double() - mean) * weight.sqrt()
        ridge = 1e-4 * torch.eye(z.shape[1], dtype=torch.float64)
        decoder = torch.linalg.solve(z.t() @ z + ridge, z.t() @ target)
        made[name] = planted(encoder.float()[:, part], decoder.float(), mean.float(), levels=levels)
    return made


def make_run(runs: Path, name: str = "planted", make=saes_of) -> Path:
    """A finished run as `sae train` leaves one, of the planted SAEs."""
    lm = load_lm("tiny")
    rows = rows_of(lm)
    with RunFolder.create(runs, name, "sae train", {name: True}) as run:
        for split in ("train", "heldout"):
            rows.save(run.path / "rows" / split)
        saes = make(lm, rows)
        for sae_name, sae in saes.items():
            sae.save(run.path / "saes" / sae_name)
        for step in range(30):
            first, *others = saes
            run.log(step=step, **{f"{first}/fvu": 1 / (step + 1), f"{first}/loss": 2 / (step + 1)})
            run.log(step=step, **{f"{other}/fvu": 3 / (step + 1) for other in others})
        folders = {sae_name: f"saes/{sae_name}" for sae_name in saes}
        run.finish({"saes": folders, "site": SITE, "lm": "tiny", "rows": "rows", "store": None})
    return run.path


def make_meta_run(runs: Path, trained: Path) -> Path:
    """A run as `sae meta` leaves one, of a meta-SAE whose meta-latents are the planted directions themselves.

    DIGITS has one meta-latent, its own; SEVEN is 0.6 of that and 0.8 of its own, NINE likewise.
    """
    base, directions = SAE.load(trained / "saes" / NESTED), basis()
    meta = build(SAEConfig(kind="jumprelu", d_in=256, n_latents=12, k=2))
    with torch.no_grad():
        meta.W_enc.copy_(directions.t())
        meta.W_dec.copy_(directions)
        meta.b_enc.zero_()
        meta.threshold.fill_(0.05)
    parts = decompose(meta.eval(), decoder_directions(base))
    unmeasured = dict.fromkeys((field.name for field in fields(MetaScores)), 0.0)
    near = {
        name: tuple((directions @ decoder_directions(other).t()).max(1))
        for name, other in (("", base), (SMALL, SAE.load(trained / "saes" / SMALL)))
    }
    counts = {"n_latents": 12, "n_meta": 12, "baselines": {}, "smaller": {}}
    study = MetaStudy(meta, parts, MetaScores(**unmeasured | counts), near)
    makers = {"latents": tables.latent_columns, "edges": tables.edge_columns, "meta_latents": tables.meta_columns}
    with RunFolder.create(runs, "planted-meta", "sae meta", {}, [trained]) as run:
        told = {"base_weights_sha256": file_sha256(trained / "saes" / NESTED / WEIGHTS)}
        meta.save(run.path / "meta" / NESTED, told)
        (run.path / "tables" / NESTED).mkdir(parents=True)
        outputs = {key: f"tables/{NESTED}/{key}.parquet" for key in makers}
        for key, make in makers.items():
            tables.write_parquet(make(study), run.path / outputs[key])
        run.finish({"meta": {NESTED: {"meta_sae": f"meta/{NESTED}", **outputs}}})
    return run.path
