"""`lectern.Client`: one method per RPC, returning the response message."""

# protoc generates service stubs without types:
# mypy: disable-error-code="no-any-return, no-untyped-call"

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc
from numpy.typing import ArrayLike

from lectern import requests
from lectern.channel import DEFAULT_TARGET, DEFAULT_TIMEOUT, TLS
from lectern.defending import DefendCalls
from lectern.requests import (
    Clip,
    Clips,
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


class Client(DefendCalls):
    """A connection to a Lectern server; safe to share between threads.

        with lectern.Client("127.0.0.1:8001") as client:
            best = client.classify_image(["cat.png", "dog.jpg"], top_k=1).results[0].classes[0]

    Every method takes `timeout`, seconds until that call (for a stream: the whole of it) ends with DEADLINE_EXCEEDED;
    None = the client's own. `model` empty means the capability's default, `version` 0 the latest, `top_k` 0 every
    class. A call that meets UNAVAILABLE is repeated up to four times within about two seconds.

    Args:
        target: `host:port`, or any gRPC name such as `dns:///lectern:8001`, whose addresses are used in turn.
        timeout: seconds that a call may take.
        tls: how to reach the server over TLS; None = in plain text.
        token: sent as `authorization: Bearer TOKEN` with every call; readable on the way unless `tls` is given.
        wait_for_ready: wait for a server that is not up yet, within the timeout, rather than fail with UNAVAILABLE.
        priority: of every call, 1 = first, where the model's config.pbtxt has priority levels; 0 = the model's default.

    Raises:
        LecternError: from every method, when the call failed; a `grpc.RpcError`.
        OSError: a file named in `tls` or as an input cannot be read.
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
        self._detect_anomaly = detect_anomaly_pb2_grpc.DetectAnomalyServiceStub(self._channel)
        self._explain = explain_pb2_grpc.ExplainServiceStub(self._channel)
        self._generate = generate_pb2_grpc.GenerateServiceStub(self._channel)
        self._models = model_pb2_grpc.ModelServiceStub(self._channel)
        self._predict = predict_pb2_grpc.PredictServiceStub(self._channel)
        self._translate = translate_pb2_grpc.TranslateServiceStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)

    def answer(
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
        """Answer one question or several from a text; `results` has one per question.

        Args:
            top_k: answers to each, best first; 0 = one. `start` and `end` of each count code points of `context`.
            no_answer_threshold: probability above which "no answer" is believed (`has_answer` is false); None = the
                model's own.
        """
        request = requests.answer(questions, context, model, version, top_k, no_answer_threshold)
        return self._call(self._answer.Answer, request, timeout)

    def classify_image(
        self, images: Files, model: str = "", version: int = 0, top_k: int = 0, *, timeout: float | None = None
    ) -> classify_pb2.ClassifyImageResponse:
        """Classify encoded images (PNG, JPEG or WebP), each as bytes or a path; `results` has one per image."""
        request = requests.classify_image(images, model, version, top_k)
        return self._call(self._classify.ClassifyImage, request, timeout)

    def stream_classify_image(
        self,
        batches: Iterable[Files],
        model: str = "",
        version: int = 0,
        top_k: int = 0,
        *,
        timeout: float | None = None,
    ) -> Iterator[classify_pb2.StreamClassifyImageResponse]:
        """Classify many images over one call; yields one response per item of `batches`, in order.

        `batches` (an image or a list of images each) is read from another thread, ahead of the responses. If it
        raises, what was sent before is still answered, then the same exception is raised here.
        """
        yield from self._pipelined(
            self._classify.StreamClassifyImage,
            (requests.stream_classify_image(images, model, version, top_k) for images in batches),
            timeout,
        )

    def classify_text(
        self,
        texts: str | Sequence[str],
        model: str = "",
        version: int = 0,
        top_k: int = 0,
        *,
        timeout: float | None = None,
    ) -> classify_pb2.ClassifyTextResponse:
        """Classify texts; `results` has one per text."""
        request = requests.classify_text(texts, model, version, top_k)
        return self._call(self._classify.ClassifyText, request, timeout)

    def classify_audio(
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
        """Classify audio clips; `results` has one per clip.

        A clip is a WAV, FLAC, OGG or MP3 file (bytes or path), or `(samples, rate)`: mono int16 `[T]` and Hz.

        Args:
            include_frames: whether a result carries the class of each frame, from a model that classifies frames.
            include_embedding: whether it carries the clip's embedding, from a model that has one.
        """
        request = requests.classify_audio(
            clips,
            model=model,
            version=version,
            top_k=top_k,
            include_frames=include_frames,
            include_embedding=include_embedding,
        )
        return self._call(self._classify.ClassifyAudio, request, timeout)

    def stream_classify_audio(
        self,
        pieces: Iterable[Piece],
        sample_rate: int,
        model: str = "",
        version: int = 0,
        *,
        timeout: float | None = None,
    ) -> Iterator[classify_pb2.StreamClassifyAudioResponse]:
        """Classify audio while it is recorded; yields the segments that have ended, and the one that goes on.

        `pieces` (mono int16 samples `[T]` of any length, or their bytes) is read from another thread; when it ends,
        what is left is answered. If it raises, so does this. `timeout` is of the whole stream.
        """
        message = requests.StreamClassifyAudio(sample_rate, model, version)
        yield from self._pipelined(self._classify.StreamClassifyAudio, map(message, pieces), timeout)

    def verify_speaker(
        self,
        first: Clip,
        second: Clip,
        model: str = "",
        version: int = 0,
        *,
        threshold: float | None = None,
        timeout: float | None = None,
    ) -> classify_pb2.VerifySpeakerResponse:
        """Say whether two clips, as in `classify_audio`, are of one speaker: whether `score` reaches `threshold`.

        Args:
            threshold: -1 to 1; None = the model's own, at which it errs as often one way as the other.
        """
        request = requests.verify_speaker(first, second, model, version, threshold)
        return self._call(self._classify.VerifySpeaker, request, timeout)

    def classify_few_shot(
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
        """Classify `queries` into the classes that `support` shows: example images by label.

        `method` is `prototypes`, `maml` or `first_order_maml`, empty = the best; `steps` are the gradient steps of the
        latter two, 0 = the model's own. `results` has one per query.
        """
        request = requests.classify_few_shot(support, queries, model, version, top_k, method, steps)
        return self._call(self._classify.ClassifyFewShot, request, timeout)

    def generate_images(
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
    ) -> Iterator[generate_pb2.GenerateImagesResponse]:
        """Make images; yields a response with a PNG file as each is made, or one with a contact sheet of all.

        Args:
            seed: of the first image; image i has seed + i. None = the server draws one and says which.
            count: how many independent images; None = one.
            to_seed: go from `seed` to this one instead, in `steps` images (8 if not given).
            truncation: more than 0 and up to 1; less = more typical images, and less varied. None = 1.
            label: what to draw, of a model that has labels; empty = each in turn.
        """
        request = requests.generate_images(
            seed, count, to_seed, steps, truncation, label, contact_sheet, model, version
        )
        return self._stream(self._generate.GenerateImages, request, timeout)

    def generate_text(
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
    ) -> Iterator[generate_pb2.GenerateTextResponse]:
        """Write a text; yields what is added to it, as it is chosen.

        Args:
            prompt: what it begins with; it is not sent back.
            title: what it is about.
            form: one of the card's `labels`; empty = the model's choice.
            temperature: 0 = always the likeliest; None = 1.
            top_k, top_p: choose among so many of the likeliest, or those that together have this probability.
            repetition_penalty: 1 to 5; more = fewer repeated characters. None = 1.
            seed: the same seed and arguments give the same text; None = the server draws one and says which.
            stop: texts that end it as soon as one is written.
            max_tokens: 0 = until it ends.
        """
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
        return self._stream(self._generate.GenerateText, request, timeout)

    def transform_image(
        self, image: File, style: str, model: str = "", version: int = 0, *, timeout: float | None = None
    ) -> generate_pb2.TransformImageResponse:
        """Redraw an encoded image (PNG, JPEG or WebP, as bytes or a path) in another style; `image` is a PNG file."""
        request = requests.transform_image(image, style, model, version)
        return self._call(self._generate.TransformImage, request, timeout)

    def predict(
        self, rows: ArrayLike, model: str = "", version: int = 0, *, timeout: float | None = None
    ) -> predict_pb2.PredictResponse:
        """Predict numbers from one row `[F]` or rows `[N, F]`, features as in the card; `results` has one per row."""
        return self._call(self._predict.Predict, requests.predict(rows, model, version), timeout)

    def detect_anomaly(
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
        """Say which encoded images look unlike the training data, and where; `results` has one per image.

        Args:
            false_positive_rate: share of normal images that may be called anomalies, up to 0.5; 0 = 0.05.
            include_reconstruction, include_heat_map: whether each result carries these PNG files.
        """
        request = requests.detect_anomaly(
            images,
            model=model,
            version=version,
            false_positive_rate=false_positive_rate,
            include_reconstruction=include_reconstruction,
            include_heat_map=include_heat_map,
        )
        return self._call(self._detect_anomaly.DetectAnomaly, request, timeout)

    def stream_detect_anomaly(
        self,
        batches: Iterable[Files],
        model: str = "",
        version: int = 0,
        *,
        false_positive_rate: float = 0,
        include_reconstruction: bool = False,
        include_heat_map: bool = False,
        timeout: float | None = None,
    ) -> Iterator[detect_anomaly_pb2.StreamDetectAnomalyResponse]:
        """`detect_anomaly` for many images over one call, with `batches` as in `stream_classify_image`."""
        fields = {
            "model": model,
            "version": version,
            "false_positive_rate": false_positive_rate,
            "include_reconstruction": include_reconstruction,
            "include_heat_map": include_heat_map,
        }
        messages = (requests.stream_detect_anomaly(images, **fields) for images in batches)
        yield from self._pipelined(self._detect_anomaly.StreamDetectAnomaly, messages, timeout)

    def explain(
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
        """Say what in an image, a row `[F]` of a table, a text and a question on it, or speech, speaks for the answer.

        Args:
            audio: a clip as of `classify_audio`; `span` says which seconds the answer is about, (0, 0) = all.
            target: the class or output to explain, by name or index; None = the most probable class.
            parameters: of the method, as in explain.proto, e.g. `samples=100` of `smooth_grad`; `baseline` is `black`,
                `white`, `mean` or `blur`.
        """
        given = requests.explained_input(image, row, text, question, audio, span)
        request = requests.explain(given, method, target, seed, model, version, **parameters)
        return self._call(self._explain.Explain, request, timeout)

    def explain_model(
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
        """Say what a model has learned.

        With `classes` (empty = all): images that these answer to most; of a `generator`'s if one is named. With a
        `layer`: images that its `units` (empty = the first 16) answer to. With neither: what linear probes tell from
        each layer.
        """
        request = requests.explain_model(classes, layer, units, steps, generator, seed, model, version)
        return self._call(self._explain.ExplainModel, request, timeout)

    def compare(
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
        """Explain one input by several methods (empty = all that fit it), with how far each can be trusted.

        A method is its name, or `lectern.requests.explanation_method(name, samples=100)` with parameters.
        """
        given = requests.explained_input(image, row, text, question, audio, span)
        request = requests.compare(given, methods, target, seed, model, version)
        return self._call(self._explain.Compare, request, timeout)

    def act(
        self,
        observations: ArrayLike,
        model: str = "",
        version: int = 0,
        sample: bool = False,
        seed: int = 0,
        *,
        timeout: float | None = None,
    ) -> act_pb2.ActResponse:
        """Choose an action for one observation `[F]` or observations `[N, F]`; `results` has one per observation.

        The most probable action, or with `sample` one drawn by its probability; the same `seed` draws the same.
        """
        return self._call(self._act.Act, requests.act(observations, model, version, sample, seed), timeout)

    def run_episode(
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
    ) -> Iterator[act_pb2.RunEpisodeResponse]:
        """Play an episode on the server; yields each step as it is played. Ending the iteration ends the episode.

        `frame_every` k > 0 asks for a PNG with every k-th step, `frame_width` pixels wide (0 = as drawn); `max_steps`
        0 = the server's limit.
        """
        request = requests.run_episode(seed, model, version, max_steps, sample, frame_every, frame_width)
        yield from self._stream(self._act.RunEpisode, request, timeout)

    def translate(
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
        """Translate one or more texts; `results` has one per text, each with `translations`, best first.

        Args:
            beam_size: beams of the search, 1 (greedy) to 8; 0 = the model's own.
            length_penalty: power of the length that scores are divided by; None = the model's own.
            count: translations of each text, up to `beam_size`; 0 = one. Fewer come where beams end as the same text.
            alignment: whether to say what the model looked at as it wrote each token.
        """
        request = requests.translate(texts, model, version, beam_size, length_penalty, count, alignment)
        return self._call(self._translate.Translate, request, timeout)

    def stream_translate(
        self,
        text: str,
        model: str = "",
        version: int = 0,
        *,
        beam_size: int = 0,
        length_penalty: float | None = None,
        timeout: float | None = None,
    ) -> Iterator[translate_pb2.StreamTranslateResponse]:
        """Translate one text, sentence by sentence; yields what there is of a sentence after each step.

        Args:
            beam_size: 1 to 8; 0 = 1, the greedy choice, whose text only grows.
            length_penalty: as of `translate`.
        """
        request = requests.stream_translate(text, model, version, beam_size, length_penalty)
        return self._stream(self._translate.StreamTranslate, request, timeout)

    def list_models(self, include_cards: bool = False, *, timeout: float | None = None) -> model_pb2.ListModelsResponse:
        """Every model of the server, with states; with each version's card if asked."""
        return self._call(self._models.ListModels, requests.list_models(include_cards), timeout)

    def get_model(self, model: str, version: int = 0, *, timeout: float | None = None) -> model_pb2.GetModelResponse:
        """One model with the cards of its versions, newest first; `version` 0 = all of them."""
        return self._call(self._models.GetModel, requests.get_model(model, version), timeout)

    def health(self, service: str = "", *, timeout: float | None = None) -> health_pb2.HealthCheckResponse:
        """Whether the server lives (empty name) or a service, e.g. `lectern.v1.ClassifyService`, is ready."""
        return self._call(self._health.Check, health_pb2.HealthCheckRequest(service=service), timeout)
