"""Compiled gradients and updates against autograd and PyTorch's own Adam."""

import numpy as np
import pytest
import torch
from tests.sae.kernels.gradient_cases import BATCH, D_IN, D_OUT, N, Problem, close

from matryo.sae.kernels import compiled, decode_losses, pre_acts_at
from matryo.sae.kernels.fused import DenseRows, WeightGradient, decode_with_gradient, keep_largest, mask_columns

LIMITS = {torch.float64: 1e-12, torch.float32: 1e-5}
each_dtype = pytest.mark.parametrize("dtype", LIMITS, ids=["fp64", "fp32"])
each_levels = pytest.mark.parametrize("levels", [(N,), (3, 40, 64, N), tuple(range(1, N + 1))], ids=["1", "4", "all"])


@pytest.fixture(params=[1, 3], ids=["1 thread", "3 threads"], autouse=True)
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    from matryo.sae.kernels import fused

    monkeypatch.setattr(fused, "threads", lambda: request.param)


@each_dtype
@each_levels
def test_decoding(dtype: torch.dtype, levels: tuple[int, ...]) -> None:
    p, limit = Problem(dtype), LIMITS[dtype]
    weights = torch.linspace(1, 2, len(levels)).to(dtype) / len(levels)
    z, W, b = (t.clone().requires_grad_() for t in (p.z, p.W_dec, p.b_dec))
    losses, residual = decode_losses(z, p.entries, W, b, p.target, levels)
    (weights * losses).sum().backward()
    ours = decode_with_gradient(p.z, p.entries, p.W_dec, p.b_dec, p.target, levels, weights, want_residual=True)
    close(ours.per_level, losses.detach(), limit)
    close(ours.residual, residual, limit)
    close(ours.grad_z, z.grad, limit)
    close(ours.grad_b_dec, b.grad, limit)
    formed = p.gradient(ours.slope, levels).formed()
    close(formed[1], W.grad, limit)
    assert decode_with_gradient(p.z, p.entries, W, b, p.target, levels, weights).residual is None
    half = decode_with_gradient(p.z, p.entries, W, b, p.target, levels, weights, batch=2 * BATCH)
    close(2 * half.per_level, ours.per_level, limit)
    close(2 * half.slope, ours.slope, limit)


@each_dtype
def test_encoding(dtype: torch.dtype) -> None:
    p, limit = Problem(dtype), LIMITS[dtype]
    W, b, b_in = (t.clone().requires_grad_() for t in (p.W_enc, p.b_enc, torch.zeros(D_IN, dtype=dtype)))
    pre_acts_at(p.x, W, b, b_in, p.x, p.entries).backward(p.grad_pre)
    slope = torch.zeros(1, BATCH, D_OUT, dtype=dtype)
    enc, dec, bias, of_input = p.gradient(slope, (N,)).formed()
    close(enc, W.grad, limit)
    close(bias, b.grad, limit)
    close(of_input, b_in.grad, limit)
    assert not dec.any() and enc.t().is_contiguous()
    assert p.gradient(slope, (N,)).formed(of_input=False)[3] is None


@each_dtype
@each_levels
@pytest.mark.parametrize("unit_rows", [True, False])
def test_adam(dtype: torch.dtype, levels: tuple[int, ...], unit_rows: bool) -> None:
    """Several steps with dense rows and a pull, scaled down: weights and moments as PyTorch's Adam gives them."""
    p, limit = Problem(dtype), 10 * LIMITS[dtype]
    W_enc, W_dec = (torch.nn.Parameter(w.clone()) for w in (p.W_enc, p.W_dec))
    adam = torch.optim.Adam([W_enc, W_dec], lr=0.03, betas=(0.8, 0.95))
    moments = [torch.zeros(N, d, dtype=dtype) for d in (D_IN, D_IN, D_OUT, D_OUT)]
    latent = torch.tensor([0, 9, 70, 140])
    for step in range(1, 6):
        p.grad_pre = p.grad_pre * 1.5
        slope = torch.randn(len(levels), BATCH, D_OUT, generator=torch.Generator().manual_seed(step)).to(dtype)
        more = DenseRows(
            latent, torch.ones(4, D_IN, dtype=dtype), torch.full((4, D_OUT), 2.0, dtype=dtype), p.b_enc[:4]
        )
        # A pull along unit rows is projected out: rounding is all Adam would see of it.
        gradient = p.gradient(slope, levels, pull=None if unit_rows else p.b_enc, more=more)
        enc, dec, bias, of_input = (t.clone() for t in gradient.formed())
        if unit_rows:
            dec -= (dec * p.W_dec).sum(1, keepdim=True) * p.W_dec
        squares, of_input_too = gradient.squared_norm(unit_rows)
        assert squares == pytest.approx(float(sum(g.double().square().sum() for g in (enc, dec, bias))), rel=1e-5)
        close(of_input_too, of_input, limit)
        W_enc.grad, W_dec.grad = 0.7 * enc, 0.7 * dec
        adam.step()
        if unit_rows:
            W_dec.data /= W_dec.data.norm(dim=1, keepdim=True)
        b, b_in = gradient.apply_adam(
            (moments[0], moments[1]), (moments[2], moments[3]),
            step=step, lr=0.03, betas=(0.8, 0.95), eps=1e-8, clip=0.7, unit_rows=unit_rows,
        )  # fmt: skip
        close(b, bias, limit)
        close(b_in, of_input, limit)
        close(p.W_enc, W_enc.detach(), limit)
        close(p.W_dec, W_dec.detach(), limit)
        close(moments[1], adam.state[W_enc]["exp_avg_sq"].t(), limit)
        close(moments[2], adam.state[W_dec]["exp_avg"], limit)


def test_moments_in_bfloat16() -> None:
    """Rounded at random, without bias: after many steps near those in float32, and never frozen."""
    exact, short = Problem(torch.float32), Problem(torch.float32)
    moments = {
        dtype: [torch.zeros(N, d, dtype=dtype) for d in (D_IN, D_IN, D_OUT, D_OUT)]
        for dtype in (torch.float32, torch.bfloat16)
    }
    slope = torch.randn(1, BATCH, D_OUT, generator=torch.Generator().manual_seed(2))
    for step in range(1, 301):
        for p, m in zip((exact, short), moments.values(), strict=True):
            # A gradient that grows slowly: v moves by a thousandth of itself a step.
            p.gradient(slope * (1 + step / 2000), (N,)).apply_adam(
                (m[0], m[1]), (m[2], m[3]), step=step, lr=1e-6, betas=(0.9, 0.99), eps=1e-8, unit_rows=True
            )
    for ours, theirs in zip(moments[torch.bfloat16], moments[torch.float32], strict=True):
        used = theirs != 0
        ratio = ours[used].float() / theirs[used]
        assert float((ratio - 1).abs().max()) < 0.1 and abs(float(ratio.mean()) - 1) < 2e-3


@each_dtype
def test_keep_largest_and_mask_columns(dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    for rows, columns in ((31, 17), (1, 1), (3, 200), (0, 5)):
        pre, grad = torch.randn(2, rows, columns, generator=g, dtype=torch.float64).to(dtype)
        for k in {1, columns // 2 or 1, columns, columns + 3}:
            z, masked = pre.clone(), grad.clone()
            chosen = keep_largest(z, k)
            assert torch.equal(chosen, (pre.argsort(1, descending=True).argsort(1) < k).to(torch.uint8))
            assert torch.equal(z, pre.relu() * chosen)
            sums = mask_columns(masked, chosen)
            assert torch.equal(masked, grad * chosen)
            torch.testing.assert_close(sums, (grad * chosen).sum(0))
    ties = torch.tensor([[1.0, 2, 2, 2, 0], [3, 3, 3, 3, 3]], dtype=dtype)
    for k in (1, 2, 3):
        chosen = keep_largest(ties.clone(), k).bool()
        assert chosen.sum(1).tolist() == [k, k] and bool((ties[0][chosen[0]] == 2).all())


def test_memory_that_is_not_in_rows_is_refused() -> None:
    p = Problem(torch.float32)
    with pytest.raises(ValueError, match="not contiguous; expected rows"):
        WeightGradient(
            p.W_enc.contiguous(), p.W_dec, p.x, p.entries, p.z, p.grad_pre, torch.zeros(1, BATCH, D_OUT), (N,)
        )


def test_threads_follow_pytorch() -> None:
    assert compiled.threads() == torch.get_num_threads() == np.clip(compiled.threads(), 1, None)
