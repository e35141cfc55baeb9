"""The largest of numbers that lie on several processes, found by counting: no process sees another's numbers.

A float's bits, read as a whole number, order as the float does. Its digits are settled from the first to the last: all
processes count how many of their candidates have each value of the next digit, the counts are summed, and the digit of
the wanted number follows. That is exact after 3 sums of 2,048 counts in float32.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from matryo.sae.kernels.entries import Entries
from matryo.sae.kernels.mesh import Group

DIGIT = 11
"""Bits settled at once when one number is looked for: 3 rounds of 16 KiB in float32."""

ROW_DIGIT = 4
"""Bits settled at once when every row has its own: 8 rounds of 16 counts a row in float32."""

_WORDS = {4: torch.int32, 8: torch.int64}


def _keys(value: Tensor) -> Int[Tensor, "_"]:
    """Signed whole numbers that order as the values do."""
    value = value if value.dtype in (torch.float32, torch.float64) else value.float()
    word = value.contiguous().view(_WORDS[value.element_size()])
    return torch.where(word < 0, word ^ torch.iinfo(word.dtype).max, word).long()


def _value_of(key: Int[Tensor, "_"], like: Tensor) -> Tensor:
    """The inverse of `_keys`."""
    dtype = like.dtype if like.dtype in (torch.float32, torch.float64) else torch.float32
    key = key.to(_WORDS[dtype.itemsize])
    return torch.where(key < 0, key ^ torch.iinfo(key.dtype).max, key).view(dtype)


class Found:
    """The key of the wanted number of every segment, and how many candidates equal to it are wanted, over a group."""

    def __init__(
        self, key: Tensor, segment: Tensor | None, n_segments: int, wanted: int, bits: int, digit: int, group: Group
    ) -> None:
        self.key, self.segment, self.group = key, segment, group
        base = 0 if segment is None else segment << digit
        self.limit = key.new_zeros(n_segments)
        self.ties = key.new_full((n_segments,), wanted)
        places = -(-bits // digit)
        for place in range(places - 1, -1, -1):
            above = key >> (place * digit)
            here = above & ((1 << digit) - 1)
            if place == places - 1:
                here = above + (1 << (digit - 1))  # the sign is in the first digit
                counted = base + here
            else:
                same = (above >> digit) == (self.limit[0] if segment is None else self.limit[segment])
                counted = (base + here)[same]
            counts = torch.bincount(counted, minlength=n_segments << digit)
            counts = group.sum_(counts).view(n_segments, 1 << digit)
            from_top = counts.flip(1).cumsum(1)
            if place == places - 1:
                self.total = from_top[:, -1].clone()
            # The first digit, from the top, at which enough have been seen; the last one where there are too few.
            passed = (from_top < self.ties[:, None]).sum(1).clamp_max((1 << digit) - 1)
            found = (1 << digit) - 1 - passed
            self.equal = counts.gather(1, found[:, None]).view(-1)
            self.ties = self.ties - (from_top.gather(1, passed[:, None]).view(-1) - self.equal)
            sign = 1 << (digit - 1) if place == places - 1 else 0
            self.limit = (self.limit << digit) + found - sign

    def limit_and_total(self, like: Tensor, place: int) -> tuple[float, int]:
        """Of one segment the wanted number, −inf where there are fewer, and how many candidates there are."""
        total = int(self.total)
        return (float(_value_of(self.limit, like)) if total >= place else float("-inf")), total

    def kept(self) -> Tensor:
        """Which of this process's candidates are among the wanted ones; equal ones by rank, then in their order."""
        limit = self.limit[0] if self.segment is None else self.limit[self.segment]
        keep = self.key >= limit
        if bool((self.equal > self.ties).any()):
            equal = (self.key == limit).nonzero().view(-1)
            segment = torch.zeros_like(equal) if self.segment is None else self.segment[equal]
            mine = torch.bincount(segment, minlength=len(self.limit))
            before = torch.stack(self.group.gather(mine))[: self.group.rank].sum(0)
            # Candidates come segment by segment, so the place of one among its segment's equals is a difference.
            place = torch.arange(len(equal), device=equal.device) - (mine.cumsum(0) - mine)[segment]
            keep[equal] = place < (self.ties - before)[segment]
        return keep


def _bits(value: Tensor) -> int:
    return 64 if value.dtype == torch.float64 else 32


def largest(value: Float[Tensor, "_"], place: int, group: Group) -> tuple[float, int]:
    """The `place`-th largest number of a group's, and how many numbers the group has; −inf where it has fewer."""
    return place_of(value, place, group).limit_and_total(value, place)


def place_of(value: Float[Tensor, "_"], place: int, group: Group) -> Found:
    """The `place`-th largest number of a group's."""
    return Found(_keys(value), None, 1, place, _bits(value), DIGIT, group)


def keep_largest(entries: Entries, count: int, group: Group, found: Found | None = None) -> Entries:
    """Of all entries of a group the `count` largest: this process's part of them."""
    found = found or place_of(entries.value, count, group)
    return entries if int(found.total) <= count else _only(entries, found.kept())


def keep_row_largest(entries: Entries, k: int, group: Group) -> Entries:
    """Of the entries of every row, over a group whose processes hold other latents of it, the k largest."""
    found = Found(_keys(entries.value), entries.row, entries.n_rows, k, _bits(entries.value), ROW_DIGIT, group)
    few = found.total <= k
    return entries if bool(few.all()) else _only(entries, found.kept() | few[entries.row])


def mark_row_largest(value: Float[Tensor, "rows columns"], k: int, group: Group) -> Float[Tensor, "rows columns"]:
    """1 at the k largest of every row, over a group whose processes hold other columns of it; 0 elsewhere."""
    top = torch.topk(value, min(k, value.shape[1]), dim=1, sorted=False)
    rows = len(value)
    segment = torch.arange(rows, device=value.device).repeat_interleave(top.values.shape[1])
    found = Found(_keys(top.values.reshape(-1)), segment, rows, k, _bits(value), ROW_DIGIT, group)
    kept = found.kept() | (found.total <= k)[segment]
    return torch.zeros_like(value).scatter_(1, top.indices, kept.view_as(top.values).to(value))


def _only(entries: Entries, keep: Tensor) -> Entries:
    start = torch.zeros_like(entries.row_start)
    torch.cumsum(torch.bincount(entries.row[keep], minlength=entries.n_rows), 0, out=start[1:])
    return Entries(start, entries.latent[keep], entries.value[keep], entries.n_latents)
