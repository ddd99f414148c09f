"""LunarLander-v3 of gymnasium: its seeds by split, and episodes played side by side."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.box2d.lunar_lander import LunarLander, heuristic
from numpy.typing import NDArray

from artifacts.card import DataSource
from training.data.fetch import sha256_file

ENVIRONMENT = "LunarLander-v3"
FEATURES = (
    "x",
    "y",
    "x_velocity",
    "y_velocity",
    "angle",
    "angular_velocity",
    "left_leg_contact",
    "right_leg_contact",
)
ACTIONS = ("do nothing", "left engine", "main engine", "right engine")
TEST_SEEDS = range(10_000, 10_100)
VALIDATION_SEEDS = range(20_000, 20_050)
FIRST_TRAINING_SEED = 1_000_000  # far from both

Observations = NDArray[np.float32]
Actions = NDArray[np.int64]
Choose = Callable[[Observations], Actions]
"""Observations [N, 8] -> actions [N]."""


@dataclass
class Episode:
    """One flight, a list item a step; an observation is what its action was chosen on."""

    observations: list[Observations] = field(default_factory=list)
    actions: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Steps:
    """What a step led to in each environment; an episode ended if it terminated or met the time limit of 1000 steps."""

    arrived: Observations
    rewards: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    ended: NDArray[np.bool_]


class Fleet:
    """Environments stepped side by side, each beginning anew when its episode ends.

    Attributes:
        observations: float32 [count, 8], what to act on next.
        episodes: how many have ended.
    """

    def __init__(self, count: int, random: np.random.Generator) -> None:
        self._environments = [_make() for _ in range(count)]
        seeds = training_seeds(random, count)
        self.observations = np.stack([e.reset(seed=s)[0] for e, s in zip(self._environments, seeds, strict=True)])
        self.episodes = 0

    def step(self, actions: Actions) -> Steps:
        """Take one action [count] in each environment."""
        count = len(self._environments)
        arrived, rewards = np.empty_like(self.observations), np.empty(count, np.float32)
        terminated, ended = np.empty(count, bool), np.empty(count, bool)
        for i, (environment, action) in enumerate(zip(self._environments, actions.tolist(), strict=True)):
            arrived[i], rewards[i], terminated[i], truncated, _ = environment.step(action)
            ended[i] = terminated[i] or truncated
        self.observations = arrived.copy()
        for index, environment in enumerate(self._environments):
            if ended[index]:
                self.observations[index] = environment.reset()[0]
        self.episodes += int(ended.sum())
        return Steps(arrived, rewards, terminated, ended)


def play(choose: Choose, seeds: Sequence[int]) -> list[Episode]:
    """One whole episode for each seed; `choose` is asked once a step for all that still fly."""
    environments = [_make() for _ in seeds]
    observations = np.stack([e.reset(seed=seed)[0] for e, seed in zip(environments, seeds, strict=True)])
    episodes = [Episode() for _ in seeds]
    flying = list(range(len(episodes)))
    while flying:
        still_flying = []
        for i, action in zip(flying, choose(observations[flying]).tolist(), strict=True):
            episodes[i].observations.append(observations[i].copy())
            observations[i], reward, terminated, truncated, _ = environments[i].step(action)
            episodes[i].actions.append(action)
            episodes[i].rewards.append(float(reward))
            if not (terminated or truncated):
                still_flying.append(i)
        flying = still_flying
    return episodes


def total_rewards(episodes: Sequence[Episode]) -> NDArray[np.float64]:
    """The sum of rewards of each episode [N]."""
    return np.array([sum(episode.rewards) for episode in episodes])


def training_seeds(random: np.random.Generator, count: int) -> list[int]:
    """Seeds of environments to learn in."""
    return [int(seed) for seed in random.integers(FIRST_TRAINING_SEED, 2**31, count)]


def by_hand(observations: Observations) -> Actions:
    """The hand-written controller that comes with gymnasium."""
    environment = _make()  # only asked which kind of actions it takes
    return np.array([heuristic(environment, row) for row in observations])  # type: ignore[no-untyped-call]


def card_entry(episodes: int) -> DataSource:
    """The environment as a card names it, by the file that defines it; `episodes` were trained on."""
    source = inspect.getsourcefile(LunarLander)
    assert source is not None
    return DataSource(
        source="pypi:gymnasium/envs/box2d/lunar_lander.py",
        version=version("gymnasium"),
        sha256=sha256_file(Path(source)),
        licence="MIT",
        train=episodes,
        validation=len(VALIDATION_SEEDS),
        test=len(TEST_SEEDS),
    )


def _make() -> gymnasium.Env[Observations, Any]:
    return gymnasium.make(ENVIRONMENT, disable_env_checker=True)
