"""A fused step against the dense autograd reference, and against the same training in plain operations."""

import pytest
import torch
from tests.sae.nn.cases import (
    BATCH,
    D_IN,
    LIMITS,
    N_LATENTS,
    Case,
    dead_latents,
    distance,
    each_case,
    generator,
    parameters,
    some_cases,
)
from tests.sae.nn.reference import dense_loss, rule
from torch import Tensor

from matryo.sae.kernels import use
from matryo.sae.nn.levels import draw_levels
from matryo.sae.train.adam import Adam
from matryo.sae.train.config import TrainConfig
from matryo.sae.train.fused import FusedStep
from matryo.sae.train.member import Member


@pytest.mark.parametrize("some_dead", [False, True], ids=["alive", "dead"])
@pytest.mark.parametrize("dtype", LIMITS, ids=["fp64", "fp32"])
@each_case
def test_loss_and_every_gradient_equal_the_dense_reference(case: Case, dtype: torch.dtype, some_dead: bool) -> None:
    if case.kind == "gated":
        assert not FusedStep.serves(case.sae(dtype))
        return
    sae, (x, target) = case.sae(dtype), case.data(dtype=dtype)
    dead = dead_latents() if some_dead else torch.zeros(N_LATENTS, dtype=torch.bool)
    step = FusedStep(sae, Adam(dict(sae.named_parameters()), (0.9, 0.99), {}))
    ours = step.loss(x, target, dead, 0.3, generator(), 0.4)
    enc, dec, b_enc, of_input = step.gradient.formed(not case.transcoder)
    grads = {"W_enc": enc, "W_dec": dec, "b_enc": b_enc, "b_dec": step.grad_b_dec}
    grads |= {name: value.grad for name, value in sae.named_parameters() if name not in grads}
    if of_input is not None:
        grads["b_dec"] = grads["b_dec"] + of_input

    p, selected = parameters(sae), torch.zeros(BATCH, N_LATENTS, dtype=torch.bool)
    selected[ours.entries.row, ours.entries.latent] = True
    levels = draw_levels(case.config, generator())
    theirs = dense_loss(p, case.config, x, target, selected, levels, dead, sparsity_scale=0.4)
    theirs.total.backward()
    limit = LIMITS[dtype]
    assert ours.levels == levels and not ours.total.requires_grad
    assert distance(ours.total, theirs.total) <= limit
    assert distance(ours.per_level, torch.stack(theirs.per_level)) <= limit
    assert distance(ours.aux, theirs.aux) <= limit and distance(ours.sparsity, theirs.sparsity) <= limit
    assert distance(ours.entries.dense(), theirs.z) <= limit
    assert (ours.residual is not None) == some_dead
    for name, grad in grads.items():
        assert distance(grad, p[name].grad) <= limit, name
    if dtype == torch.float64:
        with torch.no_grad():
            assert torch.equal(selected, rule(p, case.config, x)), "other entries than the rule's"


def trained(case: Case, backend: str, clip: float, batches: list[Tensor], dtype: torch.dtype) -> Member:
    member = Member(case.sae(dtype), TrainConfig(steps=20, lr=0.01, clip=clip, dead_after=3 * BATCH))
    with torch.no_grad():
        member.sae.b_enc[[3, 17, 40]] -= 20.0  # die after three batches, and are revived
    with use(backend):  # type: ignore[arg-type]
        for step, x in enumerate(batches):
            member.step(x, None if not case.transcoder else x[:, :-1], step, len(batches))
    return member


@pytest.mark.parametrize("clip", [0.0, 0.5], ids=["free", "clipped"])
@some_cases
def test_a_run_is_the_same_in_plain_operations(case: Case, clip: float) -> None:
    """Twelve steps with latents dying, in float64: selection, clipping, projection, Adam, unit rows, all together."""
    batches = list(torch.randn(12 * BATCH, D_IN, generator=generator(), dtype=torch.float64).split(BATCH))
    ours, theirs = (trained(case, backend, clip, batches, torch.float64) for backend in ("auto", "torch"))
    assert bool((ours.silent_tokens >= ours.config.dead_after).any()), "the auxiliary loss was at work"
    assert torch.equal(ours.silent_tokens, theirs.silent_tokens)
    for name, value in ours.sae.state_dict().items():
        if not torch.isnan(value).all():
            assert distance(value, theirs.sae.state_dict()[name]) <= 1e-7, name
    assert ours.state()[0].keys() == theirs.state()[0].keys(), "a checkpoint of one can be gone on from by the other"
