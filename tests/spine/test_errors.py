import pytest

from matryo.spine.errors import NoSpaceError, check_space, human_bytes, unknown


def test_nearest_name_is_offered_whatever_its_case():
    assert str(unknown("model", "SmolLm", ["smollm2", "tiny"])) == "unknown model 'SmolLm': did you mean 'smollm2'?"


def test_without_a_near_name_all_are_listed_and_the_fix_is_said():
    error = unknown("source", "qqq", ["pack", "file"], "see docs/text.md")
    assert str(error) == "unknown source 'qqq': expected one of file, pack (see docs/text.md)"


def test_a_long_list_is_cut():
    assert "and 38 more" in str(unknown("n", "zzz", [f"name{i}" for i in range(50)]))


def test_space_is_asked_of_the_nearest_existing_parent(tmp_path):
    check_space(tmp_path / "a" / "b", 1, "the store")
    with pytest.raises(NoSpaceError, match=r"no space for the store: 1024\.0 TiB needed, .* free in .*; free some"):
        check_space(tmp_path / "a" / "b", 2**50, "the store")


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 * 2**30, "5.0 GiB"), (2**50, "1024.0 TiB")]
)
def test_units(count, text):
    assert human_bytes(count) == text
