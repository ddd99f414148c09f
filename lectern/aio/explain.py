"""Methods of `lectern.aio.Client` for ExplainService: why a model answers as it does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from numpy.typing import ArrayLike

from lectern.calls import AsyncCalls
from lectern.inputs import Clip, File, explained_input
from lectern.methods import ExplanationMethod, explanation_method, target_field
from lectern.v1 import explain_pb2 as pb


class ExplainMethods(AsyncCalls):
    """Methods of ExplainService."""

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
    ) -> pb.ExplainResponse:
        """Say which parts of one input led to the answer: of an image, a row `[F]` of a table, a text, or speech.

        Args:
            question: about `text`; the answer that the text gives to it is explained.
            audio: a clip as of `classify_audio`.
            span: the seconds of `audio` whose answer is explained; (0, 0) = all.
            target: the class or output to explain, by name or index; None = the most probable class.
            parameters: of the method, as in explain.proto, e.g. `samples=100` of `smooth_grad`; `baseline` is `black`,
                `white`, `mean` or `blur`.
        """
        request = pb.ExplainRequest(
            model=model,
            version=version,
            input=await asyncio.to_thread(explained_input, image, row, text, question, audio, span),
            method=explanation_method(method, **parameters),
            seed=seed,
            **target_field(target),
        )
        return await self._call(request, pb.ExplainResponse, timeout)

    async def compare(
        self,
        image: File | None = None,
        methods: Sequence[ExplanationMethod | pb.ExplanationMethod] = (),
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
    ) -> pb.CompareResponse:
        """Explain one input by several methods, with figures that say how far each can be trusted.

        Args:
            methods: each by name or as `lectern.methods.explanation_method(name, ...)`; empty = all that fit the input.

        The other arguments are as of `explain`.
        """
        request = pb.CompareRequest(
            model=model,
            version=version,
            input=await asyncio.to_thread(explained_input, image, row, text, question, audio, span),
            methods=[explanation_method(method) if isinstance(method, str) else method for method in methods],
            seed=seed,
            **target_field(target),
        )
        return await self._call(request, pb.CompareResponse, timeout)

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
    ) -> pb.ExplainModelResponse:
        """Say what a model has learned.

        With `classes`: images that these classes answer to most. With `layer`: images that its units answer to most.
        With neither: what linear probes can read from each layer.

        Args:
            classes: names; empty = all.
            generator: a model among whose images those of `classes` are searched.
            layer: name of a layer; `units` are the indices of its channels, empty = the first 16.
            steps: of the search; None = the server's default.
        """
        request = pb.ExplainModelRequest(model=model, version=version, seed=seed)
        if layer:
            if classes is not None or generator:
                raise ValueError("a generator goes with classes, units go with a layer: give one or the other")
            request.filter_visualisation.CopyFrom(pb.FilterVisualisation(layer=layer, units=units, steps=steps))
        elif classes is not None or generator:
            request.activation_maximisation.CopyFrom(
                pb.ActivationMaximisation(labels=classes or (), steps=steps, generator=generator)
            )
        else:
            request.probes.SetInParent()
        return await self._call(request, pb.ExplainModelResponse, timeout)
