"""Activations straight from a model: the same values as capture's, shuffled through a bounded buffer."""

import itertools

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from matryo.sae import activations
from matryo.sae.activations import ActivationStream, _Buffer, capture_batches, chunks, site_width, without_outliers
from matryo.sae.lm import LM, capture
from matryo.sae.nn import SAE, SAEConfig, build
from matryo.sae.text import TokenRows
from matryo.sae.train import Checkpoints, Interrupted, TrainConfig, train
from matryo.spine.seeding import torch_generator

ROWS, LENGTH, VOCAB, WIDTH = 67, 13, 101, 12
SITES = ["blocks.0.mlp_out", "blocks.1.resid_pre"]


@pytest.fixture(scope="module")
def lm() -> LM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        intermediate_size=20,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
        bos_token_id=1,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return LM.wrap(model.requires_grad_(False))


@pytest.fixture(scope="module")
def rows() -> TokenRows:
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(2, VOCAB, (ROWS, LENGTH), generator=generator, dtype=torch.int32)
    tokens[:, 0] = 1
    tokens[:, 1] = torch.randperm(VOCAB - 2, generator=generator)[:ROWS] + 2  # every token has a context of its own
    return TokenRows(tokens.numpy(), torch.zeros(ROWS, LENGTH, dtype=torch.int32).numpy(), ("all",))


@pytest.fixture(scope="module")
def captured(lm, rows) -> dict[str, torch.Tensor]:
    """(rows, positions, d) at both sites, position 0 included."""
    return capture(lm, torch.from_numpy(rows.tokens).long(), SITES)


@pytest.fixture(autouse=True)
def few_rows_at_a_time(monkeypatch):
    monkeypatch.setattr(activations, "CHUNK_TOKENS", 4 * LENGTH + 2)


def close(a, b) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("skip_first", [True, False])
@pytest.mark.parametrize("first_row", [0, 1, 4, ROWS - 1])
def test_chunks_are_captures_values_in_order_for_all_sites(lm, rows, captured, skip_first, first_row):
    used, expected = LENGTH - skip_first, first_row * (LENGTH - skip_first)
    for token, found in chunks(lm, rows, SITES, first_row, skip_first):
        assert token == expected and list(found) == SITES
        for site, values in found.items():
            flat = captured[site][:, int(skip_first) :].reshape(-1, WIDTH)
            assert close(values, flat[token : token + len(values)])
            assert len(values) in (4 * used, (ROWS - first_row) % 4 * used)
        expected += len(found[SITES[0]])
    assert expected == ROWS * used


def test_activations_that_are_not_finite_are_named(lm, rows):
    site = SITES[1]
    attention = lm.model.get_submodule("model.layers.0.self_attn.o_proj")

    def break_one(module, arguments, output):
        output = output.clone()
        output[2, 5] = torch.nan
        return output

    hook = attention.register_forward_hook(break_one)
    try:
        with pytest.raises(ValueError, match=rf"{site} of row 2, position 5 is NaN or infinite in Llama.*") as error:
            list(chunks(lm, rows, [site]))
        assert "\n" not in str(error.value)
        with pytest.raises(ValueError, match=r"row 10, position 5"):
            list(chunks(lm, rows, [site], first_row=8, skip_first=False))
    finally:
        hook.remove()


def test_the_width_of_a_site(lm):
    assert site_width(lm, SITES[0], LENGTH) == WIDTH
    assert site_width(lm, "blocks.0.mlp_post", LENGTH) == 20


def stream(lm, rows, **options) -> ActivationStream:
    return ActivationStream(lm, rows, SITES[1], 11, **({"buffer_tokens": 150, "outlier_ratio": 0, "seed": 2} | options))


def numbered(found, captured) -> list[int]:
    """The number of the token that every streamed row is the activation of."""
    flat = captured[SITES[1]][:, 1:].reshape(-1, WIDTH)
    gap = torch.cdist(torch.cat(found), flat, compute_mode="donot_use_mm_for_euclid_dist")
    assert float(gap.min(1).values.max()) < 1e-4
    assert float(gap.topk(2, dim=1, largest=False).values[:, 1].min()) > 1e-3
    return gap.argmin(1).tolist()


def test_a_pass_gives_every_token_at_most_once_and_never_position_0(lm, rows, captured):
    found = list(stream(lm, rows))
    assert all(batch.shape == (11, WIDTH) and batch.dtype == torch.float32 for batch in found)
    numbers = numbered(found, captured)
    assert len(set(numbers)) == len(numbers)
    assert ROWS * (LENGTH - 1) - len(numbers) < 11
    bos = captured[SITES[1]][0, 0]
    assert float((torch.cat(found) - bos).norm(dim=1).min()) > 1e-3


def test_the_stream_is_shuffled_and_every_pass_differs(lm, rows, captured):
    both = stream(lm, rows)
    one, two = (numbered(list(both), captured) for _ in range(2))
    again = stream(lm, rows)
    assert [numbered(list(again), captured) for _ in range(2)] == [one, two]
    assert one != two and numbered(list(stream(lm, rows, seed=3)), captured) != one
    neighbours = sum(b - a == 1 for a, b in itertools.pairwise(one))
    assert neighbours < len(one) / 20
    spread = [max(one[i : i + 11]) - min(one[i : i + 11]) for i in range(0, len(one), 11)]
    assert sum(spread) / len(spread) > 60  # a batch reaches over most of a buffer of 150


def test_the_buffer_is_bounded(lm, rows, monkeypatch):
    held, memory = [], set()
    mix = _Buffer.mix

    def watched(buffer, *args):
        held.append(len(buffer.held))
        memory.add((buffer.rows.data_ptr(), len(buffer.rows)))
        return mix(buffer, *args)

    monkeypatch.setattr(_Buffer, "mix", watched)
    source, given, started = stream(lm, rows), 0, []
    monkeypatch.setattr(activations, "capture", lambda *a: started.append(given) or capture(*a))
    for batch in source:
        given += len(batch)
    assert max(held) < 150 + 4 * (LENGTH - 1) and len(held) > 5
    assert [size for _, size in memory] == [150 + 4 * (LENGTH - 1)]  # reserved once
    # Rows go through the model when they are needed, not before.
    assert all(number * 4 * (LENGTH - 1) - before <= max(held) for number, before in enumerate(started))


def by_moving_rows(source: ActivationStream, number: int):
    """The same pass as written down in the simplest way: all rows are put together, dropped and moved in memory."""
    generator = torch_generator(source.seed, "stream", number)
    held, size = torch.empty(0, WIDTH), source.batch_size
    for _, found in chunks(source.lm, source.rows, [source.site]):
        held = torch.cat([held, found[source.site]])
        if len(held) >= source.buffer_tokens:
            held = without_outliers(held, source.outlier_ratio)
            held = held[torch.randperm(len(held), generator=generator)]
            given = max(1, len(held) // 2 // size) * size
            yield from held[:given].split(size)
            held = held[given:]
    held = without_outliers(held, source.outlier_ratio)
    held = held[torch.randperm(len(held), generator=generator)]
    yield from (batch for batch in held.split(size) if len(batch) == size)


@pytest.mark.parametrize("ratio", [0, 1.05])
def test_it_gives_what_moving_the_rows_themselves_would(lm, rows, ratio):
    source = stream(lm, rows, outlier_ratio=ratio)
    for number in range(2):
        ours, theirs = list(source), list(by_moving_rows(source, number))
        assert len(ours) == len(theirs) > 10 and all(map(torch.equal, ours, theirs))


def test_outliers_are_left_out_of_the_stream(lm, rows, captured):
    flat = captured[SITES[1]][:, 1:].reshape(-1, WIDTH)
    ratio = float((flat.norm(dim=1) / flat.norm(dim=1).median()).sort(descending=True).values[40])
    found = torch.cat(list(stream(lm, rows, outlier_ratio=ratio)))
    assert ROWS * (LENGTH - 1) - 11 - 100 < len(found) < ROWS * (LENGTH - 1) - 15
    assert float(found.norm(dim=1).max()) < 1.2 * ratio * float(flat.norm(dim=1).median())


def test_without_outliers():
    acts = torch.diag(torch.tensor([1.0, 2.0, 3.0, 40.0, 29.0]))
    assert torch.equal(without_outliers(acts, 10), acts[[0, 1, 2, 4]])
    assert torch.equal(without_outliers(acts, 0), acts)


def test_captured_batches_hold_every_token_of_their_rows_once(lm, rows, captured):
    few = TokenRows(rows.tokens[:5], rows.document[:5], rows.names)
    batches = capture_batches(lm, few, SITES[1], 25)
    assert [len(batch) for batch in batches] == [25, 25, 10]
    assert numbered(batches, captured) == list(range(5 * (LENGTH - 1)))


def test_a_buffer_of_less_than_two_batches_is_refused(lm, rows):
    with pytest.raises(ValueError, match="buffer_tokens is 21; expected at least two batches of 11"):
        stream(lm, rows, buffer_tokens=21)


def test_a_stream_shorter_than_a_batch_gives_none(lm, rows):
    short = TokenRows(rows.tokens[:2], rows.document[:2], rows.names)
    assert list(ActivationStream(lm, short, SITES[1], 50, buffer_tokens=100)) == []


def test_the_identity_names_model_site_and_text(lm, rows):
    known = stream(lm, rows).identity()
    assert known["site"] == SITES[1] and known["text"] == rows.digest() and known["lm"] == lm.identity()


def test_training_on_a_stream_is_resumed_by_replaying_it(lm, rows, tmp_path):
    def session(folder, stop: int = 0) -> SAE | None:
        sae = build(SAEConfig(d_in=WIDTH, n_latents=21, k=3, levels="nested"))
        calls = iter(range(1, 100))
        config = TrainConfig(steps=90, checkpoint_every=11)
        try:
            train(
                sae,
                stream(lm, rows),
                config,
                checkpoints=Checkpoints(folder),
                resume=True,
                should_stop=lambda: next(calls) == stop,
            )
        except Interrupted:
            return None
        return sae

    whole = session(tmp_path / "whole")
    assert session(tmp_path / "a", stop=30) is None and session(tmp_path / "a", stop=47) is None
    resumed = session(tmp_path / "a")
    assert whole is not None and resumed is not None
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_calibration_is_bounded_and_spread_over_the_rows(lm, rows, captured, monkeypatch):
    monkeypatch.setattr(activations, "CALIBRATION_TOKENS", 5 * LENGTH + 3)
    found = torch.cat(capture_batches(lm, rows, SITES[1], 20))
    chosen = captured[SITES[1]][torch.linspace(0, ROWS - 1, 5).round().long(), 1:].reshape(-1, WIDTH)
    assert close(found, without_outliers(chosen))
