"""Image models beside the default one: two versions served side by side, and a model of drawings."""

from __future__ import annotations

import grpc
import numpy as np
import pytest

from lectern.v1 import classify_pb2 as pb
from lectern.v1 import model_pb2
from lectern.v1.classify_pb2_grpc import ClassifyServiceStub
from lectern.v1.model_pb2_grpc import ModelServiceStub
from tests.conftest import SLIVERS, encode
from tests.services.test_classify import failure, probabilities
from tests.waiting import WAIT

COMPACT = "compact_classifier"


@pytest.fixture
def stub(channel: grpc.Channel) -> ClassifyServiceStub:
    return ClassifyServiceStub(channel)


@pytest.fixture
def pair(channel: grpc.Channel) -> tuple[int, int]:
    """Numbers of the float32 and the int8 version."""
    request = model_pb2.GetModelRequest(model=COMPACT)
    versions = ModelServiceStub(channel).GetModel(request, timeout=WAIT).model.versions
    assert [v.state for v in versions] == [model_pb2.MODEL_STATE_READY] * 2
    int8, float32 = (v.version for v in versions)
    return float32, int8


def sliver(name: str) -> tuple[list[bytes], np.ndarray]:
    """Real images of a committed sliver as PNG files, and their labels."""
    with np.load(SLIVERS / f"{name}.npz") as file:
        return [encode(image) for image in file["images"]], file["labels"]


def predicted(stub: ClassifyServiceStub, images: list[bytes], model: str, version: int = 0) -> np.ndarray:
    """The likeliest class of each image."""
    request = pb.ClassifyImageRequest(images=images, model=model, version=version, top_k=1)
    return np.array([r.classes[0].index for r in stub.ClassifyImage(request, timeout=WAIT).results])


def test_a_caller_chooses_the_version(stub: ClassifyServiceStub, pair: tuple[int, int], photos: np.ndarray) -> None:
    answers = {}
    for version in (*pair, 0):
        request = pb.ClassifyImageRequest(images=[encode(photos[0])], model=COMPACT, version=version)
        answers[version] = stub.ClassifyImage(request, timeout=WAIT)
    float32, int8 = pair
    assert float32 < int8
    assert [answers[version].version for version in (float32, int8, 0)] == [float32, int8, int8]
    chosen, other, newest = (probabilities(answers[version].results[0]) for version in (int8, float32, 0))
    np.testing.assert_array_equal(chosen, newest)
    assert not np.array_equal(chosen, other)


def test_int8_and_float32_agree_on_most_photos(stub: ClassifyServiceStub, pair: tuple[int, int]) -> None:
    images, labels = sliver("image_classifier_test")
    float32, int8 = (predicted(stub, images, COMPACT, version) for version in pair)
    assert np.mean(float32 == int8) >= 0.95
    for answers in (float32, int8):
        assert np.mean(answers == labels) >= 0.81  # 0.88 on all 10,000; three standard errors of 200


@pytest.mark.parametrize(("version", "code"), [(99, grpc.StatusCode.NOT_FOUND), (-1, grpc.StatusCode.NOT_FOUND)])
def test_a_version_that_is_not_served_is_named(
    stub: ClassifyServiceStub, pair: tuple[int, int], photos: np.ndarray, version: int, code: grpc.StatusCode
) -> None:
    request = pb.ClassifyImageRequest(images=[encode(photos[0])], model=COMPACT, version=version)
    status, message, fields = failure(lambda: stub.ClassifyImage(request, timeout=WAIT))
    assert (status, fields) == (code, ["version"])
    assert f"no version {version}; it has: {list(pair)}" in message


def test_drawings_are_known_better_than_by_the_model_of_photos(stub: ClassifyServiceStub) -> None:
    images, labels = sliver("drawing_classifier")
    adapted, source = (np.mean(predicted(stub, images, model) == labels) for model in ("drawing_classifier", ""))
    assert adapted > source + 0.05
