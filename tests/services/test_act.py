"""ActService through gRPC, beside the graph and the environment themselves."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import gymnasium
import numpy as np
import onnxruntime
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from PIL import Image

from artifacts.card import Card, ObservationPreprocessing
from lectern.v1 import act_pb2 as pb
from lectern.v1.act_pb2_grpc import ActServiceStub
from tests.conftest import EXPORTED, serving
from tests.services.test_classify import failure
from tests.waiting import WAIT

VERSION = max((EXPORTED / "lunar_lander").glob("[0-9]*"), key=lambda path: int(path.name))
WIDTH, ACTIONS = 8, 4


@pytest.fixture
def stub(channel: grpc.Channel) -> ActServiceStub:
    return ActServiceStub(channel)


@pytest.fixture(scope="module")
def graph() -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(VERSION / "model.onnx")


def observations(matrix: np.ndarray) -> list[pb.Observation]:
    return [pb.Observation(features=row) for row in matrix]


def some(count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.5, (count, WIDTH)).astype(np.float32)


def run(graph: onnxruntime.InferenceSession, matrix: np.ndarray) -> list[np.ndarray]:
    """Action, probabilities and value without noise."""
    return graph.run(None, {"observation": matrix, "noise": np.zeros((len(matrix), ACTIONS), np.float32)})


def counted(stub: ActServiceStub, seed: int, count: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """How often each action is drawn for one observation, and how often it should be."""
    request = pb.ActRequest(observations=observations(np.repeat(some(1), count, 0)), sample=True, seed=seed)
    results = stub.Act(request, timeout=WAIT).results
    drawn = np.bincount([r.index for r in results], minlength=ACTIONS) / count
    return drawn, np.array(results[0].probabilities)


class TestAct:
    def test_does_what_the_graph_says(self, stub: ActServiceStub, graph: onnxruntime.InferenceSession) -> None:
        matrix = some(600)
        response = stub.Act(pb.ActRequest(observations=observations(matrix)), timeout=WAIT)
        action, probabilities, value = run(graph, matrix)
        labels = Card.read(VERSION / "card.json").labels
        assert (response.model, response.version) == ("lunar_lander", int(VERSION.name))
        assert [r.index for r in response.results] == action[:, 0].tolist()
        assert [r.label for r in response.results] == [labels[i] for i in action[:, 0]]
        np.testing.assert_allclose([r.probabilities for r in response.results], probabilities, atol=1e-4)
        np.testing.assert_allclose([r.value for r in response.results], value[:, 0], rtol=1e-4, atol=1e-4)

    def test_takes_the_most_probable_action_unless_asked_to_draw(self, stub: ActServiceStub) -> None:
        for result in stub.Act(pb.ActRequest(observations=observations(some(50))), timeout=WAIT).results:
            assert result.index == int(np.argmax(result.probabilities))
            assert sum(result.probabilities) == pytest.approx(1, abs=1e-4)

    def test_draws_by_the_probabilities(self, stub: ActServiceStub) -> None:
        drawn, probabilities = counted(stub, seed=1)
        np.testing.assert_allclose(drawn, probabilities, atol=0.03)  # four standard errors

    def test_the_seed_decides_what_is_drawn(self, stub: ActServiceStub) -> None:
        matrix = observations(np.zeros((200, WIDTH)))
        requests = [pb.ActRequest(observations=matrix, sample=True, seed=seed) for seed in (5, 5, 6)]
        first, again, other = ([r.index for r in stub.Act(q, timeout=WAIT).results] for q in requests)
        assert first == again
        assert first != other

    def test_bad_observations_are_named(self, stub: ActServiceStub) -> None:
        nan, infinite = some(3), some(3)
        nan[2, 5], infinite[0, 0] = np.nan, -np.inf
        cases = [
            ([], "observations", "at least one"),
            (observations(nan), "observations[2].features[5]", "(angular_velocity) is nan"),
            (observations(infinite), "observations[0].features[0]", "(x) is -inf"),
            ([*observations(some(1)), pb.Observation(features=[1.0])], "observations[1].features", "takes 8"),
            ([pb.Observation()] * 5000, "observations", "the most in one request is 4096"),
        ]
        for given, field, says in cases:
            request = pb.ActRequest(observations=given)
            code, message, fields = failure(lambda request=request: stub.Act(request, timeout=WAIT))  # type: ignore[misc]
            assert (code, fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])
            assert says in message
        assert len(stub.Act(pb.ActRequest(observations=observations(some(3))), timeout=WAIT).results) == 3


@pytest.mark.parametrize(
    ("model", "version", "code", "field"),
    [
        ("nobody", 0, grpc.StatusCode.NOT_FOUND, "model"),
        ("", 99, grpc.StatusCode.NOT_FOUND, "version"),
        ("covid_regressor", 0, grpc.StatusCode.INVALID_ARGUMENT, "model"),
    ],
    ids=["unknown model", "unknown version", "another capability"],
)
def test_wrong_models_are_named(
    stub: ActServiceStub, model: str, version: int, code: grpc.StatusCode, field: str
) -> None:
    act = pb.ActRequest(model=model, version=version, observations=observations(some(1)))
    episode = pb.RunEpisodeRequest(model=model, version=version)
    for call in (lambda: stub.Act(act, timeout=WAIT), lambda: list(stub.RunEpisode(episode, timeout=WAIT))):
        status, message, fields = failure(call)
        assert (status, fields) == (code, [field]), message


class TestRunEpisode:
    def play(self, stub: ActServiceStub, **fields: object) -> list[pb.RunEpisodeResponse]:
        return list(stub.RunEpisode(pb.RunEpisodeRequest(**fields), timeout=WAIT))  # type: ignore[arg-type]

    def test_plays_the_real_environment(self, stub: ActServiceStub, graph: onnxruntime.InferenceSession) -> None:
        card = Card.read(VERSION / "card.json")
        assert isinstance(card.preprocessing, ObservationPreprocessing)
        environment = gymnasium.make(card.preprocessing.environment)
        observation, _ = environment.reset(seed=7)
        total, steps = 0.0, self.play(stub, seed=7)
        for number, step in enumerate(steps, start=1):
            np.testing.assert_array_equal(np.float32(step.observation.features), observation)
            assert (step.step, step.action.index) == (number, run(graph, observation[None])[0][0, 0])
            observation, reward, terminated, truncated, _ = environment.step(step.action.index)
            total += float(reward)
            assert step.reward == pytest.approx(float(reward), abs=1e-4)
            assert step.total_reward == pytest.approx(total, abs=1e-2)
            assert (step.terminated, step.truncated) == (terminated, truncated)
            assert step.frame == b""
        assert terminated or truncated

    def test_lands(self, stub: ActServiceStub) -> None:
        rewards = [self.play(stub, seed=seed)[-1].total_reward for seed in range(10_000, 10_010)]
        assert np.mean(rewards) >= 200  # 264 over all 100 test seeds; three standard errors of 10

    def test_frames_come_when_asked_for_and_change_nothing(self, stub: ActServiceStub) -> None:
        without = self.play(stub, seed=3)
        steps = self.play(stub, seed=3, frame_every=10, frame_width=150)
        assert [list(s.observation.features) for s in steps] == [list(s.observation.features) for s in without]
        drawn = [s.step for s in steps if s.frame]
        assert drawn == sorted({*range(1, len(steps) + 1, 10), len(steps)})
        pictures = [Image.open(io.BytesIO(s.frame)) for s in steps if s.frame]
        assert {(p.format, p.size) for p in pictures} == {("PNG", (150, 100))}
        assert len({p.tobytes() for p in pictures}) > len(pictures) / 2

    def test_stops_after_max_steps_with_a_picture(self, stub: ActServiceStub) -> None:
        steps = self.play(stub, seed=1, max_steps=5, frame_every=3)
        assert [(s.truncated, s.terminated) for s in steps] == [(False, False)] * 4 + [(True, False)]
        assert [s.step for s in steps if s.frame] == [1, 4, 5]
        assert Image.open(io.BytesIO(steps[-1].frame)).size == (600, 400)

    def test_takes_any_seed(self, stub: ActServiceStub) -> None:
        assert len(self.play(stub, seed=2**64 - 1, sample=True, max_steps=2)) == 2

    def test_drawn_actions_repeat_with_their_seed(self, stub: ActServiceStub) -> None:
        first, again = (self.play(stub, seed=11, sample=True) for _ in range(2))
        assert [s.action.index for s in first] == [s.action.index for s in again]
        assert any(s.action.index != int(np.argmax(s.action.probabilities)) for s in first)

    def test_episodes_at_once_do_not_disturb_each_other(self, stub: ActServiceStub) -> None:
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda seed: self.play(stub, seed=seed, frame_every=50), range(4)))
        for seed, steps in enumerate(together):
            assert steps == self.play(stub, seed=seed, frame_every=50)

    @pytest.mark.parametrize(
        ("field", "value", "says"),
        [("max_steps", 1001, "1 to 1000"), ("frame_width", 601, "16 to 600"), ("frame_width", 15, "16 to 600")],
    )
    def test_what_is_out_of_bounds_is_named(self, stub: ActServiceStub, field: str, value: int, says: str) -> None:
        code, message, fields = failure(lambda: self.play(stub, **{field: value}))
        assert (code, fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])
        assert says in message


@pytest.fixture
def one_at_a_time(tmp_path: Path) -> Iterator[ActServiceStub]:
    """A server that plays one episode at a time."""
    with (
        serving(tmp_path, "act", LECTERN_LIMITS__EPISODES="1") as server,
        grpc.insecure_channel(server.target) as channel,
    ):
        yield ActServiceStub(channel)


def eventually(attempt: Callable[[], object]) -> None:
    """Repeat until it does not fail."""
    end = time.monotonic() + WAIT
    while True:
        try:
            attempt()
            return
        except grpc.RpcError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


def test_more_episodes_than_allowed_are_told_when_to_try_again(one_at_a_time: ActServiceStub) -> None:
    # Large pictures that are not read: the server waits for the reader, and the episode goes on.
    playing = one_at_a_time.RunEpisode(pb.RunEpisodeRequest(frame_every=1), timeout=WAIT)
    assert next(playing).step == 1
    short = pb.RunEpisodeRequest(max_steps=1)
    with pytest.raises(grpc.RpcError) as caught:
        list(one_at_a_time.RunEpisode(short, timeout=WAIT))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    (detail,) = rpc_status.from_call(caught.value).details
    retry = error_details_pb2.RetryInfo()
    assert detail.Unpack(retry)
    assert retry.retry_delay.ToTimedelta().total_seconds() > 0
    playing.cancel()  # frees the place
    eventually(lambda: list(one_at_a_time.RunEpisode(short, timeout=WAIT)))
    list(one_at_a_time.RunEpisode(pb.RunEpisodeRequest(), timeout=WAIT))  # so does its end
    assert len(list(one_at_a_time.RunEpisode(short, timeout=WAIT))) == 1


@pytest.mark.parametrize("package", ["gymnasium", "Box2D", "pygame"])
def test_a_server_without_environments_says_how_to_install_them(tmp_path: Path, package: str) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / f"{package}.py").write_text("raise ImportError('hidden by a test')")
    path = os.pathsep.join([str(hidden), os.environ.get("PYTHONPATH", "")])
    with serving(tmp_path, "act", PYTHONPATH=path) as server, grpc.insecure_channel(server.target) as channel:
        stub = ActServiceStub(channel)
        code, message, _ = failure(lambda: list(stub.RunEpisode(pb.RunEpisodeRequest(), timeout=WAIT)))
        assert code is grpc.StatusCode.UNIMPLEMENTED
        assert "pip install -e '.[episodes]'" in message
        assert len(stub.Act(pb.ActRequest(observations=observations(some(2))), timeout=WAIT).results) == 2
