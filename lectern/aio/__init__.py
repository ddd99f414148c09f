"""`lectern.aio.Client`: one method per RPC, returning the response message.

A service with several methods has a file beside this one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from grpc_health.v1 import health_pb2
from numpy.typing import ArrayLike

from lectern.aio.classify import ClassifyMethods
from lectern.aio.defend import DefendMethods
from lectern.aio.detect_anomaly import DetectAnomalyMethods
from lectern.aio.embed import EmbedMethods
from lectern.aio.explain import ExplainMethods
from lectern.aio.generate import GenerateMethods
from lectern.inputs import Texts, as_list, feature_rows, labelled_rows
from lectern.methods import Script, Style, script_of, style_of
from lectern.v1 import act_pb2, answer_pb2, model_pb2, predict_pb2, tag_pb2, translate_pb2

__all__ = ["Client"]


class Client(ClassifyMethods, DefendMethods, DetectAnomalyMethods, EmbedMethods, ExplainMethods, GenerateMethods):
    """A connection to a Lectern server.

        async with lectern.aio.Client("127.0.0.1:8001") as client:
            response = await client.classify_image(["cat.png", "dog.jpg"], top_k=1)
            print(response.results[0].classes[0].label)

    It can be made before an event loop runs, and belongs to the loop of its first call.

    Every method takes `timeout`: seconds until that call, or the whole of a stream, ends with DEADLINE_EXCEEDED; None =
    the client's own. An empty `model` is the capability's default, `version` 0 the latest, `top_k` 0 every class.
    A call that fails with UNAVAILABLE is retried up to four times within about two seconds.

    Args:
        target: `host:port`, or any name that gRPC resolves, such as `dns:///lectern:8001`; calls go to each of its
            addresses in turn.
        timeout: seconds that a call may take.
        tls: how to reach the server over TLS; None = plain text.
        token: sent as `authorization: Bearer TOKEN` with every call; in plain text unless `tls` is given.
        wait_for_ready: wait for a server that does not answer yet, within the timeout, instead of failing with
            UNAVAILABLE.
        priority: of every call, 1 = first, where the model's config.pbtxt has priority levels; 0 = the model's default.

    Raises:
        LecternError: from every method, when the call failed; a `grpc.RpcError`.
        OSError: a file named in `tls` or as an input cannot be read.
        ValueError: the target is not one, or an argument of a method has a wrong value.
    """

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
        """Choose an action for one observation `[F]` or observations `[N, F]`; `results` has one per observation.

        Args:
            sample: draw each action by its probability, instead of taking the most probable one.
            seed: of the draws; the same seed draws the same actions.
        """
        request = act_pb2.ActRequest(
            model=model,
            version=version,
            observations=feature_rows(observations, "observations"),
            sample=sample,
            seed=seed,
        )
        return await self._call(request, act_pb2.ActResponse, timeout)

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
    ) -> AsyncIterator[act_pb2.RunEpisodeResponse]:
        """Play an episode on the server; yields each step as it is played. Closing the iterator ends the episode.

        Args:
            seed: of the environment, and of the draws.
            max_steps: 0 = the server's limit.
            sample: as of `act`.
            frame_every: k > 0 = every k-th step has a picture (PNG); 0 = none.
            frame_width: pixels; 0 = as the environment draws it.
        """
        request = act_pb2.RunEpisodeRequest(
            model=model,
            version=version,
            seed=seed,
            max_steps=max_steps,
            sample=sample,
            frame_every=frame_every,
            frame_width=frame_width,
        )
        return self._stream(request, act_pb2.RunEpisodeResponse, timeout)

    async def answer(
        self,
        questions: Texts,
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
            context: the text; `start` and `end` of an answer count its code points.
            top_k: answers to each question, best first; 0 = one.
            no_answer_threshold: probability of "no answer" above which `has_answer` is false; None = the model's own.
        """
        request = answer_pb2.AnswerRequest(
            model=model,
            version=version,
            context=context,
            questions=as_list(questions),
            top_k=top_k,
            no_answer_threshold=no_answer_threshold,
        )
        return await self._call(request, answer_pb2.AnswerResponse, timeout)

    async def answer_story(
        self,
        sentences: Texts,
        question: str,
        model: str = "",
        version: int = 0,
        top_k: int = 0,
        *,
        timeout: float | None = None,
    ) -> answer_pb2.AnswerStoryResponse:
        """Answer a question about a story, and say at which of its sentences each hop of the model looked.

        Args:
            sentences: of the story, the oldest first; each hop's `attention` has a weight for each.
            top_k: answers, best first; 0 = one.
        """
        request = answer_pb2.AnswerStoryRequest(
            model=model, version=version, sentences=as_list(sentences), question=question, top_k=top_k
        )
        return await self._call(request, answer_pb2.AnswerStoryResponse, timeout)

    async def predict(
        self,
        rows: ArrayLike,
        model: str = "",
        version: int = 0,
        strict: bool = False,
        *,
        timeout: float | None = None,
    ) -> predict_pb2.PredictResponse:
        """Predict numbers from one row `[F]` or rows `[N, F]`, features as in the card; `results` has one per row.

        Args:
            strict: refuse rows unlike those that the model learned from, in place of a notice.
        """
        request = predict_pb2.PredictRequest(model=model, version=version, rows=feature_rows(rows), strict=strict)
        return await self._call(request, predict_pb2.PredictResponse, timeout)

    async def predict_from_examples(
        self,
        examples: ArrayLike,
        labels: Sequence[str],
        queries: ArrayLike,
        model: str = "",
        version: int = 0,
        columns: Sequence[str] = (),
        top_k: int = 0,
        *,
        timeout: float | None = None,
    ) -> predict_pb2.PredictFromExamplesResponse:
        """Classify rows of a table by rows of it whose classes are known; `results` has one per query.

        Args:
            examples: rows `[S, F]`; NaN = the cell is empty.
            labels: the class of each of them.
            queries: one row `[F]` or rows `[Q, F]` of the same columns.
            columns: their names, for errors and notices.
        """
        request = predict_pb2.PredictFromExamplesRequest(
            model=model,
            version=version,
            examples=labelled_rows(examples, labels),
            queries=feature_rows(queries, "queries"),
            columns=columns,
            top_k=top_k,
        )
        return await self._call(request, predict_pb2.PredictFromExamplesResponse, timeout)

    async def tag_text(
        self, texts: Texts, model: str = "", version: int = 0, top_k: int = 0, *, timeout: float | None = None
    ) -> tag_pb2.TagTextResponse:
        """Find the labelled parts of one text or several, and what each wants; `results` has one per text.

        `start` and `end` of a span count the text's code points.
        """
        request = tag_pb2.TagTextRequest(model=model, version=version, texts=as_list(texts), top_k=top_k)
        return await self._call(request, tag_pb2.TagTextResponse, timeout)

    async def translate(
        self,
        texts: Texts,
        model: str = "",
        version: int = 0,
        *,
        beam_size: int = 0,
        length_penalty: float | None = None,
        count: int = 0,
        alignment: bool = False,
        script: Script = "",
        timeout: float | None = None,
    ) -> translate_pb2.TranslateResponse:
        """Translate one text or several; `results` has one per text, each with `translations`, best first.

        Args:
            beam_size: 1 (greedy) to 8; 0 = the model's own.
            length_penalty: scores are divided by the length to this power; None = the model's own.
            count: translations of each text, up to `beam_size`; 0 = one. Beams that end in the same text count once.
            alignment: whether each token says how much attention each source token had.
            script: of Chinese, `hant` (Traditional) or `hans` (Simplified); empty = as the model writes.
        """
        request = translate_pb2.TranslateRequest(
            model=model,
            version=version,
            texts=as_list(texts),
            beam_size=beam_size,
            length_penalty=length_penalty,
            count=count,
            alignment=alignment,
            script=script_of(script),
        )
        return await self._call(request, translate_pb2.TranslateResponse, timeout)

    def stream_translate(
        self,
        text: str,
        model: str = "",
        version: int = 0,
        *,
        beam_size: int = 0,
        length_penalty: float | None = None,
        script: Script = "",
        timeout: float | None = None,
    ) -> AsyncIterator[translate_pb2.StreamTranslateResponse]:
        """Translate one text sentence by sentence; yields the sentence so far after each step.

        Args:
            beam_size: 1 to 8; 0 = 1, the greedy choice, whose text only grows.
            length_penalty, script: as of `translate`; the last characters in `hans` may still change.
        """
        request = translate_pb2.StreamTranslateRequest(
            model=model,
            version=version,
            text=text,
            beam_size=beam_size,
            length_penalty=length_penalty,
            script=script_of(script),
        )
        return self._stream(request, translate_pb2.StreamTranslateResponse, timeout)

    async def rewrite(
        self, texts: Texts, style: Style, model: str = "", version: int = 0, *, timeout: float | None = None
    ) -> translate_pb2.RewriteResponse:
        """Rewrite one English text or several in a style, `archaic` or `modern`; `results` has one per text.

        Each token of a result says how much of it is copied, and from where in the text.
        """
        request = translate_pb2.RewriteRequest(
            model=model, version=version, texts=as_list(texts), style=style_of(style)
        )
        return await self._call(request, translate_pb2.RewriteResponse, timeout)

    async def list_models(
        self, include_cards: bool = False, *, timeout: float | None = None
    ) -> model_pb2.ListModelsResponse:
        """List the server's models and the state of each version, with their cards if `include_cards`."""
        request = model_pb2.ListModelsRequest(include_cards=include_cards)
        return await self._call(request, model_pb2.ListModelsResponse, timeout)

    async def get_model(
        self, model: str, version: int = 0, *, timeout: float | None = None
    ) -> model_pb2.GetModelResponse:
        """Get one model with the cards of its versions, newest first; `version` 0 = all of them."""
        request = model_pb2.GetModelRequest(model=model, version=version)
        return await self._call(request, model_pb2.GetModelResponse, timeout)

    async def health(self, service: str = "", *, timeout: float | None = None) -> health_pb2.HealthCheckResponse:
        """Say whether the server lives (empty name) or a service, e.g. `lectern.v1.ClassifyService`, is ready."""
        request = health_pb2.HealthCheckRequest(service=service)
        return await self._call(request, health_pb2.HealthCheckResponse, timeout)
