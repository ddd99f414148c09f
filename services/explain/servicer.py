"""ExplainService: why models answer as they do, from their gradients and their answers to changed inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lectern.card import AudioPreprocessing, ImagePreprocessing, NoisePreprocessing, TextPreprocessing
from lectern.v1 import explain_pb2 as pb
from services import pools
from services.codecs.images import encode_png
from services.errors import InvalidArgument
from services.explain import methods, pictures
from services.explain.attribution import Attribution
from services.explain.audio import read_audio
from services.explain.faithfulness import curves, rank_correlation, references
from services.explain.parameters import field_of, whole
from services.explain.subjects import RANDOM, ImageKind, Subject, by_graph, explanation_of, read_subject
from services.explain.texts import TextKind, read_text
from services.explain.visualise import Found, ascend, search, unit_weights
from services.limits import Limits
from services.rpc import Call
from services.runtime.repository import Model, Repository

# Whose models are explained, and whose images may be searched.
CAPABILITIES = ("answer", "classify", "defend", "detect_anomaly", "predict")
GENERATE = "generate"
DEFAULT_MODELS = {
    "image": "image_classifier",
    "row": "covid_regressor",
    "text": "sentiment_classifier",
    "audio": "phoneme_classifier",
}
DEFAULT_READER = "question_answerer"
STEPS = 64


class ExplainServicer:
    """Answers ExplainService for models whose cards have an `explanation`."""

    numeric = True
    models_of = (*CAPABILITIES, GENERATE)

    def __init__(self, repository: Repository, limits: Limits) -> None:
        self._repository = repository
        self._limits = limits

    async def Explain(self, request: pb.ExplainRequest, call: Call) -> pb.ExplainResponse:
        name = methods.name_of(request.method)
        subject = await self._subject(request, call)
        found = await methods.explain(subject, request.method, request.seed, self._limits)
        picture = await pools.codecs.run(pictures.explanation, subject, found, name)
        return pb.ExplainResponse(
            model=subject.model.card.name,
            version=subject.model.card.version,
            prediction=prediction(subject),
            attribution=found.message(),
            picture=picture,
            completeness_gap=None if found.promised is None else found.gap,
            words=words(subject),
        )

    async def Compare(self, request: pb.CompareRequest, call: Call) -> pb.CompareResponse:
        if len(request.methods) > self._limits.explanations:
            raise InvalidArgument.field(
                "methods", f"has {len(request.methods)}; the most in one request are {self._limits.explanations}"
            )
        names = [methods.name_of(method, f"methods[{i}]") for i, method in enumerate(request.methods)]
        subject = await self._subject(request, call)
        asked = list(request.methods) or methods.available(subject)
        names = names or [methods.name_of(method) for method in asked]
        compared, rows = [], []
        for i, (name, method) in enumerate(zip(names, asked, strict=True)):
            try:
                found = await methods.explain(subject, method, request.seed, self._limits)
            except InvalidArgument as error:
                raise _of_method(error, i) from None
            entry, random = await _judged(subject, name, found), None
            if RANDOM in subject.model.graphs:
                random = await methods.explain(replace(subject, random=True), method, request.seed, self._limits)
                entry.correlation_with_random_weights = rank_correlation(found.map, random.map)
            if found.promised is not None:
                entry.completeness_gap = found.gap
            compared.append(entry)
            rows.append(pictures.Row(name, found, random, _figures(entry)))
        for name, reference in references(subject, request.seed).items():
            compared.append(await _judged(subject, name, reference))
            rows.append(pictures.Row(name, reference, None, _figures(compared[-1])))
        return pb.CompareResponse(
            model=subject.model.card.name,
            version=subject.model.card.version,
            prediction=prediction(subject),
            explanations=compared,
            picture=await pools.codecs.run(pictures.comparison, subject, rows),
            words=words(subject),
        )

    async def ExplainModel(self, request: pb.ExplainModelRequest, call: Call) -> pb.ExplainModelResponse:
        model = self._find(request.model or DEFAULT_MODELS["image"], request.version, call)
        explanation = explanation_of(model.card)
        response = pb.ExplainModelResponse(model=model.card.name, version=model.card.version)
        match request.WhichOneof("kind"):
            case "activation_maximisation":
                found = await self._maximise(request.activation_maximisation, request.seed, model, call)
            case "filter_visualisation":
                found = await self._filters(request.filter_visualisation, request.seed, model, call)
            case "probes":
                if not explanation.probes:
                    raise InvalidArgument.field("probes", f"{model.card.name} was exported without probes")
                response.probes.extend(pb.Probe(**probe.model_dump()) for probe in explanation.probes)
                response.picture = await pools.codecs.run(pictures.probes, response.probes)
                return response
            case _:
                raise InvalidArgument.field(
                    "kind", "is not set, or not known here: activation_maximisation, filter_visualisation or probes"
                )
        for label, one in found.items():
            entry = response.preferred.add(label=label, image=encode_png(one.image), start=one.start, end=one.end)
            if one.probability is not None:
                entry.probability = one.probability
        response.picture = await pools.codecs.run(pictures.preferred, response.preferred)
        return response

    async def _maximise(
        self, asked: pb.ActivationMaximisation, seed: int, model: Model, call: Call
    ) -> dict[str, Found]:
        card = model.card
        steps = whole(asked, "steps", STEPS, 1, self._limits.explanation_samples)
        if not card.labels:
            raise InvalidArgument.field("model", f"{card.name} has no classes: ask about its filters")
        labels = list(dict.fromkeys(asked.labels)) or list(card.labels[: self._limits.explanations])
        for i, label in enumerate(labels):
            if label not in card.labels:
                raise InvalidArgument.field(
                    f"activation_maximisation.labels[{i}]", f"is {label!r}; {card.name} has: {', '.join(card.labels)}"
                )
        self._check_count(asked, "labels", labels)
        subjects = [_blank(model, call, card.labels.index(label)) for label in labels]
        if not asked.generator:
            return dict(zip(labels, await ascend(subjects, None, steps, seed), strict=True))
        generator = self._repository.find(asked.generator, 0, GENERATE)
        if not isinstance(prior := generator.card.preprocessing, NoisePreprocessing):
            raise InvalidArgument.field(
                "activation_maximisation.generator", f"{asked.generator} does not make images of noise"
            )
        return {
            label: await search(subject, generator, prior.size, steps, seed, call)
            for label, subject in zip(labels, subjects, strict=True)
        }

    async def _filters(self, asked: pb.FilterVisualisation, seed: int, model: Model, call: Call) -> dict[str, Found]:
        explanation = explanation_of(model.card)
        steps = whole(asked, "steps", STEPS, 1, self._limits.explanation_samples)
        layers = {layer.name: layer for layer in explanation.layers}
        if asked.layer not in layers:
            known = ", ".join(layers) or "none"
            raise InvalidArgument.field(field_of(asked, "layer"), f"is {asked.layer!r}; {model.card.name} has: {known}")
        count = layers[asked.layer].units
        units = list(dict.fromkeys(asked.units)) or list(range(min(count, self._limits.explanations)))
        for i, unit in enumerate(units):
            if unit >= count:
                raise InvalidArgument.field(
                    field_of(asked, f"units[{i}]"), f"is {unit}; {asked.layer} has 0 to {count - 1}"
                )
        self._check_count(asked, "units", units)
        weights = unit_weights(explanation, asked.layer, units)
        found = await ascend([_blank(model, call, 0)], weights, steps, seed)
        return dict(zip((f"{asked.layer} {unit}" for unit in units), found, strict=True))

    def _check_count(
        self, asked: pb.ActivationMaximisation | pb.FilterVisualisation, name: str, given: Sequence[object]
    ) -> None:
        if len(given) > self._limits.explanations:
            raise InvalidArgument.field(
                field_of(asked, name), f"has {len(given)}; the most in one request are {self._limits.explanations}"
            )

    async def _subject(self, request: pb.ExplainRequest | pb.CompareRequest, call: Call) -> Subject:
        sent = request.input.WhichOneof("kind")
        if sent is None:
            raise InvalidArgument.field("input", f"is empty; send one of: {', '.join(DEFAULT_MODELS)}")
        default = DEFAULT_READER if request.input.text.question else DEFAULT_MODELS[sent]
        model = self._find(request.model or default, request.version, call)
        match model.card.preprocessing:
            case TextPreprocessing() as preprocessing:
                return await read_text(request, model, preprocessing, call, self._limits)
            case AudioPreprocessing() as preprocessing:
                return await read_audio(request, model, preprocessing, call, self._limits)
        return await read_subject(request, model, call, self._limits)

    def _find(self, name: str, version: int, call: Call) -> Model:
        model = self._repository.find(name, version, *CAPABILITIES)
        call.model = f"{model.card.name}/{model.card.version}"
        return model


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


async def _judged(subject: Subject, name: str, found: Attribution) -> pb.ComparedExplanation:
    measured = await curves(subject, found)
    return pb.ComparedExplanation(
        method=name, attribution=found.message(), deletion=measured.deletion, insertion=measured.insertion
    )


def _figures(entry: pb.ComparedExplanation) -> list[str]:
    """Its figures in words, for the sheet."""
    lines = [f"deletion {entry.deletion:.3f}", f"insertion {entry.insertion:.3f}"]
    if entry.HasField("correlation_with_random_weights"):
        lines.append(f"random weights {entry.correlation_with_random_weights:.2f}")
    return lines


def _of_method(error: InvalidArgument, index: int) -> InvalidArgument:
    """The same error, of that one of `methods`."""

    def renamed(text: str) -> str:
        return text.replace("method", f"methods[{index}]", 1) if text.startswith("method") else text

    violations = [(renamed(field), description) for field, description in error.violations]
    return InvalidArgument(renamed(error.message), violations=violations)


def _blank(model: Model, call: Call, target: int) -> Subject:
    """No input in particular: a grey image.

    Raises:
        InvalidArgument: the model does not take images.
    """
    card, explanation = model.card, explanation_of(model.card)
    if not isinstance(card.preprocessing, ImagePreprocessing):
        raise InvalidArgument.field("model", f"{card.name} does not take images")
    p = card.preprocessing
    kind = ImageKind.of(np.full((p.height, p.width, p.channels), 128, np.uint8), explanation.exponent)
    labels: Sequence[str] = card.labels or (explanation.output,)
    answer = by_graph(model, kind, explanation.output, call)
    return Subject(model, kind, call, answer, explanation, labels, np.zeros(len(labels), np.float32), target)
