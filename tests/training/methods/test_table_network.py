"""What a network of tables is given, and what it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.methods.synthetic_tables import MOST_CLASSES
from training.methods.table_network import Served, Shape, TableNetwork, decorrelation, forms_of, ranked, standardised

pytestmark = pytest.mark.unit


def table(rows: int = 60, features: int = 4, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    labels = torch.arange(rows) % classes
    mixed = torch.randn(rows, features) @ (torch.eye(features) + 0.5 * torch.ones(features, features).triu(1))
    return mixed + labels[:, None], labels


@pytest.fixture(scope="module")
def net() -> Served:
    torch.manual_seed(1)
    return Served(TableNetwork(Shape(width=32, layers=2, heads=2, inner=64))).eval()


def test_rows_are_relative_to_the_examples_and_missing_cells_are_their_mean() -> None:
    rows, _ = table()
    rows[3, 1], rows[:, 2] = torch.nan, 7.0
    scaled, known = standardised(rows[None, :40], rows[None, 40:])
    assert scaled[0, :40, 0].mean().abs() < 1e-5
    assert scaled[0, :40, 0].std(unbiased=False) == pytest.approx(1, abs=1e-4)
    assert scaled[0, 3, 1] == 0
    assert not known[0, 3, 1]
    assert (scaled[..., 2] == 0).all()


def test_huge_and_tiny_numbers_stay_numbers() -> None:
    rows, labels = table()
    for scale in (1e-30, 1e30):
        forms, _ = forms_of(rows[None, :40] * scale, labels[None, :40], rows[None, 40:] * scale)
        assert forms.isfinite().all()


def test_ranks_are_shares_of_the_examples() -> None:
    examples = torch.arange(100.0).reshape(1, 100, 1)
    ranks = ranked(examples, torch.tensor([[[-5.0], [49.5], [200.0]]]))[0, :, 0] / 1.7
    np.testing.assert_allclose(ranks.numpy(), [-1, 0, 1], atol=0.05)


def test_decorrelated_columns_have_nothing_in_common_within_classes() -> None:
    rows, labels = table(rows=3000)
    scaled, _ = standardised(rows[None], rows[None, :1])
    one_hot = torch.nn.functional.one_hot(labels[None], MOST_CLASSES).float()
    turned = (scaled[:, :-1] @ decorrelation(scaled[:, :-1], one_hot))[0]
    within = torch.cat([turned[labels == c] - turned[labels == c].mean(0) for c in range(3)])
    covariance = within.T @ within / len(within)
    np.testing.assert_allclose(covariance.numpy(), np.eye(4), atol=0.1)


def test_probabilities_are_of_the_classes_of_the_examples(net: Served) -> None:
    rows, labels = table()
    with torch.no_grad():
        probabilities = net(rows[:40], labels[:40], rows[40:]).exp()
    assert probabilities.shape == (20, MOST_CLASSES)
    assert probabilities[:, 3:].max() < 2e-4
    np.testing.assert_allclose(probabilities[:, :3].sum(1).numpy(), 1, atol=1e-2)


def test_an_answer_depends_on_the_examples_alone(net: Served) -> None:
    rows, labels = table()
    with torch.no_grad():
        together = net(rows[:40], labels[:40], rows[40:])
        alone = torch.cat([net(rows[:40], labels[:40], rows[i : i + 1]) for i in range(40, 60)])
        order = torch.randperm(40)
        shuffled = net(rows[:40][order], labels[:40][order], rows[40:])
    np.testing.assert_allclose(together.numpy(), alone.numpy(), atol=1e-5)
    np.testing.assert_allclose(together.numpy(), shuffled.numpy(), atol=1e-3)
