"""DetectAnomalyService through gRPC."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator

import grpc
import numpy as np
import onnxruntime
import pytest
from PIL import Image

from lectern.v1 import detect_anomaly_pb2 as pb
from lectern.v1.detect_anomaly_pb2_grpc import DetectAnomalyServiceStub
from tests.conftest import EXPORTED, SLIVERS, encode
from tests.services.test_classify import failure
from tests.waiting import WAIT

Pictures = dict[str, np.ndarray]


@pytest.fixture
def stub(channel: grpc.Channel) -> DetectAnomalyServiceStub:
    return DetectAnomalyServiceStub(channel)


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    """Real pictures of test splits: `images` of clothes, `mnist` and `kanji`; uint8 [N, 28, 28]."""
    with np.load(SLIVERS / "anomaly_detector_test.npz") as file:
        return dict(file)


def detect(
    stub: DetectAnomalyServiceStub, pictures: np.ndarray, rate: float = 0, **include: bool
) -> list[pb.AnomalyDetection]:
    request = pb.DetectAnomalyRequest(images=[encode(p) for p in pictures], false_positive_rate=rate, **include)
    return list(stub.DetectAnomaly(request, timeout=WAIT).results)


def opened(png: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    return image


def test_answers_what_the_graph_says(stub: DetectAnomalyServiceStub, pictures: Pictures) -> None:
    clothes = pictures["images"][:5]
    response = stub.DetectAnomaly(pb.DetectAnomalyRequest(images=[encode(p) for p in clothes]), timeout=WAIT)
    graph = EXPORTED / "anomaly_detector" / str(response.version) / "model.onnx"
    session = onnxruntime.InferenceSession(graph)
    score, probability = session.run(["score", "probability"], {"images": clothes[..., None]})
    assert response.model == "anomaly_detector"
    np.testing.assert_allclose([r.score for r in response.results], score[:, 0], rtol=1e-4)
    np.testing.assert_allclose([r.probability for r in response.results], probability[:, 0], atol=1e-4)
    assert all(r.anomalous == (r.score > r.threshold) for r in response.results)
    assert not any(r.heat_map or r.reconstruction for r in response.results)


def test_digits_kanji_and_noise_are_anomalies_and_clothes_are_not(
    stub: DetectAnomalyServiceStub, pictures: Pictures
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8)
    for strange in (pictures["mnist"], pictures["kanji"], noise):
        flagged = detect(stub, strange)
        assert np.mean([r.anomalous for r in flagged]) >= 0.8
        assert np.mean([r.probability for r in flagged]) >= 0.7
    normal = detect(stub, pictures["images"])
    assert np.mean([r.anomalous for r in normal]) <= 0.11  # 0.05 on all 10,000; four standard errors of 200
    assert np.mean([r.probability for r in normal]) <= 0.4


def test_a_lower_false_positive_rate_raises_the_threshold(stub: DetectAnomalyServiceStub, pictures: Pictures) -> None:
    clothes = pictures["images"][:1]
    rates = (1e-6, 0.001, 0.01, 0.04, 0.05, 0.06, 0.3, 0.5)
    thresholds = [detect(stub, clothes, rate)[0].threshold for rate in rates]
    assert thresholds == sorted(set(thresholds), reverse=True)
    assert detect(stub, clothes)[0].threshold == pytest.approx(detect(stub, clothes, 0.05)[0].threshold, rel=1e-5)


def test_the_share_of_clothes_called_anomalies_is_the_rate(stub: DetectAnomalyServiceStub, pictures: Pictures) -> None:
    for rate in (0.1, 0.5):
        share = np.mean([r.anomalous for r in detect(stub, pictures["images"], rate)])
        assert abs(share - rate) <= 4 * math.sqrt(rate * (1 - rate) / 200)


def test_a_reconstruction_resembles_what_is_normal(stub: DetectAnomalyServiceStub, pictures: Pictures) -> None:
    def error(images: np.ndarray) -> float:
        results = detect(stub, images, include_reconstruction=True)
        rebuilt = np.stack([np.asarray(opened(r.reconstruction)) for r in results])
        assert rebuilt.shape == images.shape
        return float(np.abs(rebuilt.astype(float) - images).mean())

    assert error(pictures["images"][:40]) < 25
    assert error(pictures["images"][:40]) < 0.6 * error(pictures["kanji"])


def test_a_heat_map_is_lightest_where_the_damage_is(stub: DetectAnomalyServiceStub, pictures: Pictures) -> None:
    clothes = pictures["images"][:40]
    damaged = clothes.copy()
    damaged[:, 10:18, 10:18] = np.where(clothes[:, 10:18, 10:18].mean((1, 2)) > 128, 0, 255)[:, None, None]
    before, after = (
        np.stack([np.asarray(opened(r.heat_map).convert("L")) for r in detect(stub, images, include_heat_map=True)])
        for images in (clothes, damaged)
    )
    assert before.shape == (40, 224, 224)
    lighter = after.astype(float) - before
    assert lighter[:, 80:144, 80:144].mean() > 30
    assert lighter[:, 80:144, 80:144].mean() > 5 * abs(lighter[:, :40].mean())


def test_stream_answers_in_order(stub: DetectAnomalyServiceStub, pictures: Pictures) -> None:
    chosen = [pictures["images"][0], pictures["mnist"][0], pictures["kanji"][0]] * 10

    def requests() -> Iterator[pb.StreamDetectAnomalyRequest]:
        for picture in chosen:
            yield pb.StreamDetectAnomalyRequest(images=[encode(picture)], false_positive_rate=0.01)

    streamed = [r.results[0].score for r in stub.StreamDetectAnomaly(requests(), timeout=WAIT)]
    np.testing.assert_allclose(streamed, [r.score for r in detect(stub, np.stack(chosen), 0.01)], rtol=1e-4)


@pytest.mark.parametrize("rate", [-0.01, 0.51, 1, math.nan, math.inf])
def test_a_wrong_false_positive_rate_is_named(stub: DetectAnomalyServiceStub, pictures: Pictures, rate: float) -> None:
    code, message, fields = failure(lambda: detect(stub, pictures["images"][:1], rate))
    assert (code, fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["false_positive_rate"])
    assert "at most 0.5" in message
    assert len(detect(stub, pictures["images"][:1], 0.5)) == 1


@pytest.mark.parametrize(
    ("request_", "code", "field"),
    [
        (pb.DetectAnomalyRequest(), grpc.StatusCode.INVALID_ARGUMENT, "images"),
        (pb.DetectAnomalyRequest(images=[b"text"]), grpc.StatusCode.INVALID_ARGUMENT, "images[0]"),
        (pb.DetectAnomalyRequest(images=[b"x"] * 300), grpc.StatusCode.INVALID_ARGUMENT, "images"),
        (pb.DetectAnomalyRequest(model="nobody"), grpc.StatusCode.NOT_FOUND, "model"),
        (pb.DetectAnomalyRequest(version=99), grpc.StatusCode.NOT_FOUND, "version"),
        (pb.DetectAnomalyRequest(model="image_classifier"), grpc.StatusCode.INVALID_ARGUMENT, "model"),
    ],
    ids=["none", "no image", "too many", "unknown model", "unknown version", "other capability"],
)
def test_bad_requests_are_refused_by_name(
    stub: DetectAnomalyServiceStub, request_: pb.DetectAnomalyRequest, code: grpc.StatusCode, field: str
) -> None:
    status, _, fields = failure(lambda: stub.DetectAnomaly(request_, timeout=WAIT))
    assert (status, fields) == (code, [field])


def test_a_bad_request_ends_its_stream(stub: DetectAnomalyServiceStub, pictures: Pictures) -> None:
    good = pb.StreamDetectAnomalyRequest(images=[encode(pictures["images"][0])])
    bad = pb.StreamDetectAnomalyRequest(images=good.images, false_positive_rate=0.9)
    answers = stub.StreamDetectAnomaly(iter([good, bad, good]), timeout=WAIT)
    assert len(next(answers).results) == 1
    code, _, fields = failure(lambda: list(answers))
    assert (code, fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["false_positive_rate"])
