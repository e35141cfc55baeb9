"""What every autoencoder keeps once trained: one token at a time, one threshold, any prefix, any scale, any disk."""

import copy
import json
from itertools import permutations
from pathlib import Path

import pytest
import torch
from tests.sae.nn.cases import (
    BATCH,
    D_IN,
    D_OUT,
    N_LATENTS,
    Case,
    K,
    distance,
    each_case,
    each_kind,
    some_cases,
)

from matryo.sae.nn import SAE, build
from matryo.sae.nn.base import unit_scale

by_threshold = pytest.mark.parametrize(
    "case",
    [Case("batch_topk"), Case("batch_topk", "nested", True), Case("topk", "tuple"), Case("topk", "sampled", True)],
    ids=str,
)


@each_case
@torch.no_grad()
def test_all_ways_to_reconstruct_agree(case: Case) -> None:
    sae = case.fitted()
    x, target = case.data()
    for mode in (True, False):
        sae.train(mode)
        z, x_hat = sae.encode(x), sae(x)
        assert z.shape == (BATCH, N_LATENTS) and float(z.min()) == 0 and x_hat.shape == target.shape
        assert distance(x_hat, z @ sae.W_dec + sae.b_dec) < 1e-13
        assert distance(sae.decode(z), x_hat) < 1e-13
        entries = sae.encode_sparse(x)
        assert torch.equal(entries.dense(), z) and bool((entries.value > 0).all())
        assert entries.l0 == float((z > 0).sum(1).double().mean())
        for level in (1, 13, N_LATENTS):
            assert distance(sae.decode_sparse(entries, level), z[:, :level] @ sae.W_dec[:level] + sae.b_dec) < 1e-13
        assert distance(sae.decode_sparse(entries), x_hat) < 1e-13
        assert distance(target - x_hat, sae.loss(x, target).residual) < 1e-13


@each_case
@torch.no_grad()
def test_inference_treats_every_token_alone(case: Case) -> None:
    sae, (x, _) = case.fitted(), case.data(24)
    whole, again = sae.encode(x), sae.encode(x)
    assert torch.equal(whole, again)
    parts = torch.cat([sae.encode(part) for part in x.split([1, 5, 18])])
    assert distance(parts, whole) < 1e-12 and torch.equal(parts > 0, whole > 0)
    shuffled = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    assert distance(sae.encode(x[shuffled]), whole[shuffled]) < 1e-12
    folded = x.view(2, 3, 4, D_IN)
    assert distance(sae.encode(folded).view(24, -1), whole) < 1e-12
    assert sae(folded).shape == (2, 3, 4, D_OUT if case.transcoder else D_IN)
    assert sae(x[0]).shape == sae(x)[0].shape and sae(x[:0]).shape == (0, sae.W_dec.shape[1])
    assert sae.encode(x[:0]).shape == (0, N_LATENTS) and sae.encode_sparse(x[:0]).n_rows == 0


@each_case
@torch.no_grad()
def test_a_prefix_is_the_first_latents(case: Case) -> None:
    sae, (x, _) = case.fitted(), case.data()
    z = sae.encode(x)
    for level in (2, 17, N_LATENTS):
        part = sae.prefix(level)
        expected = z[:, :level]
        if case == Case("topk", transcoder=case.transcoder):
            # Without levels a token's k largest are chosen among whatever latents there are.
            pre = (x if case.transcoder else x - sae.b_dec) @ sae.W_enc + sae.b_enc
            top = pre[:, :level].topk(min(K, level))
            expected = torch.zeros(BATCH, level, dtype=x.dtype).scatter(1, top.indices, top.values.relu())
        assert distance(part.encode(x), expected) < 1e-13
        assert distance(part(x), expected @ sae.W_dec[:level] + sae.b_dec) < 1e-13
        assert not part.training and part.config.n_latents == level == part.config.lengths[-1]
        assert part.config.nested == (sae.config.nested and level > 2) or case.levels == "sampled"
    assert sae.prefix(N_LATENTS).config == sae.config
    part.W_dec.zero_(), part.b_enc.zero_()
    assert torch.equal(sae.encode(x), z), "a prefix is a copy"
    for level in (0, -3, N_LATENTS + 1):
        with pytest.raises(ValueError, match=rf"^level is {level}; expected 1 to {N_LATENTS} [^\n]*$"):
            sae.prefix(level)


@by_threshold
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])
def test_calibration_gives_a_mean_l0_of_k(case: Case, dtype: torch.dtype) -> None:
    x = case.data(101, dtype)[0]
    rest = [x[:0], x[:40] * 3, x[40:41], x[41:] * 0.1]  # batches of other sizes, of other norms, of nothing
    sae = case.sae(dtype)
    sae.calibrate(iter(rest))
    sae.eval()
    assert sae.encode_sparse(torch.cat(rest)).l0 * 101 == pytest.approx(K * 101, abs=1)
    assert float((sae.encode(torch.cat(rest)) > 0).sum()) == pytest.approx(K * 101, abs=1)


@torch.no_grad()
def test_calibration_when_few_tokens_hold_almost_all_activity() -> None:
    """Ten tokens activate every latent, seventy none: more than twice k must be kept of the ten."""
    sae = Case("batch_topk").sae()
    sae.W_enc.abs_(), sae.b_enc.zero_(), sae.b_dec.zero_()
    generator = torch.Generator().manual_seed(2)
    loud, silent = (sign * torch.rand(rows, D_IN, generator=generator).double() for sign, rows in ((1, 10), (-1, 70)))
    sae.calibrate([loud, silent])
    assert sae.eval().encode_sparse(torch.cat([loud, silent])).l0 == K and float(sae.threshold) > 0
    # Whatever comes after it: what was left out of the loudest batch is what counts.
    every = [loud, 0.3 * loud[:2], 0.6 * loud[:3], silent]
    for batches in permutations(every):
        sae.calibrate(batches)
        x = torch.cat(batches)
        pre = ((x - sae.b_dec) @ sae.W_enc + sae.b_enc).flatten().sort(descending=True).values
        assert float(sae.threshold) == pytest.approx(float(pre[K * len(x)]), rel=1e-12)
    sae.calibrate([silent])
    assert float(sae.threshold) == 0, "nothing is active: every positive pre-activation counts"
    sae.calibrate([loud[:5], silent])
    assert float(sae.threshold) == 0 and sae.encode_sparse(loud[:5]).l0 == N_LATENTS
    for nothing in ([], [loud[:0]]):
        with pytest.raises(ValueError, match=r"^calibration has 0 tokens; expected [^\n]*$"):
            sae.calibrate(nothing)


@torch.no_grad()
def test_before_calibration_inference_is_refused() -> None:
    for case in (Case("batch_topk"), Case("topk", "nested")):
        sae, (x, _) = case.sae().eval(), case.data()
        for call in (sae, sae.encode, sae.encode_sparse, sae.loss):
            with pytest.raises(ValueError, match=rf"^this {case.kind} SAE has no inference threshold; [^\n]*$"):
                call(x)
        sae.train()(x)
    plain = Case("topk").sae().eval()
    plain.calibrate([])
    assert bool(((plain.encode(Case("topk").data()[0]) > 0).sum(1) == K).all())


@each_case
@torch.no_grad()
def test_a_scale_folds_in(case: Case) -> None:
    sae, (x, _) = case.fitted(), case.data()
    for scale_in, scale_out in ((3.7, 3.7), (0.02, 5.0), (1.0, 1.0)):
        before, rows = copy.deepcopy(sae), sae.W_dec.clone()
        sae.rescale(scale_in, scale_out)
        assert distance(sae(x), before(x * scale_in) / scale_out) < 1e-12
        assert distance(sae.encode(x), before.encode(x * scale_in) / scale_out) < 1e-12
        assert torch.equal(sae.W_dec, rows) and sae.W_enc.t().is_contiguous()
        sae.rescale(1 / scale_in, 1 / scale_out)
        assert all(distance(new, old) < 1e-12 for new, old in zip(sae.parameters(), before.parameters(), strict=True))
    one = copy.deepcopy(sae)
    one.rescale(3.7)
    assert distance(one(x), sae(x * 3.7) / 3.7) < 1e-12


def test_unit_scale() -> None:
    x = 40 * torch.randn(31, D_IN, generator=torch.Generator().manual_seed(0)) + 9
    assert float((x * unit_scale(x)).square().sum(1).mean()) == pytest.approx(D_IN, rel=1e-6)
    for bad in (torch.zeros(5, D_IN), x * float("inf"), x * float("nan")):
        with pytest.raises(ValueError, match=r"^activations have a mean squared norm of [^\n]* positive[^\n]*$"):
            unit_scale(bad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@each_case
@torch.no_grad()
def test_what_is_saved_is_loaded(case: Case, dtype: torch.dtype, tmp_path: Path) -> None:
    sae, (x, _) = case.fitted(dtype), case.data(dtype=dtype)
    state = copy.deepcopy(sae.state_dict())
    for _ in range(2):  # the second time over the first
        sae.save(tmp_path / "deep" / "folder", {"model_name": "gpt2", "hook_name": "blocks.8.hook_resid_pre"})
    assert sorted(path.name for path in (tmp_path / "deep" / "folder").iterdir()) == [
        "cfg.json",
        "sae_weights.safetensors",
    ]
    read = SAE.load(tmp_path / "deep" / "folder")
    assert read.config == sae.config and type(read) is type(sae) and not read.training
    for name, value in read.state_dict().items():
        assert torch.equal(value, state[name]) or bool(value.isnan() & state[name].isnan()), name
        assert (value.dtype == dtype and torch.equal(sae.state_dict()[name], state[name])) or bool(value.isnan()), name
    assert torch.equal(read(x), sae(x)) and read.W_enc.t().is_contiguous()
    metadata = json.loads((tmp_path / "deep" / "folder" / "cfg.json").read_text())["metadata"]
    assert metadata["model_name"] == "gpt2" and metadata["sae_lens_version"].startswith("6.")
    part = SAE.load(tmp_path / "deep" / "folder").prefix(9)
    part.save(tmp_path / "part")
    assert torch.equal(SAE.load(tmp_path / "part")(x), part(x))


@some_cases
@torch.no_grad()
def test_half_precision_is_saved_and_loaded_as_float32(case: Case, tmp_path: Path) -> None:
    if case.kind == "gated" and case.transcoder:
        return
    sae = case.fitted(torch.float32).to(torch.bfloat16)
    sae.save(tmp_path)
    read = SAE.load(tmp_path)
    for name, value in read.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, sae.state_dict()[name].float()), name


def test_an_sae_without_threshold_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^this batch_topk SAE has no inference threshold yet; expected [^\n]*$"):
        Case("batch_topk").sae().save(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


@each_kind
def test_other_widths_are_refused(case: Case) -> None:
    sae, wide = case.fitted(), torch.zeros(3, D_IN + 1, dtype=torch.float64)
    calls = [sae, sae.encode, sae.encode_sparse, sae.loss, sae.initialise]
    if case.kind == "batch_topk":
        calls.append(lambda x: sae.calibrate([x]))
    for call in calls:
        with pytest.raises(ValueError, match=rf"^x has width {D_IN + 1}; expected {D_IN}: [^\n]*$"):
            call(wide)
    with pytest.raises(ValueError, match=rf"^target has width {D_IN + 1}; expected {D_IN}: [^\n]*$"):
        sae.loss(wide[:, 1:], wide)
    transcoder = Case(case.kind, transcoder=True).sae()
    with pytest.raises(ValueError, match=rf"^target has width {D_IN}; expected {D_OUT}: [^\n]*$"):
        transcoder.loss(wide[:, 1:])


@each_case
def test_the_seed_makes_the_weights(case: Case) -> None:
    first, second = build(case.config), build(case.config)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert torch.allclose(first.W_dec.norm(dim=1), torch.ones(N_LATENTS))
    if not case.transcoder:
        assert torch.allclose(first.W_enc.t(), first.W_dec), "tied at the start"
        assert first.W_enc.data_ptr() != first.W_dec.data_ptr()
