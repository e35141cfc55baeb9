"""The probes against PyTorch's autograd and scikit-learn."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score as sklearn_f1

from matryo.sae.evaluate.absorption.probes import (
    columns,
    encode_words,
    f1_score,
    fit_balanced_logistic,
    fit_one_vs_rest,
    take_rows,
)
from matryo.sae.kernels import Entries
from matryo.sae.nn import SAEConfig, build

ROWS, WIDTH, CLASSES = 90, 13, 4


def sparse(seed: int = 0) -> tuple[torch.Tensor, Entries]:
    random = torch.Generator().manual_seed(seed)
    dense = torch.rand(ROWS, WIDTH, generator=random) * (torch.rand(ROWS, WIDTH, generator=random) < 0.3)
    row, latent = dense.nonzero().T
    return dense, Entries.from_pairs(row, latent, dense[row, latent], ROWS, WIDTH)


def some_labels(classes: int = CLASSES) -> torch.Tensor:
    chosen = torch.randint(0, classes, (ROWS,), generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.one_hot(chosen, classes).bool()


def by_autograd(x, labels, epochs, batch, weight_decay, l1, generator):
    """SAEBench's loop, from weights of 0."""
    probe = torch.nn.Linear(x.shape[1], labels.shape[1])
    torch.nn.init.zeros_(probe.weight)
    torch.nn.init.zeros_(probe.bias)
    positives = labels.sum(0)
    loss_of = torch.nn.BCEWithLogitsLoss(pos_weight=(len(labels) - positives) / positives)
    adam = torch.optim.Adam(probe.parameters(), lr=0.01, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.ExponentialLR(adam, (1e-5 / 0.01) ** (1 / epochs))
    for _ in range(epochs):
        for chosen in torch.randperm(len(x), generator=generator).split(batch):
            adam.zero_grad()
            loss = loss_of(probe(x[chosen]), labels[chosen].float()) + l1 * probe.weight.abs().sum(-1).mean()
            loss.backward()
            adam.step()
        schedule.step()
    return probe.weight.detach().T, probe.bias.detach()


@pytest.mark.parametrize("kind", ["dense", "entries"])
@pytest.mark.parametrize("l1", [0.0, 0.01])
def test_one_vs_rest_is_saebenchs_loop(kind, l1):
    dense, entries = sparse()
    labels = some_labels()
    options = {"epochs": 7, "batch": 32, "weight_decay": 1e-4, "l1": l1}
    W, b = fit_one_vs_rest(
        dense if kind == "dense" else entries, labels, generator=torch.Generator().manual_seed(5), **options
    )
    expected_W, expected_b = by_autograd(dense, labels, generator=torch.Generator().manual_seed(5), **options)
    assert float(expected_W.abs().max()) > 0.02
    torch.testing.assert_close(W, expected_W, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(b, expected_b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("C", [1.0, 0.05])
@pytest.mark.parametrize("k", [1, 5])
def test_balanced_logistic_is_scikit_learns(C, k):
    dense, _ = sparse()
    x, y = 3 * dense[:, :k], some_labels()[:, 0]
    w, b = fit_balanced_logistic(x, y, C)
    fitted = LogisticRegression(C=C, class_weight="balanced", tol=1e-10, max_iter=2000).fit(x.numpy(), y.numpy())
    assert w.tolist() == pytest.approx(fitted.coef_[0].tolist(), abs=1e-4)
    assert b == pytest.approx(float(fitted.intercept_[0]), abs=1e-4)


def test_balanced_logistic_separates_what_a_latent_separates():
    y = torch.arange(60) < 20
    w, b = fit_balanced_logistic(torch.where(y, 1000.0, 0.0)[:, None], y)
    assert bool(((torch.where(y, 1000.0, 0.0)[:, None].double() @ w + b > 0) == y).all())
    with pytest.raises(ValueError, match="one class only"):
        fit_balanced_logistic(torch.ones(4, 1), torch.ones(4, dtype=torch.bool))


def test_f1_is_scikit_learns():
    random = torch.Generator().manual_seed(2)
    predicted, y = torch.rand(2, 50, generator=random) < torch.tensor([[0.4], [0.3]])
    assert f1_score(predicted, y) == pytest.approx(sklearn_f1(y.numpy(), predicted.numpy()))
    assert f1_score(torch.zeros(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)) == 0


def test_rows_and_columns_of_entries_are_those_of_the_matrix():
    dense, entries = sparse()
    rows, latents = torch.tensor([7, 3, 88, 3]), torch.tensor([12, 0, 5])
    assert torch.equal(take_rows(entries, rows).dense(), dense[rows])
    assert torch.equal(columns(entries, latents), dense[:, latents])


def test_activations_are_in_units_of_decoder_rows_of_norm_one():
    torch.manual_seed(0)
    sae = build(SAEConfig(kind="relu", d_in=6, n_latents=11))
    with torch.no_grad():
        sae.W_dec.mul_(torch.linspace(0.5, 3, 11)[:, None])
    x = torch.randn(4100, 6)  # more than one batch
    expected = sae.encode(x).detach() * sae.W_dec.detach().norm(dim=1)
    torch.testing.assert_close(encode_words(sae, x).dense(), expected)
