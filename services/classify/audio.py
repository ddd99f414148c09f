"""The RPCs of ClassifyService that take audio: clips, recordings under way, and pairs of clips."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from artifacts.card import AudioPreprocessing
from lectern.v1 import classify_pb2 as pb
from services import pools, tracing
from services.answering import answering
from services.classify import CAPABILITY
from services.classify.audio_windows import LiveWindows, Window, padded_length, windows
from services.classify.segments import Segments
from services.codecs.audio import Resampler, Samples, contents, decode_clips, pcm16
from services.codecs.tensors import softmax
from services.errors import InvalidArgument
from services.limits import Limits
from services.probabilities import best_first
from services.rpc import Call
from services.runtime.repository import Model, Repository
from services.tasks import gathered

THRESHOLD = "same_speaker_threshold"
# Of the first message of a stream.
SETTINGS = ("model", "version", "sample_rate")

Outputs = dict[str, NDArray[Any]]


class AudioRpcs:
    """The RPCs of ClassifyService that take audio."""

    def __init__(self, repository: Repository, limits: Limits) -> None:
        self._repository = repository
        self._limits = limits

    async def ClassifyAudio(self, request: pb.ClassifyAudioRequest, call: Call) -> pb.ClassifyAudioResponse:
        limits = self._limits
        model, audio = answering(self._repository, call, request, CAPABILITY, AudioPreprocessing)
        if not request.clips:
            raise InvalidArgument.field("clips", "is empty; send at least one clip")
        if len(request.clips) > limits.audio_clips:
            most = f"the most in one request is {limits.audio_clips}"
            raise InvalidArgument.field("clips", f"has {len(request.clips)} clips; {most}")
        named = {f"clips[{i}]": clip for i, clip in enumerate(request.clips)}
        clips = await decode_clips(contents(named), audio.sample_rate, limits)
        answers = await _infer_clips(model, audio, clips, call)
        results = [
            # Thousands of segments take long enough to delay other callers.
            await pools.codecs.run(_answer, request, model, audio, clip, outputs)
            for clip, outputs in zip(clips, answers, strict=True)
        ]
        return pb.ClassifyAudioResponse(model=model.card.name, version=model.card.version, results=results)

    async def StreamClassifyAudio(
        self, requests: AsyncIterator[pb.StreamClassifyAudioRequest], call: Call
    ) -> AsyncIterator[pb.StreamClassifyAudioResponse]:
        recording: _Recording | None = None
        async for request in requests:
            if recording is None:
                recording = self._begin(request, call)
            else:
                for name in SETTINGS:
                    if getattr(request, name):
                        raise InvalidArgument.field(name, "belongs into the first message of a stream only")
            async with aclosing(recording.add(self._live_samples(request, recording.rate))) as responses:
                async for response in responses:
                    yield response
        if recording is not None:
            async with aclosing(recording.add(np.empty(0, np.float32), last=True)) as responses:
                async for response in responses:
                    yield response

    async def VerifySpeaker(self, request: pb.VerifySpeakerRequest, call: Call) -> pb.VerifySpeakerResponse:
        model, audio = answering(self._repository, call, request, CAPABILITY, AudioPreprocessing)
        card = model.card
        if THRESHOLD not in card.decision:
            raise InvalidArgument.field("model", f"{card.name} does not tell speakers apart")
        threshold = request.threshold if request.HasField("threshold") else card.decision[THRESHOLD]
        if not -1 <= threshold <= 1:
            raise InvalidArgument.field("threshold", f"is {threshold:g}; a score is from -1 to 1")
        named = {"first": request.first, "second": request.second}
        clips = await decode_clips(contents(named), audio.sample_rate, self._limits)
        first, second = (
            _mean_embedding(outputs, _lengths(clip, audio))
            for clip, outputs in zip(clips, await _infer_clips(model, audio, clips, call), strict=True)
        )
        score = float(np.clip(first @ second, -1, 1))
        return pb.VerifySpeakerResponse(
            model=card.name, version=card.version, score=score, same_speaker=score >= threshold, threshold=threshold
        )

    def _begin(self, request: pb.StreamClassifyAudioRequest, call: Call) -> _Recording:
        model, audio = answering(self._repository, call, request, CAPABILITY, AudioPreprocessing)
        if not audio.hop:
            raise InvalidArgument.field("model", f"{model.card.name} classifies whole clips; use ClassifyAudio")
        return _Recording(model, audio, audio.hop, request.sample_rate, call)

    def _live_samples(self, request: pb.StreamClassifyAudioRequest, rate: int) -> NDArray[np.float32]:
        samples = pcm16(request.samples, "samples")
        if len(samples) > self._limits.audio_seconds * rate:
            most = f"a message may have {self._limits.audio_seconds} seconds"
            raise InvalidArgument.field("samples", f"lasts {len(samples) / rate:.0f} seconds; {most}")
        return samples


class _Recording:
    """One stream under way."""

    def __init__(self, model: Model, audio: AudioPreprocessing, hop: int, rate: int, call: Call) -> None:
        self.rate = rate
        self._model, self._audio, self._hop, self._call = model, audio, hop, call
        self._resampler = Resampler(rate, audio.sample_rate, "sample_rate")
        self._windows = LiveWindows(audio)
        self._segments = Segments(model.card.labels, hop / audio.sample_rate)

    async def add(
        self, samples: NDArray[np.float32], last: bool = False
    ) -> AsyncGenerator[pb.StreamClassifyAudioResponse, None]:
        """Responses for what these samples complete."""
        for window in self._windows.add(self._resampler.add(samples, last), last):
            with tracing.current().span("message"):
                length = -(-len(window.samples) // self._audio.step) * self._audio.step
                outputs = await _infer_rows(self._model, [window], length, self._call)
            ended = self._segments.add(softmax(_kept(window, outputs["logits"][0], self._hop)))
            yield self._response(ended, self._segments.current())
        if last and self._segments.seconds:
            yield self._response([self._segments.current()], None)

    def _response(
        self, ended: Sequence[pb.AudioSegment], current: pb.AudioSegment | None
    ) -> pb.StreamClassifyAudioResponse:
        card = self._model.card
        return pb.StreamClassifyAudioResponse(
            model=card.name,
            version=card.version,
            segments=ended,
            current=current,
            classified_seconds=self._segments.seconds,
        )


async def _infer_clips(model: Model, audio: AudioPreprocessing, clips: Sequence[Samples], call: Call) -> list[Outputs]:
    """What the graph says of each clip: for frames, `logits` `[frames, classes]`; else each output by window.

    Windows of one length run together, whichever clip they are of.
    """
    places = [(i, window) for i, clip in enumerate(clips) for window in windows(clip, audio)]
    groups: dict[int, list[int]] = {}
    for place, (_, window) in enumerate(places):
        groups.setdefault(padded_length(window, audio), []).append(place)
    rows: list[Outputs] = [{} for _ in places]
    answers = await gathered(
        _infer_rows(model, [places[p][1] for p in group], length, call) for length, group in groups.items()
    )
    for group, outputs in zip(groups.values(), answers, strict=True):
        for row, place in enumerate(group):
            rows[place] = {name: values[row] for name, values in outputs.items()}
    by_clip: list[list[Outputs]] = [[] for _ in clips]
    for (clip, window), outputs in zip(places, rows, strict=True):
        if audio.hop:
            outputs = {"logits": _kept(window, outputs["logits"], audio.hop)}
        by_clip[clip].append(outputs)
    join = np.concatenate if audio.hop else np.stack
    return [{name: join([one[name] for one in windows]) for name in windows[0]} for windows in by_clip]


async def _infer_rows(model: Model, batch: Sequence[Window], length: int, call: Call) -> Outputs:
    inputs: dict[str, NDArray[Any]] = {
        "samples": np.stack([window.padded(length) for window in batch]),
        "lengths": np.array([[len(window.samples)] for window in batch]),
    }
    return await model.graphs["forward"].infer(inputs, call.deadline, call.priority)


def _kept(window: Window, logits: NDArray[np.float32], hop: int) -> NDArray[np.float32]:
    """The frames that the window answers for."""
    return logits[window.start // hop : math.ceil(window.stop / hop)]


def _answer(
    request: pb.ClassifyAudioRequest, model: Model, audio: AudioPreprocessing, clip: Samples, outputs: Outputs
) -> pb.AudioClassification:
    """The classification of a clip from the graph's outputs for it."""
    answer = (
        _of_frames(request, model, audio.hop / audio.sample_rate, outputs["logits"])
        if audio.hop
        else _of_windows(request, model, outputs, _lengths(clip, audio))
    )
    answer.duration_seconds = len(clip) / audio.sample_rate
    return answer


def _of_frames(
    request: pb.ClassifyAudioRequest, model: Model, frame_seconds: float, logits: NDArray[np.float32]
) -> pb.AudioClassification:
    probabilities, labels = softmax(logits), model.card.labels
    segments = Segments(labels, frame_seconds)
    all_segments = [*segments.add(probabilities), segments.current()]
    return pb.AudioClassification(
        classes=best_first(probabilities.mean(axis=0, keepdims=True), labels, request.top_k)[0],
        segments=all_segments,
        frames=probabilities.argmax(axis=1).tolist() if request.include_frames else (),
        frame_seconds=frame_seconds,
    )


def _of_windows(
    request: pb.ClassifyAudioRequest, model: Model, outputs: Outputs, lengths: Sequence[int]
) -> pb.AudioClassification:
    """The mean of the windows, weighted by how long each is."""
    logits = np.average(outputs["logits"], axis=0, weights=lengths)
    return pb.AudioClassification(
        classes=best_first(softmax(logits[None]), model.card.labels, request.top_k)[0],
        embedding=_mean_embedding(outputs, lengths) if request.include_embedding else (),
    )


def _lengths(clip: Samples, audio: AudioPreprocessing) -> list[int]:
    """Samples of each window of a clip."""
    return [len(window.samples) for window in windows(clip, audio)]


def _mean_embedding(outputs: Outputs, lengths: Sequence[int]) -> NDArray[np.float32]:
    """One vector of length 1 for the embeddings of a clip's windows."""
    mean: NDArray[np.float32] = np.average(outputs["embedding"], axis=0, weights=lengths)
    return mean / np.linalg.norm(mean)
