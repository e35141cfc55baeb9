"""Pages over tables of stitching and meta-SAE runs, in the shape those commands write."""

import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from starlette.testclient import TestClient
from tests.sae.dashboard.planted import DIGITS, NESTED, SEVEN, SMALL, TWIN, make_run

from matryo.sae.commands.index import IndexOptions, index_runs
from matryo.sae.dashboard.index.opened import open_index
from matryo.sae.dashboard.server.app import make_app
from matryo.sae.dashboard.server.live import Live
from matryo.sae.dashboard.server.site import Site
from matryo.sae.dashboard.views.query import Query
from matryo.sae.dashboard.views.steer import meta_parts, steer_view
from matryo.sae.dashboard.views.units import meta_runs
from matryo.sae.lm import splice
from matryo.sae.nn import SAE, SAEConfig, build
from matryo.sae.nn.folder import WEIGHTS
from matryo.spine.fetch import file_sha256
from matryo.spine.run import RunFolder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    runs = tmp_path_factory.mktemp("units") / "runs"
    trained = make_run(runs)
    index = open_index(index_runs([trained], IndexOptions(), runs))
    meta_run(runs, trained)
    stitch_run(runs, trained)
    return index, runs


@pytest.fixture(scope="module")
def client(place):
    index, runs = place
    return TestClient(make_app(Site(index, runs)), base_url="http://127.0.0.1")


def write(columns, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns), path)


def meta_run(runs, trained):
    with RunFolder.create(runs, "meta", "sae meta", {}, [trained]) as run:
        told = {"base_weights_sha256": file_sha256(trained / "saes" / NESTED / WEIGHTS)}
        build(SAEConfig(kind="topk", d_in=256, n_latents=2, k=1, seed=3)).save(run.path / "meta" / NESTED, told)
        edges = [(SEVEN, 1, 0.8, 0.5), (DIGITS, 1, 0.9, 0.7), (SEVEN, 0, 0.4, 0.1), (TWIN, 0, 0.7, 0.4)]
        names = ("latent", "meta_latent", "activation", "contribution", "cosine")
        rows = [(*edge, edge[3]) for edge in edges]
        write(
            {n: [row[i] for row in rows] for i, n in enumerate(names)}, run.path / "tables" / NESTED / "edges.parquet"
        )
        count = range(12)
        write(
            {
                "latent": list(count),
                "meta_latents": [sum(e[0] == i for e in edges) for i in count],
                "explained": [0.05 * i for i in count],
                "bias_share": [0.0] * 12,
                "residual_share": [1 - 0.05 * i for i in count],
                "squared_error": [0.1] * 12,
            },
            run.path / "tables" / NESTED / "latents.parquet",
        )
        write(
            {
                "meta_latent": [0, 1],
                "latents": [2, 2],
                f"nearest_cosine {SMALL}": [0.1, 0.9],
                f"nearest_latent {SMALL}": [4, DIGITS],
            },
            run.path / "tables" / NESTED / "meta_latents.parquet",
        )
        keys = {key: f"tables/{NESTED}/{key}.parquet" for key in ("latents", "edges", "meta_latents")}
        run.finish({"meta": {NESTED: {"meta_sae": f"meta/{NESTED}", **keys}}})


def stitch_run(runs, trained):
    with RunFolder.create(runs, "stitch", "sae stitch", {}, [trained]) as run:
        pair = {"small": [SMALL] * 12, "large": [NESTED] * 12}
        status = ["reconstruction"] * 6 + ["novel"] * 5 + ["silent"]
        delta = [0.1 * (i + 1) for i in range(6)] + [-0.1 * (i + 1) for i in range(5)] + [None]
        columns = {"side": ["large"] * 12, "latent": list(range(12)), "nearest": [0] * 12, "density": [0.1] * 12}
        columns |= {"max_cosine": [0.9] * 6 + [0.3] * 6, "status": status, "delta_mse": delta, "delta_mse_se": delta}
        write(pair | columns, run.path / "latents.parquet")
        write({"small": [SMALL], "large": [NESTED], "novel": [5]}, run.path / "pairs.parquet")
        edges = {"small": [SMALL] * 2, "large": [NESTED] * 2, "large_latent": [DIGITS, SEVEN]}
        edges |= {"small_latent": [DIGITS] * 2, "cosine": [1.0, 0.6], "swap_step": [3, None]}
        write(edges, run.path / "edges.parquet")
        steps = {"small": [SMALL] * 3, "large": [NESTED] * 3, "order": ["published"] * 3, "step": [0, 1, 2]}
        steps |= {"phase": ["start", "insert", "swap"], "added": [0, 5, 1], "removed": [0, 0, 1]}
        steps |= {"n_latents": [6, 11, 11], "mse": [3.0, 2.0, 1.0], "fvu": [0.3, 0.2, 0.1], "l0": [2.0, 3.0, 3.0]}
        write(steps | {"ce_spliced": [None, 1.0, None], "ce_recovered": [None] * 3}, run.path / "steps.parquet")
        run.finish({key: f"{key}.parquet" for key in ("latents", "pairs", "edges", "steps")})


def test_a_latents_parts_and_a_parts_latents(client):
    base = f"/sae/{NESTED}/meta"
    view = client.get(f"{base}.json?latent={SEVEN}").json()
    assert [p["meta"] for p in view["latent"]["parts"]] == [1, 0]
    assert view["latent"]["explained"] == pytest.approx(0.35)
    assert view["graph"]["links"] == [[1, DIGITS], [0, TWIN]]
    back = client.get(f"{base}.json?meta=1").json()["meta"]
    assert [r["latent"] for r in back["rows"]] == [DIGITS, SEVEN]
    assert (back["nearest"][0]["sae"], back["nearest"][0]["latent"], back["nearest"][0]["cosine"]) == (SMALL, 2, 0.9)
    assert client.get(f"{base}.json").json()["list"]["most"][0]["latent"] == 11
    for path in (base, f"{base}?latent={SEVEN}", f"{base}?meta=1"):
        page = client.get(path)
        assert page.status_code == 200
        assert "Meta-latents" in page.text
    assert "meta 1" in client.get(f"/sae/{NESTED}/latents/{SEVEN}/meta", headers={"x-part": "1"}).text
    assert f"/latents/{SEVEN}/meta" in client.get(f"/sae/{NESTED}/latents/{SEVEN}").text
    assert client.get(f"{base}?meta=2").status_code == 400
    assert client.get(f"/sae/{SMALL}/meta.json").json()["runs"] == []


def test_stitching_counts_and_steps(client):
    view = client.get("/stitch.json?threshold=0.7&step=1").json()
    assert view["pair"]["status"] == {"reconstruction": 6, "novel": 5, "silent": 1}
    assert (view["pair"]["agree"], view["pair"]["of"]) == (11, 11)
    assert [r["latent"] for r in view["pair"]["novel"]] == [10, 9, 8, 7, 6]
    assert view["path"]["here"]["mse"] == 2.0
    assert view["path"]["here"]["ce_spliced"] == 1.0
    worse = client.get("/stitch.json?threshold=0.2").json()
    assert worse["pair"]["agree"] == 6
    near = client.get(f"/stitch.json?latent={SEVEN}").json()["near"]
    assert [(e["large"]["latent"], e["step"]) for e in near["edges"]] == [(DIGITS, 3), (SEVEN, None)]
    page = client.get(f"/stitch?latent={SEVEN}&step=2")
    assert page.status_code == 200
    assert "novel" in page.text
    assert client.get("/stitch?run=../x").status_code == 400


def test_a_meta_latent_is_taken_out_of_a_latent(place):
    index, runs = place
    sae, live = index.saes[NESTED], Live(index)
    asked = {"text": "In 1977", "latent": str(SEVEN), "edit": "meta", "meta": "1"}
    view = steer_view(sae, live, Query(asked), runs)
    lm, weights = live.lm(), live.sae(NESTED)
    meta = SAE.load(next(iter(meta_runs(runs, sae).values()))["meta_sae"])
    part = 0.8 * meta.W_dec[1].detach() * weights.W_dec[SEVEN].detach().norm()
    torch.testing.assert_close(meta_parts(sae, weights, view, runs)[0], part)
    tokens = torch.tensor([[lm.bos_id, *lm.encode(["In 1977"])[0]]])

    def change(x):
        z = weights.encode(x)[..., SEVEN : SEVEN + 1].detach()
        z[:, 0] = 0
        return x - z * part

    with torch.no_grad():
        clean = lm.logits(tokens)[0, -1].log_softmax(-1)
        with splice(lm, {"blocks.0.resid_pre": change}):
            edited = lm.logits(tokens)[0, -1].log_softmax(-1)
    kl = float((clean.exp() * (clean - edited)).sum())
    assert view["result"]["kl"] == pytest.approx(kl, rel=1e-3, abs=1e-7)
    assert kl > 0
    with pytest.raises(ValueError, match="expected meta-latents from 0 to 1"):
        steer_view(sae, live, Query(asked | {"meta": "2"}), runs)
    with pytest.raises(ValueError, match="make one with matryo sae meta"):
        steer_view(sae, live, Query(asked), None)
