"""The exchange of perspectives, and how several others become one value."""

import numpy as np
import pytest

from matryo.empathy.envs import make_rules, make_world
from matryo.empathy.swap import aggregate, exchange, share


@pytest.mark.parametrize("world", ["coexistence", "sharing"])
@pytest.mark.parametrize("rules", ["published", "corrected"])
def test_exchanging_views_is_exchanging_seats_and_twice_is_nothing(world, rules):
    made = make_world(world, make_rules(rules, others=3))
    rng = np.random.default_rng(0)
    state = made.start(rng.random((40, made.start_draws)))
    state.cells[:] = np.stack([rng.permutation(49)[:4] for _ in range(40)])  # nobody shares a cell
    views = made.views(state)
    for other in range(3):
        assert np.array_equal(exchange(exchange(views, other), other), views)
        order = [0, 1, 2, 3]
        order[0], order[other + 1] = other + 1, 0
        seats = made.begin(state.cells[:, order], state.coins, **state.own)
        assert np.array_equal(made.views(seats), exchange(views, other))
    with pytest.raises(ValueError, match="other is 3; expected 0 to 2"):
        exchange(views, 3)


VALUES = np.array([[5.0, 1.0, 3.0]])
DISTANCE = np.array([[2.0, 1.0, 1.0]])


@pytest.mark.parametrize(
    ("how", "counted", "expected"),
    [
        ("closest", [1, 1, 1], 1.0),
        ("closest", [1, 0, 1], 3.0),
        ("closest", [1, 0, 0], 5.0),
        ("closest", [0, 0, 0], 0.0),
        ("mean", [1, 1, 1], 3.0),
        ("mean", [1, 0, 1], 8 / 3),
        ("minimum", [1, 1, 1], 1.0),
        ("minimum", [1, 0, 1], 0.0),
    ],
)
def test_several_others(how, counted, expected):
    shares = share(np.array([counted], dtype=bool), DISTANCE, how)
    assert aggregate(VALUES, shares, how)[0] == pytest.approx(expected)


def test_the_closest_is_told_by_the_rules_distance():
    cells = np.array([[0, 6, 16]])  # (0, 0), (0, 6), (2, 2)
    torus, raw = (make_world("coexistence", make_rules(p, others=2)) for p in ("corrected", "published"))
    assert torus.distances(torus.begin(cells))[0].tolist() == pytest.approx([1, 8**0.5])
    assert raw.distances(raw.begin(cells))[0].tolist() == pytest.approx([6, 8**0.5])
