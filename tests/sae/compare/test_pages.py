"""What pages say that tables do not: short names, and how far along its path each step is."""

import numpy as np
import pytest

from matryo.sae.compare.naming import short_names
from matryo.sae.compare.page import _way


@pytest.mark.parametrize(
    "names, short",
    [
        (["batch_topk-768-k32-s0", "batch_topk-1536-k32-s0"], ["768", "1536"]),
        (["batch_topk-768-k32-s0", "batch_topk-1536-k32-s1"], ["768-s0", "1536-s1"]),
        (["topk-9-s0", "topk-9-nested-s0"], ["topk-9-s0", "topk-9-nested-s0"]),  # nothing would be left of the first
        (["here"], ["here"]),
        (["a@4", "a@8"], ["a@4", "a@8"]),
    ],
)
def test_names_lose_what_all_have(names, short):
    assert short_names(names) == short


def test_the_way_counts_latents_that_have_changed_places():
    rows = [("s", "m", "greedy", 0, 0), ("s", "m", "greedy", 1, 0), ("s", "m", "greedy", 2, 1)]
    rows += [("s", "m", "greedy", 0, 0)]  # b_dec
    rows += [("s", "m", "published", 0, 0), ("s", "m", "published", 3, 1)]
    columns = dict(
        zip(("small", "large", "order", "added", "removed"), map(list, zip(*rows, strict=True)), strict=True)
    )
    arrays = {name: np.array(values, dtype=object) for name, values in columns.items()} | {"step": np.arange(len(rows))}
    assert _way(arrays).tolist() == [0, 0.25, 1, 1, 0, 1]
