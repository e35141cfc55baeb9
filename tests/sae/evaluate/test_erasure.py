"""TPP and SCR: known answers on planted latents, and the same numbers by ablating token by token."""

import numpy as np
import pytest
import torch
from tests.sae.evaluate.labelled_cases import activations, axes_sae, crossed, task

from matryo.sae.evaluate import descent
from matryo.sae.evaluate.descent import Probes, train_probes
from matryo.sae.evaluate.erasure import Removal, perturb, remove, strongest
from matryo.sae.evaluate.erasure_tasks import _saebench_scr, _saebench_tpp, _target
from matryo.sae.evaluate.intervals import Estimate
from matryo.sae.evaluate.tasks import crossed_problems, problems_of
from matryo.sae.evaluate.text_activations import pool_latents
from matryo.sae.nn import SAEConfig, build


def test_probes_are_those_that_torch_trains_by_adamw():
    one = task((44, 48, 60), per_document=2)
    x = torch.randn(len(one.texts), 7, generator=torch.Generator().manual_seed(0)) + torch.eye(3, 7)[one.labels]
    problems = list(problems_of(one, 0, 4000, 1000).values())
    found = train_probes(x, problems, [5, 6, 7])
    for at, (problem, seed) in enumerate(zip(problems, (5, 6, 7), strict=True)):
        generator = descent.numpy_generator(seed, "probe")
        linear = torch.nn.Linear(7, 1)
        bound = 1 / np.sqrt(7)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(generator.uniform(-bound, bound, 7))[None])
            linear.bias.fill_(generator.uniform(-bound, bound))
        adam = torch.optim.AdamW(linear.parameters(), lr=1e-3, weight_decay=0.01)
        for _ in range(20):
            order = generator.permutation(len(problem.train))
            for first in range(0, len(order), 16):
                batch = order[first : first + 16]
                logits = linear(x[problem.train[batch]])[:, 0]
                target = torch.from_numpy(problem.is_train[batch]).float()
                total = torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
                total = total + 1e-3 * linear.weight.abs().sum()
                adam.zero_grad()
                total.backward()
                adam.step()
        assert torch.allclose(found.w[at], linear.weight[0].detach(), atol=2e-4)
        assert float(found.b[at]) == pytest.approx(float(linear.bias.detach()), abs=2e-4)


def test_a_probe_does_not_depend_on_those_trained_beside_it():
    one = task((40, 40, 40))
    x = torch.randn(len(one.texts), 7, generator=torch.Generator().manual_seed(0))
    problems = list(problems_of(one, 0, 4000, 1000).values())
    together = train_probes(x, problems, [5, 6, 7])
    alone = train_probes(x, problems[1:2], [6])
    assert torch.equal(together.w[1], alone.w[0])


@pytest.fixture(scope="module")
def one_latent_each():
    """Four classes, each of which switches one axis, and one latent, on; the other axes are noise."""
    one = task((90, 90, 90, 90), per_document=3)
    means = torch.zeros(len(one.texts), 11)
    means[:, :4] = 2.0 * torch.eye(4)[one.labels]
    acts = activations(means, spread=0.3)
    return one, acts, pool_latents(axes_sae(), acts)


def test_tpp_is_a_half_when_each_class_has_a_latent_of_its_own(one_latent_each):
    """Without its latent a probe of a class is at chance, a drop of a half; the probes of the others lose nothing.

    Probes of one axis each, with a threshold between off and on, are given rather than trained.
    """
    one, acts, pooled = one_latent_each
    problems = list(problems_of(one, 0, 4000, 1000).values())
    probes = Probes(torch.eye(4, 11), torch.full((4,), -1.0))
    found = perturb(pooled, acts.mean(), problems, probes, (1, 5))
    for n in (1, 5):
        assert found.total[n] == pytest.approx(0.5)
        assert found.intended[n] == pytest.approx(0.5)
        assert found.unintended[n] == 0
        assert found.drops[n] == [[0.5 if i == j else 0 for j in range(4)] for i in range(4)]


def test_tpp_of_latents_that_serve_no_probe_is_0(one_latent_each):
    one, acts, _ = one_latent_each
    problems = list(problems_of(one, 0, 4000, 1000).values())
    blind = axes_sae()
    with torch.no_grad():
        blind.W_enc[:, :4] = 0  # no latent for what tells classes apart
        blind.W_enc[:, 11:15] = 0
    probes = Probes(torch.eye(4, 11), torch.full((4,), -1.0))
    found = perturb(pool_latents(blind, acts), acts.mean(), problems, probes, (1, 20))
    assert found.total == {1: 0, 20: 0}


@pytest.fixture(scope="module")
def pair():
    """The first attribute on axis 2, the second, stronger, on axis 6."""
    one = crossed(150)
    means = torch.zeros(len(one.texts), 11)
    means[:, 2] = 1.5 * torch.from_numpy(one.labels[:, 0])
    means[:, 6] = 3.0 * torch.from_numpy(one.labels[:, 1])
    acts = activations(means, spread=0.3)
    return one, acts, pool_latents(axes_sae(), acts)


def test_scr_is_1_when_the_spurious_attribute_is_one_latent(pair):
    """The biased probe reads both axes, x₂ + x₆ > 1, and so finds the first attribute in three quadrants of four.

    Without latent 6 it reads x₂ − 1 > 0 … with a threshold between off and on it is the oracle.
    """
    one, acts, pooled = pair
    problems = list(crossed_problems(one, 0, 4000, 1000))
    w = torch.zeros(3, 11)
    w[0, 2] = w[1, 6] = w[2, 2] = w[2, 6] = 1.0
    found = remove(pooled, acts.mean(), problems, Probes(w, torch.tensor([-0.75, -1.5, -0.75])), (1, 3))
    assert found.base[0] == pytest.approx(0.75, abs=0.01)
    assert found.oracle[0] > 0.97
    assert found.score(0, 1) == pytest.approx(1.0, abs=0.03)
    assert found.score(0, 3) == pytest.approx(1.0, abs=0.03)


def test_scr_is_0_when_only_the_target_would_be_ablated_or_there_is_no_room():
    found = Removal((0.7, 0.9), (0.9, 0.9005), ({2: 0.7}, {2: 0.95}))
    assert found.score(0, 2) == 0
    assert found.score(1, 2) == 0  # the oracle is not better by a thousandth
    assert Removal((0.7, 0.9), (0.9, 0.9), ({2: 0.6}, {2: 0.9})).score(0, 2) == pytest.approx(-0.5)


def by_tokens(sae, acts, chosen, probe, problem):
    """Accuracy after ablating latents token by token, error kept, then the mean over tokens."""
    x = torch.from_numpy(np.array(acts.values))
    z = sae.encode(x).detach()
    error = x - sae.decode(z).detach()
    z[:, chosen] = 0
    x = sae.decode(z).detach() + error
    means = torch.empty(len(acts.order), x.shape[1])
    for place, number in enumerate(acts.order.tolist()):
        means[number] = x[acts.start[place] : acts.start[place + 1]].mean(0)
    says = (means[problem.test] @ probe[0] + probe[1] > 0).numpy()
    return float((says == problem.is_test).mean())


@pytest.fixture(scope="module")
def random_sae():
    sae = build(SAEConfig(kind="batch_topk", d_in=11, n_latents=40, k=6, seed=3))
    with torch.no_grad():
        sae.b_dec.normal_(generator=torch.Generator().manual_seed(1))
        sae.W_dec.mul_(torch.linspace(0.5, 2, 40)[:, None])
    return sae


def test_tpp_equals_ablation_token_by_token(random_sae):
    one = task((90, 80, 100), per_document=3)
    means = torch.randn(len(one.texts), 11, generator=torch.Generator().manual_seed(8))
    means[:, :3] += torch.eye(3)[one.labels]
    acts = activations(means, spread=1.0)
    random_sae.calibrate([torch.from_numpy(np.array(acts.values))])
    sae = random_sae.eval()
    pooled = pool_latents(sae, acts)
    problems = list(problems_of(one, 1, 4000, 1000).values())
    probes = train_probes(acts.mean(), problems, [0, 1, 2])
    ns = (1, 4, 30)
    found = perturb(pooled, acts.mean(), problems, probes, ns)
    z = torch.zeros(len(one.texts), 40)
    tokens = sae.encode(torch.from_numpy(np.array(acts.values))).detach()
    for place, number in enumerate(acts.order.tolist()):
        z[number] = tokens[acts.start[place] : acts.start[place + 1]].mean(0)
    for i, mine in enumerate(problems):
        gain = z[mine.train[mine.is_train]].mean(0) - z[mine.train[~mine.is_train]].mean(0)
        effect = gain.clamp_min(0) * (sae.W_dec.detach() @ probes.w[i])
        order = [j for j in torch.argsort(effect, descending=True).tolist() if effect[j] > 0]
        for n in ns:
            for j, problem in enumerate(problems):
                probe = probes.w[j], probes.b[j]
                drop = by_tokens(sae, acts, [], probe, problem) - by_tokens(sae, acts, order[:n], probe, problem)
                assert found.drops[n][i][j] == pytest.approx(drop, abs=1.01 / len(problem.test))
    table = np.array(found.drops[4])
    others = [np.delete(table[i], i).mean() for i in range(3)]
    assert found.total[4] == pytest.approx(np.mean([table[i, i] - others[i] for i in range(3)]))
    assert found.total[4] == pytest.approx(found.intended[4] - found.unintended[4])


def test_scr_equals_ablation_token_by_token(random_sae):
    one = crossed(100)
    means = torch.randn(len(one.texts), 11, generator=torch.Generator().manual_seed(9))
    means[:, 2] += torch.from_numpy(one.labels[:, 0])
    means[:, 6] += 2 * torch.from_numpy(one.labels[:, 1])
    acts = activations(means, spread=1.0)
    random_sae.calibrate([torch.from_numpy(np.array(acts.values))])
    sae = random_sae.eval()
    pooled = pool_latents(sae, acts)
    problems = list(crossed_problems(one, 1, 4000, 1000))
    probes = train_probes(acts.mean(), problems, [0, 1, 2])
    found = remove(pooled, acts.mean(), problems, probes, (2, 9))
    tokens = sae.encode(torch.from_numpy(np.array(acts.values))).detach()
    z = torch.zeros(len(one.texts), 40)
    for place, number in enumerate(acts.order.tolist()):
        z[number] = tokens[acts.start[place] : acts.start[place + 1]].mean(0)
    for target, spurious in ((0, 1), (1, 0)):
        mine = problems[spurious]
        gain = z[mine.train[mine.is_train]].mean(0) - z[mine.train[~mine.is_train]].mean(0)
        order = torch.argsort((gain * (sae.W_dec.detach() @ probes.w[spurious])).abs(), descending=True)
        biased, oracle = (probes.w[2], probes.b[2]), (probes.w[target], probes.b[target])
        near = {"abs": 1.01 / len(problems[target].test)}
        assert found.base[target] == pytest.approx(by_tokens(sae, acts, [], biased, problems[target]), **near)
        assert found.oracle[target] == pytest.approx(by_tokens(sae, acts, [], oracle, problems[target]), **near)
        for n in (2, 9):
            expected = by_tokens(sae, acts, order[:n].tolist(), biased, problems[target])
            assert found.ablated[target][n] == pytest.approx(expected, **near)


def test_the_target_is_what_the_biased_probe_finds_worse_and_saebenchs_names_say_which_is_which():
    seeds = [
        Removal((0.8, 0.6), (0.9, 0.95), ({2: 0.85}, {2: 0.7})),
        Removal((0.7, 0.7), (0.9, 0.85), ({2: 0.75}, {2: 0.6})),
    ]
    assert _target(seeds) == pytest.approx((1, 0.65, 0.9))
    mirrored = [Removal(s.base[::-1], s.oracle[::-1], s.ablated[::-1]) for s in seeds]
    assert _target(mirrored) == pytest.approx((0, 0.65, 0.9))
    mean = {2: Estimate((0.125,))}
    told = _saebench_scr({"pair": seeds, "left out": mirrored}, mean, {"pair": (1, 0.65, 0.9)}, (2,))
    first, second = (np.mean([s.score(target, 2) for s in seeds]) for target in (0, 1))
    assert first == pytest.approx((0.5 + 0.25) / 2) and second == pytest.approx((0.1 / 0.35 - 0.1 / 0.15) / 2)
    assert told["metrics"]["scr_metrics"] == pytest.approx(
        {"scr_dir1_threshold_2": first, "scr_dir2_threshold_2": second, "scr_metric_threshold_2": 0.125}
    )
    parts = {part: {5: Estimate((at,))} for at, part in enumerate(("total", "intended", "unintended"))}
    assert _saebench_tpp(parts, (5,))["metrics"]["tpp_metrics"] == {
        "tpp_threshold_5_total_metric": 0,
        "tpp_threshold_5_intended_diff_only": 1,
        "tpp_threshold_5_unintended_diff_only": 2,
    }


def test_only_latents_with_an_effect_are_ablated():
    assert strongest(torch.tensor([0.0, 3.0, -1.0, 5.0]), 10).tolist() == [3, 1]
    assert strongest(torch.tensor([0.0, 3.0, -1.0, 5.0]), 1).tolist() == [3]
