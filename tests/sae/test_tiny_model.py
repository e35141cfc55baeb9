"""The model that ships: complete, small, the one its record describes, and better than a guess."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

import matryo.sae.lm
from matryo.sae.text import PACKS
from matryo.spine.fetch import file_sha256

FOLDER = Path(matryo.sae.lm.__file__).parent / "tiny"
RECORD = json.loads((FOLDER / "training.json").read_text())
# Public-domain text that is in none of the three packs: A Tale of Two Cities, 1859.
PASSAGE = """It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of
foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the season of Light, it was the season
of Darkness, it was the spring of hope, it was the winter of despair.""".replace("\n", " ")


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


def test_files_are_those_of_the_record_and_small():
    assert file_sha256(FOLDER / "model.safetensors") == RECORD["weights_sha256"]
    assert file_sha256(FOLDER / "tokenizer.json") == RECORD["tokenizer_sha256"]
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 10_000_000
    assert sorted(path.name for path in FOLDER.iterdir() if path.name != "__pycache__") == [
        *("NOTICE", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "training.json")
    ]


def test_record_names_the_texts_by_hash_and_the_notice_keeps_their_terms():
    assert {text["name"]: text["sha256"] for text in RECORD["texts"]} == {
        name: PACKS[name].sha256 for name in ("sotu", "moby-dick", "wordnet")
    }
    notice = (FOLDER / "NOTICE").read_text()
    assert "Princeton University and LICENSEE agrees to preserve same." in notice
    assert "Public Domain" in notice


def test_tokenizer_splits_digits_and_round_trips(tokenizer):
    assert tokenizer.bos_token_id == 0 and len(tokenizer) == 4096
    text = "In 1851, 3.14 whales —\n\tça va? 😀  two  spaces"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text
    assert tokenizer.tokenize("1851") == ["1", "8", "5", "1"]


def test_loss_is_far_below_a_uniform_guess(tokenizer):
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    assert model.num_parameters() == RECORD["parameters"]
    ids = torch.tensor([[0, *tokenizer.encode(PASSAGE, add_special_tokens=False)]])
    with torch.inference_mode():
        logits = model(ids).logits[0, :-1]
    loss = functional.cross_entropy(logits, ids[0, 1:]).item()
    shuffled = functional.cross_entropy(logits, ids[0, 1:].flip(0)).item()
    assert loss < 4.5 < RECORD["heldout_loss"]["uniform_nats_per_token"] and loss < shuffled - 2
    assert 3 < RECORD["heldout_loss"]["nats_per_token"] < 4.2
