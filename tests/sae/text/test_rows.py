"""Rows: no token lost, added or moved, and nothing on both sides of the split."""

import itertools
from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from matryo.sae.text import Document, RowsConfig, TokenRows, pack_rows
from matryo.sae.text.split import _pieces, assign

BOS = 7
LENGTH = 11


@dataclass
class Texts:
    """A source of given documents that counts how many were read."""

    made: list[Document]
    read: int = field(default=0)
    spec: str = "texts"

    def documents(self):
        for document in self.made:
            self.read += 1
            yield document

    def describe(self):
        return {}


def encode(texts):
    """One token a character, all different from BOS."""
    return [[100 + ord(character) for character in text] for text in texts]


def decode(ids):
    return "".join(chr(token - 100) for token in ids)


def corpus(n_groups, per_group=3, length=53, prefix="g"):
    rng = np.random.default_rng(n_groups)
    letters = list("abcdefghijklmnopqrstuvwxyz ")
    return [
        Document("".join(rng.choice(letters, length + 5 * index)), f"{prefix}{group}/{index}", f"{prefix}{group}")
        for index, group in itertools.product(range(per_group), range(n_groups))
    ]


def check_layout(rows, documents):
    """Brute force: the rows' text is the beginning of the joined documents, and `document` says which is which."""
    texts = {document.name: document.text for document in documents}
    assert rows.tokens.dtype == rows.document.dtype == np.int32
    assert rows.tokens.shape == rows.document.shape and rows.tokens.shape[1] == LENGTH
    assert (rows.tokens[:, 0] == BOS).all() and (rows.document[:, 0] == -1).all()
    joined = "".join(texts[name] for name in rows.names)
    owner = [index for index, name in enumerate(rows.names) for _ in texts[name]]
    flat, flat_owner = rows.tokens[:, 1:].ravel(), rows.document[:, 1:].ravel()
    assert decode(flat) == joined[: flat.size]
    assert flat_owner.tolist() == owner[: flat.size]
    assert len(rows.names) == flat_owner.max() + 1
    return len(joined) - flat.size


def test_everything_is_packed_in_order_without_a_budget():
    documents = corpus(20)
    rows = pack_rows([Texts(documents)], encode, BOS, RowsConfig(row_length=LENGTH, heldout_fraction=0.3))
    for part in rows.values():
        assert part.split_by == "group"
        assert 0 <= check_layout(part, documents) < LENGTH - 1  # only the tail that fills no row is dropped
    names = [name for part in rows.values() for name in part.names]
    assert len(names) == len(set(names)) >= len(documents) - 2


@pytest.mark.parametrize("n_groups", [2, 3, 10, 70, 300])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_group_is_on_both_sides_and_neither_is_empty(n_groups, seed):
    config = RowsConfig(row_length=LENGTH, heldout_fraction=0.1, seed=seed)
    rows = pack_rows([Texts(corpus(n_groups))], encode, BOS, config)
    groups = {part: {name.split("/")[0] for name in rows[part].names} for part in rows}
    assert groups["train"] and groups["heldout"] and not groups["train"] & groups["heldout"]
    share = len(groups["heldout"]) / n_groups
    assert len(groups["heldout"]) == 1 or abs(share - 0.1) < 0.07


def test_the_split_depends_on_the_seed_and_not_on_the_budget():
    def heldout(**changes):
        rows = pack_rows([Texts(corpus(40))], encode, BOS, RowsConfig(row_length=LENGTH, **changes))
        return {name.split("/")[0] for name in rows["heldout"].names}

    everything = heldout(seed=0)
    assert heldout(seed=0, max_tokens=200) <= everything
    assert heldout(seed=0, max_tokens=2_000) <= everything
    assert len({frozenset(heldout(seed=seed)) for seed in range(5)}) == 5


def test_one_group_is_split_by_document_and_one_document_by_row():
    config = RowsConfig(row_length=LENGTH, heldout_fraction=0.2)
    documents = corpus(1, per_group=15)
    rows = pack_rows([Texts(documents)], encode, BOS, config)
    assert rows["train"].split_by == rows["heldout"].split_by == "document"
    assert not set(rows["train"].names) & set(rows["heldout"].names)
    for part in rows.values():
        check_layout(part, documents)

    (document,) = documents[:1]
    rows = pack_rows([Texts([document])], encode, BOS, config)
    assert rows["train"].split_by == "row"
    assert [len(rows[part].tokens) for part in ("train", "heldout")] == [4, 1]
    both = np.concatenate([rows["train"].tokens[:, 1:], rows["heldout"].tokens[:, 1:]]).ravel()
    assert decode(both) == document.text[: both.size]


def test_a_group_too_short_for_a_row_does_not_empty_a_part():
    documents = [Document("ab", "tiny", "tiny"), Document("x" * 95, "long/0", "long")]
    rows = pack_rows([Texts(documents)], encode, BOS, RowsConfig(row_length=LENGTH))
    assert len(rows["train"].tokens) > 0 and len(rows["heldout"].tokens) > 0
    assert rows["train"].split_by == "row"


def test_budget_counts_training_text_and_reading_stops():
    source = Texts(corpus(3_000))
    config = RowsConfig(row_length=LENGTH, max_tokens=1_234, heldout_fraction=0.25)
    rows = pack_rows([source], encode, BOS, config)
    assert len(rows["train"].tokens) == 124  # ceil(1234 / 10)
    assert rows["train"].n_tokens == 1_240
    assert len(rows["heldout"].tokens) == 41  # a quarter of all 165
    assert source.read < 9_000


def test_without_a_heldout_part():
    rows = pack_rows([Texts(corpus(4))], encode, BOS, RowsConfig(row_length=LENGTH, heldout_fraction=0))
    assert rows["heldout"].tokens.shape == (0, LENGTH) and rows["heldout"].names == ()
    check_layout(rows["train"], corpus(4))


def test_sources_take_turns_by_length():
    sources = [Texts(corpus(50, 4, 40, "a")), Texts(corpus(50, 2, 160, "b")), Texts(corpus(2, 1, 30, "c"))]
    config = RowsConfig(row_length=LENGTH, max_tokens=6_000, heldout_fraction=0)
    rows = pack_rows(sources, encode, BOS, config)["train"]
    owner = np.array([name[0] for name in rows.names])[rows.document[:, 1:].ravel()]
    assert {"a", "b", "c"} == set(owner)
    for part in (owner[1_000:3_000], owner[3_000:]):  # after c has run out
        assert abs((part == "a").mean() - 0.5) < 0.1


def test_separator_stands_between_documents_only():
    documents = corpus(6)
    config = RowsConfig(row_length=LENGTH, heldout_fraction=0, separator=5)
    rows = pack_rows([Texts(documents)], encode, BOS, config)["train"]
    flat, owner = rows.tokens[:, 1:].ravel(), rows.document[:, 1:].ravel()
    assert ((flat == 5) == (owner == -1)).all()
    (places,) = np.nonzero(flat == 5)
    assert len(places) == len(rows.names) - 1
    assert (owner[places + 1] - owner[places - 1] == 1).all()


def test_pieces_join_to_the_text_and_start_with_white_space(monkeypatch):
    monkeypatch.setattr("matryo.sae.text.split._PIECE_CHARS", 20)
    for text in ("word " * 40, "line\n" * 41, "x" * 99, " leading space and more text follows", "", "short"):
        pieces = list(_pieces(text))
        assert "".join(pieces) == text and all(len(piece) <= 20 for piece in pieces)
    assert all(piece.startswith(" ") for piece in list(_pieces("some words " * 9))[1:])


def test_a_long_document_keeps_its_name_over_its_pieces(monkeypatch):
    monkeypatch.setattr("matryo.sae.text.split._PIECE_CHARS", 20)
    monkeypatch.setattr("matryo.sae.text.split._BATCH_CHARS", 64)
    documents = corpus(5, length=230)
    config = RowsConfig(row_length=LENGTH, heldout_fraction=0, separator=5)
    rows = pack_rows([Texts(documents)], encode, BOS, config)["train"]
    assert (rows.tokens == 5).sum() == len(rows.names) - 1 and len(set(rows.names)) == len(rows.names)


def test_too_little_text_is_an_error():
    with pytest.raises(ValueError, match="the text is 12 tokens: expected at least 2 rows of 11") as caught:
        pack_rows([Texts([Document("a" * 12, "a", "a")])], encode, BOS, RowsConfig(row_length=LENGTH))
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="the text is 0 tokens"):
        pack_rows([Texts([])], encode, BOS, RowsConfig(row_length=LENGTH))
    with pytest.raises(ValueError, match="no text source"):
        pack_rows([], encode, BOS)


@pytest.mark.parametrize("bad", [{"row_length": 1}, {"max_tokens": 0}, {"heldout_fraction": 1.0}])
def test_bad_config(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        RowsConfig(**bad)


def test_saved_rows_come_back_and_altered_ones_are_refused(tmp_path):
    rows = pack_rows([Texts(corpus(9))], encode, BOS, RowsConfig(row_length=LENGTH))["train"]
    rows.save(tmp_path / "rows")
    back = TokenRows.load(tmp_path / "rows")
    assert (back.tokens == rows.tokens).all() and (back.document == rows.document).all()
    assert back.names == rows.names and back.split_by == rows.split_by and back.digest() == rows.digest()
    assert sorted(path.name for path in (tmp_path / "rows").iterdir()) == ["document.npy", "rows.json", "tokens.npy"]

    changed = rows.tokens.copy()
    changed[1, 3] += 1
    np.save(tmp_path / "rows" / "tokens.npy", changed)
    with pytest.raises(ValueError, match="do not match their digest"):
        TokenRows.load(tmp_path / "rows")
    with pytest.raises(FileNotFoundError, match="expected token rows"):
        TokenRows.load(tmp_path)


def test_digest_sees_tokens_documents_names_and_shape():
    tokens = np.arange(24, dtype=np.int32).reshape(4, 6)
    document = np.zeros_like(tokens)
    base = TokenRows(tokens, document, ("a",))
    others = [
        TokenRows(tokens + 1, document, ("a",)),
        TokenRows(tokens, document + 1, ("a",)),
        TokenRows(tokens, document, ("b",)),
        TokenRows(tokens.reshape(6, 4), document.reshape(6, 4), ("a",)),
    ]
    assert len({rows.digest() for rows in [base, *others]}) == 5
    assert TokenRows(np.asfortranarray(tokens), document, ("a",)).digest() == base.digest()


def test_pickled_arrays_are_refused(tmp_path):
    rows = pack_rows([Texts(corpus(9))], encode, BOS, RowsConfig(row_length=LENGTH))["train"]
    rows.save(tmp_path)
    np.save(tmp_path / "tokens.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="do not match their digest"):
        TokenRows.load(tmp_path)


@pytest.mark.parametrize("name", ["tokens.npy", "document.npy", "rows.json"])
def test_files_cut_short_are_refused(tmp_path, name):
    pack_rows([Texts(corpus(9))], encode, BOS, RowsConfig(row_length=LENGTH))["train"].save(tmp_path)
    whole = (tmp_path / name).read_bytes()
    for kept in (0, 20, len(whole) // 2):
        (tmp_path / name).write_bytes(whole[:kept])
        with pytest.raises(ValueError, match="do not match their digest"):
            TokenRows.load(tmp_path)


@pytest.mark.parametrize("n_groups", [3, 4, 9, 40, 300])
@pytest.mark.parametrize("stratified", [False, True])
def test_calibration_groups_are_reserved_from_training_and_never_evaluated_on(n_groups, stratified):
    texts = corpus(n_groups, per_group=6)
    if stratified:
        texts = [replace(text, stratum=f"kind {int(text.group[1:]) % 3}") for text in texts]
    config = RowsConfig(row_length=LENGTH, heldout_fraction=0.3, calibration_fraction=0.2)
    rows = pack_rows([Texts(texts)], encode, BOS, config)
    assert {found.split_by for found in rows.values()} == {"group"}
    groups = {part: {name.split("/")[0] for name in rows[part].names} for part in rows}
    assert set(groups) == {"train", "heldout", "calibration"} and all(groups.values())
    assert sum(map(len, groups.values())) == len(set.union(*groups.values())) == n_groups
    if n_groups >= 40:
        shares = {part: len(found) / n_groups for part, found in groups.items()}
        assert shares == pytest.approx({"train": 0.5, "heldout": 0.3, "calibration": 0.2}, abs=0.06)
    again = pack_rows([Texts(texts)], encode, BOS, config)
    assert {part: found.digest() for part, found in again.items()} == {p: f.digest() for p, f in rows.items()}


def test_every_part_gets_its_share_of_every_stratum():
    sizes = {"much": 300, "some": 80, "little": 40}
    groups = [(stratum, index) for stratum, size in sizes.items() for index in range(size)]
    groups = [groups[i] for i in np.random.default_rng(0).permutation(len(groups))]
    texts = [Document("text of it ", f"{stratum}/{index}", f"{stratum}/{index}", stratum) for stratum, index in groups]
    found = []
    for seed in range(5):
        config = RowsConfig(row_length=LENGTH, heldout_fraction=0.1, calibration_fraction=0.2, seed=seed)
        part_of, stream = assign(iter(texts), "group", config.fractions, seed)
        assert part_of is not None
        parts = {document.name: part_of(document) for document in stream}
        for stratum, size in sizes.items():
            count = Counter(part for name, part in parts.items() if name.startswith(stratum))
            # But for the groups read ahead, which go by the fractions of all strata together.
            assert count["heldout"] == pytest.approx(0.1 * size, abs=2.5)
            assert count["calibration"] == pytest.approx(0.2 * size, abs=3.5)
        found.append(frozenset(name for name, part in parts.items() if part == "heldout"))
    assert len(set(found)) == 5


def test_a_group_without_a_stratum_keeps_its_part_when_others_come_before_it():
    texts = corpus(400)
    later = [*corpus(200, prefix="other"), *texts]
    fractions = {"heldout": 0.2, "calibration": 0.1}
    parts = []
    for documents in (texts, later):
        part_of, stream = assign(iter(documents), "group", fractions, 0)
        assert part_of is not None
        parts.append({document.group: part_of(document) for document in stream})
    same = sum(parts[1][group] == part for group, part in parts[0].items())
    assert same >= 390  # all but some of the groups that were read ahead


@pytest.mark.parametrize("split_by", ["group", "document", "row"])
def test_parts_of_a_budget_cover_the_same_stretch_of_the_text(split_by):
    n_groups, per_group = {"group": (600, 1), "document": (1, 600), "row": (1, 1)}[split_by]
    texts = corpus(n_groups, per_group, length=53 if split_by != "row" else 30_000)
    if split_by != "row":
        texts = [replace(text, text=text.text[:53], stratum="one") for text in texts]
    config = RowsConfig(row_length=LENGTH, max_tokens=9_000, heldout_fraction=0.2, calibration_fraction=0.2)
    rows = pack_rows([Texts(texts)], encode, BOS, config)
    assert {found.split_by for found in rows.values()} == {split_by}
    assert {part: len(found.tokens) for part, found in rows.items()} == {
        "train": 900,
        "heldout": 300,
        "calibration": 300,
    }
    if split_by != "row":
        order = {text.name: place for place, text in enumerate(texts)}
        last = {part: order[found.names[-1]] for part, found in rows.items()}
        assert max(last.values()) < 1.2 * min(last.values()), last


@pytest.mark.parametrize("n_groups", [1, 2])
def test_too_few_groups_for_three_parts_are_split_by_document(n_groups):
    config = RowsConfig(row_length=LENGTH, heldout_fraction=0.2, calibration_fraction=0.2)
    rows = pack_rows([Texts(corpus(n_groups, per_group=9))], encode, BOS, config)
    assert {found.split_by for found in rows.values()} == {"document"}
    names = [name for found in rows.values() for name in found.names]
    assert len(names) == len(set(names)) and all(len(found.names) for found in rows.values())


def test_a_calibration_part_of_one_document_is_cut_from_its_last_rows():
    config = RowsConfig(row_length=LENGTH, heldout_fraction=0.2, calibration_fraction=0.2)
    document = corpus(1)[0]
    rows = pack_rows([Texts([document])], encode, BOS, config)
    assert {part: found.split_by for part, found in rows.items()} == dict.fromkeys(rows, "row")
    whole = np.concatenate([rows[part].tokens[:, 1:] for part in ("train", "calibration", "heldout")]).ravel()
    assert whole.tolist() == encode([document.text])[0][: len(whole)]
    assert len(rows["calibration"].tokens) == len(rows["heldout"].tokens) > 0


def test_fractions_that_leave_nothing_to_train_on_are_refused():
    with pytest.raises(ValueError, match="leave nothing to train on"):
        RowsConfig(heldout_fraction=0.5, calibration_fraction=0.5)
