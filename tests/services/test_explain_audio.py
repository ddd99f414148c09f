"""Speech explained by time and frequency: what methods promise, which frames are explained, and what is refused."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pytest
import soundfile
from PIL import Image

import lectern
from lectern.methods import explanation_method
from lectern.v1 import classify_pb2, explain_pb2
from tests.conftest import ROOT, Server, serving
from tests.services.test_explain import client, method, refused, values
from tests.waiting import WAIT

__all__ = ["client"]

SENTENCE = ROOT / "docs" / "examples" / "sentence.wav"
METHODS = (
    "saliency",
    "gradient_times_input",
    "smooth_grad",
    "integrated_gradients",
    "occlusion",
    "lime",
    "kernel_shap",
)
FEW = {"smooth_grad": {"samples": 4}, "integrated_gradients": {"steps": 16}}
FEW |= {name: {"samples": 80} for name in ("lime", "kernel_shap")}


@pytest.fixture(scope="module")
def explaining(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("explain"), "explain", "classify") as server:
        yield server


@pytest.fixture(scope="module")
def clip() -> tuple[np.ndarray, int]:
    """The first second and a half of a sentence."""
    samples, rate = soundfile.read(SENTENCE, dtype="int16")
    return samples[: 3 * rate // 2], rate


@pytest.fixture(scope="module")
def vowel(explaining: Server, clip: tuple[np.ndarray, int]) -> classify_pb2.AudioSegment:
    """The longest segment of it that is no pause."""
    with lectern.Client(explaining.target, timeout=WAIT) as client:
        segments = client.classify_audio(clip).results[0].segments
    return max((s for s in segments if s.label != "pau"), key=lambda s: s.end_seconds - s.start_seconds)


@pytest.mark.parametrize("name", METHODS)
def test_each_method_explains_a_phone_by_what_is_near_it(client: lectern.Client, clip, vowel, name: str) -> None:
    span = (vowel.start_seconds, vowel.end_seconds)
    response = client.explain(audio=clip, method=name, span=span, seed=1, **FEW.get(name, {}))
    assert (response.model, response.prediction.label) == ("phoneme_classifier", vowel.label)
    sizes = np.abs(values(response.attribution))
    assert sizes.shape == (150, 48)
    assert np.isfinite(sizes).all()
    first, last = (round(100 * second) for second in span)
    near = sizes[max(0, first - 20) : last + 20].sum()
    assert near > 0.5 * sizes.sum()
    assert Image.open(io.BytesIO(response.picture)).format == "PNG"


def test_values_of_integrated_gradients_add_up(client: lectern.Client, clip, vowel) -> None:
    span = (vowel.start_seconds, vowel.end_seconds)
    assert client.explain(audio=clip, span=span).completeness_gap < 0.01


@pytest.mark.parametrize("name", ["integrated_gradients", "occlusion"])
def test_what_is_far_away_changes_nothing(client: lectern.Client, name: str) -> None:
    samples, rate = soundfile.read(SENTENCE, dtype="int16")
    whole, cut = (
        client.explain(audio=(part, rate), method=name, span=(0.5, 0.6), baseline="black")
        for part in (samples, samples[: 2 * rate])
    )
    near, far = np.split(values(whole.attribution), [200])
    np.testing.assert_allclose(near[:180], values(cut.attribution)[:180], atol=0.02 * np.abs(near).max())
    assert not far.any()


def test_methods_are_compared_with_a_random_order(client: lectern.Client, clip, vowel) -> None:
    chosen = [explanation_method(name, **FEW.get(name, {})) for name in ("integrated_gradients", "occlusion")]
    span = (vowel.start_seconds, vowel.end_seconds)
    *learned, random = client.compare(methods=chosen, audio=clip, span=span).explanations
    assert random.method == "random"
    assert min(entry.deletion for entry in learned) < random.deletion
    assert all(entry.correlation_with_random_weights < 0.9 for entry in learned)


def audio(start: float = 0, end: float = 0, seconds: float = 1) -> explain_pb2.ExplainedInput:
    samples = (1000 * np.random.default_rng(0).standard_normal(int(16_000 * seconds))).astype("<i2").tobytes()
    clip = classify_pb2.AudioClip(pcm16=classify_pb2.Pcm16Audio(samples=samples, sample_rate=16_000))
    given = explain_pb2.ExplainedAudio(clip=clip, start_seconds=start, end_seconds=end)
    return explain_pb2.ExplainedInput(audio=given)


SALIENCY = method("saliency")


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (explain_pb2.ExplainRequest(input={"audio": {}}, method=SALIENCY), "input.audio.clip"),
        (explain_pb2.ExplainRequest(input=audio(seconds=9), method=SALIENCY), "input.audio.clip"),
        (explain_pb2.ExplainRequest(input=audio(start=-1), method=SALIENCY), "input.audio.start_seconds"),
        (explain_pb2.ExplainRequest(input=audio(start=1), method=SALIENCY), "input.audio.start_seconds"),
        (explain_pb2.ExplainRequest(input=audio(start=float("nan")), method=SALIENCY), "input.audio.start_seconds"),
        (explain_pb2.ExplainRequest(input=audio(start=0.5, end=0.5), method=SALIENCY), "input.audio.end_seconds"),
        (explain_pb2.ExplainRequest(input=audio(end=2), method=SALIENCY), "input.audio.end_seconds"),
        (explain_pb2.ExplainRequest(input=audio(), method=method("grad_cam")), "method"),
        (explain_pb2.ExplainRequest(input=audio(), method=method("rise")), "method"),
        (explain_pb2.ExplainRequest(input=audio(), method=method("occlusion", window=8)), "method.occlusion.window"),
        (explain_pb2.ExplainRequest(input=audio(), method=method("lime", cells=1)), "method.lime.cells"),
        (explain_pb2.ExplainRequest(input=audio(), method=SALIENCY, target_label="frog"), "target_label"),
        (explain_pb2.ExplainRequest(input=audio(), method=SALIENCY, model="image_classifier"), "input"),
        (explain_pb2.ExplainRequest(input=audio(), method=SALIENCY, model="speaker_classifier"), "model"),
    ],
)
def test_bad_requests_are_refused_by_name(explaining: Server, request_: explain_pb2.ExplainRequest, field: str) -> None:
    refused(explaining, "Explain", request_, "INVALID_ARGUMENT", field)
