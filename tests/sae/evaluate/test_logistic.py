"""Batched regressions reach the minimum that scikit-learn's reach, one by one."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from matryo.sae.evaluate.logistic import fit_columns, fit_shared


def loss(w, b, x, positive):
    sign = torch.where(positive, 1.0, -1.0).double()
    margin = sign * (x.double() @ w.double() + b.double())
    return float(0.5 * w.double().square().sum() + torch.nn.functional.softplus(-margin).sum())


def one_by_one(x, positive):
    found = LogisticRegression(C=1.0, max_iter=100_000, tol=1e-10).fit(x.numpy(), positive.numpy())
    return torch.tensor(found.coef_[0]).double(), torch.tensor(found.intercept_[0]).double()


def test_few_columns_of_many_problems_with_rows_filled_up():
    generator = torch.Generator().manual_seed(0)
    rows, x = (137, 61, 200), torch.randn(4, 200, 3, generator=generator) * torch.tensor([0.1, 3.0, 40.0])
    positive = (x[..., 1] + 2 * torch.randn(4, 200, generator=generator)) > 1
    positive[2] = x[2, :, 2] > 0  # two classes that a line separates
    x[3, :, 0] = 0  # a latent that never fires
    real = torch.arange(200) < torch.tensor([*rows, 150])[:, None]
    w, b = fit_columns(x, positive, real)
    for at, count in enumerate((*rows, 150)):
        expected_w, expected_b = one_by_one(x[at, :count], positive[at, :count])
        ours = loss(w[at], b[at], x[at, :count], positive[at, :count])
        assert ours == pytest.approx(loss(expected_w, expected_b, x[at, :count], positive[at, :count]), rel=1e-5)
        if at != 2:
            assert torch.allclose(w[at].double(), expected_w, atol=2e-3)


@pytest.mark.parametrize("rows", [90, 400])
def test_problems_that_share_rows_of_one_matrix(rows):
    generator = torch.Generator().manual_seed(1)
    # A large mean and scales from 0.03 to 30, as residual streams have.
    x = torch.randn(rows, 37, generator=generator) * torch.logspace(-1.5, 1.5, 37)
    x = x + 20 * torch.randn(37, generator=generator)
    sign = torch.where(torch.randn(rows, 5, generator=generator) + (x - x.mean(0))[:, 20:25] > 0, 1.0, -1.0)
    sign[: rows // 3, 1] = 0
    sign[rows // 2 :, 4] = 0
    w, b = fit_shared(x, sign)
    for at in range(5):
        used = sign[:, at] != 0
        positive = sign[used, at] > 0
        best = loss(*one_by_one(x[used], positive), x[used], positive)
        assert loss(w[:, at], b[at], x[used], positive) < best * 1.001  # scikit-learn's may stop a little early
        # The gradient with respect to w, w − Σ s σ(−m) x, has length 0 at the minimum.
        m = sign[used, at].double() * (x[used].double() @ w[:, at].double() + b[at].double())
        pull = ((sign[used, at].double() * torch.sigmoid(-m))[:, None] * (x[used] - x.mean(0)).double()).sum(0)
        assert float((w[:, at].double() - pull).norm()) < 0.02 * float(((x[used] - x.mean(0)).double()).norm())
