"""Every number of an index against brute force on the dense matrix of activations."""

import copy
import json

import numpy as np
import pytest
import torch

from matryo.sae.dashboard import Member, Vocabulary, build_index, open_index
from matryo.sae.dashboard.index import arrays
from matryo.sae.dashboard.index.directions import LISTED, LOGIT_BINS, encoder_cosine
from matryo.sae.dashboard.index.invert import BINS, QUANTILES
from matryo.sae.dashboard.index.levels import EDGE, choose_parents
from matryo.sae.nn import SAEConfig, build
from matryo.sae.text import TokenRows

D, VOCAB, ROWS, LENGTH, LEVELS = 24, 37, 30, 14, (5, 20, 50)
N = ROWS * (LENGTH - 1)


def make(folder, stop_after=None, chunk=41):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(N, D, generator=generator)
    tokens = torch.randint(1, VOCAB, (ROWS, LENGTH), generator=generator).numpy().astype(np.int32)
    tokens[:, 0] = 0
    rows = TokenRows(tokens, np.zeros_like(tokens), ("all",))
    unembed = torch.randn(D, VOCAB, generator=generator)
    saes = {}
    for name, levels, n in (("nested", LEVELS, 50), ("plain", "none", 30)):
        sae = build(SAEConfig(kind="jumprelu", d_in=D, n_latents=n, k=4, levels=levels, seed=n))
        with torch.no_grad():
            sae.threshold.fill_(0.9)
            sae.W_enc[:, 3] = 0  # never fires
            sae.W_enc[:, 7] = sae.W_enc[:, 1] * 0.8  # fires only where 1 does
        saes[name] = sae.eval()

    def activations(done):
        for first in range(0, N, chunk):
            if stop_after is not None and first > stop_after:
                raise KeyboardInterrupt
            yield first, {"site": x[first : first + chunk]}

    members = {name: Member(sae, "site", f"saes/{name}", "0", "run") for name, sae in saes.items()}
    pieces = [f"<{i}>" for i in range(VOCAB)]
    vocabulary = Vocabulary(pieces, [piece.encode() for piece in pieces])
    build_index(folder, members, rows, vocabulary, activations, {"lm": "none"}, unembed)
    return x, rows, saes, unembed


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("index")
    x, rows, saes, unembed = make(folder)
    dense = {name: sae.encode(x).detach().numpy() for name, sae in saes.items()}
    return open_index(folder), dense, rows, saes, unembed


@pytest.fixture(params=["nested", "plain"])
def one(made, request):
    index, dense, rows, saes, _ = made
    return index.saes[request.param], dense[request.param], rows.tokens[:, 1:].ravel(), saes[request.param]


def test_forward_and_inverted_lists_are_the_dense_matrix(one):
    sae, z, _, _ = one
    for token in range(N):
        latent, act = sae.active(token)
        assert latent.tolist() == np.flatnonzero(z[token]).tolist()
        np.testing.assert_allclose(act, z[token][latent], rtol=1e-6)
    for latent in range(sae.n_latents):
        tokens, acts = sae.firings(latent)
        assert sorted(tokens.tolist()) == np.flatnonzero(z[:, latent]).tolist()
        assert acts.tolist() == sorted(acts.tolist(), reverse=True)
        np.testing.assert_allclose(acts, z[tokens, latent], rtol=1e-6)
        np.testing.assert_allclose(sae.values(latent, 17, 95), z[17:95, latent], rtol=1e-6)


def test_statistics_equal_their_definitions(one):
    sae, z, ids, weights = one
    for latent in range(sae.n_latents):
        row, column = sae.stats[latent], z[:, latent]
        fired = np.sort(column[column > 0])[::-1]
        assert row["firings"] == len(fired)
        assert row["density"] == len(fired) / N
        assert row["norm"] == pytest.approx(weights.W_dec[latent].norm().item(), rel=1e-6)
        cosine = torch.cosine_similarity(weights.W_enc[:, latent], weights.W_dec[latent], dim=0).item()
        assert row["enc_dec"] == pytest.approx(cosine, abs=1e-6)
        if not len(fired):
            assert (row["top_token"], row["largest"], row["entropy"]) == (-1, 0, 0)
            continue
        assert row["largest"] == pytest.approx(fired[0], rel=1e-6)
        assert row["mean"] == pytest.approx(fired.mean(), rel=1e-5)
        for name, q in zip(("q10", "q25", "q50", "q75", "q90"), QUANTILES, strict=True):
            place = int(np.floor((1 - q) * (len(fired) - 1) + 0.5))
            assert row[name] == pytest.approx(fired[place], rel=1e-6)
        counts = np.bincount(ids[column > 0])
        assert row["top_token"] == counts.argmax()
        assert row["top_share"] == pytest.approx(counts.max() / len(fired), rel=1e-6)
        p = counts[counts > 0] / len(fired)
        assert row["entropy"] == pytest.approx(-(p * np.log2(p)).sum(), abs=1e-5)
        edges = np.minimum(BINS - 1, np.floor(fired / np.float32(fired[0]) * BINS)).astype(int)
        assert sae.histograms[latent].tolist() == np.bincount(edges, minlength=BINS).tolist()
    assert int(sae.stats["firings"].sum()) == sae.told["entries"]
    assert sae.told["l0"] == pytest.approx((z > 0).sum() / N)
    assert sae.told["dead"] == (z.sum(0) == 0).sum() > 0


def test_directions_are_compared_exactly(made):
    index, _, _, saes, unembed = made
    units = {name: torch.nn.functional.normalize(sae.W_dec.detach(), dim=1) for name, sae in saes.items()}
    for name, sae in index.saes.items():
        cosines = units[name] @ units[name].t()
        np.testing.assert_allclose(sae.cosines(4), cosines[4].numpy(), atol=1e-6)
        cosines.fill_diagonal_(-2)
        assert sae.stats["twin"].tolist() == cosines.argmax(1).tolist()
        other = next(n for n in index.saes if n != name)
        across = units[name] @ units[other].t()
        assert sae.match(other)["latent"].tolist() == across.argmax(1).tolist()
        np.testing.assert_allclose(sae.match(other)["cosine"], across.max(1).values.numpy(), atol=1e-6)
        logits = saes[name].W_dec.detach() @ unembed
        logits -= logits.mean(1, keepdim=True)
        for latent in range(sae.n_latents):
            order = logits[latent].argsort(descending=True)
            assert sae.logits("top_token")[latent].tolist() == order[:LISTED].tolist()
            assert sae.logits("low_token")[latent].tolist() == order.flip(0)[:LISTED].tolist()
            np.testing.assert_allclose(sae.logits("top")[latent], logits[latent][order[:LISTED]].numpy(), atol=1e-5)
            low, high = logits[latent].min(), logits[latent].max()
            slots = ((logits[latent] - low) / (high - low) * LOGIT_BINS).long().clamp(0, LOGIT_BINS - 1)
            assert sae.logits("histogram")[latent].tolist() == torch.bincount(slots, minlength=LOGIT_BINS).tolist()
        centred = units[name] - units[name].mean(0)
        spread = torch.linalg.svdvals(centred)[:2]
        np.testing.assert_allclose(np.linalg.norm(sae.stats["x"]), spread[0], rtol=1e-4)
        np.testing.assert_allclose(np.linalg.norm(sae.stats["y"]), spread[1], rtol=1e-4)
        for axis in ("x", "y"):
            assert sae.stats[axis][np.abs(sae.stats[axis]).argmax()] > 0, "a component has one sign of two"


def test_edges_are_all_pairs_that_deserve_it(made):
    index, dense, _, saes, _ = made
    sae, fires = index.saes["nested"], dense["nested"] > 0
    units = torch.nn.functional.normalize(saes["nested"].W_dec.detach(), dim=1)
    found = {(int(e["child"]), int(e["parent"])): e for e in sae.edges}
    for (child, parent), edge in found.items():
        both = (fires[:, child] & fires[:, parent]).sum()
        assert edge["together"] == both
        assert edge["containment"] == pytest.approx(both / fires[:, child].sum())
        assert edge["covered"] == pytest.approx(both / max(1, fires[:, parent].sum()))
        assert edge["cosine"] == pytest.approx((units[child] @ units[parent]).item(), abs=1e-6)
        assert np.searchsorted(LEVELS, parent, "right") < np.searchsorted(LEVELS, child, "right")
    assert found[7, 1]["containment"] == 1.0
    for child in range(LEVELS[0], LEVELS[-1]):
        below = LEVELS[int(np.searchsorted(LEVELS, child, "right")) - 1]
        if not fires[:, child].any():
            continue
        best = max(range(below), key=lambda p: (fires[:, child] & fires[:, p]).sum())
        most = (fires[:, child] & fires[:, best]).sum()
        assert max((int(e["together"]) for pair, e in found.items() if pair[0] == child), default=0) == most
        alike = int((units[:below] @ units[child]).argmax())
        assert (child, alike) in found
        together = (fires[:, child, None] & fires[:, :below]).sum(0)
        often = [p for p in np.lexsort((np.arange(below), -together)) if together[p] >= 0.1 * fires[:, child].sum()]
        assert {(child, int(p)) for p in often[:12] if together[p]} <= found.keys()


def test_a_parent_has_the_largest_product_of_those_above_both_thresholds():
    rows = [
        # child, parent, containment, cosine
        (5, 0, 0.9, 0.2),
        (5, 1, 0.6, 0.5),  # the largest product
        (5, 2, 1.0, 0.1),  # too little cosine
        (5, 3, 0.4, 0.9),  # too little containment
        (6, 1, 0.5, 0.15),  # just both
        (6, 0, 0.499, 0.9),
        (7, 2, 0.8, 0.5),
        (7, 1, 0.5, 0.8),  # as much: the smaller number
        (8, 0, 0.9, 0.1),
    ]
    edges = np.zeros(len(rows), EDGE)
    for name, column in zip(("child", "parent", "containment", "cosine"), zip(*rows, strict=True), strict=True):
        edges[name] = column
    edges["containment"][6:8] = (0.75, 0.5)
    edges["cosine"][6:8] = (0.5, 0.75)
    assert choose_parents(edges, 10, 0.5, np.float32(0.15)).tolist() == [-1, -1, -1, -1, -1, 1, 1, 1, -1, -1]
    assert choose_parents(edges, 10, 0.0, 0.0).tolist()[5:9] == [3, 0, 1, 0]


def test_where_columns_and_rows_have_no_common_width_there_is_no_cosine():
    assert np.isnan(encoder_cosine(torch.ones(3, 5), torch.ones(5, 4))).tolist() == [True] * 5
    assert encoder_cosine(torch.ones(3, 5), torch.ones(5, 3)).tolist() == pytest.approx([1.0] * 5)


def test_phrases_end_with_their_row_and_bytes_of_0_are_spaces(made):
    corpus = made[0].corpus
    text = [[corpus.pieces[i] for i in row] for row in corpus.rows.tokens[:, 1:]]
    for row in (0, 7, ROWS - 1):
        for place in (0, 5, LENGTH - 3):
            pair = text[row][place] + text[row][place + 1]
            expected = [
                r * (LENGTH - 1) + p + 1
                for r in range(ROWS)
                for p in range(LENGTH - 2)
                if "".join(text[r][p : p + 2]) == pair
            ]
            assert corpus.find(pair).tolist() == expected
        # One that ends within a token has been read at that token.
        begun = [r * (LENGTH - 1) + p + 1 for r in range(ROWS) for p in range(LENGTH - 2) if text[r][p] == text[row][2]]
        assert corpus.find(text[row][2] + "<").tolist() == begun != []
    joint = text[3][-1] + text[4][0]
    assert 4 * (LENGTH - 1) not in corpus.find(joint)
    assert corpus.find("\x00").tolist() == corpus.find(" ").tolist() == []
    assert corpus.find("").tolist() == []


def test_an_index_is_known_by_what_it_holds_and_its_latents_by_their_numbers(made, tmp_path):
    index = made[0]
    sae = index.saes["plain"]
    for latent in (-1, 30):
        with pytest.raises(ValueError, match=f"latent {latent} is not of plain; expected 0 to 29"):
            sae.check(latent)
    other = copy.copy(index)
    assert len(index.hash) == 8
    for change, same in (({"made": "x", "finalise_s": 9}, True), ({"text": "other"}, False), ({"about": {}}, False)):
        other.manifest = index.manifest | change
        assert (other.hash == index.hash) == same, change
    other.__dict__.pop("corpus", None)
    other.manifest = index.manifest | {"text": "other"}
    with pytest.raises(ValueError, match="is not the text that was indexed"):
        _ = other.corpus


def test_an_interrupted_pass_goes_on_and_ends_with_the_same_bytes(tmp_path):
    make(tmp_path / "whole")
    for stop in (0, 100, 200):
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "cut", stop_after=stop)
    with (tmp_path / "cut" / "saes" / "nested" / "act.bin").open("ab") as file:
        file.write(b"torn")  # a chunk that was never committed
    make(tmp_path / "cut")
    names = json.loads((tmp_path / "whole" / "manifest.json").read_text())["files"]
    assert len(names) > 20
    for name in names:
        if not name.endswith(".parquet"):
            assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes(), name


def test_an_altered_index_is_refused(tmp_path):
    make(tmp_path)
    told = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(told | {"schema": 99}))
    with pytest.raises(ValueError, match="schema 99, expected 1"):
        open_index(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps(told))
    (tmp_path / "text" / "text.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"text.bin is missing or not the .* bytes"):
        open_index(tmp_path)
    with pytest.raises(ValueError, match="no finished index"):
        open_index(tmp_path / "elsewhere")


def test_few_activations_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"activations of 41 tokens, the text has 390"):
        make_short(tmp_path)


def make_short(folder):
    tokens = np.ones((ROWS, LENGTH), np.int32)
    sae = build(SAEConfig(kind="relu", d_in=D, n_latents=9))
    build_index(
        folder,
        {"a": Member(sae, "site", "", "", "")},
        TokenRows(tokens, np.zeros_like(tokens), ("all",)),
        Vocabulary(["a", "b"], [b"a", b"b"]),
        lambda done: [(0, {"site": torch.zeros(41, D)})],
        {},
    )


def test_order_by_radix_equals_a_stable_sort():
    generator = np.random.default_rng(0)
    first = generator.integers(0, 2**20, 5_000).astype(np.uint32) * 3_000
    second = generator.integers(0, 4, 5_000).astype(np.uint32)
    assert arrays.stable_order(second, first).tolist() == np.lexsort((first, second)).tolist()


def test_large_dictionaries_are_sorted_in_parts(made, monkeypatch, tmp_path):
    from matryo.sae.dashboard.index import invert

    monkeypatch.setattr(invert, "RANGE_ENTRIES", 100)
    make(tmp_path)
    whole, parts = made[0].folder, tmp_path
    for name in ("inv_token", "inv_act", "stats", "histogram"):
        assert (whole / f"saes/nested/{name}.npy").read_bytes() == (parts / f"saes/nested/{name}.npy").read_bytes()
