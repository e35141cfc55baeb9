import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Optional

import pytest

from matryo.spine.config import diff, digest, flatten, from_dict, from_toml, to_dict, to_toml, write_text


@dataclass(frozen=True, kw_only=True)
class Part:
    kind: Literal["relu", "topk", 3] = "topk"
    levels: tuple[int, ...] = (2, 4)
    pair: tuple[int, str] = (1, "a")


@dataclass(frozen=True, kw_only=True)
class Whole:
    rate: float
    steps: int = 10
    on: bool = False
    name: str = "x"
    folder: Path = Path("runs")
    limit: int | None = 100
    note: Optional[str] = None  # noqa: UP045
    number: int | float = 1
    sizes: list[float] = field(default_factory=list)
    weights: dict[str, float] = field(default_factory=dict)
    part: Part = field(default_factory=Part)
    other: Part | None = None


FULL = Whole(
    rate=1e-5,
    steps=7,
    on=True,
    name='quote " back \\ new\nline \x7f é — 😀',
    folder=Path("a b/c"),
    limit=None,
    note="none",
    number=2.5,
    sizes=[1.0, 1e300, float("inf")],
    weights={"a.b": 1.0, "ü": 2.0},
    part=Part(kind=3, levels=(), pair=(5, "")),
    other=Part(kind="relu", levels=(9,)),
)


@pytest.mark.parametrize("config", [Whole(rate=2.0), FULL])
def test_what_is_written_is_read_back(config, tmp_path):
    to_toml(config, tmp_path / "c.toml")
    assert from_toml(Whole, tmp_path / "c.toml") == config
    assert from_dict(Whole, to_dict(config)) == config
    assert [p.name for p in tmp_path.iterdir()] == ["c.toml"]


def test_plain_values_keep_their_types():
    config = from_dict(Whole, {"rate": 1, "number": 3, "sizes": [2]})
    assert (type(config.rate), type(config.number), type(config.sizes[0])) == (float, int, float)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"rate": 1.0, "stps": 3}, "unknown field 'stps': did you mean 'steps'?"),
        ({"rate": 1.0, "part": {"level": [1]}}, "unknown field 'part.level': did you mean 'part.levels'?"),
        ({}, "the field rate is missing"),
        ({"rate": "fast"}, "rate = 'fast': expected float, got str"),
        ({"rate": True}, "rate = True: expected float, got bool"),
        ({"rate": 1.0, "steps": 2.5}, "steps = 2.5: expected int, got float"),
        ({"rate": 1.0, "steps": True}, "steps = True: expected int, got bool"),
        ({"rate": 1.0, "on": 1}, "on = 1: expected bool, got int"),
        ({"rate": 1.0, "limit": "many"}, "limit = 'many': expected int, got str"),
        ({"rate": 1.0, "number": "x"}, "number = 'x': expected int | float, got str"),
        ({"rate": 1.0, "part": {"levels": [1, "2"]}}, "part.levels[1] = '2': expected int, got str"),
        ({"rate": 1.0, "part": {"pair": [1]}}, "part.pair = [1]: expected tuple[int, str], got list"),
        ({"rate": 1.0, "part": {"kind": "topkk"}}, "unknown part.kind 'topkk': did you mean 'topk'?"),
        ({"rate": 1.0, "part": {"kind": 3.0}}, "unknown part.kind '3.0'"),
        ({"rate": 1.0, "part": 3}, "part = 3: expected Part, got int"),
        ({"rate": 1.0, "weights": {"a": "b"}}, "weights.a = 'b': expected float, got str"),
    ],
)
def test_the_wrong_field_is_named(data, message):
    with pytest.raises(ValueError) as caught:
        from_dict(Whole, data, where="c.toml")
    assert str(caught.value).startswith("c.toml: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_toml_is_said_in_one_line(tmp_path):
    (tmp_path / "c.toml").write_text("rate = = 3")
    with pytest.raises(ValueError, match=r"c\.toml is not TOML"):
        from_toml(Whole, tmp_path / "c.toml")


def test_a_tensor_is_no_config_value():
    with pytest.raises(TypeError, match="a config holds plain values"):
        to_dict({"x": object()})


def test_digest_is_the_same_in_another_process_and_differs_for_another_value():
    config = {"b": [1, 2.5], "a": {"c": None, "d": "é"}}
    code = f"from matryo.spine.config import digest; print(digest({config!r}))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == digest(config) == digest({"a": {"d": "é", "c": None}, "b": [1, 2.5]})
    assert len(digest(config)) == 8
    assert digest(FULL) != digest(Whole(rate=2.0))


def test_diff_names_fields_and_flatten_dots_them():
    old, new = {"a": {"b": 1, "c": [1]}, "d": 2, "gone": None}, {"a": {"b": 1, "c": [2]}, "e": 3}
    assert diff(old, new) == ["a.c: [1] -> [2]", "d: 2 -> 'absent'", "e: 'absent' -> 3"]
    assert diff(old, old) == []
    assert flatten({"a": {"b": {"c": 1}}, "d": {}}) == {"a.b.c": 1, "d": {}}


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    target = tmp_path / "f.txt"
    write_text(target, "old")

    def broken(self, *_args, **_kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        write_text(target, "new")
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["f.txt"]
