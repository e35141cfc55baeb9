"""The loop: one read of each batch, one right step of every autoencoder, nobody disturbed by anybody."""

import copy
import math

import pytest
import torch
from tests.sae.train.cases import ACTIVE, D_IN, Counting, batches, make, planted, same, weights

from matryo.sae.nn import KINDS
from matryo.sae.nn.base import unit_scale
from matryo.sae.train import Checkpoints, TrainConfig, TrainResult, train
from matryo.sae.train.member import Member

QUICK = TrainConfig(steps=9, lr=5e-3, dead_after=300, log_every=1)
FAMILY = [(kind, levels) for kind in KINDS for levels in ("none", "nested", "sampled")]


def family() -> dict:
    return {f"{kind} {levels}": make(kind, levels=levels, seed=i) for i, (kind, levels) in enumerate(FAMILY)}


# What a step is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "levels"), FAMILY)
def test_training_is_the_plain_loop(kind, levels):
    """The same numbers from PyTorch's plain Adam, clipping and the equations, written out once more."""
    config = TrainConfig(steps=9, lr=5e-3, dead_after=303, clip=0.05, sparsity_warmup=0.5, warmup=0.2)  # three batches
    data = [batch.double() for batch in batches(9, 101)]
    sae = make(kind, levels=levels).double()
    twin = copy.deepcopy(sae)
    train(sae, data, config)

    scale = unit_scale(data[0])
    twin.initialise(data[0] * scale)
    generator = torch.Generator().manual_seed(_levels_seed(twin.config.seed))
    adam = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in twin.named_parameters()}
    silent = torch.zeros(twin.config.n_latents)
    boundaries = []
    for step, batch in enumerate(data):
        x = batch * scale
        rate = 5e-3 * [1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1 * 2 / 3, 1 / 3][step]
        penalty = min(1.0, (step + 1) / 5)
        loss = twin.loss(x, dead=silent >= 303, generator=generator, sparsity_scale=penalty)
        gradients = dict(
            zip(adam, torch.autograd.grad(loss.total, list(twin.parameters()), allow_unused=True), strict=True)
        )
        gradients = {name: g if g is not None else torch.zeros_like(adam[name][0]) for name, g in gradients.items()}
        if kind != "relu":
            rows = twin.W_dec.detach()
            gradients["W_dec"] = gradients["W_dec"] - (gradients["W_dec"] * rows).sum(1, keepdim=True) * rows
        norm = math.sqrt(sum(float(g.square().sum()) for g in gradients.values()))
        for name, parameter in twin.named_parameters():
            g = gradients[name] * min(1.0, 0.05 / (norm + 1e-6))
            m, v = adam[name]
            m.mul_(0.9).add_(0.1 * g)
            v.mul_(0.99).add_(0.01 * g * g)
            corrected = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.99 ** (step + 1))
            times = 5 if name == "threshold" else 1
            parameter.data -= rate * times * corrected[0] / (corrected[1].sqrt() + 1e-8)
        if kind != "relu":
            twin.W_dec.data /= twin.W_dec.data.norm(dim=1, keepdim=True)
        fired = (loss.entries.dense() > 0).any(0)
        silent = (silent + len(x)) * ~fired
        if kind == "batch_topk":
            boundaries.append(loss.smallest)
        elif kind == "topk" and levels != "none":
            pre = ((x - twin.b_dec) @ twin.W_enc + twin.b_enc).detach()
            boundaries.append(float(pre.flatten().sort(descending=True).values[ACTIVE * len(x)]))
    if boundaries:
        twin.threshold.fill_(sum(boundaries) / len(boundaries))
    twin.rescale(scale)
    for name, value in weights(sae).items():
        expected = weights(twin)[name]
        assert torch.allclose(value, expected, rtol=1e-6, atol=1e-8, equal_nan=True), name
    assert sae.training is False


@pytest.mark.parametrize(("steps", "settled"), [(25, 20), (20, 20), (7, 7)])
def test_without_calibration_the_threshold_is_the_mean_of_the_last_20_batches(steps, settled, tmp_path):
    sae = make("batch_topk")
    result = train({"a": sae}, batches(steps, 40), TrainConfig(lr=1e-3), checkpoints=Checkpoints(tmp_path))
    boundaries = Checkpoints(tmp_path).newest().plain["members"]["a"]["boundaries"]
    assert len(boundaries) == settled
    assert float(sae.threshold) * result.scale == pytest.approx(sum(boundaries) / settled, rel=1e-5)


def _levels_seed(seed: int) -> int:
    from matryo.spine.seeding import seed_for

    return seed_for(seed, "levels")


def test_the_schedule():
    config = TrainConfig(warmup=0.1, decay=0.2)
    factors = [config.lr_factor(step, 100) for step in range(100)]
    assert factors[:10] == pytest.approx([(i + 1) / 11 for i in range(10)])
    assert factors[10:80] == [1.0] * 70
    assert factors[80:] == pytest.approx([(100 - i) / 21 for i in range(80, 100)])
    assert min(factors) > 0
    assert TrainConfig(warmup=0.5).lr_factor(999, 100_000) < 1 == TrainConfig(warmup=0.5).lr_factor(1000, 100_000)
    assert [config.sparsity_factor(step, 100) for step in (0, 4, 9, 10, 99)] == pytest.approx(
        [1 / 11, 5 / 11, 10 / 11, 1, 1]
    )
    assert TrainConfig(warmup=0, decay=0, sparsity_warmup=0).lr_factor(0, 1) == 1


def test_the_default_learning_rate_falls_with_the_root_of_the_size():
    numbers = {}
    saes = {"small": make(n_latents=16), "large": make(n_latents=64), "given": make()}
    train(saes, batches(1), TrainConfig(steps=1), on_step=lambda step, found: numbers.update(found))
    assert numbers["small/lr"] == pytest.approx(2e-4 * 32)
    assert numbers["small/lr"] == pytest.approx(2 * numbers["large/lr"])
    train(saes, batches(1), TrainConfig(steps=1, lr=0.125), on_step=lambda step, found: numbers.update(found))
    assert numbers["small/lr"] == numbers["large/lr"] == 0.125


# Many at once ----------------------------------------------------------------------------------------------------


def test_many_in_one_pass_equal_each_trained_alone():
    data, calibration = batches(5, 101), batches(2, 150, seed=7)
    together = family()
    numbers: dict[str, float] = {}
    result = train(together, data, QUICK, calibration=calibration, on_step=lambda s, found: numbers.update(found))
    for name, sae in family().items():
        alone: dict[str, float] = {}
        train({name: sae}, data, QUICK, calibration=calibration, on_step=lambda s, found, a=alone: a.update(found))
        assert same(weights(sae), weights(together[name])), name
        assert {key: numbers[key] for key in alone} == alone
        assert result.last[name] == {key.split("/")[1]: value for key, value in alone.items() if "/" in key}


def test_each_batch_is_read_once():
    source = Counting(batches(4, 50))
    train(family(), source, TrainConfig(steps=4))
    assert (source.begun, source.read) == (1, 4)
    source = Counting(batches(4, 50))
    train(family(), source, TrainConfig(steps=3))
    assert (source.begun, source.read) == (1, 3)
    source = Counting(batches(4, 50))
    result = train(family(), source, TrainConfig(steps=10))
    assert (source.begun, source.read) == (3, 10)
    assert (result.steps, result.tokens) == (10, 500)


def test_without_steps_it_is_one_pass():
    source = Counting(batches(4, 50))
    result = train(make(), source)
    assert isinstance(result, TrainResult) and (source.begun, source.read, result.steps) == (1, 4, 4)


def test_a_stream_is_read_when_it_is_needed():
    seen = []

    def stream():
        for batch in batches(5, 60):
            seen.append(len(steps))
            yield batch

    steps: list[int] = []
    train(make(), stream(), TrainConfig(steps=5, log_every=1), on_step=lambda step, found: steps.append(step))
    assert seen == [0, 1, 2, 3, 4] and steps == [1, 2, 3, 4, 5]


def test_one_buffer_filled_again_and_again_is_as_good_as_many():
    """Sources may reuse their memory: nothing of a batch is kept after its step."""

    class Reusing:
        def __iter__(self):
            buffer = torch.empty(80, D_IN)
            for batch in batches(4, 80):
                yield buffer.copy_(batch)

    one, two = family(), family()
    train(one, Reusing(), QUICK)
    train(two, batches(4, 80), QUICK)
    assert all(same(weights(one[name]), weights(two[name])) for name in one)


# Nobody is disturbed ---------------------------------------------------------------------------------------------


def test_the_callers_tensors_are_not_modified():
    data = [(x, 2 * x[:, :7] + 1) for x in batches(3, 90)]
    calibration = batches(2, 70, seed=4)
    everything = [*(part for pair in data for part in pair), *calibration]
    before = [tensor.clone() for tensor in everything]
    saes = [make(kind, d_out=7) for kind in KINDS]
    train(saes, data, QUICK, calibration=calibration)
    train(family(), [x for x, _ in data], QUICK, calibration=calibration)
    assert all(torch.equal(a, b) and not a.requires_grad for a, b in zip(everything, before, strict=True))


def test_logging_does_not_change_training():
    logged, silent = family(), family()
    lines: list[tuple[int, int]] = []

    def on_step(step, numbers):
        torch.rand(3)  # draws from the global generator
        lines.append((step, len(numbers)))

    often = TrainConfig(steps=9, lr=5e-3, dead_after=300, log_every=2)
    train(logged, batches(4, 101), often, on_step=on_step)
    train(silent, batches(4, 101), TrainConfig(steps=9, lr=5e-3, dead_after=300, log_every=1_000))
    assert lines == [(step, 1 + 6 * len(FAMILY)) for step in (2, 4, 6, 8, 9)]
    assert all(same(weights(logged[name]), weights(silent[name])) for name in logged)


def test_training_neither_reads_nor_moves_the_global_generator():
    torch.manual_seed(1)
    one = family()
    train(one, batches(3, 101), QUICK)
    state = torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    two = family()
    train(two, batches(3, 101), QUICK)
    assert all(same(weights(one[name]), weights(two[name])) for name in one)


def test_metrics_are_what_they_say():
    data, lines = batches(3, 101), {}
    sae = make("batch_topk")
    train({"a": sae}, data, QUICK, on_step=lambda step, numbers: lines.update({step: dict(numbers)}))
    assert sorted(lines) == list(range(1, 10))
    assert [lines[step]["tokens"] for step in lines] == [101 * step for step in lines]
    twin = make("batch_topk")
    x = data[0] * unit_scale(data[0])
    twin.initialise(x)
    loss = twin.train().loss(x)
    fvu = float(loss.residual.square().sum() / (x - x.mean(0)).square().sum())
    assert lines[1]["a/fvu"] == pytest.approx(fvu) and lines[1]["a/loss"] == pytest.approx(float(loss.total.detach()))
    assert lines[1]["a/l0"] == pytest.approx(ACTIVE) and lines[1]["a/dead"] == lines[1]["a/aux"] == 0


def test_a_latent_is_revived_from_the_very_token_on_at_which_it_counts_as_dead(monkeypatch):
    member, seen = Member(make("batch_topk"), TrainConfig(dead_after=300)), []
    member.silent_tokens[:] = 299
    member.silent_tokens[[3, 5]] = torch.tensor([300, 301])
    plain = member.fused.loss
    monkeypatch.setattr(
        member.fused, "loss", lambda x, target, dead, *rest: seen.append(dead) or plain(x, target, dead, *rest)
    )
    assert member.dead_fraction() == 2 / member.sae.config.n_latents
    member.step(batches(1, 50)[0], None, 0, 5)
    assert seen[0].nonzero().flatten().tolist() == [3, 5]


def test_dead_is_counted_in_tokens():
    sae = make("batch_topk")
    with torch.no_grad():
        sae.b_enc[[3, 9, 10]] = -1e3
    lines = {}
    config = TrainConfig(steps=9, lr=1e-9, dead_after=450, log_every=1)
    train({"a": sae}, [planted(100)] * 9, config, on_step=lambda step, found: lines.update({step: found["a/dead"]}))
    # 400 tokens after four steps are too few, 500 after five are enough.
    fired = sae.train().encode_sparse(planted(100)).latent.unique()
    assert [lines[step] for step in (1, 4)] == [0, 0]
    assert lines[5] == lines[9] == pytest.approx(1 - len(fired) / 48) and lines[5] >= 3 / 48


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_batches_of_any_floating_type(dtype):
    data = [batch.to(dtype) for batch in batches(3, 101)]
    one, two = make(), make()
    train(one, data, QUICK)
    train(two, [batch.float() for batch in data], QUICK)
    limit = 1e-4 if dtype is torch.float64 else 0.0
    assert all(torch.allclose(a, weights(two)[name], rtol=limit, atol=limit) for name, a in weights(one).items())


def test_lists_of_one_tensor_are_batches_too():
    """What torch.utils.data.DataLoader(TensorDataset(x)) gives."""
    one, two = make(), make()
    train(one, [[batch] for batch in batches(3, 101)], QUICK)
    train(two, batches(3, 101), QUICK)
    assert same(weights(one), weights(two))
