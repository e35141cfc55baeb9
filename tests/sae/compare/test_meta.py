"""Meta-SAEs against planted truths and brute force."""

import math
from dataclasses import replace
from itertools import combinations

import pytest
import torch

from matryo.sae.compare import meta as M
from matryo.sae.compare.meta import neighbours
from matryo.sae.compare.meta.baselines import meta_directions
from matryo.sae.compare.meta.decompose import Decomposition
from matryo.sae.compare.meta.fit import RowBatches, fresh_meta
from matryo.sae.compare.meta.neighbours import joined_pairs
from matryo.sae.compare.meta.splits import find_splits
from matryo.sae.metrics import fvu
from matryo.sae.nn import KINDS, SAEConfig, build

N, D, META, K = 403, 37, 12, 2
CONFIG = M.MetaConfig(n_meta=META, k=K, steps=400, lr=5e-3, batch=64)
SPARE = 6
"""Meta-latents beyond those planted, so that no start leaves two of them to one meta-latent."""


def unit(rows):
    return rows / rows.norm(dim=1, keepdim=True)


def planted(n=N, seed=0):
    """Unit rows that are sums of two of twelve orthogonal directions, with those and which rows have which."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.linalg.qr(torch.randn(D, META, generator=torch.Generator().manual_seed(7))).Q.t()
    chosen = torch.rand(n, META, generator=generator).topk(K).indices
    weights = torch.zeros(n, META).scatter(1, chosen, 0.5 + torch.rand(n, K, generator=generator))
    return unit(weights @ vectors), vectors, weights > 0


@pytest.fixture(scope="module")
def world():
    rows, vectors, has = planted()
    return rows, vectors, has, M.fit_meta(rows, replace(CONFIG, n_meta=META + SPARE))


def test_planted_meta_latents_are_found(world):
    rows, vectors, has, meta = world
    cosine, index = M.nearest(vectors, meta_directions(meta))
    assert float(cosine.min()) > 0.85
    assert len(set(index.tolist())) == META
    parts = M.decompose(meta, rows)
    assert parts.variance_explained > 0.95
    assert float(parts.counts.double().mean()) == pytest.approx(K, abs=0.02)
    found = torch.zeros(N, META + SPARE, dtype=torch.bool)
    found[parts.latent, parts.meta] = True
    assert float((found[:, index] == has).double().mean()) > 0.95


def test_a_decomposition_equals_brute_force(world):
    rows, _, _, meta = world
    parts = M.decompose(meta, rows)
    z = meta.encode(rows).detach().double()
    x_hat = z @ meta.W_dec.detach().double() + meta.b_dec.detach().double()
    residual, w = rows.double() - x_hat, rows.double()
    assert parts.variance_explained == pytest.approx(1 - fvu(rows, x_hat.float()), abs=1e-6)
    for latent in range(0, N, 31):
        own = parts.of_latent(latent)
        assert {p.meta for p in own} == set(z[latent].nonzero().view(-1).tolist())
        assert [p.contribution for p in own] == sorted((p.contribution for p in own), reverse=True)
        for p in own:
            vector = meta.W_dec[p.meta].detach().double()
            assert p.activation == pytest.approx(float(z[latent, p.meta]), rel=1e-5)
            assert p.contribution == pytest.approx(float(z[latent, p.meta] * (vector @ w[latent])), abs=1e-5)
            assert p.cosine == pytest.approx(float(vector @ w[latent] / vector.norm()), abs=1e-5)
        assert float(parts.error[latent]) == pytest.approx(float(residual[latent].square().sum()), abs=1e-6)
        spread = float((w[latent] - w.mean(0)).square().sum())
        explained = 1 - float(residual[latent].square().sum()) / spread
        assert float(parts.explained[latent]) == pytest.approx(explained, abs=1e-5)
        shares = float(parts.bias[latent] + parts.residual[latent]) + sum(p.contribution for p in own)
        assert shares == pytest.approx(1, abs=1e-5)
    for m in range(META + SPARE):
        theirs = parts.of_meta(m)
        assert {p.latent for p in theirs} == set(z[:, m].nonzero().view(-1).tolist())
        assert [p.activation for p in theirs] == sorted((p.activation for p in theirs), reverse=True)
        assert len(theirs) == int(parts.sizes[m])
    with pytest.raises(ValueError, match=f"latent is {N}; expected 0 to {N - 1}"):
        parts.of_latent(N)


def test_a_contribution_against_the_row_is_negative():
    meta = build(SAEConfig(kind="relu", d_in=3, n_latents=2)).eval()
    with torch.no_grad():
        meta.W_enc.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]))
        meta.W_dec.copy_(torch.tensor([[-0.6, 0.8, 0.0], [0.0, 0.0, 1.0]]))
    parts = M.decompose(meta, torch.eye(3))
    (part,) = parts.of_latent(0)
    assert (part.meta, part.activation) == (0, 1.0)
    assert part.contribution == pytest.approx(-0.6)
    assert float(parts.residual[0]) == pytest.approx(1.6)
    assert parts.of_latent(1) == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_serves(kind):
    rows = planted(97)[0]
    config = replace(CONFIG, kind=kind, steps=40, l1=0.1, levels="nested")
    meta = M.fit_meta(rows, config)
    parts = M.decompose(meta, rows)
    assert not meta.training
    assert meta.config.kind == kind
    assert 0 < parts.variance_explained < 1
    if kind in ("topk", "batch_topk"):
        assert float(parts.counts.double().mean()) == pytest.approx(K, abs=0.05)


def test_directions_have_unit_norm_and_rows_without_one_are_left_out(world):
    rows, _, _, meta = world
    sae = build(SAEConfig(kind="relu", d_in=D, n_latents=N))
    scales = torch.linspace(0.25, 32, N)[:, None]
    with torch.no_grad():
        sae.W_dec.copy_(rows * scales)
        sae.W_dec[17] = 0
    directions = M.decoder_directions(sae)
    keep = torch.arange(N) != 17
    assert torch.allclose(directions[keep], rows[keep], atol=1e-6)
    parts, without = M.decompose(meta, directions), M.decompose(meta, rows[keep])
    assert parts.of_latent(17) == []
    assert math.isnan(float(parts.explained[17]))
    assert parts.variance_explained == pytest.approx(without.variance_explained, abs=1e-5)
    assert torch.equal(parts.counts[keep], without.counts)
    again = M.fit_meta(directions, replace(CONFIG, steps=3))
    assert torch.isfinite(again.W_dec).all()
    with torch.no_grad():
        sae.W_dec[5, 3] = math.nan
    with pytest.raises(ValueError, match="decoder row 5 is NaN"):
        M.decoder_directions(sae)
    with torch.no_grad():
        sae.W_dec.zero_()
    with pytest.raises(ValueError, match="all decoder rows are 0"):
        M.decoder_directions(sae)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_meta": 403}, "403 meta-latents for 403 decoder rows; expected fewer"),
        ({"n_meta": 2000}, "2000 meta-latents for 403 decoder rows"),
        ({"n_meta": 2, "k": 3}, "k is 3 for 2 meta-latents"),
    ],
)
def test_sizes_that_can_copy_rows_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        M.fit_meta(planted()[0], replace(CONFIG, **changes))


def test_a_meta_sae_does_not_start_where_the_sae_of_its_seed_did():
    for seed in (0, 3):
        start = build(SAEConfig(kind="relu", d_in=D, n_latents=50, seed=seed)).W_dec.detach()
        meta = fresh_meta(replace(CONFIG, meta_seed=seed), unit(start))
        assert float((meta.W_dec.detach() * start[:META]).sum(1).abs().max()) < 0.8
        assert torch.allclose(meta.W_enc, meta.W_dec.t())
    other = fresh_meta(replace(CONFIG, meta_seed=1), unit(start))
    assert not torch.allclose(meta.W_dec, other.W_dec)


def test_sizes_are_the_papers_and_saebenchs():
    assert M.MetaConfig().size(49_152) == 2304
    assert M.MetaConfig().rows_per_step(49_152) == 16_384
    assert M.MetaConfig(fraction=0.25).size(4609) == 1153
    for bad in ({"fraction": 1.0}, {"steps": 0}, {"n_meta": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(bad))} is"):
            M.MetaConfig(**bad)


def test_batches_cover_the_rows_in_passes_and_differ_from_pass_to_pass():
    rows = torch.arange(10.0)[:, None].expand(10, 3)
    batches = RowBatches(rows, 4, seed=3)
    one, two = list(batches), list(batches)
    assert [len(x) for x in one] == [4, 4, 2]
    assert sorted(torch.cat(one)[:, 0].tolist()) == sorted(torch.cat(two)[:, 0].tolist()) == list(range(10))
    assert not torch.equal(torch.cat(one), torch.cat(two))
    assert torch.equal(torch.cat(one), torch.cat(list(RowBatches(rows, 4, seed=3))))
    drawn = torch.cat(list(RowBatches(rows, 50, True)))[:, 0]
    assert len(drawn) == 50
    assert len(drawn.unique()) > 5


# --- beside smaller SAEs


def test_nearest_equals_brute_force_in_chunks(monkeypatch):
    rows, other = planted(41)[0], planted(29, 1)[0]
    expected = (rows @ other.t()).max(1)
    monkeypatch.setattr(neighbours, "CHUNK_VALUES", 100)
    cosine, index = M.nearest(rows, other)
    assert torch.allclose(cosine, expected.values, atol=1e-6)
    assert torch.equal(index, expected.indices)
    with pytest.raises(ValueError, match="width 36; expected 37"):
        M.nearest(rows, other[:, 1:])


def brute_edges(has):
    """Pairs of latents that share a column of a boolean matrix."""
    joined = [set(row.nonzero().view(-1).tolist()) for row in has]
    return {(i, j) for i, j in combinations(range(len(has)), 2) if joined[i] & joined[j]}


@pytest.mark.parametrize("chunk", [2**25, 300])
def test_edge_overlap_equals_brute_force(world, monkeypatch, chunk):
    monkeypatch.setattr(neighbours, "CHUNK_VALUES", chunk)
    rows, _, _, meta = world
    rows, smaller = rows[:83], planted(19, 5)[0]
    parts = M.decompose(meta, rows)
    has = torch.zeros(len(rows), META + SPARE, dtype=torch.bool)
    has[parts.latent, parts.meta] = True
    edges, cosine = brute_edges(has), rows @ smaller.t()
    found = M.measure_overlap(parts, rows, smaller)
    others = brute_edges(cosine > found.threshold)
    assert found.edges == len(edges)
    assert found.edges_smaller == len(others)
    assert found.shared == len(edges & others)
    assert found.overlap == pytest.approx(len(edges & others) / len(edges))
    assert found.chance == pytest.approx(len(others) / (83 * 82 / 2))
    # No other threshold brings the edge counts nearer.
    gaps = [abs(len(brute_edges(cosine > t)) - len(edges)) for t in torch.unique(cosine)[::29].tolist()]
    assert abs(len(others) - len(edges)) <= min(gaps)


def test_no_threshold_brings_the_numbers_of_edges_nearer():
    """Neighbours come with several edges at once, so that the nearest number is now above and now below."""
    sides = set()
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        rows, smaller = (unit(torch.randn(n, 5, generator=generator)) for n in (9, 4))
        has = torch.rand(9, 6, generator=generator) < 0.3
        latent, meta = has.nonzero().unbind(1)
        edges, cosine = brute_edges(has), rows @ smaller.t()
        of_entry, of_row = torch.ones(len(latent)), torch.zeros(9)
        parts = Decomposition(latent, meta, of_entry, of_entry, of_entry, of_row, of_row, of_row, of_row, 6)
        found = M.measure_overlap(parts, rows, smaller)
        others = brute_edges(cosine > found.threshold)
        counts = [len(brute_edges(cosine > t)) for t in [-2.0, *cosine.flatten().tolist()]]
        assert (found.edges, found.edges_smaller) == (len(edges), len(others))
        assert abs(len(others) - len(edges)) == min(abs(count - len(edges)) for count in counts)
        sides.add((len(others) > len(edges)) - (len(others) < len(edges)))
    assert sides == {-1, 0, 1}


def test_a_graph_compared_with_itself_overlaps_wholly():
    # Ten groups of unit rows near ten orthogonal directions; the smaller SAE has just these directions.
    group = torch.arange(60) % 10
    rows = unit(torch.eye(10)[group] + 0.01 * torch.randn(60, 10, generator=torch.Generator().manual_seed(0)))
    meta = build(SAEConfig(kind="relu", d_in=10, n_latents=10)).eval()
    with torch.no_grad():
        meta.W_enc.copy_(torch.eye(10))
        meta.W_dec.copy_(torch.eye(10))
        meta.b_enc.fill_(-0.5)
    found = M.measure_overlap(M.decompose(meta, rows), rows, torch.eye(10))
    assert (found.edges, found.edges_smaller, found.overlap) == (10 * 15, 10 * 15, 1.0)
    assert 0.1 < found.threshold < 0.99


def test_graphs_without_edges_or_with_too_many_are_refused(world, monkeypatch):
    rows, _, _, meta = world
    alone = M.decompose(meta, rows[:1])
    with pytest.raises(ValueError, match="no two of 1 latents share"):
        M.measure_overlap(alone, rows[:1], rows[5:9])
    monkeypatch.setattr(neighbours, "MOST_PAIRS", 10)
    with pytest.raises(ValueError, match="expected at most 10"):
        joined_pairs(torch.arange(6), torch.zeros(6, dtype=torch.long), 6)


def test_a_refitted_encoder_keeps_its_dictionary_and_reaches_the_meta_sae(world):
    rows, vectors, _, meta = world
    again = M.refit_encoder(3 * vectors, rows, CONFIG)
    assert torch.allclose(again.W_dec, vectors, atol=1e-6)
    assert M.decompose(again, rows).variance_explained > 0.97
    config = replace(CONFIG, n_meta=META + SPARE)
    found = M.measure_baselines(meta, rows, config, {"a": planted(31, 2)[0], "b": vectors})
    assert 0 < found["random"] < 0.6
    assert 0.8 < found["smaller"] <= 1
    with pytest.raises(ValueError, match="has 5 rows; expected 12"):
        M.refit_encoder(vectors[:5], rows, CONFIG)


def test_a_study_has_every_score(world):
    rows, vectors, _, _ = world
    config = replace(CONFIG, steps=60)
    study = M.study_meta(rows, config, {"small": planted(53, 4)[0]}, baselines=False)
    scores = study.scores
    assert scores.variance_explained == M.decompose(study.meta, rows).variance_explained
    assert scores.smaller["small"].n_latents == 53
    directions = meta_directions(study.meta)
    assert scores.own_matched == pytest.approx(float(((directions @ rows.t()).max(1).values > 0.7).double().mean()))
    cosine = (directions @ planted(53, 4)[0].t()).max(1).values
    assert scores.smaller["small"].matched == pytest.approx(float((cosine > 0.7).double().mean()))
    assert scores.smaller["small"].mean_cosine == pytest.approx(float(cosine.mean()), abs=1e-6)
    assert scores.at_most_one == float((study.decomposition.counts <= 1).double().mean())
    has = study.meta.encode(rows) > 0
    assert scores.dead == pytest.approx(float((~has.any(0)).double().mean()))
    assert scores.l0 == pytest.approx(float(has.sum(1).double().mean()))
    assert (scores.n_latents, scores.n_meta) == tuple(has.shape)
    chance = unit(torch.randn(3000, rows.shape[1], generator=torch.Generator().manual_seed(99)))
    assert scores.random_cosine == pytest.approx(float((chance @ rows.t()).max(1).values.mean()), abs=0.03)
    for wrong in (rows, vectors[:, 1:]):
        with pytest.raises(ValueError, match="compare with smaller SAEs of the same site"):
            M.study_meta(rows, config, {"wrong": wrong}, baselines=False)


# --- families and pairs


def test_splits_are_those_planted():
    """Latent 0 splits into three, each with one meta-latent more; latent 1 has one child, which is no split."""
    basis = torch.eye(9)
    parents = basis[:2]
    children = unit(torch.stack([basis[0] + 0.6 * basis[4 + i] for i in range(3)] + [basis[1]]))
    meta = build(SAEConfig(kind="relu", d_in=9, n_latents=9)).eval()
    with torch.no_grad():
        meta.W_enc.copy_(basis)
        meta.W_dec.copy_(basis)
        meta.b_enc.fill_(-0.1)
    small, large = (("s", parents), ("l", children))
    (split,) = find_splits((*small, M.decompose(meta, parents)), (*large, M.decompose(meta, children)))
    assert (split.latent, split.children, split.meta) == (0, (0, 1, 2), 1)
    assert (split.child_meta, split.kept, split.added) == (2.0, 1.0, 1.0)


def test_a_family_has_one_meta_sae():
    family = {"big": planted(211)[0], "small": planted(60, 2)[0], "mid": planted(101, 3)[0]}
    study = M.study_family(family, replace(CONFIG, n_meta=META, steps=150))
    assert list(study.decompositions) == ["small", "mid", "big"]
    total = sum(float(d.error.sum()) for d in study.decompositions.values())
    everything = torch.cat([family[name] for name in study.decompositions]).double()
    spread = float((everything - everything.mean(0)).square().sum())
    assert study.variance_explained == pytest.approx(1 - total / spread, abs=1e-6)
    assert {(s.smaller, s.larger) for s in study.splits} <= {("small", "mid"), ("mid", "big")}
    expected = ((family["mid"] @ family["big"].t() > 0.7).sum(1) > 1).nonzero().view(-1).tolist()
    assert [s.latent for s in study.splits if s.larger == "big"] == expected
    with pytest.raises(ValueError, match="1 SAEs of widths"):
        M.study_family({"one": family["big"]}, CONFIG)


def test_pairs_and_families_are_found_by_what_differs():
    configs = {}
    for n in (64, 128):
        for seed in (0, 1):
            for levels in ("none", "nested"):
                config = SAEConfig(d_in=9, n_latents=n, k=5, levels=levels, seed=seed)
                configs[config.name] = config
    configs["odd"] = SAEConfig(d_in=9, n_latents=64, k=6, levels="nested")
    pairs = M.pair_up(configs)
    assert set(pairs) == {"batch_topk-64-k5-nested", "batch_topk-128-k5-nested"}
    assert pairs["batch_topk-64-k5-nested"] == [
        ("batch_topk-64-k5-s0", "batch_topk-64-k5-nested-s0"),
        ("batch_topk-64-k5-s1", "batch_topk-64-k5-nested-s1"),
    ]
    families = M.find_families(configs)
    assert len(families) == 4
    assert families["batch_topk-128-k5-s1"] == ["batch_topk-64-k5-s1", "batch_topk-128-k5-s1"]
    assert M.family_of("odd", configs) == ["odd"]


def test_a_gap_is_the_mean_of_differences():
    gap = M.measure_gap([(0.5, 0.4), (0.6, 0.3), (0.2, 0.3)])
    assert (gap.pairs, gap.positive) == (3, 2)
    assert gap.gap == pytest.approx(0.1)
    assert gap.sd == pytest.approx(0.2)
    assert gap.standard_error == pytest.approx(0.2 / math.sqrt(3))
    assert gap.mean_plain - gap.mean_nested == pytest.approx(gap.gap)
    assert M.measure_gap([(0.5, 0.4)]).sd is None
    with pytest.raises(ValueError, match="0 pairs"):
        M.measure_gap([])
