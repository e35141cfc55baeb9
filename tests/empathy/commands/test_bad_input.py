"""Bad input: one line that names the value, what was expected and the fix; no folder is left behind."""

import json
import re
import shlex
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.command_line import error_of, run

from matryo import cli

TINY = "--steps 30 --prefill 40 --epsilon-steps 20 --evaluate-every 0 --hidden 16 --log-every 10 --time-limit 20"


CASES = {
    "β above 1": ("train --selfishness 1.5", r"selfishness is 1\.5; expected 0 .* to 1"),
    "β below 0": ("sweep --selfishness -0.1", r"selfishness is -0\.1; expected 0"),
    "β is no number": ("train --selfishness half", "half"),
    "β twice": ("train --selfishness 0.5 --selfishness 0.5", "expected one or more different values"),
    "unknown env": ("train --env coexistense", "unknown env 'coexistense': did you mean 'coexistence'"),
    "env of a module that is not there": ("train --env nowhere:World", "'nowhere:World' and cannot be imported"),
    "unknown agent": ("train --agent empatic", "unknown agent 'empatic': did you mean 'empathic'"),
    "unknown rules": ("train --rules publishd", "publishd.*published"),
    "unknown recipe": ("sweep coexistance", "unknown recipe 'coexistance': did you mean 'coexistence'"),
    "zero others": ("train --others 0", "others is 0; expected 1 or more: empathy needs another agent"),
    "grid too small": ("train --size 4", "size is 4; expected at least 5"),
    "no seeds": ("train --seeds 0", "seeds is 0"),
    "no steps": ("train --steps 0", "steps is 0"),
    "prefill below a batch": ("train --prefill 8", "prefill is 8; expected at least one batch, 32"),
    "penalty without kills": (
        "train --env sharing --agent kill_penalty",
        "expected a world in which others can be killed",
    ),
    "aggregation": ("train --aggregation median", "median"),
    "nothing to resume": ("train --resume nowhere", "nowhere"),
    "nothing to evaluate": ("evaluate nowhere", "nowhere is no run folder"),
    "no episodes": ("evaluate nowhere --episodes 0", "episodes is 0"),
    "ε above 1": ("replay nowhere --epsilon 2", "epsilon is 2"),
    "exact of another world": (
        "exact --env corridor:Corridor",
        "env is corridor:Corridor; expected coexistence or sharing",
    ),
    "exact of several others": ("exact --env sharing --others 2", "others is 2; expected 1"),
    "exact of a large board": ("exact --env sharing --size 9", "size is 9; expected at most 7"),
    "unknown flag": ("train --selfishnes 0.5", "'--selfishnes': did you mean '--selfishness'"),
    "unknown log": ("train --log tensorbord", "did you mean 'tensorboard'"),
}


@pytest.mark.parametrize("line, pattern", CASES.values(), ids=CASES)
def test_one_line_and_no_folder(line, pattern, tmp_path, monkeypatch, capsys):
    code, said = run(f"empathy {line}", tmp_path, monkeypatch, capsys)
    assert code == 2
    assert re.search(pattern, error_of(said)), said.err
    assert not (tmp_path / "runs").exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished training run of two groups in Sharing."""
    folder = tmp_path_factory.mktemp("trained")
    line = (
        f"empathy train --env sharing --agent empathic --agent dqn --selfishness 0.25 --seeds 2 {TINY} --runs {folder}"
    )
    assert cli.run(shlex.split(line)) == 0
    return (folder / "latest").resolve()


def test_a_finished_run_is_not_resumed_and_another_config_is_refused(trained, tmp_path, monkeypatch, capsys):
    code, said = run(f"empathy train --resume {trained}", tmp_path, monkeypatch, capsys)
    assert code == 2 and "is finished: there is nothing to resume" in said.err
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    for name in ("config.toml", "environment.json"):
        (unfinished / name).write_bytes((trained / name).read_bytes())
    line = f"empathy train --resume {unfinished} --env sharing --agent empathic --selfishness 0.75"
    code, said = run(line, tmp_path, monkeypatch, capsys)
    assert code == 2
    assert "was started with another config" in said.err and "selfishness" in said.err
    assert said.err.strip().count("\n") == 0


def test_members_and_runs_that_are_not_there(trained, tmp_path, monkeypatch, capsys):
    code, said = run(f"empathy replay {trained} --member empathic-b0.3-s0", tmp_path, monkeypatch, capsys)
    assert code == 2 and "unknown member 'empathic-b0.3-s0': did you mean 'empathic-b0.25-s0'" in said.err
    code, said = run(f"empathy report {trained}", tmp_path, monkeypatch, capsys)
    assert code == 2 and "is a run of `empathy train`; expected one of `empathy evaluate`" in said.err
    code, said = run(f"empathy evaluate {trained} {trained} --episodes 2", tmp_path, monkeypatch, capsys)
    assert code == 2 and "is in two of the runs" in said.err


def test_damaged_agents_are_refused(trained, tmp_path, monkeypatch, capsys):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in trained.iterdir():
        if path.is_file():
            (copy / path.name).write_bytes(path.read_bytes())
    (copy / "agents.safetensors").write_bytes(b"\x80\x04.")
    code, said = run(f"empathy activations {copy}", tmp_path, monkeypatch, capsys)
    assert code == 2 and "is no saved ensemble" in said.err


def test_an_evaluation_of_two_worlds_is_refused(trained, tmp_path, monkeypatch, capsys):
    assert run(f"empathy train {TINY} --runs {tmp_path / 'other'}", tmp_path, monkeypatch, capsys)[0] == 0
    code, said = run(f"empathy evaluate {trained} other/latest --episodes 2", tmp_path, monkeypatch, capsys)
    assert code == 2 and "is of another world or rules" in said.err


def test_a_sparse_autoencoder_trains_on_activations(trained, tmp_path, monkeypatch, capsys):
    line = f"empathy activations {trained} --member dqn-s1 --rows 700 --layer 1"
    assert run(line, tmp_path, monkeypatch, capsys)[0] == 0
    made = (tmp_path / "runs" / "latest").resolve()
    x, games = load_file(made / "activations.safetensors")["activations"], load_file(made / "games.safetensors")
    assert x.shape == (700, 16) and (x >= 0).all() and all(len(part) == 700 for part in games.values())
    from matryo.empathy.agents import load_agent

    agent = load_agent(trained / "agents.safetensors").alone(3)
    assert agent.members[0].name == "dqn-s1"
    assert np.array_equal(agent.hidden(games["view"][None], layer=1)[0], x)
    line = (
        f"sae train --data {made}/activations.safetensors --kind topk --n-latents 32 --k 4 --batch-size 64 --passes 1"
    )
    assert run(line, tmp_path, monkeypatch, capsys)[0] == 0
    code, said = run("sae evaluate runs/latest", tmp_path, monkeypatch, capsys)
    assert code == 0 and "topk-32-k4-s0" in said.out


def test_an_evaluation_says_who_made_what_and_agrees_with_its_episodes(trained, tmp_path, monkeypatch, capsys):
    code, said = run(f"empathy evaluate {trained} --episodes 6 --baseline dqn", tmp_path, monkeypatch, capsys)
    assert code == 0 and "dqn − empathic-b0.25, equality" in said.out
    made = (tmp_path / "runs" / "latest").resolve()
    told = json.loads((made / "evaluation.json").read_text())
    episodes = load_file(made / "episodes.safetensors")
    first = told["measured"][0]
    assert [g["name"] for g in first["groups"]] == ["empathic-b0.25", "dqn", "random"]
    for group in first["groups"]:
        for seed, mean in zip(group["seeds"], group["per_seed"]["equality"], strict=True):
            assert mean == pytest.approx(episodes[f"0/{group['name']}/{seed}/equality"].mean())
    code, said = run("empathy report runs/latest", tmp_path, monkeypatch, capsys)
    assert code == 0
    page = (tmp_path / "runs" / "latest" / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page
    assert page.count("<svg") >= 3 and "mplayer" in page


def test_a_baseline_that_is_not_there_is_refused_before_a_game_is_played(trained, tmp_path, monkeypatch, capsys):
    code, said = run(f"empathy evaluate {trained} --episodes 2 --baseline dqm", tmp_path, monkeypatch, capsys)
    assert code == 2 and "unknown baseline 'dqm': did you mean 'dqn'?" in error_of(said)
    assert not (tmp_path / "runs").exists()
    line = f"empathy evaluate {trained} --episodes 2 --epsilon 0"  # without β = 1 the default compares nothing
    assert run(line, tmp_path, monkeypatch, capsys)[0] == 0


def test_the_agent_written_for_coexistence_plays_in_no_other_world(tmp_path, monkeypatch, capsys):
    page = Path(__file__).parents[3] / "docs" / "empathy" / "worlds.md"
    code = re.search(r'```python title="corridor.py"\n(.*?)```', page.read_text(encoding="utf-8"), re.DOTALL)
    assert code
    (tmp_path / "corridor.py").write_text(code[1])
    monkeypatch.syspath_prepend(tmp_path)
    line = f"empathy train --env corridor:Corridor {TINY}"
    assert run(line, tmp_path, monkeypatch, capsys)[0] == 0
    assert run("empathy evaluate runs/latest --episodes 2 --epsilon 0", tmp_path, monkeypatch, capsys)[0] == 0
    told = json.loads((tmp_path / "runs" / "latest" / "evaluation.json").read_text())
    assert [group["name"] for group in told["measured"][0]["groups"]] == ["empathic-b0.5", "random"]
    assert run("empathy replay runs/latest --form html --steps 4", tmp_path, monkeypatch, capsys)[0] == 0
    page = (tmp_path / "runs" / "latest" / "replay.html").read_text(encoding="utf-8")
    assert '"armed":false' in page and "weapon reaches" not in page, "nobody carries a weapon here"


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_ends(sent):
    from matryo.empathy.commands.train import stop_on_interrupt

    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt), stop_on_interrupt() as should_stop:
        assert not should_stop()
        signal.raise_signal(sent)
        assert should_stop()
        signal.raise_signal(sent)
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_an_interrupted_sweep_goes_on(tmp_path, monkeypatch, capsys):
    from matryo.empathy.commands import train as command

    class Stop:
        asked = 0

        def __call__(self):
            Stop.asked += 1
            return Stop.asked == 15

    real = command.train_run
    monkeypatch.setattr("matryo.empathy.commands.sweep.train_run", lambda *a: real(*a[:-1], Stop()))
    line = f"empathy sweep {TINY} --seeds 2 --selfishness 1 --selfishness 0.5 --episodes 3"
    code, said = run(line, tmp_path, monkeypatch, capsys)
    assert code == 130
    told = re.search(r"go on with: matryo (empathy sweep --resume \S+)", said.out)
    assert told
    code, said = run(f"{told[1]} --episodes 3", tmp_path, monkeypatch, capsys)
    assert code == 0 and "report.html" in said.out
