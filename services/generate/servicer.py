"""GenerateService: images from noise, images redrawn in another style, and texts."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from artifacts.card import Card, GenerationPreprocessing, ImagePreprocessing, NoisePreprocessing
from artifacts.noise import SEEDS, noise, path
from artifacts.verses import FORMS, MIXED, keeps_form
from lectern.v1 import generate_pb2 as pb
from services import notices
from services.answering import Kind, ModelChoice, answering
from services.codecs.images import contact_sheet, decode_named, encoded
from services.codecs.text import check_text, load_tokenizer, special_id
from services.errors import InvalidArgument
from services.generate import CAPABILITY
from services.generate.writing import END, Stops, Writing, check_stops, draws_of, prompt_ids, readable
from services.limits import Limits
from services.rpc import Call
from services.runtime.decode import Decoders
from services.runtime.repository import Model, Repository

# Which RPC a model answers, by what it takes.
RPCS: dict[type[BaseModel], str] = {
    NoisePreprocessing: "GenerateImages",
    ImagePreprocessing: "TransformImage",
    GenerationPreprocessing: "GenerateText",
}
IMAGES_PER_RUN = 8  # a stream's first images arrive while its last ones wait


@dataclass(frozen=True)
class Plan:
    """What a request asks for: noise float32 [N, size], and of each image its seed and label."""

    noise: NDArray[np.float32]
    seeds: list[int]
    labels: list[str]


class GenerateServicer:
    """Answers GenerateService from the models of the capability `generate`."""

    def __init__(self, repository: Repository, limits: Limits) -> None:
        self._repository = repository
        self._limits = limits
        self._decoders = Decoders()

    async def GenerateImages(
        self, request: pb.GenerateImagesRequest, call: Call
    ) -> AsyncIterator[pb.GenerateImagesResponse]:
        model, preprocessing = self._answering(request, call, NoisePreprocessing)
        card = model.card
        if request.layout not in pb.ImageLayout.values():
            raise InvalidArgument.field("layout", f"is {request.layout}; send one of ImageLayout's values")
        sheet = request.layout == pb.IMAGE_LAYOUT_CONTACT_SHEET
        plan = plan_images(request, card, preprocessing.size, self._limits)
        made: list[NDArray[np.uint8]] = []
        for start in range(0, len(plan.noise), IMAGES_PER_RUN):
            inputs: dict[str, NDArray[np.generic]] = {"noise": plan.noise[start : start + IMAGES_PER_RUN]}
            if card.labels:
                labels = plan.labels[start : start + IMAGES_PER_RUN]
                inputs["label"] = np.array([[card.labels.index(label)] for label in labels], np.int64)
            images = (await model.graphs["forward"].infer(inputs, call.deadline, call.priority))["images"]
            if sheet:
                made.extend(images)
                continue
            for index, image in enumerate(images, start):
                yield pb.GenerateImagesResponse(
                    model=card.name,
                    version=card.version,
                    image=await encoded(image),
                    index=index,
                    seed=plan.seeds[index],
                    label=plan.labels[index],
                )
        if sheet:
            yield pb.GenerateImagesResponse(
                model=card.name,
                version=card.version,
                image=await encoded(contact_sheet(made)),
                seed=plan.seeds[0],
                label=plan.labels[0] if len(set(plan.labels)) == 1 else "",
            )

    async def TransformImage(self, request: pb.TransformImageRequest, call: Call) -> pb.TransformImageResponse:
        model, preprocessing = self._answering(request, call, ImagePreprocessing)
        card = model.card
        if request.style not in card.labels:
            raise InvalidArgument.field("style", f"is {request.style!r}; {card.name} draws: {', '.join(card.labels)}")
        images = await decode_named({"image": request.image}, preprocessing, self._limits)
        role = "forward" if request.style == card.labels[0] else f"to_{request.style}"
        outputs = await model.graphs[role].infer({"images": images}, call.deadline, call.priority)
        redrawn = await encoded(outputs["redrawn"][0])
        return pb.TransformImageResponse(model=card.name, version=card.version, image=redrawn, style=request.style)

    async def GenerateText(self, request: pb.GenerateTextRequest, call: Call) -> AsyncIterator[pb.GenerateTextResponse]:
        model, preprocessing = self._answering(request, call, GenerationPreprocessing)
        card = model.card
        draws = draws_of(request, card)
        check_stops(request.stop, self._limits)
        for field in ("prompt", "title"):
            if text := getattr(request, field):
                check_text(text, self._limits, field)
        tokenizer = load_tokenizer(model.assets[preprocessing.tokenizer])
        (beginning, lacking), (title, lacking_title) = (readable(t, tokenizer) for t in (request.prompt, request.title))
        reservations = notices.left_out(card.name, lacking, "prompt")
        reservations += notices.left_out(card.name, lacking_title, "title")
        prompt = prompt_ids(request.form, title, beginning, card, tokenizer)
        whole = beginning.rpartition("\n")[2]
        room = preprocessing.max_tokens - len(prompt)
        if room < 1:
            limit = f"the model looks at {preprocessing.max_tokens} at most, and must have room to write"
            raise InvalidArgument.field("prompt", f"has {len(prompt)} tokens with title and form; {limit}")
        graph = model.graphs["forward"]
        most = min(request.max_tokens or room, room)
        end = special_id(tokenizer, END)
        writing = Writing(graph, prompt, draws, tokenizer.get_vocab_size(), end, most)
        stops, sent = Stops(request.stop), 0
        async with aclosing(self._decoders.of(graph).steps(writing, call.deadline, call.priority)) as steps:
            async for _ in steps:
                reason = writing.reason  # before its tokens: all are there once there is one
                start, sent = sent, len(writing.tokens)  # more may be written while this is sent
                text = stops.add(tokenizer.decode(writing.tokens[start:sent]).replace(" ", ""))
                finished = pb.FINISH_REASON_STOP if stops.reached else reason
                text += stops.rest() if reason and not stops.reached else ""
                whole += text
                if finished == pb.FINISH_REASON_END and request.form in FORMS.keys() - {MIXED}:
                    reservations += [] if keeps_form(whole, request.form) else [notices.form_not_kept(request.form)]
                yield pb.GenerateTextResponse(
                    model=card.name,
                    version=card.version,
                    text=text,
                    tokens=sent,
                    seed=draws.seed,
                    log_probability=sum(writing.log_probabilities[start:sent]),
                    finish_reason=finished,
                    notices=reservations,
                )
                reservations = []
                if stops.reached:
                    return

    def _answering(self, request: ModelChoice, call: Call, kind: type[Kind]) -> tuple[Model, Kind]:
        return answering(self._repository, call, request, CAPABILITY, kind, rpcs=RPCS)


def plan_images(request: pb.GenerateImagesRequest, card: Card, size: int, limits: Limits) -> Plan:
    """Check a request and work out the noise, seed and label of each image.

    Raises:
        InvalidArgument: names the field at fault.
    """
    truncation = request.truncation if request.HasField("truncation") else 1.0
    if not 0 < truncation <= 1:
        raise InvalidArgument.field("truncation", f"is {truncation}; it must be more than 0 and at most 1")
    if request.label and request.label not in card.labels:
        known = f"{card.name} draws: {', '.join(card.labels)}" if card.labels else f"{card.name} has no labels"
        raise InvalidArgument.field("label", f"is {request.label!r}; {known}")
    seed = request.seed if request.HasField("seed") else secrets.randbits(64)
    if request.WhichOneof("mode") == "interpolation":
        steps = request.interpolation.steps
        if not 2 <= steps <= limits.generated_images:
            raise InvalidArgument.field(
                "interpolation.steps", f"is {steps}; it must be 2 to {limits.generated_images}, both ends among them"
            )
        if card.labels and not request.label:
            raise InvalidArgument.field("label", f"is empty; an interpolation needs one of: {', '.join(card.labels)}")
        values = path(noise(seed, size), noise(request.interpolation.to_seed, size), steps)
        return Plan(values * np.float32(truncation), [seed] * steps, [request.label] * steps)
    count = request.count if request.HasField("count") else 1
    if not 1 <= count <= limits.generated_images:
        raise InvalidArgument.field("count", f"is {count}; it must be 1 to {limits.generated_images}")
    seeds = [(seed + i) % SEEDS for i in range(count)]
    values = np.stack([noise(s, size) for s in seeds]) * np.float32(truncation)
    labels = card.labels or ("",)
    return Plan(values, seeds, [request.label or labels[i % len(labels)] for i in range(count)])
