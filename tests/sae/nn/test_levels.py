"""Which prefixes the Matryoshka objective asks for, and with what weight."""

from collections import Counter
from itertools import pairwise

import pytest
import torch

from matryo.sae.nn import SAEConfig
from matryo.sae.nn.levels import draw_levels, level_weights


def config(n_latents: int, levels: object, **more: object) -> SAEConfig:
    return SAEConfig(d_in=7, n_latents=n_latents, k=1, levels=levels, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("n_latents", "levels", "expected"),
    [
        (4608, "none", (4608,)),
        (4608, "nested", (288, 576, 1152, 2304, 4608)),
        (43, "nested", (2, 5, 10, 21, 43)),
        (12, "nested", (1, 3, 6, 12)),
        (1, "nested", (1,)),
        (30, (2, 9, 30), (2, 9, 30)),
        (30, (30,), (30,)),
    ],
)
def test_fixed_levels(n_latents: int, levels: object, expected: tuple[int, ...]) -> None:
    made = config(n_latents, levels)
    assert made.lengths == draw_levels(made) == expected
    assert made.nested == (len(expected) > 1)


def test_sampled_levels_ascend_without_repeats_to_the_full_length() -> None:
    generator = torch.Generator().manual_seed(0)
    for n_latents, wanted in ((500, 10), (500, 2), (500, 1), (6, 10), (2, 10), (1, 10), (11, 10)):
        made = config(n_latents, "sampled", sampled_levels=wanted)
        assert made.nested
        for _ in range(50):
            levels = draw_levels(made, generator)
            assert len(levels) == min(wanted, n_latents) and levels[-1] == n_latents and levels[0] >= 1
            assert all(a < b for a, b in pairwise(levels))


def test_sampled_levels_are_the_generators() -> None:
    made = config(500, "sampled")
    runs = []
    for seed in (1, 1, 2):
        generator = torch.Generator().manual_seed(seed)
        runs.append([draw_levels(made, generator) for _ in range(5)])
    assert runs[0] == runs[1] != runs[2] and len(set(runs[0])) == 5
    state = torch.get_rng_state()
    draw_levels(made, torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_first_draw_follows_the_truncated_pareto() -> None:
    """With one level beside the full one, P(l) = (√l − √(l−1)) / √(n − 1)."""
    n_latents, draws = 41, 12_000
    made, generator = config(n_latents, "sampled", sampled_levels=2), torch.Generator().manual_seed(7)
    seen = Counter(draw_levels(made, generator)[0] for _ in range(draws))
    root = torch.arange(n_latents).double().sqrt()
    expected = draws * root.diff() / root[-1]
    assert float(expected.sum()) == pytest.approx(draws)
    observed = torch.tensor([seen[level] for level in range(1, n_latents)], dtype=torch.float64)
    assert int(observed.sum()) == draws and float(expected.min()) > 100
    chi_square = float(((observed - expected).square() / expected).sum())
    # 39 degrees of freedom: mean 39, standard deviation 8.8; 73 is exceeded once in a thousand seeds. A uniform draw
    # gives about 12,000.
    assert 15 < chi_square < 73


def test_later_draws_are_without_replacement() -> None:
    """P({a, b}) = P(a) P(b)/(1 − P(a)) + P(b) P(a)/(1 − P(b)): successive sampling, not rejection of whole sets."""
    made, generator = config(4, "sampled", sampled_levels=3), torch.Generator().manual_seed(3)
    p = {level: (level**0.5 - (level - 1) ** 0.5) / 3**0.5 for level in (1, 2, 3)}
    draws = 8_000
    seen = Counter(draw_levels(made, generator)[:2] for _ in range(draws))
    for a, b in ((1, 2), (1, 3), (2, 3)):
        chance = p[a] * p[b] * (1 / (1 - p[a]) + 1 / (1 - p[b]))
        assert abs(seen[a, b] - draws * chance) < 4 * (draws * chance * (1 - chance)) ** 0.5
    assert sum(seen.values()) == draws


def test_weights_sum_to_one() -> None:
    like = torch.zeros((), dtype=torch.float64)
    weights = level_weights(config(30, (2, 9, 30), level_weights=(1.0, 2.0, 5.0)), 3, like)
    assert torch.allclose(weights, torch.tensor([1, 2, 5], dtype=torch.float64) / 8)
    assert torch.equal(level_weights(config(30, "sampled"), 4, like), torch.full((4,), 0.25, dtype=torch.float64))
    assert level_weights(config(30, "nested"), 5, like.float()).dtype == torch.float32
