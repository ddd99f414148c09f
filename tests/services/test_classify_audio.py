"""ClassifyAudio, StreamClassifyAudio and VerifySpeaker through gRPC, with models trained on their slivers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import pairwise
from pathlib import Path

import grpc
import numpy as np
import onnxruntime
import pytest
import soxr

import lectern
from lectern import Client
from lectern.v1 import classify_pb2 as pb
from lectern.v1.classify_pb2_grpc import ClassifyServiceStub
from tests.conftest import ROOT, SLIVERS, Server, record
from tests.services.test_classify import failure
from tests.waiting import WAIT
from training.data.audio import RATE, read, unpack

FRAME = 0.01
DELAY_SECONDS = 2.0  # context of the phoneme classifier, half a second, and the resampler's
MEGABYTE = 1e6


@pytest.fixture
def client(speech: Server) -> Iterator[Client]:
    with Client(speech.target, timeout=WAIT) as client:
        yield client


@pytest.fixture
def stub(speech: Server) -> Iterator[ClassifyServiceStub]:
    with grpc.insecure_channel(speech.target, options=[("grpc.max_send_message_length", -1)]) as channel:
        yield ClassifyServiceStub(channel)


@pytest.fixture(scope="module")
def sentence() -> np.ndarray:
    """A Russian sentence, int16 [T] at 16 kHz."""
    return read(ROOT / "docs" / "examples" / "sentence.wav")


@pytest.fixture(scope="module")
def sentences() -> np.ndarray:
    """All of the sliver's one after another, 26 seconds: several windows."""
    with np.load(SLIVERS / "phoneme_classifier.npz") as file:
        return np.concatenate(unpack(file["flac"], file["lengths"]))


@pytest.fixture(scope="module")
def voices() -> dict[str, list[np.ndarray]]:
    """A few clips by voice."""
    with np.load(SLIVERS / "speaker_classifier.npz") as file:
        clips = unpack(file["flac"], file["lengths"])
        return {
            name: [clip for clip, voice in zip(clips, file["voices"], strict=True) if voice == i]
            for i, name in enumerate(file["names"].tolist())
        }


def frames_of(client: Client, clip: bytes | tuple[np.ndarray, int]) -> np.ndarray:
    return np.array(client.classify_audio(clip, include_frames=True).results[0].frames)


def as_tuples(segments: list[pb.AudioSegment]) -> list[tuple[str, int, float, float]]:
    return [(s.label, s.index, round(s.start_seconds, 4), round(s.end_seconds, 4)) for s in segments]


class TestPhonemes:
    def test_segments_cover_the_clip_and_agree_with_the_frames(self, client: Client, sentence: np.ndarray) -> None:
        response = client.classify_audio((sentence, RATE), include_frames=True)
        assert (response.model, len(response.results)) == ("phoneme_classifier", 1)
        result = response.results[0]
        assert result.duration_seconds == pytest.approx(len(sentence) / RATE)
        assert result.frame_seconds == FRAME
        assert len(result.frames) == -(-len(sentence) // 160)
        assert result.segments[0].start_seconds == 0
        assert result.segments[-1].end_seconds == pytest.approx(len(result.frames) * FRAME)
        for a, b in pairwise(result.segments):
            assert a.end_seconds == b.start_seconds
            assert a.index != b.index
        for segment in result.segments:
            first, last = round(segment.start_seconds / FRAME), round(segment.end_seconds / FRAME)
            assert set(result.frames[first:last]) == {segment.index}
            assert 1 / 51 < segment.confidence <= 1

    def test_classes_of_the_clip_are_mean_probabilities_best_first(self, client: Client, sentence: np.ndarray) -> None:
        result = client.classify_audio((sentence, RATE)).results[0]
        values = [c.probability for c in result.classes]
        assert len(values) == 51
        assert values == sorted(values, reverse=True)
        assert sum(values) == pytest.approx(1, abs=1e-4)
        assert not result.frames
        assert len(client.classify_audio((sentence, RATE), top_k=3).results[0].classes) == 3

    def test_learned_something_from_a_minute_of_speech(self, client: Client) -> None:
        with np.load(SLIVERS / "phoneme_classifier.npz") as file:
            clips, phones = unpack(file["flac"], file["lengths"]), file["phones"]
        results = client.classify_audio([(clip, RATE) for clip in clips], include_frames=True).results
        predicted = np.concatenate([r.frames[: len(c) // 160] for r, c in zip(results, clips, strict=True)])
        assert np.mean(predicted == phones) > 1.5 * np.bincount(phones).max() / len(phones)

    def test_long_audio_is_answered_as_if_it_had_not_been_cut(
        self, client: Client, trained: Callable[[str], Path], sentences: np.ndarray
    ) -> None:
        whole = sentences[: len(sentences) // 320 * 320]
        # The server takes no tensor that is longer than a window, so the graph itself says what the whole is.
        session = onnxruntime.InferenceSession(
            trained("phoneme_classifier") / "phoneme_classifier" / "1" / "model.onnx"
        )
        (logits,) = session.run(["logits"], {"samples": whole[None], "lengths": np.array([[len(whole)]])})[0]
        probabilities = np.exp(logits - logits.max(1, keepdims=True))
        probabilities /= probabilities.sum(1, keepdims=True)
        result = client.classify_audio((whole, RATE), include_frames=True).results[0]
        np.testing.assert_array_equal(result.frames, logits.argmax(1))
        means = [c.probability for c in sorted(result.classes, key=lambda c: c.index)]
        np.testing.assert_allclose(means, probabilities.mean(0), atol=1e-4)

    def test_a_clip_is_answered_alike_beside_others(self, client: Client, sentences: np.ndarray) -> None:
        clips = [sentences[a:b] for a, b in ((0, 40_000), (40_000, 47_777), (50_000, 50_100), (9_000, 220_000))]
        together = client.classify_audio([(clip, RATE) for clip in clips]).results
        for clip, beside in zip(clips, together, strict=True):
            alone = client.classify_audio((clip, RATE)).results[0]
            assert as_tuples(alone.segments) == as_tuples(beside.segments)
            np.testing.assert_allclose(
                [s.confidence for s in alone.segments], [s.confidence for s in beside.segments], atol=1e-4
            )


class TestFormats:
    """The same sound in other clothes gets the same answer."""

    @pytest.mark.parametrize(
        ("kind", "subtype"), [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAVEX", "PCM_32"), ("FLAC", "PCM_24")]
    )
    def test_lossless_files(self, client: Client, sentence: np.ndarray, kind: str, subtype: str) -> None:
        samples = sentence / 32768 if subtype == "FLOAT" else sentence
        frames = frames_of(client, record(samples, kind, subtype=subtype))
        np.testing.assert_array_equal(frames, frames_of(client, (sentence, RATE)))

    def test_stereo_is_its_mean(self, client: Client, sentence: np.ndarray) -> None:
        louder = np.stack([sentence + sentence // 2, sentence - sentence // 2], axis=1)
        np.testing.assert_array_equal(frames_of(client, record(louder)), frames_of(client, (sentence, RATE)))

    @pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
    def test_ogg_is_close(self, client: Client, sentence: np.ndarray, subtype: str) -> None:
        frames = frames_of(client, record(sentence, "OGG", subtype=subtype))
        assert np.mean(frames == frames_of(client, (sentence, RATE))) > 0.6

    @pytest.mark.parametrize("rate", [22_050, 44_100, 48_000])
    def test_other_rates_are_resampled(self, client: Client, sentence: np.ndarray, rate: int) -> None:
        same, other = frames_of(client, (sentence, RATE)), soxr.resample(sentence, RATE, rate)
        for clip in ((other, rate), record(other, rate=rate)):
            frames = frames_of(client, clip)
            assert abs(len(frames) - len(same)) <= 1
            assert np.mean(frames[: len(same)] == same[: len(frames)]) > 0.9

    def test_eight_kilohertz_is_taken(self, client: Client, sentence: np.ndarray) -> None:
        result = client.classify_audio((soxr.resample(sentence, RATE, 8_000), 8_000)).results[0]
        assert result.duration_seconds == pytest.approx(len(sentence) / RATE, abs=0.001)


class TestSpeakers:
    def test_names_voices_and_embeds_if_asked(self, client: Client, voices: dict[str, list[np.ndarray]]) -> None:
        clips = [(clip, RATE) for clip in voices["gcin-voice 3"][:3]]
        response = client.classify_audio(clips, "speaker_classifier", include_embedding=True)
        assert response.model == "speaker_classifier"
        for result in response.results:
            assert {c.label for c in result.classes} <= voices.keys()
            assert sum(c.probability for c in result.classes) == pytest.approx(1, abs=1e-4)
            assert np.linalg.norm(result.embedding) == pytest.approx(1, abs=1e-4)
            assert not result.segments
        assert not client.classify_audio(clips[0], "speaker_classifier").results[0].embedding

    def test_a_clip_is_answered_alike_beside_others(self, client: Client, voices: dict[str, list[np.ndarray]]) -> None:
        clips = [(clip, RATE) for of in voices.values() for clip in of[:3]]
        together = client.classify_audio(clips, "speaker_classifier", include_embedding=True).results
        for clip, beside in zip(clips, together, strict=True):
            alone = client.classify_audio(clip, "speaker_classifier", include_embedding=True).results[0]
            np.testing.assert_allclose(alone.embedding, beside.embedding, atol=1e-4)

    def test_a_long_clip_is_the_mean_of_its_windows(self, client: Client, sentences: np.ndarray) -> None:
        def embedding(samples: np.ndarray) -> np.ndarray:
            clip = (samples, RATE)
            return np.array(
                client.classify_audio(clip, "speaker_classifier", include_embedding=True).results[0].embedding
            )

        window = 6 * RATE
        parts = [embedding(sentences[:window]), embedding(sentences[window : 2 * window])]
        mean = np.mean(parts, axis=0)
        np.testing.assert_allclose(embedding(sentences[: 2 * window]), mean / np.linalg.norm(mean), atol=1e-4)

    def test_verifies_by_the_models_own_threshold_or_the_callers(
        self, client: Client, voices: dict[str, list[np.ndarray]]
    ) -> None:
        one, another = ((clip, RATE) for clip in (voices["kajongg male1"][0], voices["kajongg female1"][0]))
        card = client.get_model("speaker_classifier").model.versions[0].card
        same = client.verify_speaker(one, one)
        assert same.score == pytest.approx(1, abs=1e-4)
        assert same.same_speaker
        assert same.threshold == pytest.approx(card["decision"]["same_speaker_threshold"])
        verified = client.verify_speaker(one, another)
        assert verified.score == pytest.approx(client.verify_speaker(another, one).score, abs=1e-4)
        assert client.verify_speaker(one, another, threshold=-1).same_speaker
        assert not client.verify_speaker(one, another, threshold=verified.score + 0.01).same_speaker

    def test_the_score_is_the_cosine_of_the_embeddings(
        self, client: Client, voices: dict[str, list[np.ndarray]]
    ) -> None:
        clips = [(clip, RATE) for clip in voices["gcin-voice 5"][:2]]
        first, second = (
            np.array(r.embedding)
            for r in client.classify_audio(clips, "speaker_classifier", include_embedding=True).results
        )
        assert client.verify_speaker(*clips).score == pytest.approx(first @ second, abs=1e-4)


class TestStreams:
    @pytest.mark.parametrize("piece", [777, 4_000, 10**6])
    def test_segments_are_those_of_the_whole_clip_however_it_is_divided(
        self, client: Client, sentences: np.ndarray, piece: int
    ) -> None:
        samples = sentences[: 10 * RATE]
        pieces = (samples[i : i + piece] for i in range(0, len(samples), piece))
        responses = list(client.stream_classify_audio(pieces, RATE))
        whole = client.classify_audio((samples, RATE)).results[0]
        streamed = [segment for response in responses for segment in response.segments]
        assert as_tuples(streamed) == as_tuples(whole.segments)
        times = [response.classified_seconds for response in responses]
        assert times == sorted(times)
        assert times[-1] == pytest.approx(10)
        assert all(response.HasField("current") for response in responses[:-1])
        assert not responses[-1].HasField("current")

    def test_answers_come_while_the_recording_goes_on(self, client: Client, sentences: np.ndarray) -> None:
        answered = threading.Event()

        def pieces() -> Iterator[np.ndarray]:
            yield sentences[: 4 * RATE]
            assert answered.wait(WAIT)
            yield sentences[4 * RATE : 5 * RATE]

        for response in client.stream_classify_audio(pieces(), RATE):
            if response.classified_seconds >= 4 - DELAY_SECONDS:
                answered.set()
        assert answered.is_set()
        assert response.classified_seconds == pytest.approx(5)

    def test_other_rates_are_resampled_without_seams(self, client: Client, sentence: np.ndarray) -> None:
        other = soxr.resample(sentence, RATE, 44_100)
        pieces = (other[i : i + 5_000].astype("<i2").tobytes() for i in range(0, len(other), 5_000))
        streamed = [s for r in client.stream_classify_audio(pieces, 44_100) for s in r.segments]
        assert as_tuples(streamed) == as_tuples(client.classify_audio((other, 44_100)).results[0].segments)

    def test_an_empty_recording_has_no_segments(self, client: Client) -> None:
        assert list(client.stream_classify_audio([], RATE)) == []
        assert list(client.stream_classify_audio([b""], RATE)) == []

    async def test_for_asyncio_too(self, speech: Server, sentence: np.ndarray) -> None:
        async def pieces() -> AsyncIterator[np.ndarray]:
            for i in range(0, len(sentence), 8_000):
                yield sentence[i : i + 8_000]

        async with lectern.aio.Client(speech.target, timeout=WAIT) as client:
            streamed = [s async for r in client.stream_classify_audio(pieces(), RATE) for s in r.segments]
            whole, same = await asyncio.gather(
                client.classify_audio((sentence, RATE)), client.verify_speaker((sentence, RATE), (sentence, RATE))
            )
        assert as_tuples(streamed) == as_tuples(whole.results[0].segments)
        assert same.same_speaker

    @pytest.mark.parametrize(
        ("messages", "field"),
        [
            ([{"samples": b"ab"}], "sample_rate"),
            ([{"sample_rate": 4_000}], "sample_rate"),
            ([{"sample_rate": 16_000, "samples": b"abc"}], "samples"),
            ([{"sample_rate": 16_000}, {"sample_rate": 16_000}], "sample_rate"),
            ([{"sample_rate": 16_000}, {"model": "phoneme_classifier"}], "model"),
            ([{"sample_rate": 16_000, "model": "speaker_classifier"}], "model"),
            ([{"sample_rate": 8_000, "samples": bytes(2 * 8_000 * 301)}], "samples"),
        ],
        ids=["no rate", "low rate", "half a sample", "rate again", "model again", "whole clips", "too long"],
    )
    def test_bad_messages_are_named(
        self, stub: ClassifyServiceStub, messages: list[dict[str, object]], field: str
    ) -> None:
        requests = iter([pb.StreamClassifyAudioRequest(**message) for message in messages])
        code, message, fields = failure(lambda: list(stub.StreamClassifyAudio(requests, timeout=WAIT)))
        assert (code, fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field]), message


SILENCE = np.zeros(1600, np.int16)


def pcm(samples: bytes, rate: int) -> pb.AudioClip:
    return pb.AudioClip(pcm16=pb.Pcm16Audio(samples=samples, sample_rate=rate))


@pytest.mark.parametrize(
    ("clips", "field", "says"),
    [
        ([], "clips", "at least one"),
        ([pb.AudioClip()], "clips[0]", "neither"),
        ([pb.AudioClip(encoded=b"")], "clips[0].encoded", "no bytes"),
        ([pb.AudioClip(encoded=bytes(30 * 2**20 + 1))], "clips[0].encoded", "the most is 31,457,280"),
        ([pb.AudioClip(encoded=b"just text")], "clips[0].encoded", "not a WAV, FLAC, OGG, MP3 file"),
        ([pb.AudioClip(encoded=record(SILENCE, "AIFF"))], "clips[0].encoded", "not a WAV, FLAC, OGG, MP3 file"),
        ([pb.AudioClip(encoded=record(SILENCE)[:30])], "clips[0].encoded", "cannot be read"),
        ([pb.AudioClip(encoded=record(NOISE := np.tile(np.arange(-99, 99, dtype=np.int16), 99), "FLAC")[:-99])],
         "clips[0].encoded", "truncated or corrupt"),
        ([pb.AudioClip(encoded=record(np.zeros((100, 3), np.int16)))], "clips[0].encoded", "3 channels"),
        ([pb.AudioClip(encoded=record(SILENCE, rate=96_000))], "clips[0].encoded", "96000 Hz"),
        ([pb.AudioClip(encoded=record(np.full(100, np.nan), subtype="FLOAT"))], "clips[0].encoded", "finite"),
        ([pb.AudioClip(encoded=record(np.zeros(0, np.int16)))], "clips[0].encoded", "no samples"),
        ([pb.AudioClip(encoded=record(np.zeros(8_000 * 3600, np.int16), "FLAC", 8_000))], "clips[0].encoded", "300"),
        ([pcm(b"", 16_000)], "clips[0].pcm16", "no bytes"),
        ([pcm(b"abc", 16_000)], "clips[0].pcm16.samples", "a sample is two"),
        ([pcm(b"ab", 0)], "clips[0].pcm16.sample_rate", "0 Hz"),
        ([pcm(bytes(4_000_000), 8_000)] * 2, "clips[1].pcm16", "300 seconds together"),
        ([pcm(b"ab" * 99, 16_000), pb.AudioClip(encoded=b"RIFF")], "clips[1].encoded", "cannot be read"),
        ([pcm(b"ab", 16_000)] * 65, "clips", "65 clips"),
    ],
    ids=[
        "none", "nothing", "empty", "large", "text", "aiff", "header only", "truncated", "surround", "96 kHz", "nan",
        "no samples", "bomb", "no pcm", "half a sample", "no rate", "too long together", "the second", "too many",
    ],
)  # fmt: skip
def test_bad_clips_are_named(
    stub: ClassifyServiceStub, sentence: np.ndarray, clips: list[pb.AudioClip], field: str, says: str
) -> None:
    code, message, fields = failure(lambda: stub.ClassifyAudio(pb.ClassifyAudioRequest(clips=clips), timeout=WAIT))
    assert (code, fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field]), message
    assert says in message
    good = pb.ClassifyAudioRequest(clips=[pcm(sentence.tobytes(), RATE)])
    assert len(stub.ClassifyAudio(good, timeout=WAIT).results) == 1


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({}, grpc.StatusCode.INVALID_ARGUMENT, "second"),
        ({"second": pb.AudioClip(encoded=b"RIFF")}, grpc.StatusCode.INVALID_ARGUMENT, "second.encoded"),
        ({"threshold": 1.5}, grpc.StatusCode.INVALID_ARGUMENT, "threshold"),
        ({"threshold": float("nan")}, grpc.StatusCode.INVALID_ARGUMENT, "threshold"),
        ({"model": "phoneme_classifier"}, grpc.StatusCode.INVALID_ARGUMENT, "model"),
        ({"model": "nobody"}, grpc.StatusCode.NOT_FOUND, "model"),
        ({"version": 99}, grpc.StatusCode.NOT_FOUND, "version"),
    ],
    ids=["no clip", "no audio", "above 1", "nan", "of frames", "unknown model", "unknown version"],
)
def test_bad_verifications_are_named(
    stub: ClassifyServiceStub, fields: dict[str, object], code: grpc.StatusCode, field: str
) -> None:
    request = pb.VerifySpeakerRequest(first=pcm(bytes(3200), RATE), **fields)
    status, message, named = failure(lambda: stub.VerifySpeaker(request, timeout=WAIT))
    assert (status, named) == (code, [field]), message


def test_an_image_model_takes_no_audio(channel: grpc.Channel) -> None:
    request = pb.ClassifyAudioRequest(model="image_classifier", clips=[pcm(bytes(3200), RATE)])
    code, message, fields = failure(lambda: ClassifyServiceStub(channel).ClassifyAudio(request, timeout=WAIT))
    assert (code, fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["model"])
    assert "does not take audio" in message


def test_an_audio_model_takes_no_images(client: Client, png: Callable[..., bytes]) -> None:
    with pytest.raises(lectern.LecternError, match="does not take images") as caught:
        client.classify_image(png(np.zeros((32, 32, 3), np.uint8)), "phoneme_classifier")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_five_minutes_of_stereo_take_little_more_memory_than_five_seconds(
    speech: Server, sentences: np.ndarray
) -> None:
    rate = 24_000  # as large a file as a message holds
    stereo = np.tile(soxr.resample(sentences, RATE, rate), 12)[: 300 * rate, None].repeat(2, axis=1)

    def peak() -> float:
        status = Path(f"/proc/{speech.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / MEGABYTE

    with Client(speech.target, timeout=WAIT) as client:
        client.classify_audio(record(stereo[: 5 * rate], rate=rate))
        before = peak()
        result = client.classify_audio(record(stereo, rate=rate)).results[0]
    assert result.duration_seconds == pytest.approx(300)
    grown = peak() - before
    assert grown < 500  # 162 in a fresh process, 358 in one whose heaps other tests have worn
