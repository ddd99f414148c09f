"""ActService: actions for observations, and whole episodes in the model's environment."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from artifacts.card import ObservationPreprocessing
from lectern.v1 import act_pb2 as pb
from services import pools
from services.act import CAPABILITY
from services.act.environment import FRAME_WIDTH, MIN_FRAME_WIDTH, Environment
from services.answering import answering
from services.codecs.tensors import INLINE_ROWS, matrix_of
from services.errors import InvalidArgument, ResourceExhausted
from services.limits import Limits
from services.places import Places
from services.rpc import Call
from services.runtime.repository import Model, Repository

RETRY_AFTER_SECONDS = 1.0  # a flight takes about as long


class ActServicer:
    """Answers ActService from the models of the capability `act`."""

    def __init__(self, repository: Repository, limits: Limits) -> None:
        self._repository = repository
        self._limits = limits
        self._places = Places(limits.episodes)

    async def Act(self, request: pb.ActRequest, call: Call) -> pb.ActResponse:
        model, preprocessing = self._answering(request, call)
        observations = await matrix_of(request.observations, preprocessing.features, self._limits, "observations")
        random = np.random.default_rng(request.seed) if request.sample else None
        results = await _act(model, observations, random, call)
        return pb.ActResponse(model=model.card.name, version=model.card.version, results=results)

    async def RunEpisode(self, request: pb.RunEpisodeRequest, call: Call) -> AsyncIterator[pb.RunEpisodeResponse]:
        model, preprocessing = self._answering(request, call)
        max_steps = _checked("max_steps", request.max_steps, 1, self._limits.episode_steps)
        frame_width = _checked("frame_width", request.frame_width, MIN_FRAME_WIDTH, FRAME_WIDTH)
        every = request.frame_every
        random = np.random.default_rng(request.seed) if request.sample else None
        with self._places.take(call.caller) as has_place:
            if not has_place:
                raise ResourceExhausted(
                    f"{self._limits.episodes} episodes may be played at once, and half of the free places by one "
                    "client; try again later",
                    retry_after=RETRY_AFTER_SECONDS,
                )
            environment = await pools.codecs.run(
                Environment, preprocessing.environment, request.seed, frame_width if every else None
            )
            total = 0.0
            for number in range(1, max_steps + 1):
                observation = environment.observation
                (action,) = await _act(model, observation[None], random, call)
                draw = every > 0 and ((number - 1) % every == 0 or number == max_steps)
                step = await pools.codecs.run(environment.step, action.index, draw)
                total += step.reward
                yield pb.RunEpisodeResponse(
                    model=model.card.name,
                    version=model.card.version,
                    step=number,
                    observation=pb.Observation(features=observation),
                    action=action,
                    reward=step.reward,
                    total_reward=total,
                    terminated=step.terminated,
                    truncated=step.truncated or (number == max_steps and not step.terminated),
                    frame=step.frame,
                )
                if step.terminated or step.truncated:
                    return

    def _answering(
        self, request: pb.ActRequest | pb.RunEpisodeRequest, call: Call
    ) -> tuple[Model, ObservationPreprocessing]:
        return answering(self._repository, call, request, CAPABILITY, ObservationPreprocessing)


async def _act(
    model: Model, observations: NDArray[np.float32], random: np.random.Generator | None, call: Call
) -> list[pb.Action]:
    """An action for each observation `[N, features]`: drawn with `random`, or without it the most probable one."""
    shape = (len(observations), len(model.card.labels))
    # The largest of log-probabilities plus Gumbel noise is a draw by those probabilities.
    noise = np.zeros(shape, np.float32) if random is None else random.gumbel(size=shape).astype(np.float32)
    outputs = await model.graphs["forward"].infer(
        {"observation": observations, "noise": noise}, call.deadline, call.priority
    )
    return await pools.inline_or_codecs(len(observations) <= INLINE_ROWS, _actions, outputs, model.card.labels)


def _actions(outputs: Mapping[str, NDArray[Any]], labels: Sequence[str]) -> list[pb.Action]:
    rows = zip(*(outputs[name].tolist() for name in ("action", "probabilities", "value")), strict=True)
    return [
        pb.Action(label=labels[index], index=index, probabilities=probabilities, value=value)
        for (index,), probabilities, (value,) in rows
    ]


def _checked(field: str, given: int, least: int, most: int) -> int:
    """The number of a request within bounds; 0 = the most.

    Raises:
        InvalidArgument: it is out of bounds.
    """
    if given and not least <= given <= most:
        raise InvalidArgument.field(field, f"is {given}; it may be {least} to {most}, or 0 for {most}")
    return given or most
