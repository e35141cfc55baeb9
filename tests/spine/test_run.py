import json
import multiprocessing
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from matryo.spine import run as run_module
from matryo.spine.config import digest
from matryo.spine.errors import NoSpaceError
from matryo.spine.fetch import file_sha256
from matryo.spine.run import RunFolder, read_metrics, read_run


@dataclass(frozen=True, kw_only=True)
class Config:
    k: int = 32
    limit: int | None = 5
    folder: Path = Path("x")


def finished(root, name="first", parents=(), outputs=None):
    with RunFolder.create(root, name, "sae harvest", Config(), parents) as run:
        run.finish(outputs or {"store": "store", "tokens": 12})
    return run.path


def test_a_finished_run_is_read_back_with_its_parents(tmp_path):
    parent = finished(tmp_path)
    with RunFolder.create(tmp_path, "gpt2 small/x", "sae train", Config(limit=None), [tmp_path / "latest"]) as run:
        run.log(step=1, loss=2.5)
        assert not (run.path / "run.json").exists()
        run.finish({"sae": Path("saes/a")})
    told = read_run(tmp_path / "latest")
    assert told.path == run.path
    assert (told.command, told.outputs) == ("sae train", {"sae": "saes/a"})
    assert told.config == {"k": 32, "limit": None, "folder": "x"}
    assert told.parents == (str(parent),)
    sealed = json.loads((run.path / "run.json").read_text())
    assert sealed["parents"][0]["run_sha256"] == file_sha256(parent / "run.json")
    assert run.path.name.endswith(digest(sealed["config"]))
    assert "-gpt2-small-x-" in run.path.name
    assert json.loads((run.path / "environment.json").read_text())["packages"]["numpy"] == np.__version__


def test_runs_moved_together_keep_their_parents(tmp_path):
    parent = finished(tmp_path / "runs")
    child = finished(tmp_path / "runs", "second", [parent])
    (tmp_path / "runs").rename(tmp_path / "moved")
    assert read_run(tmp_path / "moved" / child.name).parents == (str(tmp_path / "moved" / parent.name),)


def test_a_parent_must_be_finished(tmp_path):
    open_run = RunFolder.create(tmp_path, "open", "sae train", Config())
    with pytest.raises(ValueError, match="is not finished: resume it"):
        RunFolder.create(tmp_path, "next", "sae train", Config(), [open_run.path])
    open_run.close()


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is no run folder"):
        read_run(tmp_path)
    with pytest.raises(ValueError, match="is no run folder"):
        read_run(tmp_path / "latest")
    path = finished(tmp_path)
    (path / "run.json").write_text((path / "run.json").read_text()[:40])
    with pytest.raises(ValueError, match=r"run\.json was altered"):
        read_run(path)


def _create_many(root, queue):
    queue.put([RunFolder.create(Path(root), "same", "x", {"a": 1}).path.name for _ in range(10)])


def test_processes_of_the_same_second_never_share_a_folder(tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=_create_many, args=(str(tmp_path), queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    names = [name for _ in workers for name in queue.get(timeout=60)]
    for worker in workers:
        worker.join()
    assert len(set(names)) == 20
    assert (tmp_path / "latest").resolve().name in names
    assert not (tmp_path / "latest").readlink().is_absolute()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_numbers_of_any_origin_are_logged_as_json(tmp_path):
    with RunFolder.create(tmp_path, "n", "x", {}) as run:
        run.log(step=1, a=np.float32(0.5), b=float("nan"), c=float("-inf"), d="text", e=None)
    row = read_metrics(run.path)[0]
    assert {k: row[k] for k in "abcde"} == {"a": 0.5, "b": "nan", "c": "-inf", "d": "text", "e": None}
    assert float(row["b"]) != float(row["b"])
    assert row["time"] > 1e9


def test_a_resumed_run_keeps_what_it_logged_and_its_later_lines_stand(tmp_path):
    run = RunFolder.create(tmp_path, "n", "sae train", Config(limit=None))
    for step in range(1, 6):
        run.log(step=step, session_was=1)
    run.close()
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "sess')  # the line a kill tore
    before = (run.path / "metrics.jsonl").read_bytes()
    with RunFolder.reopen(run.path, Config(limit=None)) as again:
        again.log(note="resumed")
        again.log(step=4, session_was=2)
        again.log(step=4, validation=True)
        again.finish({})
    assert (run.path / "metrics.jsonl").read_bytes().startswith(before)
    rows = [(r.get("step"), r["session"]) for r in read_metrics(run.path)]
    assert rows == [(1, 1), (2, 1), (3, 1), (None, 2), (4, 2), (4, 2)]
    assert json.loads((run.path / "run.json").read_text())["sessions"] == 2


def test_resuming_is_refused_for_finished_runs_other_configs_and_other_folders(tmp_path):
    path = finished(tmp_path)
    with pytest.raises(ValueError, match="is finished: there is nothing to resume"):
        RunFolder.reopen(path, Config())
    with pytest.raises(ValueError, match="is no run folder"):
        RunFolder.reopen(tmp_path, Config())
    RunFolder.create(tmp_path, "open", "x", Config()).close()
    with pytest.raises(ValueError, match=r"another config: k: 32 -> 64; limit: 5 -> None; resume it unchanged"):
        RunFolder.reopen(tmp_path / "latest", Config(k=64, limit=None))
    RunFolder.reopen(tmp_path / "latest", Config()).close()


def test_plain_dict_configs_resume_too(tmp_path):
    RunFolder.create(tmp_path, "open", "x", {"a": None, "b": (1, 2), "c": {"d": 1.5}}).close()
    RunFolder.reopen(tmp_path / "latest", {"a": None, "b": [1, 2], "c": {"d": 1.5}}).close()
    with pytest.raises(ValueError, match=r"c\.d: 1\.5 -> 2"):
        RunFolder.reopen(tmp_path / "latest", {"b": [1, 2], "c": {"d": 2}})


def test_a_folder_in_use_is_refused_until_its_process_is_gone(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from matryo.spine.run import RunFolder\n"
        "run = RunFolder.create(Path(sys.argv[1]), 'n', 'x', {}); run.log(step=1)\n"
        "print('up', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        with pytest.raises(BlockingIOError, match="run folder in use"):
            RunFolder.reopen(tmp_path / "latest", {})
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    with RunFolder.reopen(tmp_path / "latest", {}) as run:
        run.log(step=2)
    assert [row["step"] for row in read_metrics(run.path)] == [1, 2]


def test_a_full_disk_leaves_whole_lines_and_one_line_of_error(tmp_path, monkeypatch):
    with RunFolder.create(tmp_path, "n", "x", {}) as run:
        run.log(step=1)
        real = os.write
        monkeypatch.setattr(run_module.os, "write", lambda fd, data: real(fd, data[:7]))  # what a full disk does
        with pytest.raises(NoSpaceError, match=r"cannot log to .*: disk full; free some, then resume") as caught:
            run.log(step=2)
        assert "\n" not in str(caught.value)
        monkeypatch.undo()
        run.log(step=3)
    assert [json.loads(line)["step"] for line in (run.path / "metrics.jsonl").read_text().splitlines()] == [1, 3]


def test_sinks_are_named_and_told_every_row(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="unknown log sink 'wandbb': did you mean 'wandb'"):
        RunFolder.create(tmp_path, "n", "x", {}, sinks=["wandbb"])
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(ValueError, match=r"log sink 'trackio' is not installed .*: pip install trackio"):
        RunFolder.create(tmp_path, "n", "x", {}, sinks=["trackio"])
    assert not list(tmp_path.iterdir())

    class Fake:
        rows, closed = [], 0

        @classmethod
        def init(cls, project, name, config):
            assert (project, config) == ("matryo", {"k": 3})
            return cls()

        def log(self, row, step):
            self.rows.append((step, row["loss"]))

        def finish(self):
            Fake.closed += 1

    monkeypatch.setitem(sys.modules, "trackio", Fake)
    with RunFolder.create(tmp_path, "n", "x", {"k": 3}, sinks=["trackio"]) as run:
        run.log(step=1, loss=0.5)
        run.finish({})
    assert (Fake.rows, Fake.closed) == ([(1, 0.5)], 1)


def test_tensorboard_gets_numbers_only(tmp_path, monkeypatch):
    calls = []

    class Writer:
        def __init__(self, folder):
            calls.append(Path(folder).name)

        def add_scalar(self, *scalar):
            calls.append(scalar)

        def close(self):
            calls.append("closed")

    fake = type(sys)("torch.utils.tensorboard")
    fake.SummaryWriter = Writer  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    with RunFolder.create(tmp_path, "n", "x", {}, sinks=["tensorboard"]) as run:
        run.log(step=3, loss=0.5, kind="a")
    assert calls[0] == "tensorboard"
    assert calls[1][:3] == ("loss", 0.5, 3)
    assert calls[2:] == ["closed"]


def test_a_run_with_letters_of_any_alphabet_is_read_whatever_the_locale(tmp_path):
    path = finished(tmp_path, outputs={"store": "Größe-雪"})
    ask = "import sys, pathlib; from matryo.spine.run import read_run; "
    ask += "print(ascii(read_run(pathlib.Path(sys.argv[1])).outputs))"
    told = {**os.environ, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    done = subprocess.run([sys.executable, "-c", ask, str(path)], env=told, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ascii({"store": "Größe-雪"})


def test_a_log_sink_that_cannot_be_used_is_said_in_one_line(tmp_path, monkeypatch):
    def init(**_):
        raise RuntimeError("no API key")

    module = type(sys)("wandb")
    monkeypatch.setattr(module, "init", init, raising=False)
    monkeypatch.setitem(sys.modules, "wandb", module)
    with pytest.raises(ValueError, match=r"log sink 'wandb' cannot be used \(no API key\)"):
        RunFolder.create(tmp_path, "first", "sae train", Config(), sinks=["wandb"])
