"""Who saves, and which initial weights a slice gets: what needs no second process to be seen."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tests.sae.train.cases import make

from matryo.sae.train.parallel import Parallel, slices


@pytest.mark.parametrize(("mode", "saving"), [("data", [0]), ("grid", [0, 1, 2])])
def test_of_whole_autoencoders_the_first_process_saves_of_a_grid_each_its_own(mode, saving, tmp_path):
    """Two that wrote one folder at a time could leave it half written."""
    for rank in range(3):
        processes = SimpleNamespace(rank=rank, size=3)
        Parallel(mode, processes).save(make("topk"), tmp_path / str(rank))  # type: ignore[arg-type]
    assert sorted(path.name for path in Path(tmp_path).iterdir()) == [str(rank) for rank in saving]


@pytest.mark.parametrize("width", [1, 3, 15, 16, 17])
def test_rows_drawn_in_pieces_are_those_of_one_draw(width, monkeypatch):
    """PyTorch draws fewer than 16 numbers in another way: of no piece may so few be left over."""
    monkeypatch.setattr(slices, "CHUNK_ROWS", 16)
    for count in (1, 15, 16, 17, 31, 32, 33, 40, 47, 48, 49, 64):
        generators = [torch.Generator().manual_seed(count) for _ in range(2)]
        whole = torch.randn(count, width, generator=generators[0])
        for first, stop in ((0, count), (count // 3, count // 2), (count - 1, count)):
            generators[1].manual_seed(count)
            assert torch.equal(slices.draw_rows(count, width, first, stop, generators[1]), whole[first:stop])
        assert torch.equal(generators[0].get_state(), generators[1].get_state()), "what follows is drawn alike"
