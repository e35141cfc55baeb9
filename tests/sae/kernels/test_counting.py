"""The largest numbers of several members, against sorting all of them in one place."""

from itertools import pairwise

import pytest
import torch
from tests.sae.kernels.threads_group import together
from torch import Tensor

from matryo.sae.kernels import Entries, largest, mark_row_largest, select_batch_topk, select_row_topk, use
from matryo.sae.kernels.counting import keep_largest

SIZES = [2, 3, 5]


def numbers(kind: str, dtype: torch.dtype, count: int = 400) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    x = torch.randn(count, generator=generator, dtype=torch.float64)
    made = {
        "normal": x,
        "ties": (2 * x).round(),
        "tiny": x * 1e-39,
        "wide": x.sign() * 10 ** (20 * x.abs()).clamp_max(37),
        "one": torch.ones(count, dtype=torch.float64),
        "close": 1 + x * 1e-7,
    }
    return made[kind].to(dtype)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["normal", "ties", "tiny", "wide", "one", "close"])
def test_the_number_at_a_place_is_that_of_the_sorted_whole(kind, dtype, size):
    whole = numbers(kind, dtype)
    ordered = whole.sort(descending=True).values
    parts = [whole[rank::size] for rank in range(size)]
    for place in (1, 2, 57, 199, 399, 400):
        found = together(size, lambda group, place=place: largest(parts[group.rank], place, group))
        assert found == [(float(ordered[place - 1]), 400)] * size
    assert together(size, lambda group: largest(parts[group.rank], 401, group)) == [(float("-inf"), 400)] * size


def entries_of(value: Tensor) -> Entries:
    """Some numbers as the entries of five rows."""
    row = torch.arange(len(value)) * 5 // max(len(value), 1)
    return Entries.from_pairs(row, torch.arange(len(value)), value, 5, 1_000)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["normal", "ties", "one"])
def test_equal_numbers_are_kept_by_rank_then_in_their_order(kind, size):
    """A stable sort of the members' numbers, one member after the other, says who is kept; one member has none."""
    whole = numbers(kind, torch.float32)
    cuts = [0, *sorted([130, 130, 200, 390][: size - 1]), 400]
    parts = [whole[low:high] for low, high in pairwise(cuts)]
    order = whole.sort(descending=True, stable=True).indices
    for count in (1, 100, 256, 399, 400, 500):
        kept = together(size, lambda group, n=count: keep_largest(entries_of(parts[group.rank]), n, group))
        wanted = order[:count].sort().values
        found = torch.cat([own.latent + low for own, low in zip(kept, cuts, strict=False)])
        assert torch.equal(found, wanted)
        for own, part in zip(kept, parts, strict=True):
            assert torch.equal(own.value, part[own.latent]) and own.row_start[-1] == len(own.value)
            assert torch.equal(own.row, own.latent * 5 // max(len(part), 1))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("k", [1, 4, 36, 37, 50])
def test_the_largest_of_a_row_lie_anywhere(size, k):
    whole = numbers("ties", torch.float64, 11 * 37).view(11, 37) - 1  # most of it negative
    cuts = [37 * rank // size for rank in range(size + 1)]
    cuts[1] = 0  # one has no column
    marks = together(size, lambda group: mark_row_largest(whole[:, cuts[group.rank] : cuts[group.rank + 1]], k, group))
    chosen = torch.cat(marks, 1).bool()
    assert bool((chosen.sum(1) == min(k, 37)).all())
    ordered = whole.sort(1, descending=True).values
    for row in range(11):
        assert torch.equal(whole[row, chosen[row]].sort(descending=True).values, ordered[row, : min(k, 37)])


def problem(whole: bool) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x, rows, b = (torch.randn(size, generator=generator, dtype=torch.float64) for size in ((23, 6), (45, 6), (45,)))
    # Whole numbers, whose products are exact however they are cut; thousands for few ties, ones for many.
    x, rows, b = ((part * (1 if whole else 1000)).round() for part in (x, rows, b * 1000))
    return x, rows.t(), b.sign() if whole else b


@pytest.mark.parametrize("unlucky", [False, True])
@pytest.mark.parametrize("hint", [None, 1e6, 3e7])
@pytest.mark.parametrize("count", [1, 60, 300, 2000])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("cut", ["rows", "latents"])
def test_selection_over_members_is_that_of_the_whole(cut, size, count, hint, unlucky, monkeypatch):
    """Also where one member has nearly all of the largest, and so dropped some at first."""
    monkeypatch.setattr("matryo.sae.kernels.select.TILE", 4)
    x, W, b = problem(whole=False)
    if unlucky:
        x, b = (
            (x[(x @ W + b).sum(1).argsort()], b)
            if cut == "rows"
            else (x, b + torch.linspace(-2e6, 6e6, 45).double().round())
        )
    with use("torch"):
        whole = select_batch_topk(x, W, b, count).dense()

        def act(group) -> Tensor:
            low, high = (len(x if cut == "rows" else b) * (group.rank + more) // size for more in (0, 1))
            mine = (x[low:high], W, b) if cut == "rows" else (x, W[:, low:high], b[low:high])
            return select_batch_topk(*mine, count, hint, group=group).dense()

        assert torch.equal(torch.cat(together(size, act), int(cut == "latents")), whole)
        if cut == "latents":

            def act_rows(group) -> Tensor:
                low, high = (45 * (group.rank + more) // size for more in (0, 1))
                return select_row_topk(x, W[:, low:high], b[low:high], 7, group=group).dense()

            assert torch.equal(torch.cat(together(size, act_rows), 1), select_row_topk(x, W, b, 7).dense())


def test_ties_are_as_many_as_are_wanted():
    x, W, b = problem(whole=True)
    with use("torch"):
        whole = select_batch_topk(x, W, b, 111).value.sort().values
        parts = together(3, lambda g: select_batch_topk(x[g.rank :: 3].contiguous(), W, b, 111, group=g).value)
    assert torch.equal(torch.cat(parts).sort().values, whole)


def test_what_a_member_dropped_may_be_the_next_number_above_the_smallest_kept():
    """One member holds more of 1 + ε than it keeps at first, the other 1: the bound of the first is then 1 itself."""
    above = 1 + torch.finfo(torch.float64).eps
    W, b = torch.ones(1, 8).double(), torch.zeros(8).double()
    parts = [torch.full((40, 1), value, dtype=torch.float64) for value in (above, 1.0)]
    with use("torch"):
        kept = together(2, lambda group: select_batch_topk(parts[group.rank], W, b, 100, group=group).value)
    assert [len(part) for part in kept] == [100, 0] and bool((kept[0] == above).all())


def test_the_smallest_wanted_number_is_there_when_candidates_are_gathered_again():
    """One member fills what it keeps at first with larger ones, and so may have dropped some; it dropped none."""
    parts = [torch.tensor([[2.0]] * 75 + [[0.5]] * 245).double(), torch.ones(40, 1).double()]
    W, b = torch.ones(1, 1).double(), torch.zeros(1).double()
    with use("torch"):
        kept = together(2, lambda group: select_batch_topk(parts[group.rank], W, b, 100, group=group).value)
    assert kept[0].tolist() == [2.0] * 75 and kept[1].tolist() == [1.0] * 25
