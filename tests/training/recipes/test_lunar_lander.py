"""The lander's seeds, its fleet, and methods that go on where they were stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from training.data import lander
from training.recipes.lunar_lander import FAST, Best, fit
from training.run import Run, threads

SETTINGS = replace(FAST, validation_seeds=FAST.validation_seeds[:1])


@pytest.mark.unit
def test_no_seed_is_in_two_splits() -> None:
    training = lander.training_seeds(np.random.default_rng(0), 10_000)
    assert not set(lander.TEST_SEEDS) & set(lander.VALIDATION_SEEDS)
    assert min(training) > max(*lander.TEST_SEEDS, *lander.VALIDATION_SEEDS)


@pytest.mark.unit
def test_the_controller_by_hand_lands() -> None:
    episodes = lander.play(lander.by_hand, lander.VALIDATION_SEEDS[:5])
    assert lander.total_rewards(episodes).mean() > 200
    assert all(len(e.observations) == len(e.actions) == len(e.rewards) for e in episodes)


@pytest.mark.unit
def test_a_fleet_begins_anew_after_each_end() -> None:
    fleet = lander.Fleet(3, np.random.default_rng(0))
    ends = 0
    for _ in range(300):
        steps = fleet.step(np.full(3, 2))  # the main engine alone drives it out of sight
        ends += steps.ended.sum()
        assert (steps.terminated <= steps.ended).all()
        np.testing.assert_array_equal(fleet.observations[~steps.ended], steps.arrived[~steps.ended])
        assert (np.abs(fleet.observations[steps.ended, 1] - 1.4) < 0.1).all()
    assert fleet.episodes == ends > 0


class StoppedRun(Run):
    """A run that is stopped during its second interval."""

    intervals = 0

    def log(self, **values: float) -> None:
        self.intervals += 1
        if self.intervals == 2:
            raise KeyboardInterrupt


def learn(run: Run, name: str) -> Best:
    with threads(1):
        return fit(run, SETTINGS, SETTINGS.methods(run.fabric())[name], 0, 3)


@pytest.mark.parametrize("method", ["REINFORCE", "DQN", "PPO"])
def test_a_stopped_run_ends_as_if_it_had_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    monkeypatch.setenv("LECTERN_CACHE", str(tmp_path / "whole"))
    whole = learn(Run("lunar_lander", device="cpu"), method)
    monkeypatch.setenv("LECTERN_CACHE", str(tmp_path / "stopped"))
    with pytest.raises(KeyboardInterrupt):
        learn(StoppedRun("lunar_lander", device="cpu"), method)
    resumed = learn(Run("lunar_lander", device="cpu"), method)
    assert resumed.scores == whole.scores
    assert resumed.episodes == whole.episodes
    for name, weights in whole.net.state_dict().items():
        torch.testing.assert_close(resumed.net.state_dict()[name], weights, rtol=0, atol=0)
