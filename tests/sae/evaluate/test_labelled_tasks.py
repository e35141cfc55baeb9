"""Splits keep documents whole, problems are balanced, and what cannot be split is told in one line."""

import numpy as np
import pytest
from tests.sae.evaluate.labelled_cases import crossed, task

from matryo.sae.evaluate.intervals import Estimate, mean_over
from matryo.sae.evaluate.tasks import Task, crossed_problems, limited, problems_of, split_by_document


@pytest.mark.parametrize("seed", range(4))
def test_no_document_is_on_both_sides_and_every_class_gives_about_a_quarter(seed):
    one = task((60, 48, 72), per_document=4)
    split = split_by_document(one.name, one.labels, one.classes, one.groups, seed)
    assert sorted([*split.train, *split.test]) == list(range(180))
    groups = np.array(one.groups)
    assert not set(groups[split.train]) & set(groups[split.test])
    for label, count in enumerate((60, 48, 72)):
        assert (one.labels[split.test] == label).sum() == pytest.approx(count / 4, abs=4)


def test_seeds_draw_different_splits_and_the_same_seed_the_same():
    one = task()
    splits = [
        split_by_document(one.name, one.labels, one.classes, one.groups, seed).test.tolist() for seed in (0, 0, 1)
    ]
    assert splits[0] == splits[1] != splits[2]


def test_problems_are_balanced_with_an_equal_mix_of_the_others():
    one = task((80, 120, 160))
    found = problems_of(one, 0, train=60, test=24)
    assert list(found) == ["red", "green", "blue"]
    for label, problem in enumerate(found.values()):
        assert len(problem.train) == 60 and len(problem.test) == 24
        for rows, positive in ((problem.train, problem.is_train), (problem.test, problem.is_test)):
            assert len(set(rows.tolist())) == len(rows)
            assert positive.sum() * 2 == len(rows)
            assert (one.labels[rows[positive]] == label).all()
            others = np.bincount(one.labels[rows[~positive]], minlength=3)
            assert others[label] == 0
            assert np.ptp(np.delete(others, label)) <= 1


def test_two_classes_give_one_problem():
    assert list(problems_of(task((60, 60)), 0, 4000, 1000)) == ["green"]


def test_problems_of_a_pair_have_all_quadrants_alike_and_the_biased_one_has_two():
    one = crossed()
    first, second, both = crossed_problems(one, 3, 4000, 40)
    quadrants = one.quadrants
    for problem, attribute in ((first, 0), (second, 1)):
        assert np.bincount(quadrants[problem.test]).tolist() == [10] * 4
        assert len(set(np.bincount(quadrants[problem.train]).tolist())) == 1
        assert (problem.is_train == (one.labels[problem.train, attribute] == 1)).all()
        assert (problem.is_test == (one.labels[problem.test, attribute] == 1)).all()
    assert set(quadrants[both.train]) == {0, 3}
    assert (both.is_train == (quadrants[both.train] == 3)).all()
    assert not {one.groups[i] for i in both.train} & {one.groups[i] for i in both.test}


REFUSED = {
    "one class only": (lambda: problems_of(task((60,)), 0, 100, 100), "one class only \\(red\\); expected at least 2"),
    "a small class": (
        lambda: problems_of(task((60, 25)), 0, 100, 100),
        "class 'green' has 20 training and 5 test texts of 5 documents; expected at least 10 of each",
    ),
    "one document": (
        lambda: problems_of(task((60, 60), per_document=60), 0, 100, 100),
        "class 'red' has 0 training and 60 test|class 'red' has 60 training and 0 test",
    ),
    "a quadrant missing": (
        lambda: crossed_problems(limited_to_three(), 0, 100, 100),
        "no text is high & wet; expected texts of all four",
    ),
    "labels beyond the classes": (
        lambda: Task("x", ("a", "b"), np.array([0, 2]), ("one", "two"), ("g", "h")),
        "labels run to 2; expected below 2",
    ),
    "lengths": (lambda: Task("x", ("a",), np.array([0, 1]), ("one", "two"), ("g",)), "1 texts, 2 labels, 1 documents"),
}


def limited_to_three():
    one = crossed()
    keep = one.quadrants != 3
    texts = tuple(np.array(one.texts)[keep])
    return type(one)(one.name, texts, one.labels[keep], one.classes, tuple(np.array(one.groups)[keep]))


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_probed_is_refused_in_one_line(case):
    attempt, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as caught:
        attempt()
    assert "\n" not in str(caught.value)


def test_limits_keep_the_first_of_each_class():
    few = limited(task((60, 50, 70)), 7)
    assert np.bincount(few.labels).tolist() == [7, 7, 7]
    assert few.texts[0] == "colours class 0 text 0" and few.groups[8] == "1/0"
    assert np.bincount(limited(crossed(), 5).quadrants).tolist() == [5] * 4
    whole = task()
    assert limited(whole, 0) is whole
    assert few.digest() != whole.digest() == task().digest()


def test_intervals_are_those_of_students_t():
    from scipy import stats

    for count in (2, 3, 5, 9, 24, 40):
        values = np.random.default_rng(count).normal(size=count)
        low, high = stats.t.interval(0.95, count - 1, values.mean(), stats.sem(values))
        one = Estimate(tuple(values))
        assert one.mean == pytest.approx(values.mean())
        assert one.interval == pytest.approx((low, high), abs=0.005 * (high - low))
    assert Estimate((0.4,)).interval is None
    assert mean_over([Estimate((1.0, 2.0)), Estimate((3.0, 6.0))]).values == (2.0, 4.0)
