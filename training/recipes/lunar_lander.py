"""HW12: landing on the moon, learned in three ways on the same number of steps; the best policy is served.

REINFORCE, PPO (an actor-critic) and DQN are in training/methods/reinforcement.py, with their papers. After each
interval of steps a policy flies the validation seeds, taking its most probable actions. Its best interval is kept, the
best of the three is served, and only then are the test seeds flown.
"""

from __future__ import annotations

import copy
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from lightning.fabric import Fabric
from matplotlib.figure import Figure as Plot
from numpy.typing import NDArray
from torch import Tensor, nn

from artifacts.card import Baseline, Card, Limits, Metric, ObservationPreprocessing, Split, Table
from lectern.client import Client
from training import measures
from training.data import lander
from training.data.lander import ACTIONS, FEATURES, TEST_SEEDS, VALIDATION_SEEDS, Actions, Observations
from training.measures import Evaluation
from training.methods.reinforcement import (
    DQN,
    PPO,
    Budget,
    DQNSettings,
    Method,
    PPOSettings,
    Reinforce,
    ReinforceSettings,
)
from training.run import Run, device_name, threads
from training.served import Track
from training.trained import Figure, Graph, Trained

NEEDS: dict[str, str] = {}
MEMORY = 2
SHIPPED = True
TARGET = 250.0
SOLVED = 200.0  # the reward at which gymnasium counts an episode as solved
SERVED_EPISODES = 20  # flown together in an evaluation
LIMITS = Limits(
    intended="Landing in gymnasium's LunarLander-v3, with its default gravity and no wind.",
    failures=(
        "On 30 seeds of neither split, version 1 reaches a mean reward of 249 and solves 80 %.",
        "It was chosen by its mean reward; another checkpoint of the same training solves 98 %.",
    ),
)


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of the three, and what they have in common."""

    budget: Budget = field(default_factory=Budget)
    reinforce: ReinforceSettings = field(default_factory=ReinforceSettings)
    ppo: PPOSettings = field(default_factory=PPOSettings)
    dqn: DQNSettings = field(default_factory=DQNSettings)
    validation_seeds: range = VALIDATION_SEEDS
    test_seeds: range = TEST_SEEDS

    def methods(self, fabric: Fabric) -> dict[str, Method]:
        """Each method at its beginning."""
        return {
            "REINFORCE": Reinforce(self.reinforce, self.budget, fabric),
            "DQN": DQN(self.dqn, self.budget, fabric),
            "PPO": PPO(self.ppo, self.budget, fabric),
        }


FULL = Settings()
FAST = Settings(
    budget=Budget(interval_steps=1024, compared=2, intervals=3),
    ppo=PPOSettings(environments=4, steps=128, batch_size=64),
    dqn=DQNSettings(replay=1024, steps_before_learning=128),
    validation_seeds=VALIDATION_SEEDS[:4],
    test_seeds=TEST_SEEDS[:4],
)


class Best:
    """The scores of one method, interval by interval, and its best network so far; a checkpoint holds them."""

    def __init__(self, net: nn.Module) -> None:
        self.net = copy.deepcopy(net)
        self.scores: list[float] = []
        self.episodes = 0

    @property
    def score(self) -> float:
        """The best."""
        return max(self.scores)

    def add(self, net: nn.Module, score: float, episodes: int) -> None:
        """Note an interval's score, and keep its network if none was better."""
        self.scores.append(score)
        self.episodes += episodes
        if score == self.score:
            self.net.load_state_dict(net.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes."""
        return {"net": self.net.state_dict(), "scores": self.scores, "episodes": self.episodes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.net.load_state_dict(state["net"])
        self.scores, self.episodes = list(state["scores"]), state["episodes"]


class Pilot(nn.Module):
    """A policy as it is served: observation [N, 8], noise [N, 4] -> action [N, 1], probabilities [N, 4], value [N, 1].

    With Gumbel noise the action is a draw by the probabilities (the Gumbel-max trick), with zeros the most probable.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, observation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, value = self.net(observation)
        return (logits + noise).argmax(1, keepdim=True), logits.softmax(1), value[:, None]


def train(run: Run) -> Trained:
    """Compare the methods after the same number of steps, let the best go on, and serve its best policy."""
    settings = FAST if run.fast else FULL
    fabric = run.fabric()
    methods = settings.methods(fabric)
    with threads(1):  # networks this small are slower on more
        compared = {name: fit(run, settings, method, 0, settings.budget.compared) for name, method in methods.items()}
        winner = max(compared, key=lambda name: compared[name].score)
        further = fit(run, settings, methods[winner], settings.budget.compared, settings.budget.intervals)
        served = max(further, compared[winner], key=lambda best: best.score)
        validated, tested = (fly(served.net, seeds) for seeds in (settings.validation_seeds, settings.test_seeds))
        others, device = rivals(settings, compared), device_name(fabric)
    pilot = Pilot(served.net)
    return Trained(
        title="Lunar lander",
        lecture="HW12",
        capability="act",
        task="control",
        description=f"Lands a craft between two flags ({lander.ENVIRONMENT}), by a policy that {winner} learned.",
        graphs={"forward": Graph(pilot, _example(pilot), ("action", "probabilities", "value"), max_batch_size=256)},
        preprocessing=ObservationPreprocessing(features=FEATURES, environment=lander.ENVIRONMENT),
        labels=ACTIONS,
        limits=LIMITS,
        metrics=(*measured(tested), mean_reward(validated, "validation")),
        baselines=tuple(
            Baseline(name=name, metric="mean_reward", value=float(rewards.mean())) for name, rewards in others.items()
        ),
        tables=(
            Table(
                title="Total rewards of the test episodes",
                columns=("policy", "mean", "standard deviation", f"share of {SOLVED:g} or more"),
                rows=tuple(
                    (name, float(rewards.mean()), float(rewards.std()), solved(rewards))
                    for name, rewards in {f"{winner}, served": tested, **others}.items()
                ),
            ),
        ),
        figures=(
            Figure(
                title="Mean reward of the validation episodes while learning",
                file="learning.png",
                png=learning_curves(settings, compared, winner, further),
            ),
        ),
        data=(lander.card_entry(compared[winner].episodes + further.episodes),),
        device=device,
        parameters=sum(p.numel() for p in pilot.parameters()),
    )


def fit(run: Run, settings: Settings, method: Method, start: int, end: int) -> Best:
    """Let a method learn from one interval to another; its best policy is on the CPU afterwards."""
    name = type(method).__name__
    best = Best(method.net)
    key = (name, method.settings, settings.budget, settings.validation_seeds, start)
    for done in run.epochs(method.fabric, end - start, {**method.state, "best": best}, key):
        interval = start + done
        # Each interval has random numbers of its own, so that a run which was stopped goes on as it would have.
        random = np.random.default_rng((run.seed, interval))
        torch.manual_seed(int(random.integers(2**31)))
        episodes = method.learn(interval, random)
        best.add(method.net, float(fly(method.net, settings.validation_seeds).mean()), episodes)
        run.log(**{f"{name} interval": interval + 1}, mean_reward=best.scores[-1], best=best.score)
    best.net.cpu().eval()
    return best


@torch.no_grad()
def fly(net: nn.Module, seeds: range) -> NDArray[np.float64]:
    """The total reward [N] of an episode for each seed, always taking the most probable action."""
    device = next(net.parameters()).device

    def choose(observations: Observations) -> Actions:
        logits, _ = net(torch.from_numpy(observations).to(device))
        actions: Actions = logits.argmax(1).numpy(force=True)
        return actions

    return lander.total_rewards(lander.play(choose, seeds))


def evaluate(client: Client, track: Track) -> Evaluation:
    """Mean reward of the test episodes, each action asked of the server."""

    def choose(observations: Observations) -> Actions:
        return np.array([action.index for action in client.act(observations).results])

    together = range(0, len(TEST_SEEDS), SERVED_EPISODES)
    groups = (lander.play(choose, TEST_SEEDS[first : first + SERVED_EPISODES]) for first in together)
    episodes = [episode for group in track(groups, len(together)) for episode in group]
    return Evaluation(measured(lander.total_rewards(episodes)))


def unserved(card: Card, repository: Path, track: Track) -> Evaluation:
    """Mean reward of the validation episodes, by the exported policy."""
    session = onnxruntime.InferenceSession(repository / card.name / str(card.version) / "model.onnx")

    def choose(observations: Observations) -> Actions:
        noise = np.zeros((len(observations), len(ACTIONS)), np.float32)
        actions: Actions = session.run(["action"], {"observation": observations, "noise": noise})[0][:, 0]
        return actions

    (episodes,) = track((lander.play(choose, seeds) for seeds in [VALIDATION_SEEDS]), 1)
    return Evaluation((mean_reward(lander.total_rewards(episodes), "validation"),))


def measured(rewards: NDArray[np.float64]) -> tuple[Metric, ...]:
    """The figures of the total rewards [N] of the test episodes."""
    return mean_reward(rewards, "test"), measures.share("solved", solved(rewards), len(rewards))


def mean_reward(rewards: NDArray[np.float64], split: Split) -> Metric:
    """Of total rewards [N], one an episode."""
    target = TARGET if split == "test" else None
    return measures.mean("mean_reward", rewards, split, target=target)


def solved(rewards: NDArray[np.float64]) -> float:
    """The share of episodes that count as solved."""
    return float((rewards >= SOLVED).mean())


def rivals(settings: Settings, compared: dict[str, Best]) -> dict[str, NDArray[np.float64]]:
    """Total rewards of the test episodes by what each method had learned when they were compared, by a controller
    written by hand, and by random actions."""
    steps = f"{settings.budget.compared * settings.budget.interval_steps:,} steps"
    rewards = {f"{name}, {steps}": fly(best.net, settings.test_seeds) for name, best in compared.items()}
    random = np.random.default_rng(0)
    controllers: dict[str, lander.Choose] = {
        "controller by hand, of gymnasium": lander.by_hand,
        "random actions": lambda observations: random.integers(len(ACTIONS), size=len(observations)),
    }
    for name, choose in controllers.items():
        rewards[name] = lander.total_rewards(lander.play(choose, settings.test_seeds))
    return rewards


def learning_curves(settings: Settings, compared: dict[str, Best], winner: str, further: Best) -> bytes:
    """Scores by steps as a PNG; the winner's line goes on after the comparison."""
    figure = Plot(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, best in compared.items():
        scores = best.scores + (further.scores if name == winner else [])
        steps = settings.budget.interval_steps * np.arange(1, len(scores) + 1)
        axes.plot(steps / 1e6, scores, marker="o", markersize=3, label=name)
    axes.axvline(settings.budget.compared * settings.budget.interval_steps / 1e6, color="grey", linestyle=":")
    axes.axhline(TARGET, color="grey", linestyle="--", linewidth=1, label=f"target {TARGET:g}")
    axes.set(xlabel="million steps", ylabel="mean reward", ylim=(-300, 300))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(buffer := io.BytesIO(), format="png", dpi=120)
    return buffer.getvalue()


def _example(pilot: Pilot) -> dict[str, Tensor]:
    """The first moments of an episode, each with noise."""
    (episode,) = lander.play(lander.by_hand, VALIDATION_SEEDS[:1])
    observations = torch.from_numpy(np.stack(episode.observations[:16]))
    uniform = torch.rand(len(observations), len(ACTIONS), generator=torch.Generator().manual_seed(0))
    return {"observation": observations, "noise": -(-uniform.log()).log()}
