"""`lectern.aio.Client`: the methods of `lectern.Client` for asyncio."""

# protoc generates service stubs without types:
# mypy: disable-error-code="no-any-return, no-untyped-call"
# ruff: noqa: ASYNC109 (`timeout` is the deadline that gRPC sends to the server)

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc
from numpy.typing import ArrayLike

from lectern import requests
from lectern.calls import AsyncCalls
from lectern.channel import DEFAULT_TARGET, DEFAULT_TIMEOUT, TLS
from lectern.requests import (
    AttackMethod,
    Clip,
    Clips,
    Defence,
    ExplanationMethod,
    FewShotMethod,
    File,
    Files,
    Piece,
)
from lectern.v1 import (
    act_pb2,
    act_pb2_grpc,
    answer_pb2,
    answer_pb2_grpc,
    classify_pb2,
    classify_pb2_grpc,
    defend_pb2,
    defend_pb2_grpc,
    detect_anomaly_pb2,
    detect_anomaly_pb2_grpc,
    explain_pb2,
    explain_pb2_grpc,
    generate_pb2,
    generate_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    predict_pb2,
    predict_pb2_grpc,
    translate_pb2,
    translate_pb2_grpc,
)

__all__ = ["Client"]


class Client(AsyncCalls):
    """`lectern.Client` for asyncio: the same arguments, methods, responses and errors.

    It may be made before a loop runs, and belongs to the loop of its first call.

    async with lectern.aio.Client() as client:
        answers = await asyncio.gather(*(client.classify_image(path) for path in paths))
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        tls: TLS | None = None,
        token: str | None = None,
        wait_for_ready: bool = False,
        priority: int = 0,
    ) -> None:
        super().__init__(target, timeout, tls, token, wait_for_ready, priority)
        self._act = act_pb2_grpc.ActServiceStub(self._channel)
        self._answer = answer_pb2_grpc.AnswerServiceStub(self._channel)
        self._classify = classify_pb2_grpc.ClassifyServiceStub(self._channel)
        self._defend = defend_pb2_grpc.DefendServiceStub(self._channel)
        self._detect_anomaly = detect_anomaly_pb2_grpc.DetectAnomalyServiceStub(self._channel)
        self._explain = explain_pb2_grpc.ExplainServiceStub(self._channel)
        self._generate = generate_pb2_grpc.GenerateServiceStub(self._channel)
        self._models = model_pb2_grpc.ModelServiceStub(self._channel)
        self._predict = predict_pb2_grpc.PredictServiceStub(self._channel)
        self._translate = translate_pb2_grpc.TranslateServiceStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)

    async def answer(
        self,
        questions: str | Sequence[str],
        context: str,
        model: str = "",
        version: int = 0,
        top_k: int = 0,
        *,
        no_answer_threshold: float | None = None,
        timeout: float | None = None,
    ) -> answer_pb2.AnswerResponse:
        """As `lectern.Client.answer`."""
        request = requests.answer(questions, context, model, version, top_k, no_answer_threshold)
        return await self._call(self._answer.Answer, request, timeout)

    async def classify_image(
        self, images: Files, model: str = "", version: int = 0, top_k: int = 0, *, timeout: float | None = None
    ) -> classify_pb2.ClassifyImageResponse:
        """As `lectern.Client.classify_image`."""
        request = await asyncio.to_thread(requests.classify_image, images, model, version, top_k)
        return await self._call(self._classify.ClassifyImage, request, timeout)

    async def stream_classify_image(
        self,
        batches: Iterable[Files] | AsyncIterable[Files],
        model: str = "",
        version: int = 0,
        top_k: int = 0,
        *,
        timeout: float | None = None,
    ) -> AsyncIterator[classify_pb2.StreamClassifyImageResponse]:
        """As `lectern.Client.stream_classify_image`; `batches` may be an async iterable too."""
        message = partial(requests.stream_classify_image, model=model, version=version, top_k=top_k)
        async for response in self._pipelined(self._classify.StreamClassifyImage, message, batches, timeout):
            yield response

    async def classify_text(
        self,
        texts: str | Sequence[str],
        model: str = "",
        version: int = 0,
        top_k: int = 0,
        *,
        timeout: float | None = None,
    ) -> classify_pb2.ClassifyTextResponse:
        """As `lectern.Client.classify_text`."""
        request = requests.classify_text(texts, model, version, top_k)
        return await self._call(self._classify.ClassifyText, request, timeout)

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
    ) -> classify_pb2.ClassifyAudioResponse:
        """As `lectern.Client.classify_audio`."""
        request = await asyncio.to_thread(
            requests.classify_audio,
            clips,
            model=model,
            version=version,
            top_k=top_k,
            include_frames=include_frames,
            include_embedding=include_embedding,
        )
        return await self._call(self._classify.ClassifyAudio, request, timeout)

    async def stream_classify_audio(
        self,
        pieces: Iterable[Piece] | AsyncIterable[Piece],
        sample_rate: int,
        model: str = "",
        version: int = 0,
        *,
        timeout: float | None = None,
    ) -> AsyncIterator[classify_pb2.StreamClassifyAudioResponse]:
        """As `lectern.Client.stream_classify_audio`; `pieces` may be an async iterable too."""
        message = requests.StreamClassifyAudio(sample_rate, model, version)
        async for response in self._pipelined(self._classify.StreamClassifyAudio, message, pieces, timeout):
            yield response

    async def verify_speaker(
        self,
        first: Clip,
        second: Clip,
        model: str = "",
        version: int = 0,
        *,
        threshold: float | None = None,
        timeout: float | None = None,
    ) -> classify_pb2.VerifySpeakerResponse:
        """As `lectern.Client.verify_speaker`."""
        request = await asyncio.to_thread(requests.verify_speaker, first, second, model, version, threshold)
        return await self._call(self._classify.VerifySpeaker, request, timeout)

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
    ) -> classify_pb2.ClassifyFewShotResponse:
        """As `lectern.Client.classify_few_shot`."""
        request = await asyncio.to_thread(
            requests.classify_few_shot, support, queries, model, version, top_k, method, steps
        )
        return await self._call(self._classify.ClassifyFewShot, request, timeout)

    async def generate_images(
        self,
        seed: int | None = None,
        count: int | None = None,
        *,
        to_seed: int | None = None,
        steps: int | None = None,
        truncation: float | None = None,
        label: str = "",
        contact_sheet: bool = False,
        model: str = "",
        version: int = 0,
        timeout: float | None = None,
    ) -> AsyncIterator[generate_pb2.GenerateImagesResponse]:
        """As `lectern.Client.generate_images`."""
        request = requests.generate_images(
            seed, count, to_seed, steps, truncation, label, contact_sheet, model, version
        )
        async for response in self._stream(self._generate.GenerateImages, request, timeout):
            yield response

    async def generate_text(
        self,
        prompt: str = "",
        *,
        title: str = "",
        form: str = "",
        temperature: float | None = None,
        top_k: int = 0,
        top_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        stop: Sequence[str] = (),
        max_tokens: int = 0,
        model: str = "",
        version: int = 0,
        timeout: float | None = None,
    ) -> AsyncIterator[generate_pb2.GenerateTextResponse]:
        """As `lectern.Client.generate_text`."""
        request = requests.generate_text(
            model=model,
            version=version,
            prompt=prompt,
            title=title,
            form=form,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
            stop=stop,
            max_tokens=max_tokens,
        )
        async for response in self._stream(self._generate.GenerateText, request, timeout):
            yield response

    async def transform_image(
        self, image: File, style: str, model: str = "", version: int = 0, *, timeout: float | None = None
    ) -> generate_pb2.TransformImageResponse:
        """As `lectern.Client.transform_image`."""
        request = await asyncio.to_thread(requests.transform_image, image, style, model, version)
        return await self._call(self._generate.TransformImage, request, timeout)

    async def predict(
        self, rows: ArrayLike, model: str = "", version: int = 0, *, timeout: float | None = None
    ) -> predict_pb2.PredictResponse:
        """As `lectern.Client.predict`."""
        return await self._call(self._predict.Predict, requests.predict(rows, model, version), timeout)

    async def detect_anomaly(
        self,
        images: Files,
        model: str = "",
        version: int = 0,
        *,
        false_positive_rate: float = 0,
        include_reconstruction: bool = False,
        include_heat_map: bool = False,
        timeout: float | None = None,
    ) -> detect_anomaly_pb2.DetectAnomalyResponse:
        """As `lectern.Client.detect_anomaly`."""
        request = await asyncio.to_thread(
            requests.detect_anomaly,
            images,
            model=model,
            version=version,
            false_positive_rate=false_positive_rate,
            include_reconstruction=include_reconstruction,
            include_heat_map=include_heat_map,
        )
        return await self._call(self._detect_anomaly.DetectAnomaly, request, timeout)

    async def stream_detect_anomaly(
        self,
        batches: Iterable[Files] | AsyncIterable[Files],
        model: str = "",
        version: int = 0,
        *,
        false_positive_rate: float = 0,
        include_reconstruction: bool = False,
        include_heat_map: bool = False,
        timeout: float | None = None,
    ) -> AsyncIterator[detect_anomaly_pb2.StreamDetectAnomalyResponse]:
        """As `lectern.Client.stream_detect_anomaly`; `batches` may be an async iterable too."""
        message = partial(
            requests.stream_detect_anomaly,
            model=model,
            version=version,
            false_positive_rate=false_positive_rate,
            include_reconstruction=include_reconstruction,
            include_heat_map=include_heat_map,
        )
        async for response in self._pipelined(self._detect_anomaly.StreamDetectAnomaly, message, batches, timeout):
            yield response

    async def attack(
        self,
        images: Files,
        method: AttackMethod | defend_pb2.AttackMethod = "pgd",
        *,
        labels: str | Sequence[str] = (),
        target: int | str | None = None,
        gradient_of: str = "",
        defences: Sequence[Defence] = (),
        draws: int | None = None,
        seed: int = 0,
        include_values: bool = False,
        include_picture: bool = False,
        model: str = "",
        version: int = 0,
        timeout: float | None = None,
        **parameters: Any,
    ) -> defend_pb2.AttackResponse:
        """As `lectern.Client.attack`."""
        request = await asyncio.to_thread(
            requests.attack,
            images,
            method,
            labels,
            target,
            gradient_of,
            defences,
            parameters,
            draws=draws,
            seed=seed,
            include_values=include_values,
            include_picture=include_picture,
            model=model,
            version=version,
        )
        return await self._call(self._defend.Attack, request, timeout)

    async def defend(
        self,
        images: Files,
        defences: Sequence[Defence] = (),
        *,
        smoothing: Mapping[str, Any] | None = None,
        false_positive_rate: float | None = None,
        seed: int = 0,
        model: str = "",
        version: int = 0,
        timeout: float | None = None,
    ) -> defend_pb2.DefendResponse:
        """As `lectern.Client.defend`."""
        request = await asyncio.to_thread(
            requests.defend,
            images,
            defences,
            smoothing,
            false_positive_rate=false_positive_rate,
            seed=seed,
            model=model,
            version=version,
        )
        return await self._call(self._defend.Defend, request, timeout)

    async def evaluate_robustness(
        self,
        images: Mapping[str, Files],
        attacks: Sequence[AttackMethod | defend_pb2.EvaluatedAttack] = (),
        defences: Sequence[Defence | Sequence[Defence]] = (),
        models: str | Sequence[str] = (),
        *,
        seed: int = 0,
        timeout: float | None = None,
    ) -> AsyncIterator[defend_pb2.EvaluateRobustnessResponse]:
        """As `lectern.Client.evaluate_robustness`."""
        request = await asyncio.to_thread(requests.evaluate_robustness, images, attacks, defences, models, seed)
        async for response in self._stream(self._defend.EvaluateRobustness, request, timeout):
            yield response

    async def explain(
        self,
        image: File | None = None,
        method: ExplanationMethod = "integrated_gradients",
        *,
        row: ArrayLike | None = None,
        text: str | None = None,
        question: str = "",
        audio: Clip | None = None,
        span: tuple[float, float] = (0, 0),
        target: int | str | None = None,
        seed: int = 0,
        model: str = "",
        version: int = 0,
        timeout: float | None = None,
        **parameters: Any,
    ) -> explain_pb2.ExplainResponse:
        """As `lectern.Client.explain`."""
        given = await asyncio.to_thread(requests.explained_input, image, row, text, question, audio, span)
        request = requests.explain(given, method, target, seed, model, version, **parameters)
        return await self._call(self._explain.Explain, request, timeout)

    async def explain_model(
        self,
        model: str = "",
        version: int = 0,
        *,
        classes: Sequence[str] | None = None,
        generator: str = "",
        layer: str = "",
        units: Sequence[int] = (),
        steps: int | None = None,
        seed: int = 0,
        timeout: float | None = None,
    ) -> explain_pb2.ExplainModelResponse:
        """As `lectern.Client.explain_model`."""
        request = requests.explain_model(classes, layer, units, steps, generator, seed, model, version)
        return await self._call(self._explain.ExplainModel, request, timeout)

    async def compare(
        self,
        image: File | None = None,
        methods: Sequence[ExplanationMethod | explain_pb2.ExplanationMethod] = (),
        *,
        row: ArrayLike | None = None,
        text: str | None = None,
        question: str = "",
        audio: Clip | None = None,
        span: tuple[float, float] = (0, 0),
        target: int | str | None = None,
        seed: int = 0,
        model: str = "",
        version: int = 0,
        timeout: float | None = None,
    ) -> explain_pb2.CompareResponse:
        """As `lectern.Client.compare`."""
        given = await asyncio.to_thread(requests.explained_input, image, row, text, question, audio, span)
        request = requests.compare(given, methods, target, seed, model, version)
        return await self._call(self._explain.Compare, request, timeout)

    async def act(
        self,
        observations: ArrayLike,
        model: str = "",
        version: int = 0,
        sample: bool = False,
        seed: int = 0,
        *,
        timeout: float | None = None,
    ) -> act_pb2.ActResponse:
        """As `lectern.Client.act`."""
        return await self._call(self._act.Act, requests.act(observations, model, version, sample, seed), timeout)

    async def run_episode(
        self,
        seed: int = 0,
        model: str = "",
        version: int = 0,
        *,
        max_steps: int = 0,
        sample: bool = False,
        frame_every: int = 0,
        frame_width: int = 0,
        timeout: float | None = None,
    ) -> AsyncIterator[act_pb2.RunEpisodeResponse]:
        """As `lectern.Client.run_episode`."""
        request = requests.run_episode(seed, model, version, max_steps, sample, frame_every, frame_width)
        async for response in self._stream(self._act.RunEpisode, request, timeout):
            yield response

    async def translate(
        self,
        texts: str | Sequence[str],
        model: str = "",
        version: int = 0,
        *,
        beam_size: int = 0,
        length_penalty: float | None = None,
        count: int = 0,
        alignment: bool = False,
        timeout: float | None = None,
    ) -> translate_pb2.TranslateResponse:
        """As `lectern.Client.translate`."""
        request = requests.translate(texts, model, version, beam_size, length_penalty, count, alignment)
        return await self._call(self._translate.Translate, request, timeout)

    async def stream_translate(
        self,
        text: str,
        model: str = "",
        version: int = 0,
        *,
        beam_size: int = 0,
        length_penalty: float | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[translate_pb2.StreamTranslateResponse]:
        """As `lectern.Client.stream_translate`."""
        request = requests.stream_translate(text, model, version, beam_size, length_penalty)
        async for response in self._stream(self._translate.StreamTranslate, request, timeout):
            yield response

    async def list_models(
        self, include_cards: bool = False, *, timeout: float | None = None
    ) -> model_pb2.ListModelsResponse:
        """As `lectern.Client.list_models`."""
        return await self._call(self._models.ListModels, requests.list_models(include_cards), timeout)

    async def get_model(
        self, model: str, version: int = 0, *, timeout: float | None = None
    ) -> model_pb2.GetModelResponse:
        """As `lectern.Client.get_model`."""
        return await self._call(self._models.GetModel, requests.get_model(model, version), timeout)

    async def health(self, service: str = "", *, timeout: float | None = None) -> health_pb2.HealthCheckResponse:
        """As `lectern.Client.health`."""
        return await self._call(self._health.Check, health_pb2.HealthCheckRequest(service=service), timeout)
