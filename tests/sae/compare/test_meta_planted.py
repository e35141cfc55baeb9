"""Meta-SAEs in a world of planted families: what is measured is what the parts give, and the claim in small."""

import pytest

from matryo.sae.compare.meta import MetaConfig, decoder_directions, decompose, explain_planted, fit_meta
from matryo.sae.evaluate.toy import make_world, measure_recovery, train_in
from matryo.sae.evaluate.toy.config import ToyConfig


def test_what_is_measured_is_what_the_parts_give():
    config = ToyConfig(world="families", toy_steps=20, samples=4_000)
    metas = {"quarter": MetaConfig(fraction=0.25, steps=30), "fewer": MetaConfig(n_meta=9, k=2, steps=20)}
    done: list[int] = []
    found = explain_planted(1, config, metas, done.append)
    assert sum(done) == 2 * (20 + 30 + 20)
    world = make_world(config, 1)
    for kind in ("vanilla", "matryoshka"):
        sae = train_in(world, kind, 1, 20)
        assert (sae.config.levels == "nested") == (kind == "matryoshka")
        directions = decoder_directions(sae)
        for name, meta in metas.items():
            again = decompose(fit_meta(directions, meta), directions).variance_explained
            assert found[kind][name] == pytest.approx(again)
        assert found[kind]["fvu"] == pytest.approx(measure_recovery(sae, world, 4_000, 1).recovery.fvu)


def test_a_meta_sae_finds_the_parent_that_a_vanilla_dictionary_absorbs():
    """One seed, short; `matryo sae claims --only toy-meta` is the measurement."""
    config = ToyConfig(world="families", toy_steps=600, samples=4_000)
    found = explain_planted(0, config, {"explained": MetaConfig(fraction=0.25, steps=300, lr=2e-3)})
    vanilla, matryoshka = found["vanilla"], found["matryoshka"]
    assert vanilla["mixing"] > matryoshka["mixing"] + 0.1
    assert vanilla["explained"] > matryoshka["explained"] + 0.02
