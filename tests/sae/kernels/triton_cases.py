"""The Triton kernels under Triton's interpreter, against the PyTorch path. Run by test_triton.py in its own process.

No GPU takes part: equality here says that the kernels compute the right sums, not that a GPU has run them.
"""

from itertools import product

import pytest
import torch
from tests.sae.nn.cases import PLAIN, SOME, Case, dead_latents
from torch import Tensor

from matryo.sae.kernels import Entries, decode, decode_losses, pre_acts_at, triton_sums, use
from matryo.sae.kernels.sparse import _weighted_sums

BATCH, D_IN, D_OUT, N_LATENTS = 17, 140, 9, 19
LIMITS = {torch.float32: 1e-5, torch.float64: 1e-10}
each_dtype = pytest.mark.parametrize("dtype", LIMITS, ids=["fp32", "fp64"])
PATTERNS = ("random", "none", "one per row", "one latent in all rows", "all in one row")
each_pattern = pytest.mark.parametrize(
    ("pattern", "dtype"), [("random", torch.float32), *((pattern, torch.float64) for pattern in PATTERNS)], ids=str
)


def normal(*size: int, seed: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def chosen(pattern: str, rows: int = BATCH) -> Tensor:
    """Which of (rows, latents) are active. Where it is random, rows 2 and the last and latents 5, 11, 12 are empty."""
    generator = torch.Generator().manual_seed(4)
    mask = torch.zeros(rows, N_LATENTS, dtype=torch.bool)
    if pattern == "random":
        mask = torch.rand(rows, N_LATENTS, generator=generator) < 0.2
        mask[2], mask[-1], mask[:, 5], mask[:, 11:13] = False, False, False, False
    elif pattern == "one per row":
        mask[torch.arange(rows), torch.randint(N_LATENTS, (rows,), generator=generator)] = True
    elif pattern == "one latent in all rows":
        mask[:, 7] = True
    elif pattern == "all in one row":
        mask[3] = True
    return mask


def entries_of(mask: Tensor, dtype: torch.dtype) -> Entries:
    row, latent = mask.nonzero().unbind(1)
    return Entries.from_pairs(row, latent, normal(len(row), seed=1, dtype=dtype), *mask.shape)


def agree(ours: list[Tensor], torchs: list[Tensor], limit: float) -> None:
    for mine, other in zip(ours, torchs, strict=True):
        assert mine.shape == other.shape and mine.dtype == other.dtype
        assert float((mine - other).detach().norm()) <= limit * float(other.detach().norm())


@pytest.fixture(autouse=True)
def launches(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often each kernel was launched, so that no test compares PyTorch with itself."""
    assert triton_sums.INTERPRETED
    count = {"sum_bags": 0, "dot_entries": 0}

    def counting(name: str) -> None:
        launch = getattr(triton_sums, name)

        def counted(*args: Tensor) -> Tensor:
            count[name] += 1
            return launch(*args)

        monkeypatch.setattr(triton_sums, name, counted)

    for name in count:
        counting(name)
    return count


@each_pattern
@pytest.mark.parametrize("d", [1, 8, 150], ids="d={}".format)
def test_weighted_sums(dtype: torch.dtype, pattern: str, d: int, launches: dict[str, int]) -> None:
    """150 columns are one whole block and a part of the next; 19 entries in a row or 17 of a latent are several."""
    entries = entries_of(chosen(pattern), dtype)
    table = normal(N_LATENTS, d, seed=2, dtype=dtype).requires_grad_()
    weight, slope = entries.value.requires_grad_(), normal(BATCH, d, seed=3, dtype=dtype)
    found = {}
    for backend in ("torch", "triton"):
        with use(backend):
            out = _weighted_sums(table, entries.latent, entries.row_start, weight)
            found[backend] = [out, *torch.autograd.grad(out, [table, weight], slope)]
    agree(found["triton"], found["torch"], LIMITS[dtype])
    assert launches == {"sum_bags": 2, "dot_entries": 1}


@each_dtype
def test_tables_of_any_memory_order(dtype: torch.dtype) -> None:
    entries = entries_of(chosen("random"), dtype)
    by_column = normal(150, N_LATENTS, seed=2, dtype=dtype).t(), normal(150, BATCH, seed=3, dtype=dtype).t()
    tables, of_bags = ((tensor, tensor.contiguous()) for tensor in by_column)
    where = entries.latent, entries.row_start
    assert torch.equal(*(triton_sums.sum_bags(table, *where, entries.value) for table in tables))
    expected = (tables[0][entries.latent] * of_bags[0][entries.row]).sum(1)
    for table, of_bag in product(tables, of_bags):
        agree([triton_sums.dot_entries(table, *where, of_bag)], [expected], LIMITS[dtype])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_half_precision_is_accumulated_in_float32(dtype: torch.dtype) -> None:
    """A latent of 611 entries: summed in its own precision it would be off by far more than its last bit."""
    rows, d = 611, 20
    mask = chosen("one latent in all rows", rows)
    mask[5, :3] = True
    entries = entries_of(mask, dtype)
    order, start = entries.by_latent
    index, weight, slope = entries.row[order], entries.value[order].abs(), normal(N_LATENTS, d, seed=3, dtype=dtype)
    table = normal(rows, d, seed=2, dtype=dtype).abs()
    out = triton_sums.sum_bags(table, index, start, weight)
    wide = torch.zeros(N_LATENTS, d, dtype=torch.float64)
    wide.index_add_(0, entries.latent[order], weight.double()[:, None] * table.double()[index])
    assert out.dtype == dtype and bool(((out.double() - wide).abs() <= torch.finfo(dtype).eps * wide).all())
    dots = triton_sums.dot_entries(table, index, start, slope.abs())
    wide = (table.double()[index] * slope.double().abs()[entries.latent[order]]).sum(1)
    assert dots.dtype == dtype and bool(((dots.double() - wide).abs() <= torch.finfo(dtype).eps * wide).all())
    narrow = torch.zeros((), dtype=dtype)
    for term in weight[index >= 0][:rows] * table[index[:rows], 0]:
        narrow = narrow + term
    exact = (weight[:rows].double() * table.double()[index[:rows], 0]).sum()
    assert float((narrow - exact).abs()) > 4 * torch.finfo(dtype).eps * float(exact), "the case tells them apart"


@each_pattern
@pytest.mark.parametrize("levels", [(19,), (1, 19), (3, 4, 19), (3, 11, 18, 19), (2, 4, 9, 15, 19)], ids=len)
def test_decode_losses(dtype: torch.dtype, pattern: str, levels: tuple[int, ...], launches: dict[str, int]) -> None:
    entries = entries_of(chosen(pattern), dtype)
    value = entries.value.requires_grad_()
    W, b = normal(N_LATENTS, D_OUT, seed=3, dtype=dtype).requires_grad_(), normal(D_OUT, seed=5, dtype=dtype)
    target = normal(BATCH, D_OUT, seed=6, dtype=dtype).requires_grad_()
    leaves, slope = [value, W, b.requires_grad_(), target], normal(len(levels), seed=7, dtype=dtype)
    found = {}
    for backend in ("torch", "triton"):
        with use(backend):
            losses, residual = decode_losses(value, entries, W, b, target, levels)
            found[backend] = [losses, residual, *torch.autograd.grad(losses, leaves, slope)]
    agree(found["triton"], found["torch"], LIMITS[dtype])
    assert launches == {"sum_bags": 2, "dot_entries": 1}


@each_pattern
def test_pre_acts_at_and_decode(dtype: torch.dtype, pattern: str) -> None:
    entries = entries_of(chosen(pattern), dtype)
    x, W = normal(BATCH, D_IN, seed=2, dtype=dtype), normal(N_LATENTS, D_IN, seed=3, dtype=dtype).t()
    b, b_in = normal(N_LATENTS, seed=5, dtype=dtype), normal(D_IN, seed=6, dtype=dtype)
    W_dec, b_dec = normal(N_LATENTS, D_OUT, seed=8, dtype=dtype), normal(D_OUT, seed=9, dtype=dtype)
    leaves = [tensor.requires_grad_() for tensor in (x, W, b, b_in, W_dec, b_dec)]
    centred, slope = (x - b_in).detach(), normal(BATCH, D_OUT, seed=7, dtype=dtype)
    found = {}
    for backend in ("torch", "triton"):
        with use(backend):
            out = decode(pre_acts_at(x, W, b, b_in, centred, entries), entries, W_dec, b_dec)
            found[backend] = [out, *torch.autograd.grad(out, leaves, slope)]
    agree(found["triton"], found["torch"], LIMITS[dtype])


@pytest.mark.parametrize(
    ("case", "dtype"),
    [*((case, torch.float32) for case in PLAIN), *((case, torch.float64) for case in SOME)],
    ids=lambda part: str(part).removeprefix("torch."),
)
def test_the_loss_of_every_kind(case: Case, dtype: torch.dtype, launches: dict[str, int]) -> None:
    x, target = case.data(rows=8, dtype=dtype)  # the interpreter takes milliseconds per program
    found: dict[str, list[Tensor]] = {}
    for backend in ("torch", "triton"):
        sae = case.sae(dtype)
        inputs = x.detach().clone().requires_grad_()
        with use(backend):
            loss = sae.loss(inputs, target, dead=dead_latents(), generator=torch.Generator().manual_seed(3))
            loss.total.backward()
        grads = [value.grad for value in (*sae.parameters(), inputs)]
        assert all(grad is not None for grad in grads)
        found[backend] = [loss.total, loss.per_level, loss.aux, loss.sparsity, loss.residual, *grads]
    agree(found["triton"], found["torch"], LIMITS[dtype])
    assert launches["sum_bags"] >= 4 and launches["dot_entries"] >= 1
