"""What a user names → SAEs: the same things, and the same messages, in every command that takes SAEs."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from tests.sae.dashboard.planted import LENGTHS, NESTED, SMALL, make_run

from matryo import cli
from matryo.sae.commands.index import indexed
from matryo.sae.dashboard.index.opened import open_index
from matryo.sae.dashboard.views.units import meta_runs
from matryo.sae.nn import SAE, SAEConfig, build
from matryo.sae.sources import distinct, find_saes, one_sae, read_saes, settled, sources_of
from matryo.spine.run import RunFolder, read_run

GOLDEN = Path(__file__).with_name("interop") / "golden"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two runs of the same two SAEs, one by name and one made from it; a loose SAE; an unfinished run; no SAE."""
    folder = tmp_path_factory.mktemp("sources")
    first = make_run(folder / "runs")
    (folder / "first").symlink_to(first)
    shutil.copytree(first, folder / "copies" / "second")
    with RunFolder.create(folder / "runs", "made", "sae evaluate", {}, [first]) as run:
        run.finish({})
    (folder / "made").symlink_to(run.path)
    RunFolder.create(folder / "runs", "begun", "sae train", {}).close()
    (folder / "begun").symlink_to((folder / "runs" / "latest").resolve())
    build(SAEConfig(kind="relu", d_in=256, n_latents=19)).eval().save(folder / "loose", {})
    (folder / "empty").mkdir()
    return folder


@pytest.fixture(autouse=True)
def _there(folder, monkeypatch):
    monkeypatch.chdir(folder)


def run(line, capsys):
    code = cli.run(shlex.split(line))
    return code, capsys.readouterr()


def test_a_run_is_all_of_its_saes_and_a_run_made_from_it_is_too(folder):
    for source in ("first", str(folder / "first"), Path("made")):
        found = find_saes(source)
        assert [place.name for place in found] == [NESTED, SMALL]
        assert {place.run.path for place in found} == {(folder / "first").resolve()}


@pytest.mark.parametrize("behind", ["", "/sae_weights.safetensors"])
def test_one_of_a_run_is_a_folder_or_file_in_it_and_knows_its_run(behind, folder):
    one = one_sae(f"first/saes/{SMALL}{behind}")
    assert (one.name, one.run.path) == (SMALL, (folder / "first").resolve())
    assert one.outputs["rows"] == str((folder / "first").resolve() / "rows")
    assert torch.equal(one.sae.W_dec, SAE.load(folder / "first" / "saes" / SMALL).W_dec)
    assert not one.sae.training


def test_a_level_takes_the_first_latents(folder):
    whole, part = (one_sae(f"first/saes/{NESTED}{level}") for level in ("", "@4"))
    assert (part.name, part.run) == (f"{NESTED}@4", whole.run)
    assert torch.equal(part.sae.W_dec, whole.sae.W_dec[:4]) and part.sae.config.n_latents == 4
    assert [one.name for one in read_saes(["first@3"])] == [f"{NESTED}@3", f"{SMALL}@3"]
    assert whole.prefix(7).prefix(2).name == f"{NESTED}@2"


def test_other_folders_and_formats_belong_to_no_run():
    for source, name, what in (
        ("loose", "loose", "standard SAE of SAELens, written by matryo"),
        (GOLDEN / "dictionary_learning" / "BatchTopKSAE", "BatchTopKSAE", "BatchTopKSAE of dictionary_learning"),
        (GOLDEN / "authors" / "topk" / "sae.pt", "topk", None),
    ):
        one = one_sae(source)
        assert one.name == name and one.run is None and what in (None, one.found.what)
    with pytest.raises(ValueError, match="no activations of loose are at hand, as it belongs to no run"):
        one_sae("loose").outputs  # noqa: B018


def test_names_on_the_hub_are_not_looked_up_before_they_are_read():
    (place,) = find_saes("hf:google/gemma-scope-2b:layer_1/width_16k@64")
    assert (place.name, place.level, place.run) == ("google-gemma-scope-2b-layer_1-width_16k", 64, None)
    assert place.at == "hf:google/gemma-scope-2b:layer_1/width_16k"


def test_each_is_read_once_under_a_name_of_its_own(folder):
    twice = read_saes(["first", f"first/saes/{SMALL}", "made", f"runs/../first/saes/{NESTED}@12"])
    assert [one.name for one in twice] == [NESTED, SMALL, f"{NESTED}@12"]
    first = (folder / "first").resolve().name
    both = read_saes(["first", f"copies/second/saes/{SMALL}", "loose"])
    assert [one.name for one in both] == [NESTED, f"{first}-{SMALL}", f"second-{SMALL}", "loose"]
    more = read_saes(["copies/second", "first"], known=twice)
    assert [one.name for one in more] == [f"second-{NESTED}", f"second-{SMALL}"]
    assert [one.name for one in distinct([twice[0]] * 3)] == [f"{first}-{NESTED}{n}" for n in ("", "-2", "-3")]


def test_whole_runs_are_told_as_such(folder):
    first = (folder / "first").resolve().name
    assert sources_of(read_saes(["first", "loose"])) == [first, str(folder / "loose" / "sae_weights.safetensors")]
    assert sources_of(read_saes([f"first/saes/{SMALL}", "first@4"])) == [
        f"{first}/saes/{name}" for name in (SMALL, f"{NESTED}@4", f"{SMALL}@4")
    ]
    assert sources_of(read_saes([f"first/saes/{SMALL}", f"first/saes/{NESTED}"])) == [first]


def test_a_config_tells_whole_paths_that_are_read_again(folder, monkeypatch, tmp_path):
    first = (folder / "first").resolve()
    saes = read_saes(["made", f"first/saes/{NESTED}@4", "loose"])
    told = sources_of(saes, whole=True)
    weights = str(folder / "loose" / "sae_weights.safetensors")
    assert told == [str(first), f"{first}/saes/{NESTED}@4", weights]
    given = ["first@4", f"first/saes/{SMALL}", "loose/sae_weights.safetensors", "hf:a/b:c@3"]
    whole = [settled(source) for source in given]
    assert whole == [f"{first}@4", f"{first}/saes/{SMALL}", weights, "hf:a/b:c@3"]
    monkeypatch.chdir(tmp_path)
    assert [one.place.key for one in read_saes(told)] == [one.place.key for one in saes]


def test_an_index_finds_its_runs_wherever_they_lie_now(tmp_path):
    moved = [tmp_path / "there" / "one", tmp_path / "there" / "two"]
    told = ["/gone/one", "/gone/two/saes/a@4", "/elsewhere/b"]
    assert indexed(told, moved) == [str(moved[0]), f"{moved[1]}/saes/a@4", "/elsewhere/b"]
    assert indexed((), moved) == [str(run) for run in moved], "one of an older version is of whole runs"


def test_a_prefix_of_a_topk_that_needs_the_others_is_refused(tmp_path):
    build(SAEConfig(kind="topk", d_in=8, n_latents=6, k=2)).eval().save(tmp_path / "topk", {})
    with pytest.raises(ValueError, match="topk@4 is a prefix of a TopK SAE without levels"):
        read_saes([tmp_path / "topk@4"])
    assert one_sae(tmp_path / "topk@6").sae.config.n_latents == 6


def test_a_meta_sae_of_a_prefix_is_not_taken_for_one_of_the_whole(folder, capsys, tmp_path):
    shutil.copytree((folder / "first").resolve(), tmp_path / "one")
    whole, part = f"{tmp_path}/one/saes/{NESTED}", f"{tmp_path}/one/saes/{NESTED}@4"
    code, said = run(f"sae index {whole} {part} --runs {tmp_path}", capsys)
    assert code == 0, said.err
    index = open_index((tmp_path / "latest").resolve())
    made = []
    for source in (whole, part):
        code, said = run(f"sae meta {source} --n-meta 3 --k 1 --steps 2 --label-tokens 0 --runs {tmp_path}", capsys)
        assert code == 0, said.err
        made.append((tmp_path / "latest").resolve().name)
    assert list(meta_runs(tmp_path, index.saes[NESTED])) == made[:1]
    assert not meta_runs(tmp_path, index.saes[f"{NESTED}@4"])


WRONG = {
    "nothing": ("nowhere", r"nowhere does not exist; expected a run, RUN/saes/NAME, an SAE folder, or hf:OWNER/REPO"),
    "misspelt": ("first/saes/planted-smal", r"unknown SAE 'planted-smal': did you mean 'planted-small'\? \(as first/"),
    "not below saes": (f"first/{SMALL}", rf"first/{SMALL} does not exist; expected first/saes/{SMALL}"),
    "unfinished": ("begun", r"run \S+begun\S+ is not finished: resume it, run it again, or name a finished run"),
    "no SAE": ("empty", r"empty is no run folder, and \S+empty holds no SAE: expected one of sae_weights"),
    "a folder of SAEs": ("first/saes", rf"is no SAE but holds some: {NESTED}, {SMALL}; name one of these folders"),
    "level": (f"first/saes/{SMALL}@7", "level is 7; expected 1 to 6"),
    "hub": ("hf:nobody", "hf:nobody: expected hf:OWNER/REPO"),
}
LINES = {
    "evaluate": "evaluate {}",
    "meta": "meta {} --n-meta 3 --k 1 --steps 2",
    "meta smaller": f"meta first/saes/{NESTED} --smaller {{}} --n-meta 3 --k 1 --steps 2",
    "index": "index {}",
    "stitch": f"stitch {{}} first/saes/{NESTED}",
    "family": f"family first/saes/{NESTED} {{}}",
    "convert": "convert {} --out out",
    "adopt": "adopt {} --lm tiny --text file:nothing.txt",
    "serve": "serve {} --check",
    "share": "share {} --out out.html",
}


@pytest.mark.parametrize("source, pattern", WRONG.values(), ids=WRONG)
def test_what_cannot_be_read_is_said_in_one_line(source, pattern):
    with pytest.raises((ValueError, OSError)) as found:
        read_saes([source])
    assert re.search(pattern, str(found.value)) and "\n" not in str(found.value)


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_every_command_says_the_same(line, folder, capsys, tmp_path):
    (folder / "nothing.txt").write_text("some words")
    for name in ("nothing", "misspelt", "no SAE"):
        source, pattern = WRONG[name]
        runs = "" if line.startswith(("convert", "serve", "share")) else f" --runs {tmp_path / 'runs'}"
        code, said = run(f"sae {line.format(source)}{runs}", capsys)
        assert code == 2 and said.err.count("\n") == 1
        assert re.search(pattern, said.err), said.err
        assert not (tmp_path / "runs").exists() and not (folder / "out").exists()


@pytest.mark.parametrize("command", ["evaluate", "index", "serve --check"])
def test_an_sae_without_a_run_has_nothing_to_be_measured_on(command, capsys, tmp_path):
    runs = "" if "serve" in command else f" --runs {tmp_path / 'runs'}"
    code, said = run(f"sae {command} loose{runs}", capsys)
    assert code == 2 and said.err.count("\n") == 1
    assert "no activations of loose are at hand, as it belongs to no run; expected an SAE of a run" in said.err
    assert not (tmp_path / "runs").exists()


def test_one_sae_of_a_run_is_evaluated_as_it_is_among_all(capsys, tmp_path):
    flags = f"--tasks reconstruction --runs {tmp_path}"
    tasks = []
    for source in ("first", f"first/saes/{NESTED} first/saes/{NESTED}@{LENGTHS[0]}"):
        code, said = run(f"sae evaluate {source} {flags}", capsys)
        assert code == 0, said.err
        found = json.loads((tmp_path / "latest" / "scores.json").read_text())
        tasks.append(found["tasks"]["reconstruction"][0])
    among, alone = (task["scores"] for task in tasks)
    assert list(among) == [NESTED, SMALL] and list(alone) == [NESTED, f"{NESTED}@4"]
    assert alone[NESTED] == among[NESTED]
    (level,) = (row for row in tasks[0]["tables"]["levels"]["rows"] if row[:2] == [NESTED, 4])
    assert [alone[f"{NESTED}@4"][key] for key in ("fvu", "l0")] == pytest.approx(level[2:4], rel=1e-6)
    told = read_run(tmp_path / "latest")
    assert [Path(source).name for source in told.config["run"]] == [NESTED, f"{NESTED}@4"]
    assert "made" not in told.parents[0] and len(told.parents) == 1
    # An evaluation stands for what it measured: the SAEs of its runs.
    assert [one.name for one in find_saes(tmp_path / "latest")] == [NESTED, SMALL]


def test_one_sae_of_a_run_is_indexed_served_and_shared(folder, capsys, tmp_path):
    shutil.copytree((folder / "first").resolve(), tmp_path / "runs" / "one")
    at = tmp_path / "runs" / "one"
    sources = f"{at}/saes/{SMALL} {at}/saes/{NESTED}@4"
    code, said = run(f"sae serve {sources} --check", capsys)
    assert code == 2 and f"there is no index of {sources}: make one with matryo sae index {sources}" in said.err
    code, said = run(f"sae index {sources} --runs {tmp_path}/runs", capsys)
    assert code == 0, said.err
    made = (tmp_path / "runs" / "latest").resolve()
    index = open_index(made)
    assert list(index.saes) == [SMALL, f"{NESTED}@4"]
    assert (index.saes[SMALL].n_latents, index.saes[f"{NESTED}@4"].n_latents) == (6, 4)
    # Its weights are where the pages that encode look for them.
    part = SAE.load(made / index.saes[f"{NESTED}@4"].told["folder"])
    assert torch.equal(part.W_dec, SAE.load(at / "saes" / NESTED).W_dec[:4])
    for source in (sources, f"{at}/saes/{SMALL}", f"{at}/saes/{NESTED}@4", made):
        code, said = run(f"sae serve {source} --check", capsys)
        assert code == 0 and str(made) in said.out, said.err
    for source in (at, f"{at}/saes/{NESTED}"):
        code, said = run(f"sae serve {source} --check", capsys)
        assert code == 2 and "there is no index of" in said.err, "this index has not all of it"
    code, said = run(f"sae share {at}/saes/{SMALL} --sae {SMALL} --out {tmp_path}/one.csv --form csv", capsys)
    assert code == 0 and (tmp_path / "one.csv").read_text().count("\n") == 7
    code, said = run(f"sae index {at} --runs {tmp_path}/runs", capsys)
    assert code == 0 and run(f"sae serve {at} --check", capsys)[0] == 0


def test_an_index_of_single_saes_goes_on_with_them(folder, capsys, tmp_path, monkeypatch):
    from matryo.sae.dashboard.index import build

    shutil.copytree((folder / "first").resolve(), tmp_path / "runs" / "one")
    sources = f"{tmp_path}/runs/one/saes/{NESTED}@4"
    with monkeypatch.context() as patch:

        def stop(*args):
            raise KeyboardInterrupt

        patch.setattr(build, "write_corpus", stop)
        assert run(f"sae index {sources} --runs {tmp_path}/runs", capsys)[0] == 130
    made = (tmp_path / "runs" / "latest").resolve()
    for other, named in (
        (f"{tmp_path}/runs/one", "/runs/one; expected --resume without them"),
        (f"{sources} --split heldout", "split: 'train' -> 'heldout';"),
    ):
        code, said = run(f"sae index {other} --resume {made}", capsys)
        assert code == 2 and named in said.err
    code, said = run(f"sae index --resume {made}", capsys)
    assert code == 0, said.err
    assert list(open_index(made).saes) == [f"{NESTED}@4"]


def test_a_trained_sae_is_adopted_and_a_prefix_converted(folder, capsys, tmp_path):
    code, said = run(f"sae convert first/saes/{NESTED}@4 --out {tmp_path}/four", capsys)
    assert code == 0 and "4 latents on width 256" in said.out, said.err
    assert SAE.load(tmp_path / "four").config.n_latents == 4
    (tmp_path / "text.txt").write_text("The law of the sea has 9 parts and 27 more.\n\n" * 400)
    text = f"--lm tiny --text file:{tmp_path}/text.txt --tokens 1500 --row-length 16 --site blocks.0.resid_pre"
    code, said = run(f"sae adopt first {text} --runs {tmp_path}/runs", capsys)
    assert code == 0, said.err
    assert list(read_run(tmp_path / "runs" / "latest").outputs["saes"]) == [NESTED, SMALL]
