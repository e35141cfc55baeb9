"""Every number on a page against the planted truth, or brute force on the dense matrix."""

import copy
import json
from urllib.parse import parse_qs, parse_qsl, urlsplit

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient
from tests.sae.dashboard.planted import DEAD, DIGITS, LENGTHS, NESTED, NINE, SCRIPT, SEVEN, SITE, SMALL, STOP, THE, TWIN

from matryo.sae.dashboard.pages.render import bar_links
from matryo.sae.dashboard.server.app import make_app
from matryo.sae.dashboard.server.live import Live
from matryo.sae.dashboard.server.site import Site
from matryo.sae.dashboard.views import latent as latent_module
from matryo.sae.dashboard.views import overview
from matryo.sae.dashboard.views import table as table_module
from matryo.sae.dashboard.views.compare import compare_view
from matryo.sae.dashboard.views.examples import TABS, examples
from matryo.sae.dashboard.views.latent import latent_view, neighbours_view, together_view
from matryo.sae.dashboard.views.levels import _descendants, _several_parents, levels_view, suspects
from matryo.sae.dashboard.views.live_latent import effects_view, logits_view, misses_view
from matryo.sae.dashboard.views.measured import measured_view
from matryo.sae.dashboard.views.overview import home_view, overview_view, worth_seeing
from matryo.sae.dashboard.views.prompt import prompt_view
from matryo.sae.dashboard.views.query import Query
from matryo.sae.dashboard.views.search import found_view, phrase_view
from matryo.sae.dashboard.views.steer import steer_view
from matryo.sae.dashboard.views.table import sorted_latents, table_view
from matryo.sae.lm import capture, splice
from matryo.spine.run import RunFolder


@pytest.fixture(scope="module")
def sae(index):
    return index.saes[NESTED]


@pytest.fixture(scope="module")
def live(index):
    made = Live(index)
    made.lm()
    return made


@pytest.fixture(scope="module")
def dense(index, live):
    """(tokens, latents), from the model itself."""
    tokens = torch.from_numpy(np.array(index.corpus.rows.tokens)).long()
    x = capture(live.lm(), tokens, [SITE])[SITE][:, 1:].flatten(0, 1)
    return live.sae(NESTED).encode(x).detach().numpy()


def query(**values):
    return Query({key.rstrip("_"): str(value) for key, value in values.items()})


def test_a_latents_page_says_what_was_planted(sae, index, dense):
    view = latent_view(sae, SEVEN, query())
    assert [t["piece"] for t in view["top_tokens"]] == ["7"]
    assert view["top_tokens"][0]["of_token"] == 1.0
    assert view["stats"]["firings"] == (dense[:, SEVEN] > 0).sum() > 50
    assert view["stats"]["largest"] == pytest.approx(2.5, abs=1e-3)
    family = view["family"]
    assert (family["level"], family["parent"], family["from"], family["to"]) == (1, DIGITS, *LENGTHS)
    best = family["candidates"][0]
    assert (best["latent"], best["containment"]) == (DIGITS, 1.0)
    assert best["cosine"] == pytest.approx(0.6, abs=1e-5)
    seven, digits = dense[:, SEVEN] > 0, dense[:, DIGITS] > 0
    assert best["covered"] == pytest.approx((seven & digits).sum() / digits.sum())
    children = {c["latent"] for c in latent_view(sae, DIGITS, query())["family"]["children"]}
    assert SEVEN in children
    assert NINE not in children
    dead = latent_view(sae, DEAD, query())
    assert dead["top_tokens"] == []
    assert dead["stats"]["firings"] == 0


def test_matches_neurons_and_the_smallest_activation(sae, index, dense, live):
    view = latent_view(sae, DIGITS, query())
    ours, theirs = (live.sae(name).W_dec.detach() for name in (NESTED, SMALL))
    cosines = torch.cosine_similarity(ours[DIGITS], theirs, dim=1)
    assert [(m["sae"], m["latent"]) for m in view["matches"]] == [(SMALL, int(cosines.argmax()))]
    assert view["matches"][0]["cosine"] == pytest.approx(float(cosines.max()), abs=1e-5)
    best = ours[DIGITS].abs().topk(5)
    assert [n["neuron"] for n in view["neurons"]] == best.indices.tolist()
    assert [n["value"] for n in view["neurons"]] == pytest.approx(ours[DIGITS][best.indices].tolist(), abs=1e-6)
    shares = (best.values / ours[DIGITS].abs().sum()).tolist()
    assert [n["share"] for n in view["neurons"]] == pytest.approx(shares, rel=1e-4)
    assert view["smallest"] == pytest.approx(dense[:, DIGITS][dense[:, DIGITS] > 0].min(), abs=1e-4)
    assert latent_view(sae, DEAD, query())["smallest"] is None


def test_the_tokens_of_a_latent_are_counted(sae, index, dense):
    ids, fires = index.corpus.token_ids, dense[:, DIGITS] > 0
    table = latent_view(sae, DIGITS, query())["top_tokens"]
    numbers, counts = np.unique(ids[fires], return_counts=True)
    assert [t["token_id"] for t in table] == numbers[np.lexsort((numbers, -counts))][:12].tolist() and len(table) > 3
    for told in table:
        mine = ids == told["token_id"]
        assert told["count"] == (mine & fires).sum()
        assert told["share"] == pytest.approx((mine & fires).sum() / fires.sum())
        assert told["of_token"] == pytest.approx((mine & fires).sum() / mine.sum())
        assert told["largest"] == pytest.approx(dense[mine, DIGITS].max(), abs=1e-4)
    assert table[0]["share"] != table[0]["of_token"]


def test_ranks_ends_of_histograms_and_the_order_of_children(sae, dense, live):
    fires = (dense > 0).sum(0)
    for latent in (SEVEN, THE, DEAD):
        assert latent_view(sae, latent, query())["rank"] == (fires > fires[latent]).sum()
    logits = live.sae(NESTED).W_dec[SEVEN].detach() @ live.lm().unembed()
    logits -= logits.mean()
    told = latent_view(sae, SEVEN, query())["logits"]
    ends = [float(logits.min()), float(logits.max())]
    assert [told["histogram"]["low"], told["histogram"]["high"]] == pytest.approx(ends, abs=1e-5)
    assert [told["low"][0]["value"], told["top"][0]["value"]] == pytest.approx(ends, abs=1e-5)
    other = copy.copy(sae)
    other.stats = sae.stats.copy()
    other.stats["parent"][[SEVEN, 8, TWIN]], other.stats["firings"][[SEVEN, 8, TWIN]] = DIGITS, (30, 10, 20)
    family = latent_view(other, DIGITS, query())["family"]
    assert ([c["latent"] for c in family["children"]], family["n_children"]) == ([SEVEN, TWIN, 8], 3)


def test_what_was_measured_is_of_this_very_sae(sae, index, tmp_path):
    def evaluated(name, run, fvu):
        columns = {"reconstruction": {"fvu": "unexplained", "l1": "mean"}, "downstream": {}}
        levels = {"headers": ["SAE", "level", "FVU"], "rows": [[NESTED, 4, 0.5], [NESTED, 12, fvu], [SMALL, 6, 0.3]]}
        scores = {NESTED: {"fvu": fvu, "l1": 2.5}, SMALL: {"fvu": 9.0}}
        told = {"format": "matryo-scores-1", "columns": columns}
        told["saes"] = {name: {"run": run} for name in (NESTED, SMALL)}
        told["tasks"] = {
            "reconstruction": [{"scores": scores, "tables": {"levels": levels}}],
            "downstream": [{"scores": {NESTED: {"ce_spliced": 3.25, "failed": None}}}],
        }
        with RunFolder.create(tmp_path, name, "sae evaluate", {}) as folder:
            (folder.path / "scores.json").write_text(json.dumps(told))
            folder.finish({"scores": "scores.json"})

    assert measured_view(sae, tmp_path) is None
    evaluated("a-mine", sae.told["run"], 0.25)
    evaluated("b-other", "another-run", 0.75)
    view = measured_view(sae, tmp_path)
    assert "a-mine" in view["run"]
    assert [(r["task"], r["name"], r["value"]) for r in view["first"]] == [
        ("reconstruction", "fvu", 0.25),
        ("downstream", "ce_spliced", 3.25),
    ]
    assert view["rest"] == [{"task": "reconstruction", "name": "l1", "value": 2.5, "meaning": "mean"}]
    assert view["levels"] == {"headers": ["level", "FVU"], "rows": [[4, 0.5], [12, 0.25]]}
    client = TestClient(make_app(Site(index, tmp_path)), base_url="http://127.0.0.1")
    assert "0.25" in client.get(f"/sae/{NESTED}").text.split("Measured")[1]


def test_latents_put_forward_have_parents_of_which_something_is_seen(sae, index):
    home = {one["name"]: one for one in home_view(index)["saes"]}
    assert list(home) == [NESTED, SMALL]
    for chip in home[NESTED]["start"]:
        assert (chip["parent"] or {"latent": -1})["latent"] == sae.stats["parent"][chip["latent"]]
    stats = sae.stats
    for latent in worth_seeing(sae, 8):
        assert stats["firings"][latent] >= 20
        assert stats["entropy"][latent] <= 4
        assert sum(map(str.isalpha, index.corpus.piece(int(stats["top_token"][latent])))) >= 3


def test_a_parent_that_is_active_on_anything_is_put_forward_last(sae, monkeypatch):
    ids = sae.stats["top_token"][[4, 5, 6, 8]].tolist()
    other = copy.copy(sae)
    other.stats = stats = sae.stats.copy()
    stats["parent"][[5, 6, 8]], stats["entropy"][[5, 6, 8]] = (STOP, THE, THE), (1.0, 2.0, 3.0)
    stats["firings"][[5, 6, 8]], stats["entropy"][STOP] = 64, 7.0
    monkeypatch.setattr(overview, "FREQUENT", 0)
    assert worth_seeing(other, 2) == [6, 8]
    assert worth_seeing(other, 3) == [5, 6, 8]
    # The most frequent ids of the text are passed over as long as enough is left.
    monkeypatch.setattr(overview, "FREQUENT", 1)
    monkeypatch.setattr(other.index.corpus, "counts", np.bincount([ids[2]] * 3, minlength=len(sae.index.corpus.pieces)))
    stats["parent"][4], stats["entropy"][4], stats["firings"][4] = THE, 0.5, 32
    assert worth_seeing(other, 1) == [8]
    assert worth_seeing(other, 2) == [6, 8]


@pytest.mark.parametrize("tab", TABS)
def test_passages_are_where_the_latent_is(sae, index, dense, tab):
    view = examples(sae, DIGITS, query(tab=tab, before=5, after=3))
    firings = int((dense[:, DIGITS] > 0).sum())
    seen = 0
    for group in view["groups"]:
        seen += group["count"]
        for e in group["examples"]:
            row = e["token"] // index.corpus.per_row
            assert e["row"] == row
            stop = e["first"] + len(e["pieces"])
            assert row * index.corpus.per_row <= e["first"] <= e["token"] < stop <= (row + 1) * index.corpus.per_row
            np.testing.assert_allclose(e["values"], dense[e["first"] : stop, DIGITS], atol=1e-4)
            ids = index.corpus.rows.tokens[:, 1:].ravel()[e["first"] : stop]
            assert e["pieces"] == [index.corpus.pieces[i] for i in ids]
            assert (e["activation"] > 0) == (tab != "silent")
    if tab != "silent":
        assert seen == firings


def test_intervals_and_quantiles_hold_what_they_say(sae, dense):
    acts = np.sort(dense[:, DIGITS][dense[:, DIGITS] > 0])[::-1]
    groups = examples(sae, DIGITS, query(tab="intervals"))["groups"]
    top = acts[0]
    for i, group in enumerate(groups):
        low, high = top * (4 - i) / 5, top * (5 - i) / 5
        inside = (acts > low - 1e-6) & (acts <= high + 1e-6)
        assert group["count"] == inside.sum()
        assert all(low - 1e-4 <= e["activation"] <= high + 1e-4 for e in group["examples"])
    sizes = [group["count"] for group in examples(sae, DIGITS, query(tab="quantiles"))["groups"]]
    assert sum(sizes) == len(acts)
    assert max(sizes) - min(sizes) <= 1


def test_fifths_are_named_by_what_they_hold_and_the_weakest_come_first(sae, dense):
    acts = np.sort(dense[:, DIGITS][dense[:, DIGITS] > 0])[::-1]
    for i, group in enumerate(examples(sae, DIGITS, query(tab="quantiles"))["groups"]):
        low, high = map(int, group["title"].removesuffix(" %").split(" – "))
        assert (low, high) == (80 - 20 * i, 100 - 20 * i)
        least, most = np.quantile(acts, [low / 100, high / 100])
        assert all(least - 0.1 - 1e-4 <= e["activation"] <= most + 0.1 + 1e-4 for e in group["examples"])
    strongest = examples(sae, DIGITS, query(tab="quantiles"))["groups"][0]["examples"]
    assert {round(e["activation"], 3) for e in strongest} == {1.7}
    weakest = [e["activation"] for e in examples(sae, DIGITS, query(tab="weakest"))["groups"][0]["examples"]]
    assert weakest == pytest.approx(acts[::-1][:20].tolist(), abs=1e-4)
    drawn = [examples(sae, DIGITS, query(tab="random"))["groups"][0]["examples"] for _ in range(2)]
    assert drawn[0] == drawn[1] and len(drawn[0]) == 20 < len(acts)


def test_a_bars_passages_are_of_its_interval(sae, dense):
    view = examples(sae, DIGITS, query(tab="random", from_=1.35, to=1.45))
    assert view["groups"][0]["count"] == ((dense[:, DIGITS] >= 1.35) & (dense[:, DIGITS] <= 1.45)).sum() > 0
    # Also where an activation stands on the edge of two bars.
    acts = np.array([2.0, 1.5, 1.0, 1.0, 0.52, 0.04], np.float32)
    other = copy.copy(sae)
    other._inverted = np.arange(13) // 12 * 6, np.arange(6, dtype=np.uint32), acts
    counts = np.bincount(np.minimum(acts / 2 * 50, 49).astype(int), minlength=50).tolist()
    for bar, link in enumerate(bar_links("", 50, 2.0)):
        view = examples(other, 11, Query(dict(parse_qsl(urlsplit(link).query))))
        assert view["groups"][0]["count"] == counts[bar], bar
    assert examples(other, 11, query(tab="random", from_=0.5, to=1e300))["groups"][0]["count"] == 5


def test_similar_passages_are_counted(sae, index, dense):
    shown = examples(sae, SCRIPT, query())["groups"][0]["examples"]
    ids = index.corpus.token_ids
    for e in shown:
        first, last = index.corpus.window(e["token"], 5, 1)
        like = [
            t
            for t in np.flatnonzero(dense[:, SCRIPT] > 0)
            if np.array_equal(ids[slice(*index.corpus.window(int(t), 5, 1))], ids[first:last])
        ]
        assert e["similar"] == len(like)
    rows = [e["row"] for e in shown]
    assert len(set(rows)) == len(rows)


def test_neighbours_and_company(sae, index, dense):
    found = {n["sae"]: n for n in neighbours_view(sae, SEVEN)["neighbours"]}
    assert found[NESTED]["rows"][0]["latent"] == TWIN
    assert found[NESTED]["rows"][0]["cosine"] == pytest.approx(0.99, abs=1e-5)
    assert found[SMALL]["rows"][0]["latent"] == DIGITS
    rows = {r["latent"]: r for r in together_view(sae, SEVEN)["by"]["jaccard"]}
    fires = dense > 0
    for latent, row in rows.items():
        both = (fires[:, SEVEN] & fires[:, latent]).sum()
        assert row["together"] == both
        assert row["p_other"] == pytest.approx(both / fires[:, SEVEN].sum())
        assert row["p_this"] == pytest.approx(both / fires[:, latent].sum())
        assert row["jaccard"] == pytest.approx(both / (fires[:, SEVEN] | fires[:, latent]).sum())
        assert row["lift"] == pytest.approx(row["p_other"] / fires[:, latent].mean())
    assert set(rows) == {TWIN, DIGITS}


def test_company_is_ordered_and_scaled_up_from_what_was_looked_through(sae, dense, monkeypatch):
    fires = dense > 0
    both = (fires[:, DIGITS, None] & fires).sum(0).astype(float)
    lift = both / fires[:, DIGITS].sum() / np.maximum(fires.mean(0), 1e-9)
    by = together_view(sae, DIGITS)["by"]
    enough = [i for i in np.argsort(-lift, kind="stable") if both[i] >= 5 and i != DIGITS]
    assert [r["latent"] for r in by["lift"]] == enough and len(enough) > 2
    jaccard = [r["jaccard"] for r in by["jaccard"]]
    assert jaccard == sorted(jaccard, reverse=True) and jaccard[0] > jaccard[-1]
    # Of many firings only some are looked through, evenly from the strongest to the weakest.
    monkeypatch.setattr(latent_module, "TOGETHER_TOKENS", 40)
    tokens = np.asarray(sae.firings(DIGITS)[0])
    some = tokens[np.linspace(0, len(tokens) - 1, 40).astype(int)]
    view = together_view(sae, DIGITS)
    assert (view["looked"], view["firings"]) == (40, len(tokens))
    for row in view["by"]["jaccard"]:
        share = fires[some, row["latent"]].mean()
        assert row["p_other"] == pytest.approx(min(share, fires[:, row["latent"]].sum() / len(tokens)))


def test_search_finds_text_across_tokens_and_who_reads_it(sae, index, dense):
    text = [index.corpus.pieces[i] for i in index.corpus.token_ids]
    places = [t for t in range(1, len(text)) if text[t] == "7" and text[t - 1] == "7"]
    view = phrase_view(sae, "77", True)
    assert view["places"] == len([t for t in places if t % index.corpus.per_row]) > 5
    first = view["rows"][0]
    fires = dense > 0
    at = index.corpus.find("77")
    for row in view["rows"]:
        both = fires[at, row["latent"]].sum()
        assert row["together"] == both
        assert row["precision"] == pytest.approx(both / fires[:, row["latent"]].sum())
        assert row["recall"] == pytest.approx(both / len(at))
    assert first["latent"] in (SEVEN, TWIN)
    assert phrase_view(sae, "SCRIPT", True)["rows"][0]["latent"] == SCRIPT
    assert phrase_view(sae, "SCRIPT", False)["places"] == 0
    assert phrase_view(sae, "nowhere at all", True) == phrase_view(sae, "nowhere at all", True) | {
        "places": 0,
        "rows": [],
    }


def test_places_of_a_phrase_are_ranked_by_f1(sae, index, dense):
    view = phrase_view(sae, "the", True)
    fires, at = dense > 0, index.corpus.find("the")
    expected = {}
    for latent in range(12):
        both = fires[at, latent].sum()
        precision, recall = both / max(1, fires[:, latent].sum()), both / len(at)
        if both >= 3:
            f1 = 2 * precision * recall / (precision + recall)
            expected[latent] = (f1, precision / (len(at) / len(dense)))
    assert [r["latent"] for r in view["rows"]] == sorted(expected, key=lambda i: (-expected[i][0], i))
    for row in view["rows"]:
        assert (row["f1"], row["lift"]) == pytest.approx(expected[row["latent"]])
    for e in view["passages"]:
        assert e["token"] in at and e["values"][e["token"] - e["first"]] == 1 == sum(e["values"])


def test_places_are_ranked_by_f1_and_not_by_recall_alone(sae, dense):
    """Of latents that are all active wherever a seven is, the one that is active elsewhere too comes after."""
    rows = found_view(sae, np.flatnonzero(dense[:, SEVEN] > 0))["rows"]
    assert [r["latent"] for r in rows] == [SEVEN, TWIN, DIGITS]
    assert [r["recall"] for r in rows] == [1, 1, 1]


def test_descendants_are_counted_through_all_levels():
    assert _descendants(np.array([-1, -1, 0, 2, 2, 1, 4], np.int32)).tolist() == [4, 1, 3, 0, 1, 0, 0]


def test_suspects_come_by_what_may_have_been_absorbed(sae, dense):
    fires = dense > 0
    edges = {(int(e["child"]), int(e["parent"])): e for e in sae.edges}
    for containment, cosine in ((0.5, -1), (1.0, -1), (1.0, 0.0)):
        wanted = {}
        for (child, parent), edge in edges.items():
            share = (fires[:, child] & fires[:, parent]).sum() / fires[:, child].sum()
            if share < containment and edge["cosine"] >= cosine:
                wanted[child, parent] = float(edge["cosine"]) * (1 - share) * fires[:, child].sum()
        found = suspects(sae, containment, cosine)
        scores = [wanted[s["child"]["latent"], s["parent"]["latent"]] for s in found]
        assert scores == sorted(wanted.values(), reverse=True)[:20] and len(scores) > 3
    other = copy.copy(sae)
    other.edges = sae.edges.copy()
    other.edges["containment"] = np.linspace(0.9, 0, len(other.edges)) ** 2
    firings = fires.sum(0)[other.edges["child"]]
    score = other.edges["cosine"] * (1 - other.edges["containment"]) * firings
    found = suspects(other, 1.0, -1)
    got = [s["cosine"] * (1 - s["containment"]) * s["firings"] for s in found]
    assert got == pytest.approx(sorted(score.tolist(), reverse=True)[:20], abs=1e-5)
    two = np.zeros(4, sae.edges.dtype)
    two["child"], two["parent"] = (5, 5, 6, 6), (0, 1, 0, 1)
    two["containment"], two["cosine"] = (0.5, 0.9, 0.9, 0.4), (0.3, 0.2, 0.9, 0.9)
    assert _several_parents(two, 0.5, 0.2) == {5}


def test_the_tree_follows_its_thresholds_and_names_the_absorbed(sae):
    view = levels_view(sae, query())
    root = next(t for t in view["trees"] if t["latent"] == DIGITS)
    assert {c["latent"] for c in root["children"]} == {SEVEN, TWIN}
    assert root["descendants"] == 2
    suspect = next(s for s in view["suspects"] if s["child"]["latent"] == NINE)
    assert suspect["parent"]["latent"] == DIGITS
    assert suspect["containment"] == 0
    assert suspect["alone"] == suspect["firings"] == sae.stats["firings"][NINE]
    assert suspect["cosine"] == pytest.approx(0.6, abs=1e-5)
    assert all(e["pieces"][e["token"] - e["first"]] == "9" for e in suspect["examples"])
    strict = levels_view(sae, query(cosine=0.61))
    assert SEVEN not in {c["latent"] for t in strict["trees"] for c in t["children"]}
    assert levels_view(sae, query(root=SEVEN))["up"][0]["latent"] == DIGITS


def test_the_table_filters_and_sorts(sae, index):
    rows = table_view(sae, query(where="level=1 density>0", sort="-density"), {})["rows"]
    density = sae.stats["density"]
    expected = [i for i in np.argsort(-density, kind="stable") if i >= LENGTHS[0] and density[i] > 0]
    assert [r["latent"] for r in rows] == expected
    assert sorted_latents(sae, "token:7", "latent", {}).tolist() == [DIGITS, SEVEN, TWIN]
    assert sorted_latents(sae, "dead=1", "latent", {}).tolist() == [DEAD]
    several = sorted_latents(sae, "", "level,-firings", {})
    assert several.tolist() == np.lexsort((np.arange(12), -sae.stats["firings"], sae.stats["level"])).tolist()
    labels = {3: {"label": "Zebra", "tags": ["done"]}, 1: {"label": "ape", "tags": []}}
    assert sorted_latents(sae, "label:e", "label", labels).tolist() == [1, 3]
    assert sorted_latents(sae, "tag:done", "latent", labels).tolist() == [3]
    shown = rows[0]["density"]
    assert rows[0]["latent"] in sorted_latents(sae, f"density={shown}", "latent", {})
    assert sorted_latents(sae, "", "-parent_cosine", {})[0] == SEVEN
    for bad, message in (
        ("densty>1", "did you mean 'density'"),
        ("density>x", "expected a number"),
        ("nonsense", "expected terms"),
        ('token:"x', "closed quotation"),
        ("thing:x", "unknown text filter"),
    ):
        with pytest.raises(ValueError, match=message):
            sorted_latents(sae, bad, "latent", {})


def test_the_table_comes_in_pages_and_knows_every_sign(sae, monkeypatch):
    monkeypatch.setattr(table_module, "PAGE", 5)
    pages = [table_view(sae, query(sort="-firings", page=page), {}) for page in (1, 2, 3)]
    assert [view["pages"] for view in pages] == [3, 3, 3]
    assert [len(view["rows"]) for view in pages] == [5, 5, 2]
    order = np.lexsort((np.arange(12), -sae.stats["firings"])).tolist()
    assert [row["latent"] for view in pages for row in view["rows"]] == order
    with pytest.raises(ValueError, match="page is 4; expected 1 to 3"):
        table_view(sae, query(page=4), {})
    largest = sae.stats["largest"]
    signs = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal, "=": np.equal}
    for sign, compare in signs.items():
        # A number as a page shows it, of a column of 32 bits.
        shown = float(largest[DIGITS])
        found = sorted_latents(sae, f"largest{sign}{shown:.9g}", "latent", {})
        assert found.tolist() == np.flatnonzero(compare(largest, largest[DIGITS])).tolist()


def test_overviews_count(index, sae, dense):
    view = overview_view(sae)
    assert sum(view["density"]["counts"]) == 12 - view["dead"]["never"] == 11
    assert view["dead"]["duplicates"] == 2
    assert view["levels"][0]["l0"] == pytest.approx((dense[:, :4] > 0).sum() / len(dense))
    assert view["levels"][1]["with_parent"] == 2
    home = home_view(index)
    assert home["corpus"]["tokens"] == len(dense)
    assert [s["name"] for s in home["saes"]] == [NESTED, SMALL]


def test_overviews_have_brute_force_twins(index, sae, dense):
    view, fires = overview_view(sae), dense > 0
    for told, (low, high) in zip(view["levels"], ((0, 4), (4, 12)), strict=True):
        assert told["median_density"] == pytest.approx(np.median(fires.mean(0)[low:high]))
        assert told["dead"] == (fires[:, low:high].sum(0) == 0).sum()
    counts = fires.sum(0)
    entropy = {}
    for latent in np.flatnonzero(counts >= 20):
        p = np.unique(index.corpus.token_ids[fires[:, latent]], return_counts=True)[1] / counts[latent]
        entropy[int(latent)] = round(float(-(p * np.log2(p)).sum()), 4)
    for name, sign in (("specific", 1), ("broad", -1)):
        found = [entropy[chip["latent"]] for chip in view[name]]
        assert found == sorted(entropy.values(), key=lambda e: sign * e)[:12]
    assert len(set(entropy.values())) > 2
    other = copy.copy(sae)
    other.stats = sae.stats.copy()
    other.stats["twin_cosine"][DEAD] = 0.99
    dead = overview_view(other)["dead"]
    assert (dead["never"], dead["never_and_duplicate"], dead["duplicates"], dead["of"]) == (1, 1, 3, 12)
    # Every bar leads to the table of its latents.
    for count, link in zip(view["density"]["counts"], view["density"]["links"], strict=True):
        where = parse_qs(urlsplit(link).query)["where"][0]
        assert len(sorted_latents(sae, where, "latent", {})) == count


def test_the_prompt_lab_computes_what_it_says(sae, live):
    text = "In 1977 the law."
    view = prompt_view(sae, live, query(text=text, other="The sea. The sea.", sort="max"))
    lm, weights = live.lm(), live.sae(NESTED)
    ids = lm.encode([text])[0]
    tokens = torch.tensor([[lm.bos_id, *ids]])
    x = capture(lm, tokens, [SITE])[SITE][0, 1:]
    z = weights.encode(x).detach()
    found = {row["latent"]: row for row in view["result"]["rows"]}
    assert set(found) == set(torch.nonzero(z.sum(0)).flatten().tolist())
    assert {SEVEN, DIGITS, THE, STOP} <= set(found)
    unembed = lm.unembed()
    for latent, row in found.items():
        np.testing.assert_allclose(row["values"], z[:, latent], atol=1e-4)
        added = [
            float(z[t, latent] * (weights.W_dec[latent].detach() @ (unembed[:, ids[t + 1]] - unembed.mean(1))))
            for t in range(len(ids) - 1)
            if z[t, latent] > 0
        ]
        added += [0.0] if z[-1, latent] > 0 else []
        assert row["contribution"] == pytest.approx(max(added), abs=1e-4)
        share = max(sae.stats["density"][latent], 0.5 / sae.index.corpus.n_tokens)
        specificity = float(z[:, latent].max()) / float(sae.stats["largest"][latent]) * -np.log10(share)
        assert row["specificity"] == pytest.approx(specificity, rel=1e-4)
    residual = (x - weights(x).detach()).square().sum() / (x - x.mean(0)).square().sum()
    assert view["result"]["fvu"] == pytest.approx(float(residual), rel=1e-4)
    logits = lm.logits(tokens)[0]
    clean = torch.nn.functional.cross_entropy(logits[1:-1], tokens[0, 2:])
    assert view["result"]["ce_clean"] == pytest.approx(float(clean), rel=1e-5)
    keep = torch.ones_like(tokens, dtype=torch.bool)
    keep[:, 0] = False
    with splice(lm, {SITE: lambda v: weights(v)}, where=keep):
        spliced = torch.nn.functional.cross_entropy(lm.logits(tokens)[0, 1:-1], tokens[0, 2:])
    assert view["result"]["ce_spliced"] == pytest.approx(float(spliced), rel=1e-5)
    assert {r["latent"] for r in view["contrast"]["first"]} == {4, 8, DIGITS, SEVEN, NINE, TWIN}
    assert 5 in {r["latent"] for r in view["contrast"]["second"]}
    assert prompt_view(sae, None, query())["result"] is None
    with pytest.raises(ValueError, match="without --no-model"):
        prompt_view(sae, None, query(text="x"))


def test_the_prompt_lab_sorts_filters_and_contrasts(sae, live):
    text, other = "In 1977 the law.", "The sea. The 9 ships."
    z, there = (live.sae(NESTED).encode(run_to_site(live, one)).detach().numpy() for one in (text, other))
    for sort, key in (("max", "max"), ("specificity", "specificity"), ("logit", "contribution")):
        values = [row[key] for row in prompt_view(sae, live, query(text=text, sort=sort))["result"]["rows"]]
        assert values == sorted(values, reverse=True) and values[0] > values[-1]
    for chosen in (2, 5):
        rows = prompt_view(sae, live, query(text=text, sort="token", chosen=chosen))["result"]["rows"]
        at = z[chosen - 1]
        assert [r["latent"] for r in rows] == [i for i in np.lexsort((np.arange(12), -at.round(3))) if at[i] > 0]
    rare = float(sae.stats["density"][SEVEN])
    kept = {r["latent"] for r in prompt_view(sae, live, query(text=text, density=rare))["result"]["rows"]}
    active = set(np.flatnonzero(z.sum(0)).tolist())
    assert kept == {i for i in active if sae.stats["density"][i] <= rare} < active
    first = prompt_view(sae, live, query(text=text, density=rare, latent=THE))["result"]["rows"][0]
    assert first["latent"] == THE, "the latent asked for is listed first, however dense"
    contrast = prompt_view(sae, live, query(text=text, other=other))["contrast"]
    gap = (z.max(0) - there.max(0)) / np.maximum(sae.stats["largest"], 1e-9)
    for side, sign in (("first", 1), ("second", -1)):
        clear = [r["latent"] for r in contrast[side] if abs(r["gap"]) > 1e-4]
        assert clear == [i for i in np.argsort(-sign * gap.round(4), kind="stable") if sign * gap[i] > 1e-4] != []
        assert all(r["gap"] == pytest.approx(gap[r["latent"]], abs=1e-4) for r in contrast[side])
        assert all(r["first"] == pytest.approx(z[:, r["latent"]].max(), abs=1e-4) for r in contrast[side])


def run_to_site(live, text):
    lm = live.lm()
    tokens = torch.tensor([[lm.bos_id, *lm.encode([text])[0]]])
    return capture(lm, tokens, [SITE])[SITE][0, 1:]


@pytest.mark.parametrize("edit", ["add", "clamp", "ablate", "project"])
@pytest.mark.parametrize("at", ["all", "last"])
def test_edits_are_their_equations(sae, live, edit, at):
    text, latents = "The men in 1977", [DIGITS, SEVEN]
    view = steer_view(sae, live, query(text=text, latent="2,7", edit=edit, strength=1.5, at=at, new=3, sweep=1))
    lm, weights = live.lm(), live.sae(NESTED)
    tokens = torch.tensor([[lm.bos_id, *lm.encode([text])[0]]])

    def change(x):
        out = x.clone()
        z = weights.encode(x)
        span = torch.linalg.qr(weights.W_dec[latents].t())[0]
        for position in [x.shape[1] - 1] if at == "last" else range(1, x.shape[1]):
            v = x[0, position]
            if edit == "project":
                out[0, position] = v - span @ (span.t() @ v)
                continue
            for j in latents:
                target = 1.5 * float(sae.stats["largest"][j])
                by = {"add": target, "clamp": target - z[0, position, j], "ablate": -z[0, position, j]}[edit]
                out[0, position] = out[0, position] + by * weights.W_dec[j]
        return out

    with torch.no_grad():
        clean = lm.logits(tokens)[0, -1].log_softmax(-1)
        with splice(lm, {SITE: change}):
            edited = lm.logits(tokens)[0, -1].log_softmax(-1)
    kl = float((clean.exp() * (clean - edited)).sum())
    assert view["result"]["kl"] == pytest.approx(kl, rel=1e-3, abs=1e-6)
    assert kl > 0
    for row in view["result"]["next"]:
        assert row["clean"] == pytest.approx(float(clean[row["token_id"]].exp()), rel=1e-4)
        assert row["edited"] == pytest.approx(float(edited[row["token_id"]].exp()), rel=1e-3)
    assert len(view["result"]["sweep"]) == (7 if edit in ("add", "clamp") else 0)
    again = steer_view(sae, live, query(text=text, latent="2,7", edit=edit, strength=1.5, at=at, new=3))
    assert again["result"]["continuations"] == view["result"]["continuations"]


def test_a_sweep_is_the_edit_at_every_strength_and_the_next_tokens_come_by_probability(sae, live):
    asked = {"text": "The men in 1977", "latent": SEVEN, "edit": "add"}
    view = steer_view(sae, live, query(**asked, strength=4, sweep=1))["result"]
    for one in view["sweep"]:
        alone = steer_view(sae, live, query(**asked, strength=one["strength"]))["result"]
        assert one["kl"] == pytest.approx(alone["kl"], rel=1e-4, abs=1e-7)
        edited = max(alone["next"], key=lambda row: row["edited"])
        assert one["top"] == edited["piece"]
    larger = [max(row["clean"], row["edited"]) for row in view["next"]]
    assert larger == sorted(larger, reverse=True)
    assert [row["clean"] for row in view["next"]] != sorted((row["clean"] for row in view["next"]), reverse=True)


def test_a_continuation_draws_by_inverting_the_cumulative_probability(sae, live):
    text, seed, temperature, new = "The men in 1977", 3, 1.7, 4
    asked = {"text": text, "latent": SEVEN, "edit": "ablate", "new": new, "seed": seed, "temperature": temperature}
    lm, generator = live.lm(), torch.Generator().manual_seed(seed)
    ids = [lm.bos_id, *lm.encode([text])[0]]
    for _ in range(new):
        p = (lm.logits(torch.tensor([ids]))[0, -1].float() / temperature).softmax(-1)
        order = p.argsort(descending=True)
        u, total, at = float(torch.rand(1, generator=generator)), 0.0, 0
        while (total := total + float(p[order[at]])) < u:
            at += 1
        ids.append(int(order[at]))
    said = steer_view(sae, live, query(**asked))["result"]["continuations"]["clean"]
    assert said == lm.decode(ids[-new:])
    greedy = steer_view(sae, live, query(**asked | {"temperature": 0}))["result"]["continuations"]["clean"]
    assert greedy != said


def test_live_parts_of_a_latents_page(sae, live, dense):
    lm, weights = live.lm(), live.sae(NESTED)
    misses = misses_view(sae, SEVEN, live)
    values = [e["activation"] for e in misses["examples"]]
    assert values == sorted(values, reverse=True)
    assert max(values) <= 0.5 < misses["smallest"]
    assert all(dense[e["token"], SEVEN] == 0 for e in misses["examples"])
    for e in misses["examples"]:
        row, position = sae.index.corpus.place(e["token"])
        x = capture(lm, torch.from_numpy(np.array(sae.index.corpus.rows.tokens[[row]])).long(), [SITE])[SITE]
        pre = (x[0, position] - weights.b_dec).detach() @ weights.W_enc[:, SEVEN].detach() + weights.b_enc[
            SEVEN
        ].detach()
        assert e["activation"] == pytest.approx(float(pre), abs=1e-4)
    effect = effects_view(sae, SEVEN, live)["effects"][0]
    row, position = sae.index.corpus.place(effect["example"]["token"])
    ids = torch.from_numpy(np.array(sae.index.corpus.rows.tokens[row : row + 1, : position + 1])).long()

    def remove(x):
        out = x.clone()
        out[0, -1] -= weights.encode(x)[0, -1, SEVEN] * weights.W_dec[SEVEN]
        return out

    with torch.no_grad():
        clean = lm.logits(ids)[0, -1].log_softmax(-1)
        with splice(lm, {SITE: remove}):
            ablated = lm.logits(ids)[0, -1].log_softmax(-1)
    assert effect["kl"] == pytest.approx(float((clean.exp() * (clean - ablated)).sum()), rel=1e-3)
    assert effect["kl"] > 0
    lost = effect["lost"][0]
    assert lost["before"] - lost["after"] == pytest.approx(float((clean.exp() - ablated.exp()).max()), rel=1e-3)
    gained = effect["gained"][0]
    assert gained["after"] - gained["before"] == pytest.approx(float((ablated.exp() - clean.exp()).max()), rel=1e-3)
    live_top = [t["piece"] for t in logits_view(sae, SEVEN, live)["top"]]
    assert live_top == [t["piece"] for t in latent_view(sae, SEVEN, query())["logits"]["top"]]


def test_comparison_counts_cosines(index):
    view = compare_view(index, query(a=SMALL, b=NESTED, threshold=0.7))
    a, b = index.saes[SMALL].units, index.saes[NESTED].units
    best = (np.asarray(b) @ np.asarray(a).T).max(1)
    assert view["pairs"]["matched"] == (best >= 0.7).sum() == 6
    assert view["pairs"]["mean"] == pytest.approx(best.mean(), abs=1e-6)
    assert {r["latent"] for r in view["pairs"]["most"][:6]} == set(range(6))
    assert all(r["mutual"] for r in view["pairs"]["most"][:6])
    fires = index.saes[NESTED].stats["firings"] > 0
    assert sorted(p[2] for p in view["pairs"]["points"]) == np.flatnonzero(fires).tolist() != list(range(12))
    whole = np.asarray(b) @ np.asarray(a).T
    mutual = whole.argmax(0)[whole.argmax(1)] == np.arange(12)
    assert view["pairs"]["mutual"] == mutual.sum() == 6
    for row in view["pairs"]["least"]:
        assert row["cosine"] == pytest.approx(best[row["latent"]], abs=1e-6)
        assert row["mutual"] == mutual[row["latent"]]
    cosines = [row["cosine"] for row in view["pairs"]["least"]]
    assert cosines == sorted(cosines)
    # A cosine that is the threshold counts on one side, and on one only.
    stored = np.asarray(index.saes[NESTED].match(SMALL)["cosine"])
    at = compare_view(index, query(a=SMALL, b=NESTED, threshold=repr(cosines[3])))["pairs"]
    assert (at["matched"] + at["unmatched"], at["matched"]) == (12, (stored >= cosines[3]).sum())


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("page", "1e3", lambda q: q.whole("page", 1)),
        ("page", "²", lambda q: q.whole("page", 1)),
        ("page", "-1", lambda q: q.whole("page", 1)),
        ("page", "9" * 5_000, lambda q: q.whole("page", 1)),
        ("cosine", "nan", lambda q: q.number("cosine", 0)),
        ("cosine", "inf", lambda q: q.number("cosine", 0)),
        ("tab", "topp", lambda q: q.choice("tab", TABS, "top")),
        ("text", "x" * 10_000, lambda q: q.text("text")),
    ],
)
def test_what_cannot_be_read_is_named(name, value, read):
    with pytest.raises(ValueError, match=name):
        read(Query({name: value}))
