"""Pages over tables of stitching, family and meta-SAE runs: what the commands really wrote, and planted ones."""

import json

import numpy as np
import pytest
import torch
from pyarrow import parquet
from starlette.testclient import TestClient
from tests.sae.dashboard.planted import (
    DEAD,
    DIGITS,
    FIT_LARGE,
    FIT_SMALL,
    NESTED,
    NINE,
    SEVEN,
    SITE,
    SMALL,
    TWIN,
    basis,
)

from matryo.sae.compare.meta import decoder_directions, decompose
from matryo.sae.dashboard.index.opened import open_index
from matryo.sae.dashboard.server.app import make_app
from matryo.sae.dashboard.server.live import Live
from matryo.sae.dashboard.server.site import Site
from matryo.sae.dashboard.views.query import Query
from matryo.sae.dashboard.views.steer import steer_view
from matryo.sae.dashboard.views.units import columns_beside, stitch_runs
from matryo.sae.lm import splice
from matryo.sae.nn import SAE
from matryo.spine.run import RunFolder


@pytest.fixture(scope="module")
def client(index, meta_run):
    return TestClient(make_app(Site(index, meta_run.parent)), base_url="http://127.0.0.1")


@pytest.fixture(scope="module")
def real(stitched):
    """Pages, runs and index of what the commands made."""
    index = open_index(stitched)
    return TestClient(make_app(Site(index, stitched.parent)), base_url="http://127.0.0.1"), stitched.parent, index


def run_of(runs, part):
    return next(path for path in runs.iterdir() if part in path.name and not path.is_symlink())


def rows(path):
    return parquet.read_table(path).to_pylist()


def test_a_latents_parts_and_a_parts_latents(client):
    base = f"/sae/{NESTED}/meta"
    view = client.get(f"{base}.json?latent={SEVEN}").json()
    assert [p["meta"] for p in view["latent"]["parts"]] == [SEVEN, DIGITS]
    assert [p["activation"] for p in view["latent"]["parts"]] == pytest.approx([0.8, 0.6], abs=1e-5)
    assert [p["contribution"] for p in view["latent"]["parts"]] == pytest.approx([0.64, 0.36], abs=1e-5)
    assert view["latent"]["residual_share"] == pytest.approx(0, abs=1e-5)
    assert {tuple(link) for link in view["graph"]["links"]} == {
        *((DIGITS, other) for other in (DIGITS, NINE, TWIN)),
        (SEVEN, TWIN),
    }
    back = client.get(f"{base}.json?meta={DIGITS}").json()["meta"]
    assert [r["latent"] for r in back["rows"]] == [DIGITS, SEVEN, NINE, TWIN]
    near = {n["sae"]: n for n in back["nearest"]}
    assert (near[SMALL]["latent"], near[NESTED]["latent"]) == (DIGITS, DIGITS)
    assert near[SMALL]["cosine"] == pytest.approx(1, abs=1e-5)
    assert client.get(f"{base}.json").json()["list"]["metas"][0]["meta"] == DIGITS
    for path in (base, f"{base}?latent={SEVEN}", f"{base}?meta=1"):
        page = client.get(path)
        assert page.status_code == 200
        assert "Meta-latents" in page.text
    assert f"meta {DIGITS}" in client.get(f"/sae/{NESTED}/latents/{SEVEN}/meta", headers={"x-part": "1"}).text
    assert f"/latents/{SEVEN}/meta" in client.get(f"/sae/{NESTED}/latents/{SEVEN}").text
    assert client.get(f"{base}?meta=12").status_code == 400
    assert client.get(f"/sae/{SMALL}/meta.json").json()["runs"] == []


@pytest.fixture(scope="module")
def live(index):
    return Live(index)


EDITS = {
    "out": ({"without": "7"}, lambda m: -0.8 * m[SEVEN]),
    "put": ({"with": "9:0.5"}, lambda m: 0.5 * m[NINE]),
    "mean": ({"with": "9"}, lambda m: 0.8 * m[NINE]),
    "mean of four": ({"with": "2"}, lambda m: (1 + 0.6 + 0.6 + 0.99 * 0.6) / 4 * m[DIGITS]),
    "both": (
        {"without": "2,7", "with": "0:1.5 9:0.25"},
        lambda m: 1.5 * m[0] + 0.25 * m[NINE] - 0.6 * m[2] - 0.8 * m[7],
    ),
}


@pytest.mark.parametrize("at", ["all", "last"])
@pytest.mark.parametrize("case", EDITS)
def test_meta_latents_are_taken_out_and_put_in(index, meta_run, live, case, at):
    """What the model does with edits of the row of SEVEN, which is 0.6 m₂ + 0.8 m₇, against plain arithmetic."""
    asked, change = EDITS[case]
    text, said = "In 1977", " men of"
    query = {"text": text, "latent": str(SEVEN), "edit": "meta", "at": at, "said": said, **asked}
    view = steer_view(index.saes[NESTED], live, Query(query), meta_run.parent)
    lm, weights = live.lm(), live.sae(NESTED)
    norm = float(weights.W_dec[SEVEN].detach().norm())
    prompt, more = lm.encode([text])[0], lm.encode([said])[0]
    tokens = torch.tensor([[lm.bos_id, *prompt]])

    def edited(x):
        z = weights.encode(x)[..., SEVEN : SEVEN + 1].detach().clone()
        z[:, 0] = 0
        if at == "last":
            z[:, :-1] = 0
        return x + z * norm * change(basis())

    with torch.no_grad():
        clean = lm.logits(tokens)[0, -1].log_softmax(-1)
        with splice(lm, {SITE: edited}):
            after = lm.logits(tokens)[0, -1].log_softmax(-1)
            spoken, read = 0.0, [lm.bos_id, *prompt]
            for token in more:
                spoken += float(lm.logits(torch.tensor([read]))[0, -1].log_softmax(-1)[token])
                read.append(token)
    kl = float((clean.exp() * (clean - after)).sum())
    assert view["result"]["kl"] == pytest.approx(kl, rel=1e-3, abs=1e-7)
    assert kl > 1e-6
    for row in view["result"]["next"]:
        assert row["edited"] == pytest.approx(float(after[row["token_id"]].exp()), rel=1e-3)
    assert view["result"]["said"]["edited"] == pytest.approx(spoken, rel=1e-4)
    before, row = weights.W_dec[SEVEN].detach(), weights.W_dec[SEVEN].detach() + norm * change(basis())
    told = view["result"]["rows"][0]
    if row.norm() > 1e-6:
        assert told["cosine"] == pytest.approx(float(torch.cosine_similarity(before, row, dim=0)), abs=1e-5)
    assert told["norm"] == pytest.approx(float(row.norm() / before.norm()), abs=1e-5)
    logits = row @ lm.unembed()
    best = (logits - logits.mean()).topk(3)
    assert [t["piece"] for t in told["raises"][1][:3]] == [index.corpus.piece(int(i)) for i in best.indices]
    assert [t["value"] for t in told["raises"][1][:3]] == pytest.approx(best.values.tolist(), abs=1e-4)


def test_what_cannot_be_edited_is_named(index, meta_run, live):
    sae, ask = index.saes[NESTED], {"text": "In 1977", "latent": str(SEVEN), "edit": "meta"}
    nothing = steer_view(sae, live, Query(ask), meta_run.parent)
    assert nothing["result"] is None
    assert [p["meta"] for p in nothing["meta"]["latents"][0]["parts"]] == [SEVEN, DIGITS]
    for more, message in (
        ({"without": "12"}, "expected numbers of meta-latents, 0 to 11"),
        ({"without": "x"}, "without is 'x'"),
        ({"without": "9"}, "which is no meta-latent of latent 7; expected some of 2, 7"),
        ({"with": "9:nan"}, "expected a number from -100 to 100"),
        ({"with": "9:"}, None),
        ({"with": " ".join(map(str, range(17)))}, "at most 16"),
        ({"of": "../meta"}, "unknown meta-SAE run"),
        ({"with": "9", "said": "word " * 60}, "expected at most 24"),
    ):
        if message is None:
            assert steer_view(sae, live, Query(ask | more), meta_run.parent)["result"]["kl"] > 0
            continue
        with pytest.raises(ValueError, match=message):
            steer_view(sae, live, Query(ask | more), meta_run.parent)
    with pytest.raises(ValueError, match="make one with matryo sae meta"):
        steer_view(sae, live, Query(ask | {"without": "7"}), None)


def test_a_real_meta_sae_is_shown_as_its_tables_have_it(real):
    client, runs, _ = real
    run = run_of(runs, "-meta-")
    outputs = json.loads((run / "run.json").read_text())["outputs"]["meta"]
    base = f"/sae/{FIT_LARGE}/meta"
    assert client.get(f"{base}.json").json()["runs"] == [run.name]
    edges, latents = (rows(run / outputs[FIT_LARGE][key]) for key in ("edges", "latents"))
    weights = SAE.load(run_of(runs, "-fitted-") / "saes" / FIT_LARGE)
    parts = decompose(SAE.load(run / outputs[FIT_LARGE]["meta_sae"]), decoder_directions(weights))
    for latent in range(12):
        told = client.get(f"{base}.json?latent={latent}").json()["latent"]
        mine = sorted((e for e in edges if e["latent"] == latent), key=lambda e: -abs(e["contribution"]))
        assert [p["meta"] for p in told["parts"]] == [e["meta_latent"] for e in mine]
        assert [p["activation"] for p in told["parts"]] == pytest.approx([e["activation"] for e in mine])
        assert {p["meta"]: p["contribution"] for p in told["parts"]} == pytest.approx(
            {p.meta: p.contribution for p in parts.of_latent(latent)}, abs=1e-5
        )
        # A row of norm 0, as that of a latent that never fires is after least squares, has nothing to explain.
        share = latents[latent]["explained"]
        assert (told["explained"] is None) == np.isnan(share) == (latent == DEAD)
        assert told["explained"] is None or told["explained"] == pytest.approx(share)
        assert client.get(f"{base}?latent={latent}").status_code == 200
    listed = client.get(f"{base}.json").json()["list"]
    known = sorted(row["explained"] for row in latents if not np.isnan(row["explained"]))
    for name, values in (("most", known[::-1]), ("least", known)):
        assert [row["explained"] for row in listed[name]] == pytest.approx([*values, None])
    sizes = [sum(e["meta_latent"] == one["meta"] for e in edges) for one in listed["metas"]]
    assert [one["n"] for one in listed["metas"]] == sizes == sorted(sizes, reverse=True)
    for meta in range(3):
        told = client.get(f"{base}.json?meta={meta}").json()["meta"]
        mine = sorted((e for e in edges if e["meta_latent"] == meta), key=lambda e: -e["activation"])
        assert [r["latent"] for r in told["rows"]] == [e["latent"] for e in mine]
        near = next(n for n in told["nearest"] if n["sae"] == FIT_LARGE)
        vectors = torch.nn.functional.normalize(SAE.load(run / outputs[FIT_LARGE]["meta_sae"]).W_dec.detach(), dim=1)
        cosines = decoder_directions(weights) @ vectors[meta]
        assert (near["latent"], near["cosine"]) == (
            int(cosines.argmax()),
            pytest.approx(float(cosines.max()), abs=1e-5),
        )


@pytest.mark.parametrize("kind", ["-stitch-", "-family-"])
def test_real_stitching_is_shown_as_its_tables_have_it(real, kind):
    client, runs, _ = real
    run = run_of(runs, kind)
    latents, edges, steps = (rows(run / f"{name}.parquet") for name in ("latents", "edges", "steps"))
    view = client.get(f"/stitch.json?run={run.name}&threshold=0.5").json()
    mine = [row for row in latents if row["side"] == "large"]
    told = view["pair"]
    assert told["status"] == {s: sum(r["status"] == s for r in mine) for s in {r["status"] for r in mine}}
    assert sum(told["status"].values()) == 12
    tested = [row for row in mine if row["delta_mse"] is not None and np.isfinite(row["delta_mse"])]
    firing = [row for row in tested if row["status"] != "silent"]
    assert told["of"] == len(firing) == 12 - told["status"]["silent"] == 11
    assert told["agree"] == sum((row["max_cosine"] < 0.5) == (row["delta_mse"] < 0) for row in firing)
    assert told["linear"] == pytest.approx(np.median([abs(row["delta_mse"]) for row in firing]))
    novel = sorted((row for row in tested if row["delta_mse"] < 0), key=lambda row: row["delta_mse"])
    assert [r["latent"] for r in told["novel"]] == [row["latent"] for row in novel]
    assert {6, 8, NINE} <= {row["latent"] for row in novel}
    assert all(r["known"] and r["sae"] == FIT_LARGE for r in told["novel"])
    small = FIT_SMALL if kind == "-stitch-" else FIT_LARGE  # a prefix has the latents of the whole
    assert {r["nearest"]["sae"] for r in told["known"]} == {small}
    page = client.get(f"/stitch?run={run.name}")
    assert page.status_code == 200
    assert page.text.count('<circle class="dot') == len(tested)
    for edge in edges:
        near = client.get(f"/stitch.json?run={run.name}&latent={edge['large_latent']}").json()["near"]
        found = {(e["large"]["latent"], e["small"]["latent"]): (e["cosine"], e["step"]) for e in near["edges"]}
        cosine, step = found[edge["large_latent"], edge["small_latent"]]
        assert cosine == pytest.approx(edge["cosine"])
        assert step == edge["swap_step"]
    back = client.get(f"/stitch?run={run.name}&latent={edges[0]['small_latent']}&side=small")
    assert f"Around latent {edges[0]['small_latent']} of the smaller" in back.text
    for order in ("published", "greedy"):
        path = [row for row in steps if row["order"] == order]
        for step in (0, len(path) // 2, len(path) - 1):
            shown = client.get(f"/stitch.json?run={run.name}&order={order}&step={step}").json()["path"]
            assert shown["steps"] == len(path) - 1
            for name in ("phase", "n_latents", "mse", "fvu", "l0", "ce_spliced", "ce_recovered"):
                assert shown["here"][name] == (
                    path[step][name] if not isinstance(path[step][name], float) else pytest.approx(path[step][name])
                )
        assert [shown["curves"]["fvu"][1][i] for i in (0, -1)] == pytest.approx([path[0]["fvu"], path[-1]["fvu"]])
    assert any(row["ce_spliced"] is not None for row in steps) == (kind == "-stitch-")


def test_a_latents_page_says_what_stitching_found(real):
    client, runs, _ = real
    view = client.get(f"/sae/{FIT_LARGE}/latents/{NINE}/stitched.json").json()
    told = {(row["run"].split("-")[2], row["side"]): row for row in view["rows"]}
    table = [
        r for r in rows(run_of(runs, "-stitch-") / "latents.parquet") if r["latent"] == NINE and r["side"] == "large"
    ]
    assert told["stitch", "large"]["status"] == table[0]["status"] == "novel"
    assert told["stitch", "large"]["delta_mse"] == pytest.approx(table[0]["delta_mse"])
    assert told["stitch", "large"]["other"] == FIT_SMALL
    assert told["family", "large"]["other"] == f"{FIT_LARGE}@4"
    small = client.get(f"/sae/{FIT_SMALL}/latents/{DIGITS}/stitched.json").json()["rows"]
    assert [(row["side"], row["status"]) for row in small] == [("small", "")]
    assert "/stitched" in client.get(f"/sae/{FIT_LARGE}/latents/{NINE}").text
    # A prefix has the latents of the whole, in both places.
    prefix = client.get(f"/sae/{FIT_LARGE}/latents/{DIGITS}/stitched.json").json()["rows"]
    assert {(row["run"].split("-")[2], row["side"]) for row in prefix} == {
        ("stitch", "large"),
        ("family", "large"),
        ("family", "small"),
    }


def test_the_table_has_columns_of_the_runs_beside_it(real):
    client, runs, _ = real
    latents = rows(run_of(runs, "-stitch-") / "latents.parquet")
    delta = {r["latent"]: r["delta_mse"] for r in latents if r["side"] == "large" and r["large"] == FIT_LARGE}
    view = client.get(f"/sae/{FIT_LARGE}/latents.json?where=delta_mse<0&sort=delta_mse").json()
    assert view["beside"] == ["explained", "delta_mse"]
    expected = sorted((i for i, d in delta.items() if d is not None and d < 0), key=lambda i: delta[i])
    assert [row["latent"] for row in view["rows"]] == expected
    assert [row["delta_mse"] for row in view["rows"]] == pytest.approx([delta[i] for i in expected])
    meta = rows(run_of(runs, "-meta-") / "tables" / FIT_LARGE / "latents.parquet")
    shown = client.get(f"/sae/{FIT_LARGE}/latents.json?sort=-explained").json()["rows"]
    assert shown[0]["explained"] == pytest.approx(max(row["explained"] for row in meta[:DEAD]))
    export = client.get(f"/sae/{FIT_LARGE}/latents/export.csv?sort=latent").text.splitlines()
    assert {"explained", "delta_mse", f"match {FIT_SMALL}"} <= set(export[0].split(","))
    assert client.get(f"/sae/{FIT_SMALL}/latents?where=delta_mse<0").status_code == 400
    assert client.get(f"/sae/{FIT_LARGE}/latents").text.count("ΔMSE") == 1


def test_tables_of_other_saes_of_the_same_name_are_not_taken_for_these(real, index, trained, tmp_path):
    """An SAE is known by the run it is of, and a meta-SAE by the weights it was trained on, not by a name."""
    _, runs, own = real
    run = next(iter(stitch_runs(runs, own).values()))
    assert run.known(own, FIT_LARGE) is own.saes[FIT_LARGE]
    assert run.known(own, f"{FIT_LARGE}@4") is own.saes[FIT_LARGE]
    assert run.known(own, f"{own.saes[FIT_LARGE].told['run']}-{FIT_LARGE}") is own.saes[FIT_LARGE]
    assert run.known(own, "other") is None
    assert run.known(index, FIT_LARGE) is None
    assert stitch_runs(runs, index) == {}
    assert columns_beside(index.saes[NESTED], runs) == {}


def test_a_deleted_table_and_a_strange_run_are_named(index, trained, tmp_path):
    folder = tmp_path / "runs"
    with RunFolder.create(folder, "stitch", "sae stitch", {}) as run:
        run.finish({key: f"{key}.parquet" for key in ("latents", "pairs", "edges", "steps")})
    told = json.loads((run.path / "run.json").read_text())
    told["parents"] = [{"path": f"../{trained.name}", "run_sha256": ""}]
    (run.path / "run.json").write_text(json.dumps(told))
    client = TestClient(make_app(Site(index, folder)), base_url="http://127.0.0.1")
    answer = client.get("/stitch")
    assert answer.status_code == 400
    assert "is gone: was its run deleted?" in answer.text
    (run.path / "run.json").write_text("{")
    assert "No stitching run beside the index" in client.get("/stitch").text


def test_two_latents_side_by_side(client, index):
    view = client.get(f"/pair.json?a={NESTED}&i={DIGITS}&b={NESTED}&j={SEVEN}").json()
    sae = index.saes[NESTED]
    digits, seven = (set(sae.firings(latent)[0].tolist()) for latent in (DIGITS, SEVEN))
    assert seven < digits
    assert (view["together"], view["p_first"]) == (len(seven), 1.0)
    assert view["p_second"] == pytest.approx(len(seven) / len(digits))
    assert view["jaccard"] == pytest.approx(len(seven) / len(digits))
    assert view["cosine"] == pytest.approx(0.6, abs=1e-5)
    assert {case: one["count"] for case, one in view["cases"].items()} == {
        "both": len(seven),
        "first": len(digits - seven),
        "second": 0,
    }
    for case, wanted in (("both", True), ("first", False)):
        for example in view["cases"][case]["examples"]:
            assert example["a"]["token"] in digits
            assert (example["a"]["token"] in seven) == wanted
            assert (example["b"]["activation"] > 0) == wanted
            assert example["a"]["pieces"] == example["b"]["pieces"]
    other = client.get(f"/pair.json?a={SMALL}&i={DIGITS}&b={NESTED}&j={DIGITS}").json()
    assert (other["cosine"], other["jaccard"]) == (pytest.approx(1, abs=1e-5), 1.0)
    products = [e["a"]["activation"] * e["b"]["activation"] for e in other["cases"]["both"]["examples"]]
    assert products == sorted(products, reverse=True) and products[0] == pytest.approx(1.7**2, rel=1e-3)
    silent = client.get(f"/pair.json?a={NESTED}&i={DEAD}&b={NESTED}&j={DEAD}").json()
    assert (silent["jaccard"], silent["p_first"]) == (None, None)
    assert client.get(f"/pair?a={NESTED}&i={DEAD}&b={NESTED}&j=3").status_code == 200
    assert client.get(f"/pair?a={NESTED}&i=12").status_code == 404
