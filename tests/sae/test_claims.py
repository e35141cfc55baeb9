"""Claims as units of work: the plan, resuming, what the numbers are said to mean, and the command."""

import json
import math
import shlex

import pytest

from matryo import cli
from matryo.sae import claims
from matryo.sae.claims import CLAIMS, FULL, SHORT, Form, as_markdown, judge, lines, plan, read_results, run_units
from matryo.sae.evaluate.intervals import mean_interval

SMALL = Form(recipe="tiny", k=(8, 32), seeds=2, deep_seeds=1)


def test_the_plan_has_every_pair_seed_and_task():
    units = {unit.name: unit for unit in plan(SMALL, ["reconstruction", "downstream", "absorption"])}
    assert list(units)[:5] == ["toy-paper", "toy-generated-s0", "toy-generated-s1", "toy-meta-s0", "toy-meta-s1"]
    for k in (8, 32):
        for seed in (0, 1):
            assert units[f"basic-k{k}-s{seed}"].needs == (f"train-pair-k{k}-s{seed}", f"train-rules-k{k}-s{seed}")
            assert units[f"train-pair-k{k}-s{seed}"].values["sae_seed"] == (seed,)
    assert [name for name in units if name.startswith("absorption")] == ["absorption-k32-s0"]
    assert not any(name.startswith("probing") for name in units), "no such task here"
    assert [name for name in units if name.startswith("meta")] == ["meta-k32-s0", "meta-k32-s1"], "every seed, one k"
    assert units["meta-k32-s1"].needs == ("train-pair-k32-s1",)
    for unit in units.values():
        assert all(list(units).index(need) < list(units).index(unit.name) for need in unit.needs)
    assert FULL.seeds >= 5 and FULL.deep_seeds >= 3 and FULL.k == (16, 32, 64)


def worker(asked, stop_at=None):
    def work(unit, needed):
        if unit.name == stop_at:
            raise KeyboardInterrupt
        asked.append(unit.name)
        assert set(needed) == set(unit.needs)
        if unit.kind == "evaluate":
            seed, k = unit.values["seed"], unit.values["k"]
            base = {"fvu": 0.3 + seed / 100, "ce_cost": 0.1, "decoder_cosine": 0.4, "l0": k + seed}
            second = {"fvu": 0.32 + seed / 90, "ce_cost": 0.1 + (-1) ** seed / 100, "decoder_cosine": 0.3 - seed / 99}
            second["l0"] = k
            return {
                "scores": {
                    "batch_topk": base,
                    "matryoshka": second,
                    "topk": {"fvu": 0.4 + seed / 95 + k, "l0": 0.8 * k},
                }
            }
        if unit.kind == "meta":
            more = {"batch_topk": 0.3, "matryoshka": 0.25 + unit.values["seed"] / 100}
            return {"scores": {kind: {"decoder_explained": value} for kind, value in more.items()}}
        if unit.kind == "toy-meta":
            shares = {"vanilla": 0.4, "matryoshka": 0.3}
            return {kind: [{"decoder_explained": share, "l0": 5.0}] for kind, share in shares.items()}
        if unit.kind == "toy":
            seeds = unit.values["seeds"]
            kinds = {"vanilla": 0.0, "matryoshka": 1.0}
            return {kind: [{"parent_active": v + s / 50 * v} for s in seeds] for kind, v in kinds.items()}
        return {"run": unit.name}

    return work


def test_what_is_interrupted_goes_on_where_it_was(tmp_path):
    units, asked = plan(SMALL, []), []
    with pytest.raises(KeyboardInterrupt):
        list(run_units(units, tmp_path, worker(asked, "train-rules-k32-s0")))
    before = list(asked)
    toys = ["toy-paper", "toy-generated-s0", "toy-generated-s1", "toy-meta-s0", "toy-meta-s1"]
    assert before == [*toys, "harvest", "train-pair-k32-s0"]
    told = [(unit.name, new) for unit, _, new in run_units(units, tmp_path, worker(asked))]
    assert asked == [unit.name for unit in units], "each unit once, in order"
    assert [name for name, new in told if not new] == before
    assert len(read_results(units, tmp_path)) == len(units)


def test_a_run_begun_before_there_were_meta_units_is_gone_on_with(tmp_path):
    units, asked = plan(SMALL, []), []
    older = [unit for unit in units if "meta" not in unit.kind]
    list(run_units(older, tmp_path, worker([])))
    new = [unit.name for unit, _, new in run_units(units, tmp_path, worker(asked)) if new]
    assert new == asked == ["toy-meta-s0", "toy-meta-s1", "meta-k32-s0", "meta-k32-s1"]
    # Reopening compares the config, which is the form: a field more would refuse what was begun without it.
    known = "recipe values k seeds deep_seeds deep_k ce_tokens toy_steps limits"
    assert list(Form.__dataclass_fields__) == known.split()


def test_only_what_is_named_is_done_with_what_it_needs(tmp_path):
    asked: list[str] = []
    list(run_units(plan(SMALL, []), tmp_path, worker(asked), ["basic-k8-s1"]))
    assert asked == ["harvest", "train-pair-k8-s1", "train-rules-k8-s1", "basic-k8-s1"]


def test_lines_are_paired_by_seed_and_told_by_k(tmp_path):
    units = plan(SMALL, [])
    list(run_units(units, tmp_path, worker([])))
    told = {(line.claim.statement, line.k): line for line in lines(read_results(units, tmp_path), units)}
    worse = told["Matryoshka reconstructs a little worse (FVU)", 32]
    differences = [0.02, 0.02 + 1 / 90 - 1 / 100]
    assert worse.difference.mean == pytest.approx(sum(differences) / 2) and worse.difference.count == 2
    assert worse.first.mean == pytest.approx(0.305)
    assert told["Matryoshka costs the model about as much (CE)", 8].verdict == "no difference found"
    assert told["BatchTopK reconstructs better (FVU) than TopK", 8].second.mean == pytest.approx(0.305)
    assert ("BatchTopK costs the model less (CE) than TopK", 8) not in told, "TopK's CE was not measured"
    assert worse.l0 == (32.5, 32)
    assert told["BatchTopK reconstructs better (FVU) than TopK", 8].verdict == "not comparable: L0 differs"
    tree = told["toy tree: the parent's latent fires with its children", None]
    assert tree.difference.count == 2 and tree.first.mean == 0
    assert told["generated tree: the parent's latent fires with its children", None].difference.count == 2
    apart = told["a meta-SAE explains less of Matryoshka's decoder", 32]
    assert apart.difference.mean == pytest.approx(-0.045) and apart.difference.count == 2
    assert ("a meta-SAE explains less of Matryoshka's decoder", 8) not in told
    planted = told["planted families: a meta-SAE of 1/4 of the latents explains less of Matryoshka's decoder", None]
    assert planted.verdict == "reproduced" and planted.l0 == (5, 5)
    text = as_markdown(list(told.values()))
    assert len(text.splitlines()) == 2 + len(told) and "0.28 → 0.30" in text and "batch_topk 0.305 (L0 32.5)" in text


def test_reconstructions_are_compared_at_equal_l0(tmp_path):
    """JumpReLU has an L0 too high by a twentieth, which flatters it: along its own line BatchTopK is better."""
    units = plan(Form(recipe="tiny", k=(16, 32, 64), seeds=2), [])

    def work(unit, needed):
        if unit.kind != "evaluate":
            return worker([])(unit, needed)
        k, seed = unit.values["k"], unit.values["seed"]
        plain = {"l0": 1.05 * k, "fvu": 0.5 - 0.05 * math.log(1.05 * k) + seed}
        ours = {"l0": k, "fvu": 0.5 - 0.05 * math.log(k) + seed - 0.001 - seed / 10**5}
        return {"scores": {"jumprelu": plain, "batch_topk": ours, "topk": {"l0": k, "fvu": 2.0}}}

    list(run_units(units, tmp_path, work))
    told = [line for line in lines(read_results(units, tmp_path), units) if line.claim.first in ("jumprelu", "topk")]
    assert [(line.claim.first, line.k) for line in told] == [(a, k) for a in ("topk", "jumprelu") for k in (32, 16, 64)]
    for line in told[3:]:
        assert line.difference.mean == pytest.approx(0.05 * math.log(1.05) - 0.001005) and line.difference.low > 0
        assert line.equal_l0.mean == pytest.approx(-0.001005) and line.equal_l0.count == 2
        assert line.verdict == "reproduced" and judge(line.difference, "lower") == "contradicted"
    assert "at equal L0" in as_markdown(told) and "-0.001005 [" in as_markdown(told)
    one = plan(Form(recipe="tiny", k=(32,), seeds=2), [])
    alone = [line for line in lines(read_results(one, tmp_path), one) if line.claim.first == "jumprelu"]
    assert [line.equal_l0 for line in alone] == [None] and alone[0].verdict == "contradicted"


@pytest.mark.parametrize(
    "values, direction, verdict",
    [
        ([-1.0, -1.1, -0.9], "lower", "reproduced"),
        ([-1.0, -1.1, -0.9], "higher", "contradicted"),
        ([1.0, -1.1, 0.3], "higher", "not decided"),
        ([1.0, 1.1, 0.9], "about the same", "differs: higher"),
        ([1.0, -1.1, 0.3], "about the same", "no difference found"),
        ([1.0], "higher", "one seed only"),
    ],
)
def test_verdicts(values, direction, verdict):
    assert judge(mean_interval(values), direction) == verdict


def test_every_claim_has_a_source_and_a_unit():
    names = [unit.name for unit in plan(FULL, ["absorption", "probing", "tpp"])]
    for claim in CLAIMS:
        assert claim.source and claim.theirs
        assert any(name.startswith(claim.where) for name in names)
    assert len({(claim.statement, claim.score) for claim in CLAIMS}) == len(CLAIMS)
    assert SHORT.seeds == 2


def test_the_command_runs_is_stopped_and_goes_on(tmp_path, monkeypatch, capsys):
    from matryo.sae.commands import claims as command

    small = Form(
        recipe="tiny",
        values={
            "text": (f"file:{tmp_path / 'text.txt'}",),
            "tokens": 2_000,
            "row_length": 32,
            "n_latents": (64,),
            "batch_size": 256,
            "passes": 1.0,
        },
        k=(4,),
        seeds=2,
        deep_seeds=0,
        deep_k=4,
        ce_tokens=64,
        toy_steps=100,
        limits={"steps": 20},
    )
    monkeypatch.setattr(command, "SHORT", small)
    monkeypatch.chdir(tmp_path)
    words = ["whale", "state", "union", "of", "the", "sea", "and", "law"]
    text = "\n\n".join(" ".join(words[(i * j) % 8] for j in range(1, 60)) for i in range(100))
    (tmp_path / "text.txt").write_text(text)

    def run(line):
        code = cli.run(shlex.split(f"sae claims {line} --quiet"))
        return code, capsys.readouterr()

    code, said = run("--short --only nothing")
    assert code == 2
    assert "only is nothing; expected the beginning of a unit's name: toy-paper, toy-generated, " in said.err
    toy = {"vanilla": [{"fvu": 0.1}, {"fvu": 0.2}], "matryoshka": [{"fvu": 0.3}, {"fvu": 0.5}]}
    for kind in ("toy", "toy-meta"):
        monkeypatch.setitem(
            command.WORK, kind, lambda unit, *rest: {k: v[: len(unit.values["seeds"])] for k, v in toy.items()}
        )
    with monkeypatch.context() as patch:

        def stop(*_):
            raise KeyboardInterrupt

        patch.setitem(command.WORK, "harvest", stop)
        code, said = run("--short --only basic-k4-s0 --runs stopped")
        assert code == 130 and "go on with: matryo sae claims --resume" in said.out
    code, said = run("--short --only basic-k4-s0")
    assert code == 0, said.err
    assert "go on with: matryo sae claims --resume" in said.out and "one seed only" in said.out
    harvests = len(list((tmp_path / "runs/latest/work").glob("*harvest*")))
    with monkeypatch.context() as patch:
        patch.setattr(command, "_begun", lambda _: tmp_path / "form.json")
        (tmp_path / "form.json").write_text('{"form": "full"}')
        code, said = run("--short --resume runs/latest")
        assert code == 2 and "--short is given and runs/latest is of the full form" in said.err
    code, said = run("--resume runs/latest")
    assert code == 0, said.err
    assert len(list((tmp_path / "runs/latest/work").glob("*harvest*"))) == harvests == 1
    told = json.loads((tmp_path / "runs/latest/claims.json").read_text())
    by_statement = {line["claim"]["statement"]: line for line in told}
    apart = by_statement["a meta-SAE explains less of Matryoshka's decoder"]
    explained = []
    for seed in range(2):
        unit = json.loads((tmp_path / f"runs/latest/units/meta-k4-s{seed}.json").read_text())
        scores = json.loads((tmp_path / "runs/latest/work" / unit["run"] / "scores.json").read_text())
        (pair,) = scores["pairs"].values()
        explained.append((pair["plain"][0], pair["nested"][0]))
        assert {one["n_meta"] for one in scores["saes"].values()} == {16}, "a quarter of 64, as meta-saebench has it"
    assert apart["first"]["mean"] == pytest.approx(sum(plain for plain, _ in explained) / 2)
    assert apart["difference"]["mean"] == pytest.approx(sum(nested - plain for plain, nested in explained) / 2)
    assert {line["claim"]["first"] for line in told} == {"topk", "jumprelu", "batch_topk", "vanilla"}
    assert (tmp_path / "runs/latest/run.json").is_file()
    units = claims.plan(small, [])
    assert len(list((tmp_path / "runs/latest/units").glob("*.json"))) == len(units)
    code, said = run("--resume runs/latest")
    assert code == 2 and "finished" in said.err
