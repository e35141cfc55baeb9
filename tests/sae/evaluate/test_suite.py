"""Several tasks on several runs: one fails and the others run; what is written is complete and holds no NaN."""

import csv
import json
import re
import shlex
import shutil
from contextlib import contextmanager

import pytest
import torch
from tests.command_line import run
from tests.sae.texts import write_words

from matryo import cli
from matryo.sae.evaluate import Outcome, Subjects, Table, Task, open_subjects
from matryo.sae.evaluate.evaluation import Evaluation, aligned
from matryo.sae.evaluate.figures import tradeoffs
from matryo.sae.evaluate.page import write_page
from matryo.sae.evaluate.suite import TASKS, Suite, named_tasks
from matryo.sae.nn import SAEConfig, build
from matryo.sae.sources import read_saes
from matryo.spine.config import to_dict

NAN = float("nan")


class Group:
    """Stands for Subjects: the suite reads names and a label only."""

    def __init__(self, *names):
        self.saes, self.label = dict.fromkeys(names), "+".join(names)


def good(subjects, config, advance):
    advance(3)
    return Outcome(
        scores={name: {"score": 0.25, "undefined": NAN, "count": 3} for name in subjects.saes},
        intervals={name: {"score": (0.125, 0.5)} for name in subjects.saes},
        baselines={"residual probe": 0.75},
        tables={"letters": Table((("SAE", ""), ("letter", "")), tuple((name, "<b>") for name in subjects.saes))},
        constants={"threshold": 0.4},
        data={"text": "abc"},
        seeds=(0, 1),
        notes=("adapted, not comparable with published scores",),
        missing={"letter q": "too few words"},
    )


def bad(subjects, config, advance):
    raise ValueError("labels are all 1; expected two classes:\n give others")


def away(subjects, config, advance):
    raise FileNotFoundError(2, "no such file", "nowhere")


def bug(subjects, config, advance):
    raise KeyError("a mistake of ours")


def needy(subjects, config, advance):
    import no_such_package  # noqa: F401  # pyright: ignore[reportMissingImports]


def task(name, measure):
    place = f"{__name__}:{measure.__name__}"
    return Task(name=name, line=f"what {name} is", measure=place, columns=(("score", name, "explained"),))


@pytest.fixture
def told():
    return []


def suite(told, *tasks):
    @contextmanager
    def watch(task, subjects):
        yield type("Bar", (), {"advance": staticmethod(lambda n, **numbers: told.append((task.name, n)))})

    return Suite(tasks, lambda cls: cls(), watch)


def evaluation(told=None):
    tasks = (task("first", good), task("second", bad), task("third", away))
    run = suite([] if told is None else told, *tasks)
    measured = list(run.run([Group("a", "b"), Group("c")]))
    assert measured == run.measured
    configs = {name: to_dict(SAEConfig(d_in=7, n_latents=30, k=4)) for name in "abc"}
    return Evaluation(tasks, tuple(measured), {"a": "run1", "b": "run1", "c": "run2"}, configs)


def test_a_task_that_fails_is_named_and_the_others_run(told):
    found = evaluation(told)
    assert told == [("first", 3), ("first", 3)]
    assert [one.outcome is not None for one in found.measured] == [True, False, False] * 2
    assert found.rows() == [["a", 0.25, None, None], ["b", 0.25, None, None], ["c", 0.25, None, None]]
    assert "second of a, b: labels are all 1; expected two classes: give others" in found.missing()
    assert "first, letter q: too few words" in found.missing()
    assert any(line.startswith("third of c: ") and "nowhere" in line for line in found.missing())
    apart = "Of different models, sites or texts, so compare scores within a group only: a, b; c."
    assert found.notes() == [apart, "adapted, not comparable with published scores"]


def test_a_mistake_of_ours_is_not_swallowed(told):
    with pytest.raises(KeyError):
        list(suite(told, task("first", bug)).run([Group("a")]))


def test_a_package_that_is_not_installed_is_named(told):
    one, two = suite(told, task("first", needy), task("second", good)).run([Group("a")])
    assert "'no_such_package' is not installed" in one.failure and two.outcome is not None


def test_everything_is_written_and_read_back(tmp_path):
    names = evaluation().write(tmp_path)
    assert set(names.values()) == {"scores.json", "scores.csv", "first-letters.csv"}
    scores = json.loads((tmp_path / "scores.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    one = scores["tasks"]["first"][0]
    assert one["scores"]["a"] == {"score": 0.25, "undefined": None, "count": 3}
    assert one["intervals"]["a"]["score"] == [0.125, 0.5] and one["seeds"] == [0, 1]
    assert one["constants"] == {"threshold": 0.4} and one["data"] == {"text": "abc"}
    assert one["tables"]["letters"] == {"headers": ["SAE", "letter"], "rows": [["a", "<b>"], ["b", "<b>"]]}
    assert scores["tasks"]["second"][0]["failure"].startswith("labels are all 1")
    assert scores["saes"]["c"] == {"run": "run2", "config": to_dict(SAEConfig(d_in=7, n_latents=30, k=4))}
    rows = list(csv.DictReader((tmp_path / "scores.csv").read_text().splitlines()))
    assert [row["SAE"] for row in rows] == ["a", "b", "c"] and rows[2]["run"] == "run2"
    assert rows[0]["first.score"] == "0.25" and rows[0]["first.score_low"] == "0.125"
    assert rows[0]["first.score_high"] == "0.5" and rows[0]["first.undefined"] == ""
    assert (tmp_path / "first-letters.csv").read_text() == "SAE,letter\na,<b>\nb,<b>\nc,<b>\n"


def test_the_page_has_scores_intervals_what_is_missing_and_asks_for_nothing(tmp_path):
    write_page(evaluation(), tmp_path / "report.html", "Title", "matryo sae evaluate x")
    page = (tmp_path / "report.html").read_text()
    for part in ("0.25 [0.125, 0.5]", "letter q", "labels are all 1", "adapted, not comparable", "residual probe"):
        assert part in page
    assert "&lt;b&gt;" in page and "<b>" not in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_the_terminal_table_says_what_is_not_there():
    assert aligned(["SAE", "score"], [["a", 0.25], ["bb", None], ["c", NAN], ["d", 7]]).splitlines() == [
        "SAE  score",
        "a    0.250",
        "bb     n/a",
        "c      n/a",
        "d        7",
    ]


def test_tasks_by_name():
    assert [t.name for t in named_tasks(["downstream", "reconstruction"])] == ["reconstruction", "downstream"]
    assert named_tasks(["all"]) == list(TASKS.values())
    with pytest.raises(ValueError, match="unknown task 'reconstuction': did you mean 'reconstruction'"):
        named_tasks(["reconstuction"])
    with pytest.raises(ValueError, match="has 1 cells; expected 2"):
        Table((("a", ""), ("b", "")), (("x",),))


SMALL = "--lm tiny --site blocks.1.resid_pre --text file:text.txt --tokens 3000 --row-length 32"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite")
    write_words(folder / "text.txt")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.run(shlex.split(f"sae harvest {SMALL} --quiet")) == 0
        line = "sae train --data runs/latest --n-latents 48 --steps 20 --batch-size 256 --quiet"
        assert cli.run(shlex.split(f"{line} --k 3 --k 6 --levels none --levels nested --lr 0.01")) == 0
        (folder / "first").symlink_to((folder / "runs/latest").resolve())
        store = next((folder / "runs").glob("*harvest*"))
        assert (
            cli.run(shlex.split(f"sae train --data {store} --n-latents 24 --k 3 --steps 5 --batch-size 256 --quiet"))
            == 0
        )
        (folder / "second").symlink_to((folder / "runs/latest").resolve())
    return folder


def test_several_runs_and_tasks_make_one_table(folder, monkeypatch, capsys):
    line = "sae evaluate first second --ce-tokens 128 --saebench sb"
    code, said = run(line, folder, monkeypatch, capsys)
    assert code == 0, said.err
    made = folder / "runs" / "latest"
    scores = json.loads((made / "scores.json").read_text())
    assert len(scores["saes"]) == 5 and len(scores["tasks"]["reconstruction"]) == 1, "one site: one group"
    for task_name in ("reconstruction", "downstream"):
        one = next(iter(scores["tasks"][task_name][0]["scores"].values()))
        assert set(one) == set(scores["columns"][task_name]), "every score is explained"
        assert set(scores["tasks"][task_name][0]["scores"]) == set(scores["saes"])
    levels = list(csv.DictReader((made / "downstream-levels.csv").read_text().splitlines()))
    assert {row["level"] for row in levels} == {"3", "6", "12", "24", "48"}
    assert (made / "report.html").read_text().count("<svg") >= 6
    file = sorted((folder / "sb" / "core").glob("*.json"))
    assert len(file) == 5
    told = json.loads(file[0].read_text())
    metrics = told["eval_result_metrics"]
    assert told["eval_type_id"] == "core" and {key: len(value) for key, value in metrics.items()} == {
        "model_behavior_preservation": 3,
        "model_performance_preservation": 4,
        "reconstruction_quality": 4,
        "shrinkage": 4,
        "sparsity": 2,
        "token_stats": 2,
        "misc_metrics": 7,
    }
    name = told["sae_lens_id"]
    ours = scores["tasks"]["reconstruction"][0]["scores"][name]
    assert metrics["reconstruction_quality"]["explained_variance"] == 1 - ours["fvu"]
    assert metrics["model_performance_preservation"]["ce_loss_score"] == pytest.approx(
        scores["tasks"]["downstream"][0]["scores"][name]["ce_recovered"]
    )


def test_the_config_of_a_run_is_a_config_file(folder, monkeypatch, capsys):
    assert run("sae evaluate second --ce-tokens 96", folder, monkeypatch, capsys)[0] == 0
    first = (folder / "runs" / "latest").resolve()
    code, said = run(f"sae evaluate --config {first}/config.toml", folder, monkeypatch, capsys)
    assert code == 0, said.err
    again = (folder / "runs" / "latest").resolve()
    assert again != first and again.parent == first.parent
    assert (again / "config.toml").read_text() == (first / "config.toml").read_text()


def test_an_evaluation_without_the_model(folder, monkeypatch, capsys):
    code, said = run("sae evaluate first --ce-tokens 0", folder, monkeypatch, capsys)
    assert code == 0 and "CE" not in said.out
    code, said = run("sae evaluate first --tasks downstream --ce-tokens 0", folder, monkeypatch, capsys)
    assert code == 2 and "nothing could be measured: downstream" in said.err and "ce_tokens is 0" in said.err


def test_what_was_measured_before_an_interruption_is_kept(folder, monkeypatch, capsys):
    from matryo.sae.evaluate import downstream

    def stop(*args, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(downstream, "measure_downstream", stop)
    code, said = run("sae evaluate second --runs stopped", folder, monkeypatch, capsys)
    assert code == 130 and re.search("before the interruption: .*scores.json", said.out)
    scores = json.loads((folder / "stopped" / "latest" / "scores.json").read_text())
    assert len(scores["tasks"]["reconstruction"]) == 1 and scores["tasks"]["downstream"] == []


def test_bad_input_is_said_in_one_line(folder, monkeypatch, capsys, tmp_path):
    code, said = run("sae evaluate first --tasks reconstuction", folder, monkeypatch, capsys)
    assert code == 2 and "unknown task 'reconstuction': did you mean 'reconstruction'" in said.err
    # A run whose SAE has another width than its site, and one whose model is another than the store's.
    wide = tmp_path / "runs" / "wide"
    shutil.copytree((folder / "first").resolve(), wide)
    for name in ("store", "rows"):
        told = json.loads((wide / "run.json").read_text())
        told["outputs"][name] = str(((folder / "first").resolve() / told["outputs"][name]).resolve())
        told["parents"] = []
        (wide / "run.json").write_text(json.dumps(told))
    sae = build(SAEConfig(d_in=11, n_latents=20, k=2))
    with torch.no_grad():
        sae.threshold.fill_(0.1)
    sae.save(next(iter(sorted((wide / "saes").iterdir()))))
    code, said = run(f"sae evaluate {wide} --ce-tokens 64", folder, monkeypatch, capsys)
    assert code == 2 and "width" in said.err
    assert "has width 11, blocks.1.resid_pre of tiny has 256" in said.out


def test_a_run_that_cannot_be_opened_leaves_latest_where_it_was(folder, monkeypatch, capsys, tmp_path):
    broken = tmp_path / "runs" / "broken"
    shutil.copytree((folder / "second").resolve(), broken)
    told = json.loads((broken / "run.json").read_text())
    (broken / "run.json").write_text(json.dumps(told | {"parents": []}))
    weights = next(broken.glob("saes/*/sae_weights.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-10])
    code, said = run(f"sae evaluate {broken} --runs {tmp_path / 'runs'}", folder, monkeypatch, capsys)
    assert code == 2 and "sae_weights.safetensors cannot be read" in said.err
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["broken"]


@pytest.mark.parametrize("part", ["tokenizer", "weights"])
def test_another_model_than_the_stores_is_refused(part, folder, monkeypatch):
    monkeypatch.chdir(folder)
    (group,) = open_subjects(read_saes([folder / "first"]))
    monkeypatch.setattr(Subjects, "_told", lambda self: {"lm": {part: "0" * 64}})
    with pytest.raises(ValueError, match=f"the {part} of tiny has sha256 .*expected the same model"):
        group.lm  # noqa: B018


def test_the_tradeoffs_need_two_points():
    assert list(tradeoffs(evaluation())) == []
