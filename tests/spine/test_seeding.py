import subprocess
import sys

import pytest

from matryo.spine.seeding import numpy_generator, seed_for, torch_generator


def test_seed_is_63_bits_and_the_same_in_every_process():
    code = "from matryo.spine.seeding import seed_for; print(seed_for(3, 'rows', 1))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(other.stdout) == seed_for(3, "rows", 1)
    assert all(0 <= seed_for(s, "x") < 2**63 for s in range(200))
    assert max(seed_for(s, "x") for s in range(200)) > 2**62


def test_every_name_and_order_gives_its_own_stream():
    names = [(), ("a",), ("b",), ("a", "b"), ("b", "a"), ("ab",), (1,), ("1",), (1, 1), (11,)]
    seeds = {seed_for(seed, *name) for name in names for seed in (0, 1, 2)}
    assert len(seeds) == 3 * len(names)


def test_generators_repeat_and_differ():
    assert numpy_generator(0, "a").integers(1 << 30) == numpy_generator(0, "a").integers(1 << 30)
    assert numpy_generator(0, "a").integers(1 << 30) != numpy_generator(0, "b").integers(1 << 30)
    torch = pytest.importorskip("torch")
    a, b, c = (torch.rand(3, generator=torch_generator(0, name)) for name in ("a", "a", "b"))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
