"""What every autoencoder keeps while it trains: exact losses and gradients, and nothing changed behind one's back."""

import copy

import pytest
import torch
from tests.sae.nn.cases import (
    BATCH,
    D_IN,
    LIMITS,
    N_LATENTS,
    Case,
    K,
    dead_latents,
    distance,
    each_case,
    each_kind,
    generator,
    parameters,
    some_cases,
)
from tests.sae.nn.reference import dense_loss, latents, rule
from torch import Tensor

from matryo.sae.nn.levels import draw_levels


@pytest.mark.parametrize("some_dead", [False, True], ids=["alive", "dead"])
@pytest.mark.parametrize("dtype", LIMITS, ids=["fp64", "fp32"])
@each_case
def test_loss_and_every_gradient_equal_the_dense_reference(case: Case, dtype: torch.dtype, some_dead: bool) -> None:
    sae, (x, target) = case.sae(dtype), case.data(dtype=dtype)
    dead = dead_latents() if some_dead else None
    x.requires_grad_()
    target = target.detach().clone().requires_grad_()
    ours = sae.loss(x, target, dead=dead, generator=generator(), sparsity_scale=0.4)
    ours.total.backward()

    p, x2, target2 = parameters(sae), x.detach().clone().requires_grad_(), target.detach().clone().requires_grad_()
    selected = torch.zeros(BATCH, N_LATENTS, dtype=torch.bool)
    selected[ours.entries.row, ours.entries.latent] = True
    levels = draw_levels(case.config, generator())
    theirs = dense_loss(p, case.config, x2, target2, selected, levels, dead, sparsity_scale=0.4)
    theirs.total.backward()

    limit = LIMITS[dtype]
    assert ours.levels == levels
    assert distance(ours.total, theirs.total) <= limit
    assert distance(ours.per_level, torch.stack(theirs.per_level)) <= limit
    assert distance(ours.aux, theirs.aux) <= limit
    assert distance(ours.sparsity, theirs.sparsity) <= limit
    assert distance(ours.entries.dense(), theirs.z) <= limit
    pairs = {name: (value.grad, p[name].grad) for name, value in sae.named_parameters()}
    pairs |= {"x": (x.grad, x2.grad), "target": (target.grad, target2.grad)}
    for name, (grad, expected) in pairs.items():
        assert grad is not None and expected is not None, name
        assert distance(grad, expected) <= limit, name
    if dtype == torch.float64:
        with torch.no_grad():
            assert torch.equal(selected, rule(p, case.config, x2)), "other entries than the rule's"


@each_case
def test_the_reconstruction_has_the_gradients_of_the_dense_one(case: Case) -> None:
    sae, (x, target) = case.sae(), case.data()
    slope = torch.randn(target.shape, generator=generator(), dtype=torch.float64)
    p, x2 = parameters(sae), x.clone().requires_grad_()
    with torch.no_grad():
        selected = rule(p, case.config, x2)
    dense = latents(p, case.config, x2, selected)[0] @ p["W_dec"] + p["b_dec"]
    (dense * slope).sum().backward()
    for reconstruct in (sae, lambda x: sae.decode(sae.encode(x))):
        sae.zero_grad()
        x = x.detach().requires_grad_()
        x_hat = reconstruct(x)
        (x_hat * slope).sum().backward()
        assert distance(x_hat, dense) <= 1e-12 and distance(x.grad, x2.grad) <= 1e-12
        for name, value in sae.named_parameters():
            assert distance(value.grad, p[name].grad) <= 1e-12, name


@each_kind
def test_more_dead_latents_wanted_than_there_are(case: Case) -> None:
    sae, (x, target) = case.sae(), case.data()
    dead = torch.zeros(N_LATENTS, dtype=torch.bool)
    dead[[4, 9]] = True
    ours = sae.loss(x, dead=dead)
    selected = torch.zeros(BATCH, N_LATENTS, dtype=torch.bool)
    selected[ours.entries.row, ours.entries.latent] = True
    theirs = dense_loss(parameters(sae), case.config, x, target, selected, (N_LATENTS,), dead)
    assert distance(ours.aux, theirs.aux) <= 1e-10 and float(ours.aux) > 0


@each_case
def test_dead_latents_get_a_gradient_where_they_are_negative_everywhere(case: Case) -> None:
    sae, (x, target) = case.sae(), case.data()
    dead = torch.zeros(N_LATENTS, dtype=torch.bool)
    dead[[4, 9, 30]] = True  # no more than aux_k, so that all of them are used
    with torch.no_grad():
        sae.b_enc[dead] = -50.0
    sae.loss(x, target, dead=dead, generator=generator()).total.backward()
    assert sae.W_enc.grad is not None and sae.b_enc.grad is not None
    assert bool((sae.W_enc.grad[:, dead].norm(dim=0) > 0).all()) and bool((sae.b_enc.grad[dead] != 0).all())
    sae.zero_grad()
    sae.loss(x, target, generator=generator()).total.backward()
    assert not sae.W_enc.grad[:, dead].any(), "without the auxiliary loss nothing reaches them"


@each_case
def test_nothing_but_gradients_changes(case: Case) -> None:
    sae, (x, target) = case.sae(), case.data()
    dead = dead_latents()
    before = copy.deepcopy((sae.state_dict(), x, target, dead))
    random_state = torch.get_rng_state()
    sae.loss(x, target, dead=dead, generator=generator(), hint=0.5).total.backward()
    sae(x), sae.encode(x), sae.encode_sparse(x)
    state, *tensors = before
    for name, value in sae.state_dict().items():
        assert torch.equal(value, state[name]) or (value.isnan().all() and state[name].isnan().all()), name
    for now, then in zip((x, target, dead), tensors, strict=True):
        assert torch.equal(now, then)
    assert torch.equal(torch.get_rng_state(), random_state), "the caller's random numbers"


@some_cases
def test_encoder_rows_are_contiguous_and_so_are_their_gradients(case: Case) -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        for sae in (case.sae(dtype), copy.deepcopy(case.sae(dtype)), case.sae(dtype).prefix(13)):
            x, target = case.data(dtype=dtype)
            dead = dead_latents()[: sae.config.n_latents]
            sae.train().loss(x, target, dead=dead, generator=generator()).total.backward()
            assert sae.W_enc.t().is_contiguous() and sae.W_enc.grad is not None
            assert sae.W_enc.grad.stride() == sae.W_enc.stride()
            assert sae.W_dec.is_contiguous() and sae.W_dec.grad is not None and sae.W_dec.grad.is_contiguous()


@each_case
def test_the_hint_changes_nothing(case: Case) -> None:
    sae, (x, target) = case.sae(), case.data()
    plain = sae.loss(x, target, generator=generator())
    for hint in (plain.smallest, 1e-9, 1e9, -1.0, float("inf"), float("nan"), 0.0):
        hinted = sae.loss(x, target, generator=generator(), hint=hint)
        assert torch.equal(hinted.total, plain.total) and hinted.smallest == plain.smallest


@some_cases
def test_training_lowers_the_loss(case: Case) -> None:
    sae, (x, target) = case.sae(torch.float32), case.data(dtype=torch.float32)
    optimiser = torch.optim.Adam(sae.parameters(), lr=3e-3)
    totals = []
    for _ in range(10):
        loss = sae.loss(x, target, generator=generator(), dead=dead_latents())
        optimiser.zero_grad()
        loss.total.backward()
        sae.project_gradient()
        optimiser.step()
        sae.normalise_rows()
        totals.append(loss.total.item())
    assert totals[-1] < 0.9 * totals[1]


@each_kind
def test_decoder_rows(case: Case) -> None:
    sae, (x, target) = case.sae(), case.data()
    sae.normalise_rows()
    norms = sae.W_dec.detach().norm(dim=1)
    loss = sae.loss(x, target)
    loss.total.backward()
    assert sae.W_dec.grad is not None
    free, rows = sae.W_dec.grad.clone(), sae.W_dec.detach()
    sae.project_gradient()
    along = (sae.W_dec.grad * rows).sum(1)
    if case.kind == "relu":
        assert torch.equal(sae.W_dec.grad, free) and float((norms - 1).abs().max()) > 0.1, "rows of ReLU are free"
    else:
        assert torch.allclose(norms, torch.ones(N_LATENTS, dtype=torch.float64), atol=1e-14)
        assert float(along.abs().max()) < 1e-14 < float(free.norm())
        removed = free - sae.W_dec.grad
        assert torch.allclose(removed, (free * rows).sum(1, keepdim=True) * rows, atol=1e-14)


@each_kind
def test_the_l0_of_training(case: Case) -> None:
    sae, (x, target) = case.sae(), case.data()
    entries = sae.loss(x, target).entries
    per_row = torch.bincount(entries.row[entries.value > 0], minlength=BATCH)
    assert entries.l0 == float(per_row.double().mean())
    if case.kind == "topk":
        assert bool((per_row == K).all())
    if case.kind == "batch_topk":
        assert int(per_row.sum()) == K * BATCH and len(per_row.unique()) > 1, "tokens use as many as they need"


@some_cases
def test_odd_batches(case: Case) -> None:
    """One token, tokens without any active latent, rows in another memory order, what inference mode computed."""
    sae = case.sae()
    x, target = case.data()
    one = sae.loss(x[:1], target[:1], dead=dead_latents(), generator=generator())
    one.total.backward()
    assert all(bool(value.grad.isfinite().all()) for value in sae.parameters() if value.grad is not None)
    assert float(one.aux) == 0, "one token has no spread to explain"

    expected = sae.loss(x, target, dead=dead_latents(), generator=generator())
    turned = sae.loss(x.t().contiguous().t(), target.t().contiguous().t(), dead=dead_latents(), generator=generator())
    assert distance(turned.total, expected.total) < 1e-12
    with torch.inference_mode():
        made = x.clone(), target.clone()
    loss = sae.loss(*made, dead=dead_latents(), generator=generator())
    loss.total.backward()
    assert torch.equal(loss.total, expected.total)

    with torch.no_grad():
        sae.b_enc.fill_(-100.0)
    silent = sae.loss(x, target, generator=generator())
    silent.total.backward()
    assert silent.smallest is None and silent.entries.l0 == 0
    assert distance(silent.per_level, (target - sae.b_dec).square().mean().expand(len(silent.levels))) < 1e-12


@pytest.mark.parametrize("other", [torch.float64, torch.float16, torch.bfloat16])
@some_cases
def test_activations_of_another_dtype_are_converted(case: Case, other: torch.dtype) -> None:
    sae = case.sae(torch.float32)
    x, target = case.data(dtype=other)
    loss = sae.loss(x, target, generator=generator(), dead=dead_latents())
    expected = sae.loss(x.float(), target.float(), generator=generator(), dead=dead_latents())
    assert distance(loss.total, expected.total) < 1e-6
    loss.total.backward()
    assert sae(x).dtype == torch.float32


@each_kind
def test_start(case: Case) -> None:
    sae, (x, _) = case.sae(), case.data()
    x = x + torch.tensor([[100.0]]) * (torch.arange(BATCH) < 3)[:, None]  # three outliers of nineteen tokens
    sae.initialise(x)

    def total_distance(point: Tensor) -> float:
        return float((x - point).norm(dim=1).sum())

    least = total_distance(sae.b_dec.detach())
    steps = torch.cat([torch.eye(D_IN), -torch.eye(D_IN)]).double()
    assert all(total_distance(sae.b_dec.detach() + 1e-2 * step) > least for step in steps)
    if case.kind == "jumprelu":
        on = sae.loss(x).entries
        assert abs(int((on.value > 0).sum()) - K * BATCH) <= 1
        sae.b_enc.data.fill_(-1e4)
        sae.initialise(x)  # no latent is active: the threshold stays
        assert bool(sae.get_parameter("threshold").isfinite().all())


def test_thresholds_move_in_bfloat16() -> None:
    case = Case("jumprelu", "nested")
    exact = case.sae(torch.float32).get_parameter("threshold")
    sae = case.sae(torch.float32).to(torch.bfloat16)
    x, _ = case.data(dtype=torch.bfloat16)
    theta = sae.get_parameter("threshold")
    assert theta.dtype == torch.float32 and sae.W_dec.dtype == torch.bfloat16
    before = theta.detach().clone()
    assert torch.equal(before, exact), "not rounded on the way"
    loss = sae.loss(x)
    loss.total.backward()
    assert theta.grad is not None and theta.grad.dtype == torch.float32
    torch.optim.Adam(sae.parameters(), lr=1e-5).step()  # a step bfloat16 would round away at 0.2 … 0.8
    touched = theta.grad != 0
    assert int(touched.sum()) > N_LATENTS // 2
    assert bool((theta.detach() != before)[touched].all())
    assert bool((before + 1e-5).to(torch.bfloat16).eq(before.to(torch.bfloat16)).float().mean() > 0.9)
    for half in (torch.float16, torch.bfloat16):
        moved = sae.to(half)
        assert moved.get_parameter("threshold").dtype == torch.float32
        assert (
            torch.equal(moved.get_parameter("threshold"), theta) and moved.get_parameter("threshold").grad is not None
        )
    assert sae.double().get_parameter("threshold").dtype == torch.float64


def test_a_negative_threshold_gives_no_negative_latent() -> None:
    sae, (x, _) = Case("jumprelu").sae(), Case("jumprelu").data()
    with torch.no_grad():
        sae.get_parameter("threshold").fill_(-0.5)
    for mode in (True, False):
        sae.train(mode)
        assert float(sae.encode(x).detach().min()) == 0
        assert torch.equal(sae.encode(x), sae.encode_sparse(x).dense())
