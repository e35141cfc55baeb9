"""Which rows of a run are measured, when not all are."""

import numpy as np
import pytest

from matryo.sae.evaluate.runs import open_model, spread_rows
from matryo.sae.text import TokenRows

LENGTH = 8


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [(40, [0, 25, 50, 74, 99]), (16, [0, 99]), (1, [0]), (100 * LENGTH, range(100)), (10**6, range(100))],
)
def test_a_few_rows_are_spread_over_the_whole_split(tokens, expected):
    ids = np.arange(100 * LENGTH, dtype=np.int32).reshape(100, LENGTH)
    rows = TokenRows(ids, np.zeros_like(ids), ("all",))
    assert spread_rows(rows, tokens)[:, 0].tolist() == [LENGTH * row for row in expected]


def test_activations_of_no_model_have_none_to_open():
    assert open_model({"lm": None, "rows": "somewhere"}) == (None, None)
    assert open_model({"lm": "tiny", "rows": None}) == (None, None)
