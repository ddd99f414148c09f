"""Users of ClassifyService: photos as PNG files, one by one, in batches and over a stream; recordings; texts."""

from __future__ import annotations

import wave
from pathlib import Path

from locust import task

from lectern.v1 import classify_pb2, classify_pb2_grpc
from loadtests.pictures import Pictures
from loadtests.user import GrpcUser

PHOTOS = Pictures("image_classifier.npz")
BATCH = 16
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
SENTENCE = EXAMPLES / "sentence.wav"
SPEAKERS = tuple(classify_pb2.AudioClip(encoded=(EXAMPLES / f"armelle_{i}.wav").read_bytes()) for i in (1, 2))
PIECES_PER_SECOND = 4


class ClassifyUser(GrpcUser):
    """Most calls carry one image, as a user's click does."""

    def on_start(self) -> None:
        self.stub = classify_pb2_grpc.ClassifyServiceStub(self.channel)

    @task(8)
    def one_image(self) -> None:
        request = classify_pb2.ClassifyImageRequest(images=PHOTOS.some(1), top_k=3)
        self.call(self.stub.ClassifyImage, request, "ClassifyImage")

    @task(1)
    def a_batch(self) -> None:
        request = classify_pb2.ClassifyImageRequest(images=PHOTOS.some(BATCH), top_k=3)
        self.call(self.stub.ClassifyImage, request, f"ClassifyImage, {BATCH} images")

    @task(1)
    def a_stream(self) -> None:
        requests = [classify_pb2.StreamClassifyImageRequest(images=[image], top_k=3) for image in PHOTOS.some(BATCH)]
        self.stream(self.stub.StreamClassifyImage, requests, f"StreamClassifyImage, {BATCH} requests")


class TextUser(GrpcUser):
    """One short text."""

    def on_start(self) -> None:
        self.stub = classify_pb2_grpc.ClassifyServiceStub(self.channel)

    @task
    def a_text(self) -> None:
        request = classify_pb2.ClassifyTextRequest(texts=["What a lovely film!"])
        self.call(self.stub.ClassifyText, request, "ClassifyText")


class AudioUser(GrpcUser):
    """A sentence of five seconds as a file and as it would be recorded, and two clips of one speaker."""

    def on_start(self) -> None:
        self.stub = classify_pb2_grpc.ClassifyServiceStub(self.channel)

    @task(2)
    def one_sentence(self) -> None:
        clips = [classify_pb2.AudioClip(encoded=SENTENCE.read_bytes())]
        self.call(self.stub.ClassifyAudio, classify_pb2.ClassifyAudioRequest(clips=clips, top_k=3), "ClassifyAudio")

    @task(1)
    def a_recording(self) -> None:
        with wave.open(str(SENTENCE)) as file:
            rate, samples = file.getframerate(), file.readframes(file.getnframes())
        size = 2 * rate // PIECES_PER_SECOND
        requests = [
            classify_pb2.StreamClassifyAudioRequest(
                sample_rate=0 if start else rate, samples=samples[start : start + size]
            )
            for start in range(0, len(samples), size)
        ]
        self.stream(self.stub.StreamClassifyAudio, requests, f"StreamClassifyAudio, {len(requests)} pieces")

    @task(2)
    def two_speakers(self) -> None:
        first, second = SPEAKERS
        request = classify_pb2.VerifySpeakerRequest(first=first, second=second)
        self.call(self.stub.VerifySpeaker, request, "VerifySpeaker")
