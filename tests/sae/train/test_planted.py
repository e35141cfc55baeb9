"""What is learned: planted directions come back, sparsity is what was asked for, dead latents revive."""

from dataclasses import dataclass

import pytest
import torch
from tests.sae.train.cases import ACTIVE, D_IN, batches, directions, fvu, l0, make, planted, recovered, weights

from matryo.sae.nn import KINDS, SAE
from matryo.sae.train import TrainConfig, train
from matryo.sae.train.member import Member

CONFIG = TrainConfig(steps=600, lr=5e-3, dead_after=20_000, log_every=200)


@dataclass(frozen=True)
class Data:
    train: list
    calibration: list
    heldout: torch.Tensor


@pytest.fixture(scope="module")
def data() -> Data:
    return Data(batches(60), batches(10, seed=2), planted(6_000, seed=3))


# Learning --------------------------------------------------------------------------------------------------------

KIND_OPTIONS = {"relu": {"l1": 1.0}, "gated": {"l1": 2.0}}


@pytest.mark.parametrize("kind", KINDS)
def test_planted_directions_are_recovered(kind, data):
    sae = make(kind, **KIND_OPTIONS.get(kind, {}))
    before, lines = recovered(sae), []
    train({"a": sae}, data.train, CONFIG, calibration=data.calibration, on_step=lambda s, n: lines.append(n["a/fvu"]))
    after = recovered(sae)
    # Random rows of this size come to 0.5 to 0.8.
    assert float(before.max()) < 0.9 and int((before > 0.95).sum()) == 0
    assert int((after > 0.95).sum()) >= 22 and float(after.median()) > 0.97
    assert lines[0] > 1.2 * lines[-1] and lines[-1] < 0.2
    assert fvu(sae, data.heldout) == pytest.approx(lines[-1], abs=0.03)


def test_every_level_of_a_matryoshka_reconstructs(data):
    sae = make("batch_topk", levels=(6, 12, 24, 48))
    train(sae, data.train, CONFIG, calibration=data.calibration)
    found = [fvu(sae.prefix(level), data.heldout) for level in sae.config.lengths]
    assert found == sorted(found, reverse=True) and found[0] < 0.8 and found[-1] < 0.25
    plain = make("batch_topk")
    train(plain, data.train, CONFIG, calibration=data.calibration)
    assert fvu(plain.prefix(6), data.heldout) > found[0] + 0.05  # what the objective is for


def test_a_transcoder_learns_a_function(data):
    """y = f(x): the features of x, written out in other directions of another space."""
    other = directions(d_in=26, seed=5)

    def pair(seed: int, rows: int = 256):
        x = planted(rows, seed, noise=0)
        # Which features are present follows from the same generator.
        generator = torch.Generator().manual_seed(seed)
        present = torch.rand(rows, len(other), generator=generator) < ACTIVE / len(other)
        return x, 5 * ((present * (1 + torch.rand(rows, len(other), generator=generator))) @ other) + 3

    saes = {kind: make(kind, d_out=26, **KIND_OPTIONS.get(kind, {})) for kind in ("batch_topk", "topk", "jumprelu")}
    pairs = [pair(seed) for seed in range(60)]
    train(saes, pairs, CONFIG, calibration=[pair(seed) for seed in range(100, 104)])
    x, y = pair(200, 5_000)
    assert all(fvu(sae, x, y) < 0.4 for sae in saes.values()), {k: fvu(s, x, y) for k, s in saes.items()}
    rows = saes["topk"].W_dec.detach()
    assert int(((other @ rows.t()).max(1).values > 0.95).sum()) >= 15
    assert l0(saes["batch_topk"], x) == pytest.approx(ACTIVE, rel=0.05)


# Sparsity --------------------------------------------------------------------------------------------------------

THRESHOLDED = {
    "batch_topk": {},
    "matryoshka": {"levels": "nested"},
    "sampled": {"levels": "sampled"},
    "topk with levels": {"kind": "topk", "levels": "nested"},
}


@pytest.mark.parametrize(("steps", "limit"), [(200, 0.05), (500, 0.03)])
def test_l0_on_heldout_data_is_k(steps, limit, data):
    saes = {name: make(**({"kind": "batch_topk"} | options)) for name, options in THRESHOLDED.items()}
    train(saes, data.train, TrainConfig(steps=steps), calibration=data.calibration)
    found = {name: l0(sae, data.heldout) / ACTIVE for name, sae in saes.items()}
    assert all(abs(ratio - 1) < limit for ratio in found.values()), found


def test_without_calibration_l0_is_near_k(data):
    saes = {name: make(**({"kind": "batch_topk"} | options)) for name, options in THRESHOLDED.items()}
    train(saes, data.train, TrainConfig(steps=200))
    found = {name: l0(sae, data.heldout) / ACTIVE for name, sae in saes.items()}
    assert all(abs(ratio - 1) < 0.1 for ratio in found.values()), found


def test_one_token_or_many_inference_is_the_same(data):
    saes = [make(**({"kind": "batch_topk"} | options)) for options in THRESHOLDED.values()]
    for i, sae in enumerate(saes):
        train({str(i): sae}, data.train, TrainConfig(steps=50), calibration=data.calibration)
        with torch.no_grad():
            together = sae(data.heldout[:64])
            alone = torch.cat([sae(x[None]) for x in data.heldout[:64]])
        assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize(("k", "levels"), [(2, "none"), (3, "nested"), (5, "none")])
def test_jumprelu_comes_to_its_target(k, levels, data):
    sae = make("jumprelu", k=k, levels=levels)
    train(sae, data.train, TrainConfig(steps=800))
    assert l0(sae, data.heldout) == pytest.approx(k, rel=0.15)


def test_thresholds_of_jumprelu_move_apart(data):
    sae, seen = make("jumprelu"), []
    config = TrainConfig(steps=400, log_every=1)
    train(sae, data.train, config, on_step=lambda step, numbers: seen.append(sae.threshold.detach().clone()))
    assert float(seen[0].std()) < 0.01 < 0.04 < float(seen[-1].std())
    assert float((seen[-1] - seen[0]).abs().mean()) > 0.1
    assert sae.threshold.dtype == torch.float32


# Dead latents ----------------------------------------------------------------------------------------------------


def kill(sae: SAE, share: int = 3) -> torch.Tensor:
    """Give every third latent a bias that no activation overcomes."""
    with torch.no_grad():
        sae.b_enc[::share] = -4.0
        if sae.config.kind == "gated":
            sae.b_mag[::share] = -4.0
    return torch.arange(0, sae.config.n_latents, share)


def alive(sae: SAE, x: torch.Tensor) -> torch.Tensor:
    found = torch.zeros(sae.config.n_latents, dtype=torch.bool)
    found[sae.encode_sparse(x).latent] = True
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_dead_latents_come_back_only_through_the_auxiliary_loss(kind, data):
    config = TrainConfig(steps=300, lr=5e-3, dead_after=2_000, log_every=8)
    share, dead = {}, {}
    for weight in (0.0, 1 / 32):
        sae = make(kind, aux_weight=weight, aux_k=8, **KIND_OPTIONS.get(kind, {}))
        killed = kill(sae)
        lines = []
        train(
            {"a": sae},
            data.train,
            config,
            calibration=data.calibration,
            on_step=lambda step, numbers, lines=lines: lines.append(numbers["a/dead"]),
        )
        share[weight] = float(alive(sae, data.heldout)[killed].double().mean())
        dead[weight] = lines
    assert share[0.0] == 0 and dead[0.0][-1] >= 1 / 3
    assert share[1 / 32] > 0.8, share
    assert max(dead[1 / 32]) >= 1 / 3 and dead[1 / 32][-1] < 0.2


# Scale -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("levels", ["none", "nested"])
def test_activations_of_another_scale_train_the_same(kind, levels, data):
    """By a power of two bit for bit; by another factor up to rounding, while that has not grown."""
    config = TrainConfig(steps=30, lr=5e-3, dead_after=3_000)
    one, power, other = (make(kind, levels=levels) for _ in range(3))
    train(one, data.train, config, calibration=data.calibration)
    for sae, factor in ((power, 1024.0), (other, 389.2)):
        scaled = [factor * x for x in data.train]
        train(sae, scaled, config, calibration=[factor * x for x in data.calibration])
    assert fvu(power, 1024 * data.heldout) == pytest.approx(fvu(one, data.heldout), rel=1e-5)
    assert torch.equal(power.W_dec, one.W_dec) and torch.equal(power.W_enc, one.W_enc)
    assert torch.allclose(power.b_dec, 1024 * one.b_dec, rtol=1e-6)
    assert fvu(other, 389.2 * data.heldout) == pytest.approx(fvu(one, data.heldout), rel=1e-2)
    assert torch.allclose(other.W_dec, one.W_dec, atol=1e-2)
    assert l0(power, 1024 * data.heldout) == l0(one, data.heldout)


def test_the_scale_is_folded_in(data, monkeypatch):
    """The trained SAE takes raw activations; in training they had a mean squared norm of d_in."""
    seen = {}

    class Spy(list):
        scale = 0.25

    for source, scale in ((Spy(data.train), 0.25), (data.train, None)):
        sae = make("topk")
        step = Member.step

        def spy(member, x, *args, step=step):
            seen.setdefault("mean", float(x.square().sum(1).mean()))
            return step(member, x, *args)

        monkeypatch.setattr(Member, "step", spy)
        result = train(sae, source, TrainConfig(steps=300, lr=5e-3), calibration=data.calibration)
        raw = float(data.train[0].square().sum(1).mean())
        assert result.scale == pytest.approx(scale or (D_IN / raw) ** 0.5, rel=1e-5)
        assert seen.pop("mean") == pytest.approx(raw * result.scale**2, rel=1e-5)
        assert fvu(sae, data.heldout) < 0.35
        assert torch.allclose(sae.b_dec, torch.linspace(-1, 1, D_IN), atol=0.5)
        assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(48), atol=1e-5)


# Going on --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("d_out", [None, 14])
def test_going_on_starts_from_the_given_weights(kind, d_out, data):
    """With a learning rate of almost nothing, trained weights come out as they went in."""
    target = directions(features=D_IN, d_in=14, seed=5)
    given = data.train if d_out is None else [(x, 40 * x @ target) for x in data.train]
    sae = make(kind, d_out=d_out, **KIND_OPTIONS.get(kind, {}))
    train(sae, given, TrainConfig(steps=100, lr=5e-3), calibration=data.calibration)
    before = weights(sae)
    train(sae, given[7:20], TrainConfig(steps=5, lr=1e-12), calibration=data.calibration, fresh=False)
    for name, value in weights(sae).items():
        if kind == "topk" and name == "threshold":
            continue
        size = float(before[name].abs().max().clamp_min(1e-3))
        assert torch.allclose(value, before[name], rtol=1e-4, atol=1e-4 * size), name


def test_going_on_improves_what_is_there(data):
    config = TrainConfig(steps=150, lr=5e-3, log_every=1, warmup=0)
    lines: list[float] = []
    sae = make("batch_topk")
    for fresh in (True, False, False):
        run = []
        train(
            {"a": sae},
            data.train,
            config,
            calibration=data.calibration,
            on_step=lambda step, n, run=run: run.append(n["a/fvu"]),
            fresh=fresh,
        )
        lines += [run[0], run[-1]]
    assert lines[2] == pytest.approx(lines[1], abs=0.05) and lines[4] == pytest.approx(lines[3], abs=0.05)
    assert lines[0] > 2 * lines[1] > 0 and lines[5] < lines[1]
