"""The stacked training against one autoencoder at a time and against its equations; the paper's figure in small."""

import json
import shlex

import pytest
import torch

from matryo import cli
from matryo.sae.evaluate.intervals import mean_interval
from matryo.sae.evaluate.toy import DenseConfig, World, measure_recovery, paper_tree, train_dense
from matryo.sae.evaluate.toy.training import loss_of


def parameters(seed, features=6, d=5):
    g = torch.Generator().manual_seed(seed)
    shapes = {"W_enc": (2, d, features), "b_enc": (2, features), "W_dec": (2, features, d), "b_dec": (2, d)}
    return {name: torch.randn(shape, generator=g, dtype=torch.float64) for name, shape in shapes.items()}


def test_the_loss_is_its_equation():
    stacked, penalty = parameters(0), torch.tensor([0.3, 0.7], dtype=torch.float64)
    x = torch.randn(2, 9, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    loss, active = loss_of(stacked, x, (2, 3, 6), penalty)
    for s in range(2):
        one = {name: value[s] for name, value in stacked.items()}
        total, on = 0.0, 0
        for level in (2, 3, 6):
            for row in x[s]:
                z = torch.relu((row - one["b_dec"]) @ one["W_enc"] + one["b_enc"])
                x_hat = sum((z[j] * one["W_dec"][j] for j in range(level)), one["b_dec"])
                l1 = sum(float(z[j] * one["W_dec"][j].norm()) for j in range(level))
                total += (float((row - x_hat).square().sum()) + float(penalty[s]) * l1) / 9 / 3
                on += int((z > 0).sum()) if level == 6 else 0
        assert float(loss[s]) == pytest.approx(total, rel=1e-10)
        assert float(active[s]) == pytest.approx(on / 9)


def test_seeds_trained_together_are_those_trained_alone():
    worlds = [World.make(paper_tree(), 20, seed) for seed in range(3)]
    config = DenseConfig(steps=12)
    together = train_dense(worlds, (0, 1, 2), "sampled", config)
    for seed in range(3):
        (alone,) = train_dense(worlds[seed : seed + 1], (seed,), "sampled", config)
        for name, value in alone.state_dict().items():
            assert torch.allclose(value, together[seed].state_dict()[name], atol=1e-5)


def test_a_short_run_already_shows_absorption_in_the_vanilla_dictionary():
    worlds = [World.make(paper_tree(), 20, 0)]
    (vanilla,) = train_dense(worlds, (0,), "none", DenseConfig(steps=1_500))
    found = measure_recovery(vanilla, worlds[0], 5_000).recovery
    assert found.parent_active < 0.5 and found.mixing > 0.5 and found.fvu < 0.1


def test_intervals():
    found = mean_interval([1.0, 2.0, 3.0, 6.0])
    # t_{0.975, 3} = 3.182446; s² = 14/3
    assert found.mean == 3 and found.high - 3 == pytest.approx(3.182446 * (14 / 3) ** 0.5 / 2, rel=1e-6)
    assert 3 - found.low == pytest.approx(found.high - 3)
    assert mean_interval([2.0]).low == -float("inf") and mean_interval([]).count == 0


@pytest.mark.parametrize(
    "flags", ["--toy-steps 30", "--world generated --features 30 --width 20 --toy-l0 2 --toy-steps 100"]
)
def test_the_command_writes_scores_features_and_a_page(flags, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = cli.run(shlex.split(f"sae toy {flags} --samples 3000 --toy-seeds 2 --quiet"))
    said = capsys.readouterr()
    assert code == 0, said.err
    assert "parent_active" in said.out and "[" in said.out
    told = json.loads((tmp_path / "runs/latest/toy.json").read_text())
    assert len(told["seeds"]["vanilla"]) == len(told["seeds"]["matryoshka"]) == 2
    values = [b["fvu"] - a["fvu"] for a, b in zip(told["seeds"]["vanilla"], told["seeds"]["matryoshka"], strict=True)]
    assert told["summary"]["fvu"]["difference"]["mean"] == pytest.approx(sum(values) / 2)
    lines = (tmp_path / "runs/latest/features.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * sum(len(tree["parent"]) for tree in told["trees"])
    page = (tmp_path / "runs/latest/report.html").read_text()
    assert page.count("<svg") == 2 and "cosine of a child" in page


def test_bad_values_are_said_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.run(shlex.split("sae toy --toy-seeds 0")) == 2
    assert "toy_seeds is 0" in capsys.readouterr().err
    assert cli.run(shlex.split("sae toy --world generated --features 12 --toy-l0 9 --toy-seeds 1")) == 2
    assert "expected less with" in capsys.readouterr().err
