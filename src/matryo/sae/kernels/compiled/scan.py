"""Reading a tile of the encoder product: which of its entries are candidates, in rows, sorted."""

import numpy as np
from numba import prange

from matryo.sae.kernels.compiled import parallel, serial

BLOCK = 64
"""Entries looked at together: a comparison that vectorises (a byte each, on slices of known length), then the few
blocks with a hit one by one. Ten times as fast as counting hits in a word."""


@serial
def _any_above(line, bias, cut):
    """Whether line + bias exceeds cut anywhere in a block."""
    hit = np.uint8(0)
    for j in range(BLOCK):
        hit = np.uint8(hit | np.uint8((line[j] + bias[j]) > cut[j]))
    return hit


@serial
def _any_above_all(line, bias, cut):
    """Whether line + bias exceeds one number anywhere in a block."""
    hit = np.uint8(0)
    for j in range(BLOCK):
        hit = np.uint8(hit | np.uint8((line[j] + bias[j]) > cut))
    return hit


@parallel
def keep_above(pre, bias, cut, first, value, row, latent, count):
    """Append (pre + bias, row, latent) of every entry of a tile strictly above its column's cut.

    Thread t reads rows B·t/T … B·(t+1)/T and writes to value[t], row[t], latent[t] from count[t] on. A list that is
    full is counted on but not written: a count above its length asks for more room and another call.
    """
    parts, room = value.shape
    batch, width = pre.shape
    for t in prange(parts):
        found = count[t]
        for r in range(batch * t // parts, batch * (t + 1) // parts):
            line = pre[r]
            for block in range(0, width, BLOCK):
                stop = block + BLOCK
                if stop > width or _any_above(line[block:stop], bias[block:stop], cut[block:stop]):
                    for j in range(block, min(stop, width)):
                        v = line[j] + bias[j]
                        if v > cut[j]:
                            if found < room:
                                value[t, found] = v
                                row[t, found] = r
                                latent[t, found] = first + j
                            found += 1
        count[t] = found


@parallel
def count_against(value, count, limit, above, equal):
    """How many of each thread's candidates are above the limit, and how many equal to it."""
    for t in prange(len(count)):
        more = same = 0
        for i in range(count[t]):
            more += value[t, i] > limit
            same += value[t, i] == limit
        above[t], equal[t] = more, same


@parallel
def drop_below(value, row, latent, count, limit, ties):
    """Keep candidates above the limit, and of those equal to it the first ties[t], in their order."""
    for t in prange(len(count)):
        kept, left = 0, ties[t]
        for i in range(count[t]):
            v = value[t, i]
            keep = v > limit
            if v == limit and left > 0:
                keep = True
                left -= 1
            if keep:
                value[t, kept], row[t, kept], latent[t, kept] = v, row[t, i], latent[t, i]
                kept += 1
        count[t] = kept


@parallel
def count_rows(row, count, per_row):
    """Entries in each row; a row's candidates are all in one thread's list."""
    for t in prange(len(count)):
        for i in range(count[t]):
            per_row[row[t, i]] += 1


@parallel
def fill_rows(value, row, latent, count, row_start, out_latent, out_value):
    """Lists to compressed rows. Tiles came by ascending latent, so each row's entries do."""
    parts = len(count)
    batch = len(row_start) - 1
    for t in prange(parts):
        low, high = batch * t // parts, batch * (t + 1) // parts
        place = row_start[low:high].copy()
        for i in range(count[t]):
            r = row[t, i] - low
            out_latent[place[r]], out_value[place[r]] = latent[t, i], value[t, i]
            place[r] += 1


@serial
def _sift_down(key, other, root, size):
    """Restore a min-heap of `key` below `root`, moving `other` along."""
    k, o = key[root], other[root]
    child = 2 * root + 1
    while child < size:
        if child + 1 < size and key[child + 1] < key[child]:
            child += 1
        if key[child] >= k:
            break
        key[root], other[root] = key[child], other[child]
        root = child
        child = 2 * root + 1
    key[root], other[root] = k, o


@serial
def _heapify(key, other, size):
    for root in range(size // 2 - 1, -1, -1):
        _sift_down(key, other, root, size)


@parallel
def keep_row_largest(pre, bias, first, start, value, latent, size, parts):
    """Offer a tile to every row's min-heap of its k largest entries above `start`: value, latent (B, k), size (B,)."""
    batch, width = pre.shape
    k = value.shape[1]
    for t in prange(parts):
        for r in range(batch * t // parts, batch * (t + 1) // parts):
            line, heap, who = pre[r], value[r], latent[r]
            held = size[r]
            least = heap[0] if held == k else start
            for block in range(0, width, BLOCK):
                stop = block + BLOCK
                if stop > width or _any_above_all(line[block:stop], bias[block:stop], least):
                    for j in range(block, min(stop, width)):
                        v = line[j] + bias[j]
                        if v > least:
                            if held < k:
                                heap[held], who[held] = v, first + j
                                held += 1
                                if held == k:
                                    _heapify(heap, who, k)
                                    least = heap[0]
                            else:
                                heap[0], who[0] = v, first + j
                                _sift_down(heap, who, 0, k)
                                least = heap[0]
            size[r] = held


@parallel
def fill_from_heaps(value, latent, size, row_start, out_latent, out_value, parts):
    """Heaps to compressed rows by ascending latent (heap sort: the least latent comes off first)."""
    batch = len(size)
    for t in prange(parts):
        for r in range(batch * t // parts, batch * (t + 1) // parts):
            held, who, heap = size[r], latent[r], value[r]
            _heapify(who, heap, held)
            place = row_start[r]
            while held:
                out_latent[place], out_value[place] = who[0], heap[0]
                place += 1
                held -= 1
                who[0], heap[0] = who[held], heap[held]
                _sift_down(who, heap, 0, held)


@parallel
def copy_columns(pre, bias, column, out, place, parts):
    """out[r, place + i] = pre[r, column[i]] + bias[column[i]]: whole columns of a tile, for another reader."""
    batch = len(pre)
    for t in prange(parts):
        for r in range(batch * t // parts, batch * (t + 1) // parts):
            for i in range(len(column)):
                out[r, place + i] = pre[r, column[i]] + bias[column[i]]
