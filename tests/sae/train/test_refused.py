"""What training refuses, each in one line that names the value, what was expected and what to do."""

import math

import pytest
import torch
from tests.sae.train.cases import D_IN, batches, make, planted

from matryo.sae.train import TrainConfig, train

QUICK = TrainConfig(steps=9, lr=5e-3, dead_after=300, log_every=1)


def message(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


BATCHES = {
    "none": ([], QUICK, "there are 0 batches; expected at least one"),
    "of unknown number": ((x for x in batches(2)), TrainConfig(), r"number of steps is unknown; expected TrainConfig"),
    "flat": ([torch.ones(30)], QUICK, r"batch 0 is \(30,\); expected a tensor \(batch, d_in\)"),
    "empty": ([planted(9), torch.ones(0, D_IN)], QUICK, r"batch 1 is \(0, 20\)"),
    "arrays": ([planted(9).numpy()], QUICK, "batch 0 is ndarray; expected a tensor"),
    "triples": ([(planted(9),) * 3], QUICK, "batch 0 is .* and .* and"),
    "uneven pairs": ([(planted(9), planted(8))], QUICK, r"\(9, 20\) and \(8, 20\); .* a pair of as many rows"),
    "narrow": ([planted(9)[:, :19]], QUICK, r"x has width 19; expected 20"),
    "narrow later": ([planted(9), planted(9)[:, :19]], QUICK, r"x has width 19; expected 20"),
    "zeros": ([torch.zeros(9, D_IN)], QUICK, "mean squared norm of 0.0; expected a positive number"),
}


@pytest.mark.parametrize("what", BATCHES)
def test_batches_that_cannot_be(what):
    data, config, why = BATCHES[what]
    with pytest.raises(ValueError, match=why) as error:
        train(make(), data, config)
    message(error)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", [0, 2])
def test_values_that_are_not_finite_are_named(value, where):
    data = batches(3, 50)
    data[where][[17, 30], 4] = value
    with pytest.raises(ValueError, match=rf"row 17 of batch {where} is NaN or infinite; .*drop the row") as error:
        train(make(), data, QUICK)
    message(error)
    for sae in (make(d_out=3), make("relu", d_out=3)):
        with pytest.raises(ValueError, match=rf"row 17 of batch {where}"):
            train(sae, [(x, torch.ones(50, 3) + torch.arange(50)[:, None]) for x in data], QUICK)
        with pytest.raises(ValueError, match=rf"row 17 of batch {where}"):
            train(sae, [(planted(50), x[:, 3:6]) for x in data], QUICK)
    with pytest.raises(ValueError, match=rf"row 17 of calibration batch {where} is NaN"):
        train(make(), batches(3, 50), QUICK, calibration=data)


def test_a_loss_that_grows_without_bound_says_so():
    with pytest.raises(ValueError, match=r"the loss of relu-.* is (nan|inf) at step \d+; .*lower lr"):
        train(make("relu"), batches(3), TrainConfig(steps=200, lr=1e12, clip=0, warmup=0))


def test_a_one_time_source_that_ends_early():
    with pytest.raises(ValueError, match=r"the batches ended at step 5 of 9; expected more: lower steps, or give") as e:
        train(make(), (batch for batch in batches(5)), QUICK)
    message(e)


def test_names():
    with pytest.raises(ValueError, match=r"two SAEs are called batch_topk-48-k3-s1; .* give a dict of names"):
        train([make(), make()], batches(2), QUICK)
    with pytest.raises(ValueError, match="there are 0 SAEs"):
        train([], batches(2), QUICK)
    result = train({"one": make(), "two": make()}, batches(2), QUICK)
    assert list(result.last) == ["one", "two"] and result.last["one"] == result.last["two"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("lr", 0.0),
        ("lr", math.nan),
        ("threshold_lr", 0.0),
        ("warmup", 1.5),
        ("decay", -0.1),
        ("sparsity_warmup", math.nan),
        ("betas", (0.9, 1.0)),
        ("clip", -1.0),
        ("dead_after", 0),
        ("log_every", 0),
        ("checkpoint_every", -1),
    ],
)
def test_values_of_the_configuration_are_checked(field, value):
    with pytest.raises(ValueError, match=rf"^{field} is .*; expected ") as error:
        TrainConfig(**{field: value})
    message(error)
