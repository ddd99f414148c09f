"""Users of ActService: observations one by one and in batches, and now and then an episode."""

from __future__ import annotations

import numpy as np
from locust import task

from lectern.v1 import act_pb2, act_pb2_grpc
from loadtests.user import GrpcUser

BATCH = 64
EPISODE_STEPS = 50
# Where a flight of the lander begins, give or take.
MEAN = np.array([0, 1.4, 0, -0.3, 0, 0, 0, 0])
SPREAD = np.array([0.1, 0.1, 0.5, 0.3, 0.1, 0.1, 0, 0])
RANDOM = np.random.default_rng()


def some(count: int) -> list[act_pb2.Observation]:
    """That many observations, drawn at random."""
    return [act_pb2.Observation(features=row) for row in RANDOM.normal(MEAN, SPREAD, (count, len(MEAN)))]


class ActUser(GrpcUser):
    """Most calls carry one observation, as an agent's loop does."""

    def on_start(self) -> None:
        self.stub = act_pb2_grpc.ActServiceStub(self.channel)

    @task(36)
    def one_observation(self) -> None:
        self.call(self.stub.Act, act_pb2.ActRequest(observations=some(1)), "Act")

    @task(4)
    def a_batch(self) -> None:
        self.call(self.stub.Act, act_pb2.ActRequest(observations=some(BATCH)), f"Act, {BATCH} observations")

    @task(1)
    def an_episode(self) -> None:
        request = act_pb2.RunEpisodeRequest(seed=int(RANDOM.integers(1000)), max_steps=EPISODE_STEPS)
        self.watch(self.stub.RunEpisode, request, f"RunEpisode, {EPISODE_STEPS} steps")
