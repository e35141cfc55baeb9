"""Weighted sums over bags of rows in Triton, forward and backward: opt-in, and NOT YET RUN ON HARDWARE.

Tested on a CPU under Triton's interpreter against the PyTorch path, and compiled for NVIDIA and AMD targets; no GPU has
run them, and nothing is known of their speed. `matryo.sae.kernels.use("triton")` turns them on.

    out[g]      = Σ_{e in bag g} weight_e · table[index_e]          start[g] ≤ e < start[g + 1]
    ∂L/∂weight_e = table[index_e] · ∂L/∂out[g]                      g the bag of e
    ∂L/∂table[i] = Σ_{e: index_e = i} weight_e · ∂L/∂out[bag_e]

The first and the third are one kernel, row by row and item by item: a sum has one program, which walks its entries in
order, so that results are the same bit for bit every time; there are no atomics. The second never stores a row of
the table. Sums are accumulated in float32, or float64 where the table or the weights are.

Decoding takes latents as items and a level's share of a row as bags; the gradients of W_dec and W_enc take the other
view, latents as bags and rows as items.
"""

from __future__ import annotations

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

BLOCK_ENTRIES = 16
"""Entries read at a time: a choice for bags of about k = 32 entries, not tuned."""

BLOCK_COLUMNS = 128
"""Columns a program handles at a time: a row's loads of 128 numbers are contiguous. Not tuned."""


# `no_type_check` keeps the tests' run-time checks of annotations out of code that Triton compiles from its source.
@triton.jit
@no_type_check
def _sum_bags(
    table, index, start, weight, out, d, item_stride, column_stride,
    ACC: tl.constexpr, ENTRIES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One program per bag and block of columns: out[bag] = Σ_e weight_e · table[index_e]; 0 for an empty bag."""
    bag = tl.program_id(0).to(tl.int64)
    columns = (tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)).to(tl.int64)
    inside = columns < d
    first, last = tl.load(start + bag), tl.load(start + bag + 1)
    total = tl.zeros([COLUMNS], dtype=ACC)
    for begin in range(first, last, ENTRIES):
        entries = begin + tl.arange(0, ENTRIES)
        here = entries < last
        items = tl.load(index + entries, mask=here, other=0)
        weights = tl.load(weight + entries, mask=here, other=0.0).to(ACC)
        places = items[:, None] * item_stride + columns[None, :] * column_stride
        rows = tl.load(table + places, mask=here[:, None] & inside[None, :], other=0.0).to(ACC)
        total += tl.sum(weights[:, None] * rows, axis=0)
    tl.store(out + bag * d + columns, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
@no_type_check
def _dot_entries(
    table, index, start, of_bag, out, d, item_stride, column_stride, bag_stride, bag_column_stride,
    ACC: tl.constexpr, ENTRIES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One program per bag: out_e = table[index_e] · of_bag[bag] for each of its entries."""
    bag = tl.program_id(0).to(tl.int64)
    first, last = tl.load(start + bag), tl.load(start + bag + 1)
    for begin in range(first, last, ENTRIES):
        entries = begin + tl.arange(0, ENTRIES)
        here = entries < last
        items = tl.load(index + entries, mask=here, other=0)
        total = tl.zeros([ENTRIES], dtype=ACC)
        for left in range(0, d, COLUMNS):
            columns = (left + tl.arange(0, COLUMNS)).to(tl.int64)
            inside = columns < d
            slope = tl.load(of_bag + bag * bag_stride + columns * bag_column_stride, mask=inside, other=0.0).to(ACC)
            places = items[:, None] * item_stride + columns[None, :] * column_stride
            rows = tl.load(table + places, mask=here[:, None] & inside[None, :], other=0.0).to(ACC)
            total += tl.sum(rows * slope[None, :], axis=1)
        tl.store(out + entries, total.to(out.dtype.element_ty), mask=here)


INTERPRETED = not isinstance(_sum_bags, triton.JITFunction)
"""Whether TRITON_INTERPRET was set when Triton was first imported: kernels then run on CPU tensors, slowly."""


def weighted_sums(
    table: Float[Tensor, "items d"],
    index: Int[Tensor, "entries"],
    start: Int[Tensor, "bags_and_one"],
    weight: Float[Tensor, "entries"],
) -> Float[Tensor, "bags d"]:
    """Σ over each bag's entries of weight · table[index], in the dtype of the table; differentiable in both.

    Not yet run on hardware (see the module).

    Raises:
        ValueError: the tensors are not on a GPU, and Triton's interpreter is off.
    """
    return _WeightedSums.apply(table, index, start, weight)  # pyright: ignore[reportReturnType]


class _WeightedSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor, start: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(table, index, start, weight)
        return sum_bags(table, index, start, weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (slope,), (table, index, start, weight) = grads, ctx.saved_tensors
        grad_table = grad_weight = None
        if ctx.needs_input_grad[3]:
            grad_weight = dot_entries(table, index, start, slope).to(weight.dtype)
        if ctx.needs_input_grad[0]:
            order, item_start, bag = _by_item(index, start, len(table))
            grad_table = sum_bags(slope, bag, item_start, weight[order]).to(table.dtype)
        return grad_table, None, None, grad_weight


def sum_bags(
    table: Float[Tensor, "items d"],
    index: Int[Tensor, "entries"],
    start: Int[Tensor, "bags_and_one"],
    weight: Float[Tensor, "entries"],
) -> Float[Tensor, "bags d"]:
    """Σ over each bag's entries of weight · table[index], without gradients."""
    _check_place(table)
    n_bags, d = len(start) - 1, table.shape[1]
    out = table.new_empty(n_bags, d)
    if not out.numel():
        return out
    columns = _columns(d)
    with torch.cuda.device_of(table):
        _sum_bags[(n_bags, triton.cdiv(d, columns))](
            table, index.contiguous(), start.contiguous(), weight.contiguous(), out, d, *table.stride(),
            ACC=_accumulator(table, weight), ENTRIES=BLOCK_ENTRIES, COLUMNS=columns,
        )  # fmt: skip
    return out


def dot_entries(
    table: Float[Tensor, "items d"],
    index: Int[Tensor, "entries"],
    start: Int[Tensor, "bags_and_one"],
    of_bag: Float[Tensor, "bags d"],
) -> Float[Tensor, "entries"]:
    """table[index_e] · of_bag[g] for every entry e of every bag g, without gradients."""
    _check_place(table)
    out = table.new_empty(len(index))
    if not out.numel():
        return out
    with torch.cuda.device_of(table):
        _dot_entries[(len(start) - 1,)](
            table, index.contiguous(), start.contiguous(), of_bag, out, table.shape[1], *table.stride(),
            *of_bag.stride(), ACC=_accumulator(table, of_bag), ENTRIES=BLOCK_ENTRIES, COLUMNS=_columns(table.shape[1]),
        )  # fmt: skip
    return out


def _by_item(
    index: Int[Tensor, "entries"], start: Int[Tensor, "bags_and_one"], n_items: int
) -> tuple[Int[Tensor, "entries"], Int[Tensor, "items_and_one"], Int[Tensor, "entries"]]:
    """The item-major view: the order that sorts entries by item, each item's start, and the bags in that order."""
    order = torch.argsort(index, stable=True)
    item_start = start.new_zeros(n_items + 1)
    torch.cumsum(torch.bincount(index, minlength=n_items), 0, out=item_start[1:])
    bags = torch.arange(len(start) - 1, device=start.device)
    return order, item_start, torch.repeat_interleave(bags, start.diff(), output_size=len(index))[order]


def _columns(d: int) -> int:
    return min(BLOCK_COLUMNS, triton.next_power_of_2(d))


def _accumulator(*tensors: Tensor) -> Any:
    return tl.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else tl.float32


def _check_place(table: Tensor) -> None:
    if not (table.is_cuda or INTERPRETED):
        raise ValueError(
            f"Triton kernels were given tensors on {table.device}; expected cuda: move the SAE there, or go back with "
            'matryo.sae.kernels.use("torch")'
        )
