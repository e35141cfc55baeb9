"""Examples against the dense matrix, the template's words, and a judge behind a local stub server."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import numpy as np
import pytest
import torch

from matryo.sae.evaluate.explain import ExplainConfig, Judge, collect_firings, describe, draw_examples
from matryo.sae.evaluate.explain.judge import read_explanation, read_numbers
from matryo.sae.evaluate.explain.task import explanations_task
from matryo.sae.evaluate.explain.templated import accuracy, mark, token_rule
from matryo.sae.evaluate.subjects import Subjects
from matryo.sae.lm import LM, capture, load_lm
from matryo.sae.nn import SAEConfig, build
from matryo.sae.text import TokenRows

SITE, ROWS, LENGTH = "blocks.1.resid_pre", 40, 27
CONFIG = ExplainConfig(explain_latents=6, explain_context=4)


@pytest.fixture(scope="module")
def lm() -> LM:
    return load_lm("tiny")


@pytest.fixture(scope="module")
def rows(lm) -> TokenRows:
    tokens = torch.randint(300, 700, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0)).int()
    tokens[:, 0] = lm.bos_id
    return TokenRows(tokens.numpy(), np.zeros((ROWS, LENGTH), np.int32), ("one",))


@pytest.fixture(scope="module")
def saes(lm, rows):
    x = capture(lm, torch.from_numpy(rows.tokens).long(), [SITE])[SITE][:, 1:].flatten(0, 1)
    made = {}
    for seed in (0, 1):
        sae = build(SAEConfig(d_in=lm.d_model, n_latents=61, k=5, seed=seed))
        sae.initialise(x)
        sae.calibrate([x])
        made[f"s{seed}"] = sae.eval()
    return made


@pytest.fixture
def subjects(lm, rows, saes, tmp_path) -> Subjects:
    rows.save(tmp_path / "rows" / "heldout")
    return Subjects(
        saes=saes,
        runs=dict.fromkeys(saes, "run"),
        site=SITE,
        lm_name="tiny",
        processing={},
        rows_folder=tmp_path / "rows",
        store_source=None,
    )


def test_firings_are_those_of_the_dense_matrix(lm, rows, saes):
    acts = capture(lm, torch.from_numpy(rows.tokens).long(), [SITE])[SITE]
    norms = acts[:, 1:].norm(dim=-1)
    assert bool((norms <= 10 * norms.median()).all())  # no sinks here
    for name, found in collect_firings(saes, lm, rows, SITE).items():
        z = saes[name].encode(acts).detach()
        z[:, 0] = 0
        assert torch.equal(found.counts, (z > 0).sum((0, 1)))
        often = found.often(20)
        assert often == [i for i in range(61) if int((z[..., i] > 0).sum()) > 20]
        asked = [*often[:3], 0]
        for latent, dense in found.of(sorted(set(asked))).items():
            torch.testing.assert_close(dense, z[..., latent], rtol=1e-4, atol=1e-4)


def planted(rows: int = 30, length: int = 41) -> torch.Tensor:
    """A latent that fires on one token in eight or so, with values all different."""
    random = torch.Generator().manual_seed(3)
    acts = torch.rand(rows, length, generator=random) * (torch.rand(rows, length, generator=random) < 0.12)
    acts[:, 0] = 0
    return acts


def test_windows_are_chosen_as_saebench_does():
    config, acts = ExplainConfig(), planted()
    around = config.explain_context
    found = draw_examples(acts, config, np.random.default_rng(0))
    assert found is not None and (len(found.shown), len(found.tests)) == (15, 14)
    # By hand: the strongest middles, none in the same row within `around` of a stronger one.
    inner = acts[:, around : 41 - around]
    best: list[tuple[int, int]] = []
    for place in sorted(np.ndindex(*inner.shape), key=lambda place: -float(inner[place])):
        if len(best) < 12 and all(place[0] != r or abs(place[1] - c) > around for r, c in best):
            best.append(place)
    weakest = min(float(inner[place]) for place in best)
    largest = max(float(acts[r, c : c + 2 * around + 1].max()) for r, c in best)
    windows = [*found.shown, *found.tests]
    drawn = [example for example in windows if not example.random]
    top = {(e.row, e.first) for e in drawn if (e.row, e.first) in best}
    weaker = [e for e in drawn if (e.row, e.first) not in best]
    assert top == set(best) and len(weaker) == 7
    assert all(0 < e.values[around] < weakest for e in weaker)
    assert len({(e.row, e.first) for e in weaker}) == 7
    assert sum(e.random for e in found.tests) == 10 and not any(e.random for e in found.shown)
    assert sum((e.row, e.first) in best for e in found.tests if not e.random) == 2
    for e in windows:
        assert len(e.values) == 2 * around + 1
        assert e.values == pytest.approx(acts[e.row, e.first : e.first + 21].tolist())
        assert list(e.active) == [value > 0.01 * largest for value in e.values]
    peaks = [max(e.values) for e in found.shown]
    assert peaks == sorted(peaks, reverse=True)


def test_weaker_windows_are_drawn_by_squared_activation():
    acts = torch.zeros(60, 21)
    acts[:, 10] = torch.linspace(1, 2, 60)
    acts[0, 10] = 100  # the one strong window beside the test's
    config = ExplainConfig(explain_top=1, explain_test_top=1, explain_weighted=1, explain_test_weighted=0)
    counts = torch.zeros(60)
    for seed in range(400):
        found = draw_examples(acts, config, np.random.default_rng(seed))
        assert found is not None
        for example in found.shown:
            counts[example.row] += example.values[10] < 1.9999
    weights = acts[1:59, 10].square()
    upper, expected = float(counts[30:59].sum() / counts.sum()), float(weights[29:].sum() / weights.sum())
    assert upper == pytest.approx(expected, abs=0.07) and expected > 0.6


def test_latents_that_fire_too_seldom_have_no_windows():
    acts = torch.zeros(5, 30)
    assert draw_examples(acts, ExplainConfig(), np.random.default_rng(0)) is None
    acts[2, 15] = 1
    assert draw_examples(acts, ExplainConfig(), np.random.default_rng(0)) is None
    with pytest.raises(ValueError, match="rows have 12 tokens; expected a window of 21"):
        draw_examples(acts[:, :12], ExplainConfig(), np.random.default_rng(0))


def test_the_template_says_tokens_promotions_and_contexts(lm, rows):
    tokens = torch.from_numpy(rows.tokens).long().repeat(1, 2)[:, :41]
    place = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(2))
    tokens = torch.where(place < 0.08, 310, torch.where(place < 0.12, 320, tokens))
    acts = torch.where(tokens == 310, 2.0, 0.0) + torch.where(tokens == 320, 1.0, 0.0)
    acts = acts * torch.linspace(0.9, 1.1, tokens.numel()).view_as(acts)
    examples = draw_examples(acts, CONFIG, np.random.default_rng(0))
    assert examples is not None
    unembed = lm.unembed().float()
    row = torch.randn(lm.d_model, generator=torch.Generator().manual_seed(1))
    found = describe(lm, tokens, acts, examples, row, unembed)
    pieces, total = lm.decode_tokens([310, 320]), float(acts.sum())
    shares = [float(acts[tokens == token].sum()) / total for token in (310, 320)]
    assert dict(found.tokens) == pytest.approx(dict(zip(pieces, shares, strict=True)))
    order = sorted(range(lm.vocab_size), key=lambda i: -float((row @ unembed)[i]))
    assert list(found.promoted) == lm.decode_tokens(order[:5])
    strongest = examples.shown[0]
    assert f"«{pieces[0]}»" in found.contexts[0]
    assert found.contexts[0].replace("«", "").replace("»", "") == mark(lm, tokens, strongest)
    assert found.text.startswith("templated: ") and pieces[0] in found.text
    assert describe(lm, tokens, acts, examples, row[:3], None).promoted == ()
    # A latent that is a token is guessed without error.
    assert accuracy(token_rule(tokens, examples), examples.tests) == 1


class Stub(BaseHTTPRequestHandler):
    """Answers as a chat model that knows that the latent responds to the token it was shown marked."""

    seen: ClassVar[list[dict]] = []
    failures = 0
    mode = "good"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Stub.seen.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
        if Stub.failures:
            Stub.failures -= 1
            return self.answer(503, {"error": "busy"})
        if Stub.mode == "refuses":
            return self.answer(401, {"error": "no such key"})
        if Stub.mode == "strange":
            return self.answer(200, {"answer": 42})
        user = body["messages"][1]["content"]
        if "<<" in user:
            words = re.findall(r"<<(.*?)>>", user)
            return self.say(f"This neuron activates on {max(set(words), key=words.count)}.")
        if Stub.mode == "chatty":
            return self.say("I believe it is the first one")
        explanation, _, lines = user.partition("\n\n")
        wanted = explanation.removeprefix("It responds to: ")
        numbers = [line.split(".")[0] for line in lines.split("\n") if wanted in line.partition(". ")[2]]
        return self.say(", ".join(numbers) or "None")

    def say(self, text):
        self.answer(200, {"choices": [{"message": {"role": "assistant", "content": text}}]})

    def answer(self, code, content):
        data = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def stub():
    Stub.seen, Stub.failures, Stub.mode = [], 0, "good"
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


def with_judge(url: str, **changes) -> ExplainConfig:
    return ExplainConfig(explain_latents=6, explain_context=4, explain_judge=url, explain_judge_workers=2, **changes)


def test_without_a_judge_explanations_are_templated_and_nothing_is_asked(subjects):
    outcome = explanations_task(subjects, CONFIG)
    for scores in outcome.scores.values():
        assert 0.3 < scores["token_rule"] <= 1 and scores["judge"] is None
    assert all(row[3].startswith("templated: ") and row[5] is None for row in outcome.tables["latents"].rows)
    assert outcome.extra["saebench"] == {} and "judge" not in outcome.missing
    assert outcome == explanations_task(subjects, CONFIG)


def test_a_judge_explains_and_is_scored_as_in_saebench(subjects, stub, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "secret")
    outcome = explanations_task(subjects, with_judge(stub, explain_judge_key="JUDGE_KEY", explain_judge_model="m"))
    found = outcome.extra["explanations"]["s0"]
    assert len(Stub.seen) == 2 * sum(map(len, outcome.extra["explanations"].values()))
    assert {request["path"] for request in Stub.seen} == {"/v1/chat/completions"}
    assert {(request["key"], request["model"]) for request in Stub.seen} == {("Bearer secret", "m")}
    assert {request["max_tokens"] for request in Stub.seen} == {30, 2 * 14 + 5}
    assert not any("secret" in str(value) for value in (outcome.constants, outcome.missing, outcome.data))
    # By hand: the stub says the words in which the token stands, so its score is that of a search in the text.
    for one in found:
        assert one["judged"] and not one["judged"].startswith("This neuron")
    scores = [one["judge"] for one in found]
    assert outcome.scores["s0"]["judge"] == pytest.approx(sum(scores) / len(scores))
    told = outcome.extra["saebench"]["s0"]
    assert told["metrics"]["autointerp"]["autointerp_score"] == outcome.scores["s0"]["judge_random_inactive"]


def test_accuracy_takes_random_windows_as_they_are_unless_told():
    acts = planted()
    acts[:, 5::3] += 1.0  # dense: random windows fire too
    found = draw_examples(acts, ExplainConfig(), np.random.default_rng(1))
    assert found is not None
    everywhere = [True] * len(found.tests)
    firing = sum(any(v > 0 for v in e.values) for e in found.tests)
    assert accuracy(everywhere, found.tests) == pytest.approx(firing / 14) and firing > 10
    assert accuracy(everywhere, found.tests, random_inactive=True) == pytest.approx(4 / 14)


def test_what_the_judge_cannot_do_is_said_and_the_template_stays(subjects, stub):
    gone = explanations_task(subjects, with_judge("http://127.0.0.1:1/v1"))
    assert "http://127.0.0.1:1/v1 cannot be reached" in gone.missing["judge"]
    assert all(scores["token_rule"] is not None and scores["judge"] is None for scores in gone.scores.values())
    Stub.mode = "refuses"
    assert "answered 401" in explanations_task(subjects, with_judge(stub)).missing["judge"]
    Stub.mode = "strange"
    assert "expected choices[0].message.content" in explanations_task(subjects, with_judge(stub)).missing["judge"]
    Stub.mode = "chatty"
    chatty = explanations_task(subjects, with_judge(stub))
    count = len(chatty.extra["explanations"]["s0"])
    assert chatty.missing["s0, judge"] == f"{count} of {count} answers were no list of numbers"


def test_a_busy_judge_is_asked_again(stub):
    Stub.failures = 2
    judge = Judge(stub, "m", pause=0.0)
    assert judge.ask([{"role": "system", "content": ""}, {"role": "user", "content": "<<x>>"}], 5).endswith("x.")
    assert len(Stub.seen) == 3
    Stub.failures = 3
    with pytest.raises(OSError, match="answered 503"):
        judge.ask([{"role": "system", "content": ""}, {"role": "user", "content": "<<x>>"}], 5)
    assert Judge.at(f"{stub}/chat/completions/", "m", "NO_SUCH_KEY", 3.0).url == stub


@pytest.mark.parametrize(
    ("answer", "numbers"),
    [("1, 4 and 7.", [1, 4, 7]), ("None", []), (" 12 ", [12]), ("", []), ("the first", None), ("1, two", None)],
)
def test_lists_of_numbers_are_read(answer, numbers):
    assert read_numbers(answer) == numbers


def test_explanations_are_read_without_their_sentence():
    assert read_explanation("This neuron activates on the word 'knows'.") == "the word 'knows'"
    assert read_explanation("names of rivers") == "names of rivers"


@pytest.mark.parametrize(
    ("field", "value"), [("explain_judge", "localhost:8000"), ("explain_latents", 0), ("explain_judge_timeout", 0.0)]
)
def test_choices_that_make_no_sense_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        ExplainConfig(**{field: value})
