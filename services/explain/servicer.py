"""ExplainService: why models answer as they do, from their gradients and their answers to changed inputs."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel

from artifacts.card import AudioPreprocessing, ImagePreprocessing, TabularPreprocessing, TextPreprocessing
from lectern.v1 import explain_pb2 as pb
from services import pools
from services.answering import answering
from services.codecs.png import encode_png
from services.errors import InvalidArgument
from services.explain import CAPABILITY, explanation_pictures, method_table, preferred_images
from services.explain.audio_input import read_audio
from services.explain.comparison import compare
from services.explain.image_input import read_image
from services.explain.network import explanation_of
from services.explain.row_input import read_row
from services.explain.subject import Request, Subject
from services.explain.text_input import TextKind, read_text
from services.limits import Limits
from services.rpc import Call
from services.runtime.repository import Repository

# Whose models are explained.
INPUTS = [field.name for field in pb.ExplainedInput.DESCRIPTOR.oneofs_by_name["kind"].fields]


class ExplainServicer:
    """Answers ExplainService for models whose cards have an `explanation`."""

    def __init__(self, repository: Repository, limits: Limits) -> None:
        self._repository = repository
        self._limits = limits

    async def Explain(self, request: pb.ExplainRequest, call: Call) -> pb.ExplainResponse:
        name = method_table.name_of(request.method)
        subject = await self._subject(request, call)
        attribution = await method_table.explain(subject, request.method, request.seed, self._limits)
        picture = await pools.codecs.run(explanation_pictures.explanation, subject, attribution, name)
        return pb.ExplainResponse(
            model=subject.card.name,
            version=subject.card.version,
            prediction=prediction(subject),
            attribution=attribution.message(),
            picture=picture,
            completeness_gap=None if attribution.promised is None else attribution.gap,
            words=words(subject),
        )

    async def Compare(self, request: pb.CompareRequest, call: Call) -> pb.CompareResponse:
        if len(request.methods) > self._limits.explanations:
            raise InvalidArgument.field(
                "methods", f"has {len(request.methods)}; the most in one request are {self._limits.explanations}"
            )
        for i, method in enumerate(request.methods):
            method_table.name_of(method, f"methods[{i}]")
        subject = await self._subject(request, call)
        compared = await compare(subject, request.methods, request.seed, self._limits)
        return pb.CompareResponse(
            model=subject.card.name,
            version=subject.card.version,
            prediction=prediction(subject),
            explanations=[each.message for each in compared],
            picture=await pools.codecs.run(explanation_pictures.comparison, subject, compared),
            words=words(subject),
        )

    async def ExplainModel(self, request: pb.ExplainModelRequest, call: Call) -> pb.ExplainModelResponse:
        model, _ = answering(self._repository, call, request, CAPABILITY, BaseModel)
        explanation = explanation_of(model.card)
        response = pb.ExplainModelResponse(model=model.card.name, version=model.card.version)
        match request.WhichOneof("kind"):
            case "activation_maximisation":
                preferred = await preferred_images.of_classes(
                    request.activation_maximisation, request.seed, model, call, self._repository, self._limits
                )
            case "filter_visualisation":
                preferred = await preferred_images.of_units(
                    request.filter_visualisation, request.seed, model, call, self._limits
                )
            case "probes":
                if not explanation.probes:
                    raise InvalidArgument.field("probes", f"{model.card.name} was exported without probes")
                response.probes.extend(pb.Probe(**probe.model_dump()) for probe in explanation.probes)
                response.picture = await pools.codecs.run(explanation_pictures.probes, explanation.probes)
                return response
            case _:
                raise InvalidArgument.field(
                    "kind", "is not set, or not known here: activation_maximisation, filter_visualisation or probes"
                )
        for label, one in preferred.items():
            response.preferred.add(
                label=label,
                image=encode_png(one.image),
                start=one.start,
                end=one.end,
                probability=one.probability,
            )
        response.picture = await pools.codecs.run(explanation_pictures.preferred, response.preferred)
        return response

    async def _subject(self, request: Request, call: Call) -> Subject:
        sent = request.input.WhichOneof("kind")
        if sent is None:
            raise InvalidArgument.field("input", f"is empty; send one of: {', '.join(INPUTS)}")
        default = CAPABILITY.default_models["question" if request.input.text.question else sent]
        model, preprocessing = answering(self._repository, call, request, CAPABILITY, BaseModel, default)
        match preprocessing:
            case ImagePreprocessing():
                return await read_image(request, model, preprocessing, call, self._limits)
            case TabularPreprocessing():
                return await read_row(request, model, preprocessing, call, self._limits)
            case TextPreprocessing():
                return await read_text(request, model, preprocessing, call, self._limits)
            case AudioPreprocessing():
                return await read_audio(request, model, preprocessing, call, self._limits)
        raise InvalidArgument.field("model", f"{model.card.name} takes inputs of a kind that is not explained")


def prediction(subject: Subject) -> pb.ExplainedPrediction:
    """What the model says of the input."""
    return pb.ExplainedPrediction(
        index=subject.target,
        label=subject.labels[subject.target],
        value=float(subject.outputs[subject.target]),
        probability=subject.probability,
    )


def words(subject: Subject) -> Sequence[pb.ExplainedWord]:
    """Those of a text; none of other inputs."""
    return subject.kind.words if isinstance(subject.kind, TextKind) else ()
