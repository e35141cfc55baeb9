"""Planted truth is sorted without error; every step of every path equals the stitched SAE measured by hand."""

import numpy as np
import pytest
import torch
from tests.sae.compare.families import N_LARGE, N_SMALL, activations, sae_of
from tests.sae.compare.planted import NEW, OLD, PERTURBED, plant

from matryo.sae.compare import (
    StitchConfig,
    Unit,
    as_jumprelu,
    compare_pairs,
    greedy,
    greedy_units,
    measured_steps,
    merge_novel,
    path_of,
    published_units,
    roc_of,
    trace_path,
)

pytestmark = pytest.mark.usefixtures("no_gradients")


def compared(small, large, x, **config):
    pair = ("small", "large")
    found = compare_pairs({"small": small, "large": large}, [pair], x.split(301), StitchConfig(**config))
    return found[pair]


def units_of(one, b_dec="small"):
    delta, nearest = one.insertion.delta_mse.numpy(), one.there.latent.numpy()
    return published_units(one.novel, delta, one.edges, nearest, len(one.back.latent), b_dec)


@pytest.fixture(scope="module")
def world():
    return plant()


@pytest.fixture(scope="module")
def pair():
    """Two SAEs of different kinds that were never trained: nothing about them is tidy."""
    return as_jumprelu(sae_of("gated", N_SMALL, 1)), as_jumprelu(sae_of("batch_topk", N_LARGE, 2))


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("config", [{}, {"by": "cosine"}, {"threshold": "roc"}], ids=str)
def test_added_split_and_perturbed_latents_are_sorted_without_error(seed, config):
    world = plant(seed)
    one = compared(world.small, world.large, world.x, **config)
    assert torch.equal(torch.from_numpy(one.novel), world.novel)
    assert set(one.status) == {"novel", "reconstruction"}
    assert torch.equal(one.there.latent[~world.novel], world.parent[~world.novel])
    assert one.roc.auc == 1
    score = one.scores()
    assert (score["novel"], score["reconstruction"]) == (NEW, 8 + len(PERTURBED))
    assert score["agreement"] == 1


def test_a_split_latent_changes_places_with_both_its_halves(world):
    units = units_of(compared(world.small, world.large, world.x))
    phases = [unit.phase for unit in units]
    assert phases == ["insert"] * NEW + ["swap"] * OLD + ["b_dec"]
    for unit in units[NEW : NEW + OLD]:
        (old,) = unit.removed
        assert unit.added == tuple(torch.nonzero(world.parent == old).flatten().tolist())
        assert len(unit.added) == (2 if old < 4 else 1)
    deltas = [float(d) for d in compared(world.small, world.large, world.x).insertion.delta_mse]
    first = [deltas[unit.added[0]] for unit in units[:NEW]]
    assert first == sorted(first)


@pytest.mark.parametrize("b_dec", ["small", "large"])
@pytest.mark.parametrize("order", ["published", "greedy"])
@pytest.mark.parametrize("threshold", [0.3, 0.6])
def test_every_step_equals_the_stitched_sae_measured_by_hand(pair, b_dec, order, threshold):
    small, large = pair
    x = activations()
    units = units_of(compared(small, large, x, threshold=threshold, b_dec=b_dec), b_dec)
    if order == "greedy":
        units = greedy_units(units, small, large, x.split(40), b_dec)
    path = path_of(units, N_SMALL, N_LARGE)
    trace = trace_path(path, small, large, x.split(50))
    assert {unit.phase for unit in units} == {"insert", "swap", "rest", "b_dec"}
    variance = (x - x.mean(0)).square().sum()
    for step in range(len(units) + 1):
        sae = path.at(step, small, large)
        error = (x - sae(x)).detach().square()
        assert trace.mse[step] == pytest.approx(float(error.mean()), rel=1e-9)
        assert trace.fvu[step] == pytest.approx(float(error.sum() / variance), rel=1e-9)
        assert trace.l0[step] == pytest.approx(float((sae.encode(x) > 0).sum()) / len(x))
        assert trace.n_latents[step] == sae.config.n_latents


def test_a_path_begins_at_the_smaller_and_ends_exactly_at_the_larger(pair):
    small, large = pair
    x = activations()
    path = path_of(units_of(compared(small, large, x, threshold=0.5)), N_SMALL, N_LARGE)
    first, last = path.at(0, small, large), path.at(len(path.units), small, large)
    assert torch.equal(first(x), small(x))
    for name, value in large.state_dict().items():
        assert torch.equal(last.state_dict()[name], value), name
    assert torch.equal(last(x), large(x))
    trace = trace_path(path, small, large, [x])
    assert trace.mse[-1] == pytest.approx(float((x - large(x)).square().mean()), rel=1e-6)


def test_the_end_is_exact_in_float32_too():
    x = activations().float()
    small, large = (as_jumprelu(sae_of("batch_topk", n, s, torch.float32)) for n, s in ((N_SMALL, 1), (N_LARGE, 2)))
    path = path_of(units_of(compared(small, large, x, threshold=0.5)), N_SMALL, N_LARGE)
    trace = trace_path(path, small, large, x.split(64))
    assert trace.fvu[-1] == pytest.approx(float(((x - large(x)) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()), rel=1e-6)
    assert torch.equal(path.at(len(path.units), small, large)(x), large(x))


@pytest.mark.parametrize("kind", ["batch_topk", "relu", "gated"])
def test_stitching_an_sae_with_itself_changes_nothing(kind):
    x, sae = activations(), as_jumprelu(sae_of(kind, N_LARGE, 3))
    one = compared(sae, sae, x, threshold=0.95)
    assert set(one.status) == {"shared"}
    assert one.there.latent.tolist() == list(range(N_LARGE))
    for units in (units_of(one), greedy_units(units_of(one), sae, sae, [x])):
        path = path_of(units, N_LARGE, N_LARGE)
        assert {unit.phase for unit in units} == {"swap", "b_dec"}
        trace = trace_path(path, sae, sae, x.split(64))
        assert trace.mse == pytest.approx(trace.mse[0], rel=1e-9)
        assert trace.l0 == pytest.approx(trace.l0[0])
        middle = path.at(len(units) // 2, sae, sae)
        assert torch.allclose(middle(x), sae(x), atol=1e-12)


@pytest.mark.parametrize("threshold", [0.3, 0.6])
def test_each_greedy_step_lowers_the_error_most_for_what_it_changes(pair, threshold):
    small, large = pair
    x = activations()
    units = units_of(compared(small, large, x, threshold=threshold))
    order = greedy_units(units, small, large, x.split(40))
    assert sorted(map(repr, order)) == sorted(map(repr, units))
    novel = sum(unit.phase == "insert" for unit in units)
    assert {unit.phase for unit in order[:novel]} == {"insert"} and order[-1].phase == "b_dec"
    assert len({unit.phase for unit in order[novel:-1]}) == 2, "swaps and the rest are one phase"
    for step in range(len(order) - 1):
        here = slice(0, novel) if step < novel else slice(novel, len(order) - 1)
        done, left = order[:step], [unit for unit in order[here] if unit not in order[:step]]
        worth = {}
        for unit in left:
            trial = [*done, unit, *(other for other in units if other not in (*done, unit))]
            mse = trace_path(path_of(trial, N_SMALL, N_LARGE), small, large, [x]).mse
            # What the unit changes: the squared norm of the difference it makes to reconstructions.
            before, after = (path_of(trial, N_SMALL, N_LARGE).at(s, small, large)(x) for s in (step, step + 1))
            changed = float((after - before).square().mean())
            worth[unit] = (mse[step + 1] - mse[step]) / changed if changed else 0.0
        assert worth[order[step]] == pytest.approx(min(worth.values()), rel=1e-6, abs=1e-9)


def test_what_no_edge_holds_enters_as_its_nearest_leaves(pair):
    small, large = pair
    one = compared(small, large, activations(), threshold=0.6)
    units = units_of(one)
    left, seen = {i for unit in units if unit.phase == "swap" for i in unit.removed}, set()
    for unit in (unit for unit in units if unit.phase == "rest"):
        for j in unit.added:
            nearest = int(one.there.latent[j])
            assert unit.removed == (nearest,) if unit.removed else nearest in left
        assert len(unit.removed) == 1 or len(unit.added) == 1
        seen |= set(unit.removed)
    assert seen == set(range(N_SMALL)) - left and seen


def test_the_greedy_order_says_when_it_needs_too_much(pair, monkeypatch):
    monkeypatch.setattr(greedy, "MOST_BYTES", 100)
    with pytest.raises(ValueError, match=r"greedy order of 46 latents could need .* --order published"):
        greedy_units(units_of(compared(*pair, activations(), threshold=0.5)), *pair, [activations()])


def test_the_scores_of_a_pair_are_counted(pair):
    small, x = pair[0], activations()
    large = as_jumprelu(pair[1].prefix(N_LARGE))
    with torch.no_grad():
        large.b_enc[[2, 7]] = -100.0
    one = compared(small, large, x, threshold=0.5)
    score, n = one.scores(), N_LARGE
    z, residual = large.encode(x), x - small(x)
    change = ((residual[:, None] - z[..., None] * large.W_dec).square() - residual.square()[:, None]).mean(2)
    delta, error = change.mean(0), change.std(0, correction=0) / len(x) ** 0.5
    silent = ~(z > 0).any(0)
    assert silent.nonzero().flatten().tolist() == [2, 7]
    sure = int(((delta < 0) & (delta.abs() > 2 * error)).sum())
    novel = int((delta < 0).sum())
    assert 0 < sure < novel < n - 2
    assert int((delta.abs() > error)[delta < 0].sum()) != sure, "two standard errors and not one"
    assert (score["novel"], score["silent"], score["novel_beyond_2_se"]) == (novel, 2, sure)
    assert score["novel_share"] == pytest.approx(novel / n)
    assert score["novel_share_of_active"] == pytest.approx(novel / (n - 2))
    cosine = one.there.cosine
    for name, threshold in (("by_cosine", 0.5), ("by_paper_threshold", 0.7)):
        assert score[f"novel_share_{name}"] == pytest.approx(float((cosine <= threshold).double().mean()))
    for name, threshold in (("agreement", 0.5), ("agreement_at_paper_threshold", 0.7)):
        assert score[name] == pytest.approx(float(((cosine <= threshold) == (delta < 0))[~silent].double().mean()))
    assert score["novel_share_by_cosine"] < score["novel_share_by_paper_threshold"]
    # By cosine one that is at the threshold is novel, as in the scores.
    at = float(cosine.sort().values[n // 2])
    by = compared(small, large, x, threshold=at, by="cosine")
    assert by.novel.tolist() == (cosine <= at).tolist() and by.novel.mean() == by.scores()["novel_share_by_cosine"]


def test_co_activations_are_no_more_than_all_pairs_of_latents(pair, monkeypatch):
    units, x = units_of(compared(*pair, activations(), threshold=0.5)), activations()
    monkeypatch.setattr(greedy, "MOST_BYTES", 12 * (N_SMALL + N_LARGE) ** 2)
    assert len(greedy_units(units, *pair, [x, x, x])) == len(units)
    monkeypatch.setattr(greedy, "MOST_BYTES", 12 * (N_SMALL + N_LARGE) ** 2 - 1)
    with pytest.raises(ValueError, match="co-activations; expected"):
        greedy_units(units, *pair, [x, x, x])


def test_latents_that_never_fire_are_silent_and_still_arrive(world):
    quiet = as_jumprelu(world.large.prefix(world.large.config.n_latents))
    with torch.no_grad():
        quiet.b_enc[[2, 7]] = -100.0
    one = compared(world.small, quiet, world.x)
    assert np.flatnonzero(one.status == "silent").tolist() == [2, 7]
    heard = ~np.isin(np.arange(len(one.status)), [2, 7])
    cosine, lower = one.there.cosine.numpy()[heard], one.insertion.delta_mse.numpy()[heard] < 0
    assert one.roc == roc_of(cosine, lower), "of the silent, ΔMSE says nothing"
    path = path_of(units_of(one), OLD, quiet.config.n_latents)
    assert torch.equal(path.at(len(path.units), world.small, quiet)(world.x), quiet(world.x))


def test_the_order_of_a_path_is_checked(pair):
    with pytest.raises(ValueError, match="add 1 latents, remove 0 and replace b_dec 1 times; expected each of 2 and 1"):
        path_of([Unit("insert", (0,)), Unit("b_dec")], 1, 2)
    path = path_of([Unit("insert", (0,)), Unit("swap", (1,), (0,)), Unit("b_dec")], 1, 2)
    with pytest.raises(ValueError, match="step is 4; expected 0 to 3"):
        path.at(4, *pair)


def test_an_empty_similarity_graph_is_refused(world):
    with pytest.raises(ValueError, match=r"graph of small and large is empty.*0\.981; expected one above 0\.990"):
        compared(world.small, world.large, world.x, threshold=0.99)
    with pytest.raises(ValueError, match="no threshold follows from ΔMSE; expected a number"):
        compared(world.small, world.small, world.x, threshold="roc")


def test_measured_steps_have_the_ends_of_phases():
    units = [Unit("insert", (j,)) for j in range(7)] + [Unit("swap", (7,), (0,)), Unit("b_dec")]
    assert measured_steps(path_of(units, 1, 8), 4) == [0, 7, 8, 9]
    found = measured_steps(path_of(units, 1, 8), 6)
    assert len(found) == 6 and {0, 7, 8, 9} < set(found)
    mixed = [*units[:7], Unit("swap", (7,), (0,)), Unit("rest", (8,)), Unit("swap", (9,), (1,)), Unit("b_dec")]
    assert measured_steps(path_of(mixed, 2, 10), 3) == [0, 7, 11], "swaps mixed with the rest have no end of their own"
    assert measured_steps(path_of([Unit("swap", (0,), (0,)), Unit("b_dec")], 1, 1), 9) == [0, 1, 2]


def test_merging_takes_what_is_novel_at_its_turn(world):
    merged, given = merge_novel({"a": world.small, "b": world.large, "c": world.large}, lambda: world.x.split(301))
    assert given == {"a": OLD, "b": NEW, "c": 0}
    error = (world.x - merged(world.x)).square().mean()
    assert float(error) < 0.05 * float((world.x - world.small(world.x)).square().mean())
