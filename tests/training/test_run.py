"""What every recipe shares: `Run.fit` goes on where it was stopped, and follows the rate that it is given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from training.optimise import nesterov, one_cycle, triangle
from training.run import Run

pytestmark = pytest.mark.unit
EPOCHS, BATCHES = 4, 3


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LECTERN_CACHE", str(tmp_path))


def batches(epoch: int) -> Iterator[torch.Tensor]:
    random = torch.Generator().manual_seed(epoch)
    for _ in range(BATCHES):
        yield torch.randn(8, 4, generator=random)


def fitted(run: Run, scheduled: bool, stop_after: int = EPOCHS) -> nn.Module:
    fabric = run.fabric()
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    optimizer, schedule = nesterov(net.parameters(), 0.1, 0.9), None
    if scheduled:
        optimizer, schedule = one_cycle(net, 0.1, 0.01, EPOCHS * BATCHES)
    model, optimizer = fabric.setup(net, optimizer)
    watched = []

    def watch() -> dict[str, float]:
        watched.append(1)
        if len(watched) > stop_after:
            raise KeyboardInterrupt
        return {}

    run.fit(
        fabric,
        model,
        optimizer,
        batches,
        lambda batch: nn.functional.mse_loss(model(batch), batch.flip(1)),
        epochs=EPOCHS,
        settings=scheduled,
        count=BATCHES,
        rate=None if scheduled else lambda progress: triangle(progress, 0.25),
        schedule=schedule,
        largest_gradient=1.0,
        watch=watch,
    )
    return net


@pytest.mark.parametrize("scheduled", [False, True])
def test_a_fit_that_was_stopped_ends_as_one_that_was_not(scheduled: bool) -> None:
    expected = fitted(Run("whole", device="cpu"), scheduled).state_dict()
    with pytest.raises(KeyboardInterrupt):
        fitted(Run("stopped", device="cpu"), scheduled, stop_after=2)
    resumed = fitted(Run("stopped", device="cpu"), scheduled).state_dict()
    assert all(torch.equal(resumed[name], value) for name, value in expected.items())


def test_the_rate_follows_progress_through_epochs_of_any_length(tmp_path: Path) -> None:
    run, rates = Run("rates", device="cpu"), []
    fabric = run.fabric()
    net = nn.Linear(1, 1)
    model, optimizer = fabric.setup(net, torch.optim.SGD(net.parameters(), 0.5))

    def loss(batch: torch.Tensor) -> torch.Tensor:
        rates.append(optimizer.param_groups[0]["lr"])
        return model(batch).mean()

    run.fit(
        fabric,
        model,
        optimizer,
        lambda epoch: [torch.zeros(1, 1)] * (1 + epoch),
        loss,
        epochs=2,
        settings=None,
        rate=lambda progress: 1 - progress,
    )
    assert rates == [0.5, 0.25, 0.125]
    assert not list(tmp_path.rglob("*.pt"))
