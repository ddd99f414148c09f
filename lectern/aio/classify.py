"""Methods of `lectern.aio.Client` for ClassifyService: images, texts, recordings, and classes learned from examples."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from typing import Any

from lectern.calls import AsyncCalls
from lectern.inputs import (
    Clip,
    Clips,
    Files,
    Pair,
    Piece,
    Texts,
    as_list,
    read_clip,
    read_clips,
    read_files,
    read_labelled,
    sample_bytes,
)
from lectern.methods import FewShotMethod, few_shot_method
from lectern.v1 import classify_pb2 as pb


class ClassifyMethods(AsyncCalls):
    """Methods of ClassifyService."""

    async def classify_image(
        self, images: Files, model: str = "", version: int = 0, top_k: int = 0, *, timeout: float | None = None
    ) -> pb.ClassifyImageResponse:
        """Classify encoded images (PNG, JPEG or WebP), each as bytes or a path; `results` has one per image."""
        contents = await asyncio.to_thread(read_files, images)
        request = pb.ClassifyImageRequest(model=model, version=version, images=contents, top_k=top_k)
        return await self._call(request, pb.ClassifyImageResponse, timeout)

    def stream_classify_image(
        self,
        batches: Iterable[Files] | AsyncIterable[Files],
        model: str = "",
        version: int = 0,
        top_k: int = 0,
        *,
        timeout: float | None = None,
    ) -> AsyncIterator[pb.StreamClassifyImageResponse]:
        """Classify many images over one call; yields one response per item of `batches`, in order.

        An item is an image or a list of images. `batches` is read ahead of the responses. If it raises an error, the
        items before it are still answered, then the same error is raised here.
        """

        def build(images: Files) -> pb.StreamClassifyImageRequest:
            contents = read_files(images)
            return pb.StreamClassifyImageRequest(model=model, version=version, images=contents, top_k=top_k)

        return self._pipeline(build, batches, pb.StreamClassifyImageRequest, pb.StreamClassifyImageResponse, timeout)

    async def classify_text(
        self, texts: Texts, model: str = "", version: int = 0, top_k: int = 0, *, timeout: float | None = None
    ) -> pb.ClassifyTextResponse:
        """Classify one text or several; `results` has one per text."""
        request = pb.ClassifyTextRequest(model=model, version=version, texts=as_list(texts), top_k=top_k)
        return await self._call(request, pb.ClassifyTextResponse, timeout)

    async def classify_pair(
        self,
        pairs: Iterable[Pair],
        model: str = "",
        version: int = 0,
        top_k: int = 0,
        *,
        timeout: float | None = None,
    ) -> pb.ClassifyPairResponse:
        """Say whether a sentence follows from another; `results` has one per pair.

        Args:
            pairs: each `(premise, hypothesis)`.
        """
        sent = [pb.SentencePair(premise=premise, hypothesis=hypothesis) for premise, hypothesis in pairs]
        request = pb.ClassifyPairRequest(model=model, version=version, pairs=sent, top_k=top_k)
        return await self._call(request, pb.ClassifyPairResponse, timeout)

    async def classify_audio(
        self,
        clips: Clips,
        model: str = "",
        version: int = 0,
        top_k: int = 0,
        *,
        include_frames: bool = False,
        include_embedding: bool = False,
        timeout: float | None = None,
    ) -> pb.ClassifyAudioResponse:
        """Classify recordings; `results` has one per clip.

        Args:
            clips: each a WAV, FLAC, OGG or MP3 file (bytes or path), or `(samples, rate)`: mono int16 `[T]` and Hz.
            include_frames: whether a result has the class of each frame, where the model classifies frames.
            include_embedding: whether a result has the clip's embedding, where the model has one.
        """
        request = pb.ClassifyAudioRequest(
            model=model,
            version=version,
            clips=await asyncio.to_thread(read_clips, clips),
            top_k=top_k,
            include_frames=include_frames,
            include_embedding=include_embedding,
        )
        return await self._call(request, pb.ClassifyAudioResponse, timeout)

    def stream_classify_audio(
        self,
        pieces: Iterable[Piece] | AsyncIterable[Piece],
        sample_rate: int,
        model: str = "",
        version: int = 0,
        *,
        timeout: float | None = None,
    ) -> AsyncIterator[pb.StreamClassifyAudioResponse]:
        """Classify audio while it is recorded; yields the segments that have ended and the current one.

        Args:
            pieces: mono int16 samples `[T]` of any length, or their bytes; read ahead of the responses. If it raises an
                error, the same error is raised here, after the last response.
            sample_rate: Hz.
            timeout: seconds for the whole stream.
        """
        settings: dict[str, Any] = {"sample_rate": sample_rate, "model": model, "version": version}

        def build(piece: Piece) -> pb.StreamClassifyAudioRequest:
            request = pb.StreamClassifyAudioRequest(samples=sample_bytes(piece), **settings)
            settings.clear()  # only the first message has them
            return request

        return self._pipeline(build, pieces, pb.StreamClassifyAudioRequest, pb.StreamClassifyAudioResponse, timeout)

    async def verify_speaker(
        self,
        first: Clip,
        second: Clip,
        model: str = "",
        version: int = 0,
        *,
        threshold: float | None = None,
        timeout: float | None = None,
    ) -> pb.VerifySpeakerResponse:
        """Say whether two clips, as of `classify_audio`, are of one speaker: whether `score` reaches `threshold`.

        Args:
            threshold: -1 to 1; None = the model's own, at which both kinds of error are equally frequent.
        """
        request = pb.VerifySpeakerRequest(
            model=model,
            version=version,
            first=await asyncio.to_thread(read_clip, first),
            second=await asyncio.to_thread(read_clip, second),
            threshold=threshold,
        )
        return await self._call(request, pb.VerifySpeakerResponse, timeout)

    async def classify_few_shot(
        self,
        support: Mapping[str, Files],
        queries: Files,
        model: str = "",
        version: int = 0,
        top_k: int = 0,
        method: FewShotMethod = "",
        steps: int = 0,
        *,
        timeout: float | None = None,
    ) -> pb.ClassifyFewShotResponse:
        """Classify images into classes that are learned from a few examples; `results` has one per query.

        Args:
            support: example images by label.
            queries: the images to classify.
            method: `prototypes`, `maml` or `first_order_maml`; empty = the best of them.
            steps: gradient steps of the MAML methods; 0 = the model's own.
        """
        examples = await asyncio.to_thread(read_labelled, support)
        request = pb.ClassifyFewShotRequest(
            model=model,
            version=version,
            support=[pb.LabelledImage(**example) for example in examples],
            queries=await asyncio.to_thread(read_files, queries),
            top_k=top_k,
            method=few_shot_method(method),
            steps=steps,
        )
        return await self._call(request, pb.ClassifyFewShotResponse, timeout)
