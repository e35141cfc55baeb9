"""Both definitions of absorption against SAEBench's, word by word, and on autoencoders built to absorb."""

import dataclasses

import pytest
import torch

from matryo.sae.evaluate.absorption import (
    AbsorptionConfig,
    WordActivations,
    Words,
    fit_concepts,
    measure_absorption,
)
from matryo.sae.evaluate.absorption.probes import encode_words
from matryo.sae.evaluate.absorption.score import Thresholds, absorbed
from matryo.sae.kernels import Entries
from matryo.sae.nn import SAEConfig, build


def by_saebench(x, acts, W_dec, probe, main, limits):
    """One word, as SAEBench 0.6.0's FeatureAbsorptionCalculator does; where P ≤ 0, nothing is absorbed."""
    probe = probe / probe.norm()
    cos = torch.nn.functional.cosine_similarity(probe, W_dec, dim=-1)
    projections = acts * cos
    P = float(x @ probe)
    if P <= 0:
        return 0.0, False
    of_main = float(projections[main].sum())
    may = torch.ones(len(acts), dtype=torch.bool)
    may[main] = False
    may &= cos >= limits.fraction_cosine
    may &= projections > 0
    others = projections[may]
    A = float(others.topk(min(limits.absorbers, len(others))).values.sum())
    if of_main >= P or limits.share > A / P:
        fraction = 0.0
    elif of_main <= 0:
        fraction = 1.0
    else:
        a = min(A, P - of_main)
        fraction = a / (a + of_main)
    top = int(projections.topk(1).indices[0])
    full = bool((acts[main] < 1e-8).all() and cos[top] >= limits.full_cosine and projections[top] / P >= limits.share)
    return fraction, full


@pytest.mark.parametrize(
    "limits", [Thresholds(), Thresholds(full_cosine=0.3, fraction_cosine=0.0, share=0.15, absorbers=1)]
)
def test_absorption_is_saebenchs_word_by_word(limits):
    random = torch.Generator().manual_seed(0)
    rows, n, d = 300, 31, 7
    W_dec = torch.nn.functional.normalize(torch.randn(n, d, generator=random), dim=1)
    dense = torch.rand(rows, n, generator=random) * (torch.rand(rows, n, generator=random) < 0.2)
    dense[17] = 0
    x = dense @ W_dec + 0.3 * torch.randn(rows, d, generator=random)
    probe = 4 * (W_dec[3] + 0.5 * W_dec[8])
    row, latent = dense.nonzero().T
    entries = Entries.from_pairs(row, latent, dense[row, latent], rows, n)
    for main in (torch.tensor([3]), torch.tensor([8, 3, 20])):
        found = absorbed(x, entries, W_dec, probe, main, limits)
        expected = [by_saebench(x[i], dense[i], W_dec, probe, main, limits) for i in range(rows)]
        assert found.fraction.tolist() == pytest.approx([fraction for fraction, _ in expected], abs=1e-5)
        assert found.full.tolist() == [full for _, full in expected]
        assert 5 < sum(found.full.tolist()) < rows / 2
        assert len({round(f, 3) for f in found.fraction.tolist()}) > 10
        assert int(found.top[17]) == -1


# Autoencoders built to absorb: axis 0 is the concept A, axis 1 is B, axis 2 a special case of A.
D = 9


def planted(children: int, seed: int = 0) -> WordActivations:
    """200 words of A, 200 of B, 200 of neither; a fifth of each to measure, and of A's special cases a fifth too."""
    random = torch.Generator().manual_seed(seed)
    x = 0.05 * torch.randn(600, D, generator=random)
    x[:200, 0] += 5
    x[200:400, 1] += 5
    x[:children, 2] += 5
    labels = torch.zeros(600, 2, dtype=torch.bool)
    labels[:200, 0] = labels[200:400, 1] = True
    train = torch.arange(600) % 5 > 0
    kinds = tuple("special" if i < children else "plain" if i < 200 else None for i in range(600))
    words = Words("planted", tuple(f"w{i}" for i in range(600)), torch.arange(600), ("A", "B"), labels, kinds, "none")
    return WordActivations(words, x, train)


def autoencoder(absorbs: float):
    """Latents 4 (A), 2 (B) and 5 (the special case, which also writes A); A's is weaker by `absorbs` beside it."""
    sae = build(SAEConfig(kind="relu", d_in=D, n_latents=7))
    axis = torch.eye(D)
    with torch.no_grad():
        sae.W_enc.zero_()
        sae.b_enc.fill_(-1)
        sae.b_dec.zero_()
        sae.W_enc[:, 4], sae.W_dec[4] = axis[0] - absorbs * axis[2], axis[0]
        sae.W_enc[:, 2], sae.W_dec[2] = axis[1], axis[1]
        sae.W_enc[:, 5], sae.W_dec[5] = axis[2], (axis[0] + axis[2]) / 2**0.5
    return sae.eval()


def measured(sae, children=10, **changes):
    config = dataclasses.replace(AbsorptionConfig(), absorption_sparse_batch=64, **changes)
    found = planted(children)
    return measure_absorption(sae, found, fit_concepts(found, config), config, min_classes=2)


def test_an_absorbing_latent_is_found_on_exactly_its_words():
    result = measured(autoencoder(absorbs=1.0))
    a, b = result.classes
    assert (a.name, b.name) == ("A", "B")
    assert a.main_latents == (4,) and b.main_latents == (2,)
    assert a.words == b.words == 40 and a.probe_f1 == b.probe_f1 == b.latents_f1 == 1
    assert a.latents_f1 == pytest.approx(2 * 38 / (2 * 38 + 2))
    assert a.full == a.fraction == pytest.approx(2 / 40)  # 10 special cases, 2 of them measured
    assert b.full == b.fraction == 0 and b.absorbers == ()
    assert [(one.latent, one.words, one.examples) for one in a.absorbers] == [(5, 2, ("w0", "w5"))]
    assert a.children == {"plain": (38, 0.0, 0.0), "special": (2, 1.0, 1.0)}
    assert result.full == result.fraction == pytest.approx(1 / 40)
    assert result.full_sd == pytest.approx(2**0.5 / 40) and result.split_latents == 1


def test_nothing_is_absorbed_where_the_concepts_latent_fires():
    result = measured(autoencoder(absorbs=0.0))
    assert [c.full for c in result.classes] == [0, 0]
    assert result.classes[0].children["plain"] == (38, 0.0, 0.0)
    # M is below P, and by the definition the special case's latent, which writes A too, takes the rest.
    found, sae = planted(10), autoencoder(absorbs=0.0)
    probe = fit_concepts(found, AbsorptionConfig()).W[:, 0]
    expected = [
        by_saebench(x, sae.encode(x[None])[0].detach(), sae.W_dec.detach(), probe, [4], Thresholds())[0]
        for x in found.x[~found.train][:2]
    ]
    words, fraction, full = result.classes[0].children["special"]
    assert (words, full) == (2, 0.0) and 0.1 < fraction == pytest.approx(sum(expected) / 2, abs=1e-5)


def test_part_of_a_word_can_be_absorbed():
    sae, found = autoencoder(absorbs=0.5), planted(10)
    special = found.x[:1]
    entries = encode_words(sae, special)
    score = absorbed(special, entries, sae.W_dec.detach(), torch.eye(D)[0], torch.tensor([4]), Thresholds())
    z = sae.encode(special)[0].detach()
    M, A, P = float(z[4]), float(z[5]) / 2**0.5, float(special[0, 0])
    assert 0 < M < P and A / P >= 0.4
    a = min(A, P - M)
    assert float(score.fraction[0]) == pytest.approx(a / (a + M), rel=1e-5)
    assert not bool(score.full[0])


def test_a_large_special_case_is_a_split_not_an_absorption():
    result = measured(autoencoder(absorbs=1.0), children=60)
    assert set(result.classes[0].main_latents) == {4, 5}
    assert result.classes[0].full == 0 and result.split_latents == 1.5


def test_constants_change_the_result():
    strict = measured(autoencoder(absorbs=1.0), absorption_share=0.95)
    assert strict.full == 0
    eager = measured(autoencoder(absorbs=1.0), absorption_f1_jump=0.001)
    assert set(eager.classes[0].main_latents) == {4, 5} and eager.full == 0


def test_weak_and_small_classes_are_refused_and_said_so():
    found = planted(10)
    labels = torch.zeros(600, 4, dtype=torch.bool)
    labels[:, :2] = found.words.labels
    labels[:, 2] = torch.rand(600, generator=torch.Generator().manual_seed(3)) < 0.2  # no direction of its own
    labels[:3, 3] = True
    words = dataclasses.replace(found.words, classes=("A", "B", "noise", "small"), labels=labels)
    found = dataclasses.replace(found, words=words)
    config = AbsorptionConfig()
    concepts = fit_concepts(found, config)
    assert list(concepts.refused) == ["noise", "small"]
    assert f"F1 is {concepts.f1['noise']:.2f}; expected more than 0.6" in concepts.refused["noise"]
    assert "2 words to fit on and 1 to measure; expected 10 in all" in concepts.refused["small"]
    least = dataclasses.replace(config, absorption_min_f1=concepts.f1["noise"])
    assert list(fit_concepts(found, least).refused) == ["noise", "small"], "more than that is expected"
    result = measure_absorption(autoencoder(1.0), found, concepts, config, min_classes=3)
    assert [c.name for c in result.classes] == ["A", "B"]
    assert result.full is result.fraction is result.split_latents is result.full_sd is None


def test_results_are_the_same_every_time():
    assert measured(autoencoder(1.0)) == measured(autoencoder(1.0))
