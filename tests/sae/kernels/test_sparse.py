"""Values and gradients at the active entries against dense autograd; and no dense product anywhere."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import matryo.sae.kernels.select as select
import matryo.sae.kernels.tiled as tiled
from matryo.sae.kernels import Entries, at_latents, decode, decode_losses, pre_acts_at, use
from matryo.sae.nn import KINDS, SAEConfig, build

BATCH, D_IN, D_OUT, N_LATENTS = 17, 6, 8, 29
LEVELS = [(29,), (1, 29), (3, 4, 11, 28, 29)]

each_dtype = pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
each_density = pytest.mark.parametrize("density", [0.0, 0.15, 1.0], ids=["none", "sparse", "all"])


def normal(*size: int, seed: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def some_entries(density: float, dtype: torch.dtype) -> tuple[Entries, Tensor]:
    """Entries and their dense mask; row 2, latent 5 and the latents from 11 to 27 stay empty unless all are chosen."""
    chosen = torch.rand(BATCH, N_LATENTS, generator=torch.Generator().manual_seed(4)) < density
    if density < 1:
        chosen[2], chosen[:, 5], chosen[:, 11:28] = False, False, False
    row, latent = chosen.nonzero().unbind(1)
    return Entries.from_pairs(row, latent, normal(len(row), seed=1, dtype=dtype), BATCH, N_LATENTS), chosen


def agree(ours: list[Tensor], dense: list[Tensor], limit: float) -> None:
    for mine, theirs in zip(ours, dense, strict=True):
        assert mine.shape == theirs.shape and mine.dtype == theirs.dtype
        assert float((mine - theirs).norm()) <= limit * float(theirs.norm())


@each_dtype
@each_density
@pytest.mark.parametrize("centre", [True, False], ids=["b_in", "no b_in"])
def test_pre_acts_at(dtype: torch.dtype, limit: float, density: float, centre: bool) -> None:
    entries, chosen = some_entries(density, dtype)
    x, W = normal(BATCH, D_IN, seed=2, dtype=dtype), normal(N_LATENTS, D_IN, seed=3, dtype=dtype).t()
    b, b_in = normal(N_LATENTS, seed=5, dtype=dtype), normal(D_IN, seed=6, dtype=dtype)
    leaves = [x, W, b, *([b_in] if centre else [])]
    for leaf in leaves:
        leaf.requires_grad_()
    dense = (x - b_in if centre else x) @ W + b
    entries = entries.with_value(dense[chosen])
    centred = (x - b_in if centre else x).detach()
    ours = pre_acts_at(x, W, b, b_in if centre else None, centred, entries)
    agree([ours.detach()], [dense[chosen].detach()], limit)
    slope = normal(len(entries.value), seed=7, dtype=dtype)
    expected = torch.autograd.grad(dense[chosen], leaves, slope)
    found = torch.autograd.grad(ours, leaves, slope)
    agree(list(found), list(expected), limit)
    assert found[1].stride() == W.stride(), "the gradient has the memory order of the weights"


@each_dtype
@each_density
def test_decode(dtype: torch.dtype, limit: float, density: float) -> None:
    entries, chosen = some_entries(density, dtype)
    value = entries.value.requires_grad_()
    W, b = normal(N_LATENTS, D_OUT, seed=3, dtype=dtype).requires_grad_(), normal(D_OUT, seed=5, dtype=dtype)
    leaves, slope = [value, W, b.requires_grad_()], normal(BATCH, D_OUT, seed=7, dtype=dtype)
    z = torch.zeros(BATCH, N_LATENTS, dtype=dtype).masked_scatter(chosen, value)
    dense, ours = z @ W + b, decode(value, entries, W, b)
    agree([ours.detach()], [dense.detach()], limit)
    expected, found = torch.autograd.grad(dense, leaves, slope), torch.autograd.grad(ours, leaves, slope)
    agree(list(found), list(expected), limit)


@each_dtype
@each_density
@pytest.mark.parametrize("levels", LEVELS, ids=len)
def test_decode_losses(dtype: torch.dtype, limit: float, density: float, levels: tuple[int, ...]) -> None:
    entries, chosen = some_entries(density, dtype)
    value = entries.value.requires_grad_()
    W, b = normal(N_LATENTS, D_OUT, seed=3, dtype=dtype).requires_grad_(), normal(D_OUT, seed=5, dtype=dtype)
    target = normal(BATCH, D_OUT, seed=6, dtype=dtype).requires_grad_()
    leaves, slope = [value, W, b.requires_grad_(), target], normal(len(levels), seed=7, dtype=dtype)
    z = torch.zeros(BATCH, N_LATENTS, dtype=dtype).masked_scatter(chosen, value)
    residuals = [target - z[:, :m] @ W[:m] - b for m in levels]
    dense = torch.stack([residual.square().mean() for residual in residuals])
    ours, residual = decode_losses(value, entries, W, b, target, levels)
    assert not residual.requires_grad
    agree([ours.detach(), residual], [dense.detach(), residuals[-1].detach()], limit)
    found = torch.autograd.grad(ours, leaves, slope)
    agree(list(found), list(torch.autograd.grad(dense, leaves, slope)), limit)


def test_at_latents() -> None:
    entries, _ = some_entries(0.15, torch.float64)
    of_latent = normal(N_LATENTS, seed=2, dtype=torch.float64).requires_grad_()
    slope = normal(len(entries.value), seed=7, dtype=torch.float64)
    ours, dense = at_latents(of_latent, entries), of_latent.expand(BATCH, -1)[entries.row, entries.latent]
    assert torch.equal(ours, dense)
    agree(
        list(torch.autograd.grad(ours, [of_latent], slope)), list(torch.autograd.grad(dense, [of_latent], slope)), 1e-14
    )


def test_only_the_gradients_asked_for() -> None:
    entries, _ = some_entries(0.15, torch.float64)
    W, b = normal(N_LATENTS, D_OUT, seed=3, dtype=torch.float64), normal(D_OUT, seed=5, dtype=torch.float64)
    target = normal(BATCH, D_OUT, seed=6, dtype=torch.float64)
    everything = [entries.value.clone(), W.clone(), b.clone(), target.clone()]
    all_grads = torch.autograd.grad(
        decode_losses(*_with(everything, range(4)), (4, N_LATENTS))[0].sum(),
        everything,
    )
    for i, expected in enumerate(all_grads):
        one = [tensor.detach().clone() for tensor in everything]
        loss, _ = decode_losses(*_with(one, [i]), (4, N_LATENTS))
        assert torch.equal(torch.autograd.grad(loss.sum(), one[i])[0], expected)
    with torch.no_grad():
        assert not decode_losses(*_with(everything, []), (4, N_LATENTS))[0].requires_grad


def _with(tensors: list[Tensor], needed: range | list[int]) -> tuple[Tensor, Entries, Tensor, Tensor, Tensor]:
    entries, _ = some_entries(0.15, torch.float64)
    for i in needed:
        tensors[i].requires_grad_()
    value, W, b, target = tensors
    return value, entries, W, b, target


class LargestTensor(TorchDispatchMode):
    """Remembers the largest tensor any operation returned, whatever its dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.numel, self.operations = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
                self.operations += 1
        return out


@pytest.mark.parametrize("hint", [None, 0.01, 100.0], ids=["no hint", "low", "high"])
@pytest.mark.parametrize("kind", ["topk", "batch_topk", "jumprelu"])
@pytest.mark.parametrize("levels", ["none", "nested", "sampled"])
@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_rows_times_latents_is_never_stored(
    backend: str, kind: str, levels: str, hint: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, n_latents, d_in = 400, 500, 9
    monkeypatch.setattr(select, "TILE", 32)
    monkeypatch.setattr(tiled, "TILE_VALUES", batch * 32)
    with use(backend):
        _check_sizes(kind, levels, hint, batch, n_latents, d_in)


def _check_sizes(kind: str, levels: str, hint: float | None, batch: int, n_latents: int, d_in: int) -> None:
    sae = build(SAEConfig(kind=kind, levels=levels, d_in=d_in, n_latents=n_latents, k=4))
    x = normal(batch, d_in, seed=0, dtype=torch.float32)
    sae.initialise(x)
    with torch.no_grad():
        sae.b_enc.sub_(1.0)  # leaves few entries in the window of a JumpReLU
    dead = torch.arange(n_latents) < 20
    with LargestTensor() as seen:
        loss = sae.loss(x, dead=dead, hint=hint, generator=torch.Generator().manual_seed(0))
        loss.total.backward()
    assert seen.operations > 50 and seen.numel >= batch * 32, "the mode saw the tiles"
    assert seen.numel < batch * n_latents / 4
    for name, parameter in sae.named_parameters():
        assert parameter.grad is not None, name

    sae.eval().calibrate([x])
    with LargestTensor() as seen, torch.no_grad():
        sae(x), sae.decode_sparse(sae.encode_sparse(x), 7)
    assert seen.numel < batch * n_latents / 4
    with LargestTensor() as seen, torch.no_grad():
        sae.encode(x)
    assert seen.numel >= batch * n_latents, "the mode sees a dense product where there is one"


class RepeatedIndices(TorchDispatchMode):
    """Counts gradients of indexing that add several numbers into one place, which threads do in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.repeated = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "index_put" in func.__name__ and len(args) > 3 and args[3]:
            where = torch.stack([index.reshape(-1) for index in args[1] if index is not None], 1)
            self.seen += 1
            self.repeated += len(where.unique(dim=0)) < len(where)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_depends_on_the_order_of_threads(kind: str) -> None:
    """Otherwise a resumed run would have other last bits: indexing of 1.5 million entries showed it on two threads."""
    sae = build(SAEConfig(kind=kind, levels="nested", d_in=D_IN, n_latents=N_LATENTS, k=4))
    x = normal(BATCH, D_IN, seed=0, dtype=torch.float32)
    with RepeatedIndices() as gradients:
        sae.loss(x, dead=torch.arange(N_LATENTS) < 6).total.backward()
    assert gradients.repeated == 0 and gradients.seen > 0
    with RepeatedIndices() as gradients:
        sae.b_enc[torch.tensor([3, 3])].sum().backward()
    assert gradients.repeated == 1, "the mode sees it where it happens"
