"""Our Adam against PyTorch's."""

import subprocess
import sys

import pytest
import torch

from matryo.sae.train.adam import Adam, Moments


def test_steps_equal_pytorchs() -> None:
    g = torch.Generator().manual_seed(0)
    starts = {"rows": torch.randn(5, 3, generator=g).double(), "turned": torch.randn(7, 4, generator=g).double().t()}
    starts["threshold"] = torch.rand(6, generator=g).double()
    ours = {name: torch.nn.Parameter(value.clone()) for name, value in starts.items()}
    theirs = {name: torch.nn.Parameter(value.clone()) for name, value in starts.items()}
    adam = Adam(ours, (0.8, 0.95), {"threshold": 5.0})
    groups = [{"params": [p], "lr": 0.15 if name == "threshold" else 0.03} for name, p in theirs.items()]
    reference = torch.optim.Adam(groups, betas=(0.8, 0.95))
    for step in range(6):
        adam.lr = 0.03
        for name in starts:
            if (step, name) == (2, "rows"):
                continue  # no gradient: neither weights nor moments move
            grad = torch.randn(starts[name].shape, generator=g).double()
            ours[name].grad, theirs[name].grad = grad.clone(), grad.clone()
        adam.step()
        reference.step()
        reference.zero_grad()
        for name in starts:
            assert ours[name].grad is None
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-12, atol=1e-14)
    assert adam.moments["turned"].m.stride() == ours["turned"].stride()
    assert [adam.moments[name].step for name in starts] == [5, 6, 6]
    again = Adam(ours, (0.8, 0.95), {})
    again.restore(*adam.state())
    assert again.state()[1] == adam.state()[1]
    for name, value in adam.state()[0].items():
        assert torch.equal(again.state()[0][name], value)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_moments_begin_at_zero(dtype: torch.dtype | None) -> None:
    moments = Moments.zero(torch.ones(2, 3).t(), dtype)
    assert moments.step == 0 and not moments.m.any() and moments.v.dtype == (dtype or torch.float32)
    assert moments.m.t().is_contiguous()


def test_training_does_not_import_pytorchs_compiler() -> None:
    code = (
        "import sys, torch\n"
        "from matryo.sae.nn import SAEConfig, build\n"
        "from matryo.sae.train import TrainConfig, train\n"
        "train(build(SAEConfig(d_in=4, n_latents=8, k=2)), [torch.randn(16, 4)], TrainConfig(steps=1))\n"
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
