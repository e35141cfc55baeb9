"""Compiled gradients over members that hold other latents or other rows, against those of one that holds all."""

import pytest
import torch
from tests.sae.kernels.gradient_cases import BATCH, D_IN, D_OUT, N, Problem, close
from tests.sae.kernels.threads_group import in_turns
from torch import Tensor

from matryo.sae.kernels import Entries
from matryo.sae.kernels.fused import Decoded, DenseRows, WeightGradient, decode_with_gradient


@pytest.fixture(params=[1, 3], ids=["1 thread", "3 threads"], autouse=True)
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matryo.sae.kernels.fused.threads", lambda: request.param)


def some(entries: Entries, keep: Tensor, row: slice, latent: slice) -> Entries:
    """The entries marked, in rows and latents counted from a member's first."""
    low, high, first, stop = row.start, row.stop, latent.start, latent.stop
    pairs = entries.row[keep] - low, entries.latent[keep] - first
    return Entries.from_pairs(*pairs, entries.value[keep], high - low, stop - first)


@pytest.mark.parametrize("levels", [(N,), (3, 40, 64, N), tuple(range(1, N + 1))], ids=["1", "4", "all"])
@pytest.mark.parametrize("cuts", [(0, 64, N), (0, 3, 40, N)], ids=["2", "3"])
def test_decoding_over_slices_of_latents(levels: tuple[int, ...], cuts: tuple[int, ...]) -> None:
    """Also where a level ends exactly where a member's latents do."""
    p = Problem(torch.float64)
    weights = torch.linspace(1, 2, len(levels)).double() / len(levels)
    whole = decode_with_gradient(
        p.z, p.entries, p.W_dec, p.b_dec, p.target, levels, weights, batch=2 * BATCH, want_residual=True
    )

    def act(group) -> tuple[Tensor, Decoded]:
        first, stop = cuts[group.rank], cuts[group.rank + 1]
        mine = (p.entries.latent >= first) & (p.entries.latent < stop)
        entries = some(p.entries, mine, slice(0, BATCH), slice(first, stop))
        ends = tuple(min(max(level - first, 0), stop - first) for level in levels)
        memory = torch.full((len(levels), BATCH, D_OUT), torch.nan).double()
        return mine, decode_with_gradient(
            p.z[mine], entries, p.W_dec[first:stop], p.b_dec, p.target, ends, weights,
            batch=2 * BATCH, slope=memory, latents=group,
        )  # fmt: skip

    for mine, part in in_turns(len(cuts) - 1, act):
        close(part.per_level, whole.per_level, 1e-12)
        close(part.residual, whole.residual, 1e-12)
        close(part.slope, whole.slope, 1e-12)
        close(part.grad_b_dec, whole.grad_b_dec, 1e-12)
        close(part.grad_z, whole.grad_z[mine], 1e-12)


def test_gradients_summed_over_rows() -> None:
    """Of latents with entries on one member alone, with a dense row and no entry, and with neither."""
    p, levels, cuts = Problem(torch.float64), (3, 40, 64, N), (0, 9, BATCH)
    slope = torch.randn(len(levels), BATCH, D_OUT, generator=torch.Generator().manual_seed(1)).double()
    whole = p.gradient(slope, levels).formed()
    latent = torch.tensor([2, 9])  # 9 has no entry anywhere

    def act(group) -> tuple[Tensor, tuple]:
        low, high = cuts[group.rank], cuts[group.rank + 1]
        mine = (p.entries.row >= low) & (p.entries.row < high)
        entries = some(p.entries, mine, slice(low, high), slice(0, N))
        more = DenseRows(latent, *(torch.ones(2, d).double() for d in (D_IN, D_OUT)), torch.ones(2).double())
        own = WeightGradient(
            p.W_enc, p.W_dec, p.x[low:high].contiguous(), entries, p.z[mine], p.grad_pre[mine],
            slope[:, low:high].contiguous(), levels, more=more,
        )  # fmt: skip
        return own.touched(), own.summed(group).formed()

    b_enc = whole[2].clone()
    b_enc[latent] += 2
    for rank, (touched, (enc, dec, bias, of_input)) in enumerate(in_turns(2, act)):
        here = (p.entries.row >= cuts[rank]) & (p.entries.row < cuts[rank + 1])
        assert touched.nonzero().view(-1).tolist() == sorted({*p.entries.latent[here].tolist(), *latent.tolist()})
        close(bias, b_enc, 1e-12)
        for ours, theirs in ((enc.t(), whole[0].t()), (dec, whole[1])):
            dense = theirs.clone()
            dense[latent] += 2
            close(ours, dense, 1e-12)
        close(of_input, -(p.W_enc @ b_enc), 1e-12)
