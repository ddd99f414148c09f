"""Three ways to learn a policy, each on a budget of steps: REINFORCE, PPO and DQN.

- REINFORCE: Williams, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning",
  1992. Whole episodes, one gradient step for each batch of them, a learned baseline.
- PPO: Schulman et al., "Proximal Policy Optimization Algorithms", 2017. An actor and a critic; several clipped steps
  for each batch, with advantages after Schulman et al., "High-Dimensional Continuous Control Using Generalized
  Advantage Estimation", 2016.
- DQN: Mnih et al., "Human-Level Control through Deep Reinforcement Learning", 2015. Values of actions, learned from a
  memory of steps; double, after van Hasselt et al., "Deep Reinforcement Learning with Double Q-Learning", 2016.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F

from training.data import lander
from training.data.lander import ACTIONS, FEATURES, Actions, Fleet, Observations
from training.optimise import descend, set_rate

MAX_GRADIENT = 0.5


@dataclass(frozen=True)
class Budget:
    """Steps are taken in intervals; after `compared` of them the methods are compared."""

    interval_steps: int = 2**16
    compared: int = 12
    intervals: int = 24

    def rate(self, initial: float, interval: int) -> float:
        """The learning rate: full for a third of the intervals, then falling to zero."""
        return initial * min(1.0, 1.5 * (1 - interval / self.intervals))


@dataclass(frozen=True)
class ReinforceSettings:
    """REINFORCE's hyper-parameters."""

    width: int = 64
    learning_rate: float = 3e-3
    discount: float = 0.99
    episodes: int = 8
    entropy_weight: float = 0.01
    value_weight: float = 0.5


@dataclass(frozen=True)
class PPOSettings:
    """PPO's: those of RL Baselines3 Zoo (Raffin, 2020) for this environment, but for batches and rate, both larger."""

    width: int = 64
    learning_rate: float = 5e-4
    discount: float = 0.999
    trace: float = 0.98
    environments: int = 32
    steps: int = 512
    epochs: int = 4
    batch_size: int = 128
    clip: float = 0.2
    entropy_weight: float = 0.01
    value_weight: float = 0.5


@dataclass(frozen=True)
class DQNSettings:
    """DQN's; steps and updates are counted over all environments."""

    width: int = 128
    learning_rate: float = 6e-4
    discount: float = 0.99
    environments: int = 16
    replay: int = 2**17
    steps_before_learning: int = 2**12
    steps_per_update: int = 8
    steps_per_target: int = 2000
    batch_size: int = 128
    exploring_steps: int = 2**16
    least_random: float = 0.02


class ActorCritic(nn.Module):
    """Observations [N, 8] -> logits [N, 4] of the actions, and the discounted rewards [N] expected from there."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.actor = _perceptron(width, len(ACTIONS), nn.Tanh, 0.01)  # begins with all actions nearly as probable
        self.critic = _perceptron(width, 1, nn.Tanh, 1.0)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        return self.actor(observations), self.critic(observations)[:, 0]


class ActionValues(nn.Module):
    """Observations [N, 8] -> the discounted rewards [N, 4] expected after each action, and after the best [N].

    Taken as logits, the former are a policy.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = _perceptron(width, len(ACTIONS), nn.ReLU, 1.0)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        values = self.layers(observations)
        return values, values.amax(1)


class Method(Protocol):
    """A way to learn.

    Attributes:
        settings: its hyper-parameters.
        net: the policy so far, observations [N, 8] -> logits [N, 4] and values [N].
        state: what a checkpoint must hold.
    """

    settings: Any
    fabric: Fabric
    net: nn.Module
    state: dict[str, Any]

    def learn(self, interval: int, random: np.random.Generator) -> int:
        """Take the steps of one interval (REINFORCE: to the end of its episodes); returns the episodes that ended."""


class Reinforce:
    """Williams 1992, with a learned baseline."""

    def __init__(self, settings: ReinforceSettings, budget: Budget, fabric: Fabric) -> None:
        self.settings, self.budget, self.fabric = settings, budget, fabric
        self.net: nn.Module = ActorCritic(self.settings.width)
        self.model, self.optimizer = fabric.setup(self.net, _adam(self.net))
        self.state = {"model": self.model, "optimizer": self.optimizer}

    def learn(self, interval: int, random: np.random.Generator) -> int:
        set_rate(self.optimizer, self.budget.rate(self.settings.learning_rate, interval))
        taken = played = 0
        while taken < self.budget.interval_steps:
            seeds = lander.training_seeds(random, self.settings.episodes)
            episodes = lander.play(self._sample, seeds)
            self._update(episodes)
            taken += sum(len(episode.rewards) for episode in episodes)
            played += len(episodes)
        return played

    def _sample(self, observations: Observations) -> Actions:
        actions, _, _ = _sample(self.net, self.fabric.to_device(torch.from_numpy(observations)))
        return actions.numpy(force=True)

    def _update(self, episodes: list[lander.Episode]) -> None:
        settings, to_device = self.settings, self.fabric.to_device
        observations = to_device(torch.from_numpy(np.concatenate([np.stack(e.observations) for e in episodes])))
        actions = to_device(torch.tensor([action for e in episodes for action in e.actions]))
        returns = to_device(torch.tensor([r for e in episodes for r in _returns(e.rewards, settings.discount)]))
        logits, values = self.model(observations)
        log_probabilities, entropy = _log_probabilities(logits, actions)
        advantages = _standardised((returns - values).detach())
        loss = -(log_probabilities * advantages).mean() - settings.entropy_weight * entropy
        loss = loss + settings.value_weight * F.smooth_l1_loss(values, returns)
        descend(self.fabric, self.optimizer, loss, self.model, MAX_GRADIENT)


@dataclass
class Rollout:
    """What PPO learns from, [steps, environments]; `values` has one step more."""

    observations: Tensor
    actions: Tensor
    log_probabilities: Tensor
    values: Tensor
    rewards: Tensor
    ended: Tensor


class PPO:
    """Schulman et al. 2017, with generalised advantage estimation."""

    def __init__(self, settings: PPOSettings, budget: Budget, fabric: Fabric) -> None:
        self.settings, self.budget, self.fabric = settings, budget, fabric
        self.net: nn.Module = ActorCritic(self.settings.width)
        self.model, self.optimizer = fabric.setup(self.net, _adam(self.net))
        self.state = {"model": self.model, "optimizer": self.optimizer}

    def learn(self, interval: int, random: np.random.Generator) -> int:
        set_rate(self.optimizer, self.budget.rate(self.settings.learning_rate, interval))
        fleet = Fleet(self.settings.environments, random)
        for _ in range(self.budget.interval_steps // (self.settings.environments * self.settings.steps)):
            rollout = self._roll_out(fleet)
            self._update(rollout, self._advantages(rollout))
        return fleet.episodes

    @torch.no_grad()
    def _roll_out(self, fleet: Fleet) -> Rollout:
        shape, device = (self.settings.steps, self.settings.environments), self.fabric.device
        rollout = Rollout(
            observations=torch.empty(*shape, len(FEATURES), device=device),
            actions=torch.empty(shape, dtype=torch.int64, device=device),
            log_probabilities=torch.empty(shape, device=device),
            values=torch.empty(shape[0] + 1, shape[1], device=device),
            rewards=torch.empty(shape, device=device),
            ended=torch.empty(shape, device=device),
        )
        for t in range(shape[0]):
            rollout.observations[t] = torch.from_numpy(fleet.observations)
            actions, rollout.log_probabilities[t], rollout.values[t] = _sample(self.net, rollout.observations[t])
            rollout.actions[t] = actions
            steps = fleet.step(actions.numpy(force=True))
            rollout.rewards[t] = torch.from_numpy(steps.rewards)
            rollout.ended[t] = torch.from_numpy(steps.ended)
            if (cut := steps.ended & ~steps.terminated).any():
                # The time limit is not part of the task: what would have come after it counts.
                after = self.net(torch.from_numpy(steps.arrived).to(device))[1]
                rollout.rewards[t] += self.settings.discount * after * torch.from_numpy(cut).to(device)
        rollout.values[-1] = self.net(torch.from_numpy(fleet.observations).to(device))[1]
        return rollout

    def _advantages(self, rollout: Rollout) -> Tensor:
        advantages, advantage = torch.empty_like(rollout.rewards), torch.zeros_like(rollout.rewards[0])
        for t in reversed(range(len(advantages))):
            goes_on = self.settings.discount * (1 - rollout.ended[t])
            surprise = rollout.rewards[t] + goes_on * rollout.values[t + 1] - rollout.values[t]
            advantage = surprise + goes_on * self.settings.trace * advantage
            advantages[t] = advantage
        return advantages

    def _update(self, rollout: Rollout, advantages: Tensor) -> None:
        settings = self.settings
        returns = (advantages + rollout.values[:-1]).flatten()
        columns = (rollout.observations, rollout.actions, rollout.log_probabilities, advantages)
        observations, actions, before, advantages = (column.flatten(0, 1) for column in columns)
        for _ in range(settings.epochs):
            for batch in torch.split(torch.randperm(len(returns), device=returns.device), settings.batch_size):
                logits, values = self.model(observations[batch])
                log_probabilities, entropy = _log_probabilities(logits, actions[batch])
                ratio = (log_probabilities - before[batch]).exp()
                clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)
                advantage = _standardised(advantages[batch])
                loss = -torch.min(ratio * advantage, clipped * advantage).mean() - settings.entropy_weight * entropy
                loss = loss + settings.value_weight * F.mse_loss(values, returns[batch])
                descend(self.fabric, self.optimizer, loss, self.model, MAX_GRADIENT)


class Replay(nn.Module):
    """The latest steps; buffers, so that a checkpoint holds them."""

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    arrived: Tensor
    terminated: Tensor
    written: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("observations", torch.zeros(size, len(FEATURES)))
        self.register_buffer("actions", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("rewards", torch.zeros(size))
        self.register_buffer("arrived", torch.zeros(size, len(FEATURES)))
        self.register_buffer("terminated", torch.zeros(size))
        self.register_buffer("written", torch.zeros((), dtype=torch.int64))

    @property
    def filled(self) -> int:
        """How many steps it holds."""
        return min(int(self.written), self.size)

    def add(self, observations: Observations, actions: Actions, steps: lander.Steps) -> None:
        """Write one step of each environment over the oldest."""
        at = (torch.arange(len(actions), device=self.written.device) + self.written) % self.size
        self.observations[at] = torch.from_numpy(observations).to(at.device)
        self.actions[at] = torch.from_numpy(actions).to(at.device)
        self.rewards[at] = torch.from_numpy(steps.rewards).to(at.device)
        self.arrived[at] = torch.from_numpy(steps.arrived).to(at.device)
        self.terminated[at] = torch.from_numpy(steps.terminated).to(at.device).float()
        self.written += len(actions)

    def draw(self, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Observations, actions, rewards, arrived and terminated of random steps."""
        at = torch.randint(self.filled, (count,), device=self.written.device)
        return self.observations[at], self.actions[at], self.rewards[at], self.arrived[at], self.terminated[at]


class DQN:
    """Mnih et al. 2015, double."""

    def __init__(self, settings: DQNSettings, budget: Budget, fabric: Fabric) -> None:
        self.settings, self.budget, self.fabric = settings, budget, fabric
        self.net: nn.Module = ActionValues(self.settings.width)
        self.target, self.replay = copy.deepcopy(self.net), Replay(settings.replay)
        self.target.to(fabric.device)
        self.replay.to(fabric.device)
        self.model, self.optimizer = fabric.setup(self.net, _adam(self.net))
        self.state = {
            "model": self.model,
            "optimizer": self.optimizer,
            "target": self.target,
            "replay": self.replay,
        }

    def learn(self, interval: int, random: np.random.Generator) -> int:
        settings, budget = self.settings, self.budget
        set_rate(self.optimizer, budget.rate(settings.learning_rate, interval))
        fleet = Fleet(settings.environments, random)
        for step in range(0, budget.interval_steps, settings.environments):
            explored = (interval * budget.interval_steps + step) / settings.exploring_steps
            actions = self._choose(fleet.observations, max(settings.least_random, 1 - explored), random)
            observations = fleet.observations
            self.replay.add(observations, actions, fleet.step(actions))
            if self.replay.filled >= settings.steps_before_learning:
                for _ in range(settings.environments // settings.steps_per_update):
                    self._update()
            if int(self.replay.written) % settings.steps_per_target == 0:
                self.target.load_state_dict(self.net.state_dict())
        return fleet.episodes

    @torch.no_grad()
    def _choose(self, observations: Observations, random_share: float, random: np.random.Generator) -> Actions:
        best = self.net(self.fabric.to_device(torch.from_numpy(observations)))[0].argmax(1).numpy(force=True)
        drawn = random.integers(len(ACTIONS), size=len(best))
        return np.where(random.random(len(best)) < random_share, drawn, best)

    def _update(self) -> None:
        observations, actions, rewards, arrived, terminated = self.replay.draw(self.settings.batch_size)
        with torch.no_grad():
            # Double: this network says which action is best, the target network what it is worth.
            best = self.net(arrived)[0].argmax(1, keepdim=True)
            after = self.target(arrived)[0].gather(1, best)[:, 0]
        goals = rewards + self.settings.discount * (1 - terminated) * after
        values = self.model(observations)[0].gather(1, actions[:, None])[:, 0]
        descend(self.fabric, self.optimizer, F.smooth_l1_loss(values, goals))  # whose gradient is bounded as it is


def _sample(net: nn.Module, observations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Actions drawn by their probabilities, the logarithms of those, and values, each [N]."""
    with torch.no_grad():
        logits, values = net(observations)
        log_probabilities = logits.log_softmax(1)
        actions = torch.multinomial(log_probabilities.exp(), 1)
        return actions[:, 0], log_probabilities.gather(1, actions)[:, 0], values


def _log_probabilities(logits: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities [N] of actions [N], and the mean entropy of the policy."""
    log_probabilities = logits.log_softmax(1)
    entropy = -(log_probabilities.exp() * log_probabilities).sum(1).mean()
    return log_probabilities.gather(1, actions[:, None])[:, 0], entropy


def _returns(rewards: list[float], discount: float) -> list[float]:
    """The discounted sum of what follows each step of an episode."""
    returns, total = [], 0.0
    for reward in reversed(rewards):
        total = reward + discount * total
        returns.append(total)
    return returns[::-1]


def _standardised(values: Tensor) -> Tensor:
    return (values - values.mean()) / (values.std() + 1e-8)


def _adam(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(net.parameters(), eps=1e-5, fused=True)


def _perceptron(width: int, outputs: int, activation: type[nn.Module], gain: float) -> nn.Sequential:
    """Two hidden layers with orthogonal weights, the last layer's times `gain`."""
    layers = [nn.Linear(len(FEATURES), width), nn.Linear(width, width), nn.Linear(width, outputs)]
    for layer, scale in zip(layers, (2**0.5, 2**0.5, gain), strict=True):
        nn.init.orthogonal_(layer.weight, scale)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], activation(), layers[1], activation(), layers[2])
