"""A dense step against the dense autograd reference, and the choice between it and lists of entries."""

import pytest
import torch
from tests.sae.nn.cases import BATCH, CASES, LIMITS, N_LATENTS, Case, dead_latents, distance, generator, parameters
from tests.sae.nn.reference import dense_loss, rule
from tests.sae.train.cases import batches, make

from matryo.sae.nn.levels import draw_levels
from matryo.sae.train import dense
from matryo.sae.train.config import TrainConfig
from matryo.sae.train.member import Member


@pytest.mark.parametrize("rows", [4, 1000], ids=["chunks", "whole"])
@pytest.mark.parametrize("some_dead", [False, True], ids=["alive", "dead"])
@pytest.mark.parametrize("dtype", LIMITS, ids=["fp64", "fp32"])
@pytest.mark.parametrize("case", [case for case in CASES if case.kind in ("relu", "gated")], ids=str)
def test_loss_and_every_gradient_equal_the_dense_reference(
    case: Case, dtype: torch.dtype, some_dead: bool, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense, "CHUNK_VALUES", rows * N_LATENTS)
    sae, (x, target) = case.sae(dtype), case.data(dtype=dtype)
    dead = dead_latents() if some_dead else torch.zeros(N_LATENTS, dtype=torch.bool)
    ours = dense.dense_step(sae, x, target, dead, generator(), 0.4)
    p = parameters(sae)
    with torch.no_grad():
        selected = rule(p, case.config, x)
    levels = draw_levels(case.config, generator())
    theirs = dense_loss(p, case.config, x, target, selected, levels, dead, sparsity_scale=0.4)
    theirs.total.backward()
    limit = LIMITS[dtype]
    assert ours.levels == levels and ours.entries is None
    for name, found in {"total": ours.total, "aux": ours.aux, "sparsity": ours.sparsity}.items():
        assert distance(found, getattr(theirs, name)) <= limit, name
    assert distance(ours.per_level, torch.stack(theirs.per_level)) <= limit
    assert ours.active == int((theirs.z > 0).sum()) / BATCH
    assert torch.equal(ours.fired, (theirs.z > 0).any(0))
    for name, parameter in sae.named_parameters():
        assert distance(parameter.grad, p[name].grad) <= limit, name


@pytest.mark.parametrize("kind", ["relu", "gated"])
def test_dense_until_sparse(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of all latents are active at first: dense; with few active the same member goes on with lists."""
    dense_steps = []

    def counted(*args):
        dense_steps.append(1)
        return dense.dense_step(*args)

    monkeypatch.setattr("matryo.sae.train.member.dense_step", counted)
    sae = make(kind, l1=0.1)
    member = Member(sae, TrainConfig(steps=100, lr=1e-3))
    first, second, third = batches(3)
    sae.initialise(first)
    assert member.step(first, None, 0, 100).entries is None and len(dense_steps) == 1
    with torch.no_grad():
        sae.b_enc -= 2.0
    member.step(second, None, 1, 100)
    assert member.density is not None and member.density < dense.DENSE_ABOVE and len(dense_steps) == 2
    assert member.step(third, None, 2, 100).entries is not None and len(dense_steps) == 2
    again = Member(make(kind, l1=0.1), TrainConfig(steps=100, lr=1e-3))
    again.restore(*member.state())
    assert again.density == member.density


def test_other_kinds_have_no_dense_step() -> None:
    with pytest.raises(TypeError, match="batch_topk SAE has no dense step; expected relu or gated"):
        x = batches(1)[0]
        dense.dense_step(make("batch_topk"), x, None, torch.zeros(48, dtype=torch.bool), torch.Generator(), 1.0)
