"""GenerateService: images from noise, and images redrawn in another style."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lectern.card import Card, ImagePreprocessing, NoisePreprocessing
from lectern.noise import SEEDS, noise, path
from lectern.v1 import generate_pb2 as pb
from services.codecs.images import contact_sheet, decode_named, encode_png
from services.errors import InvalidArgument
from services.limits import Limits
from services.rpc import Call
from services.runtime.repository import Repository

CAPABILITY = "generate"
DEFAULT_IMAGE_MODEL = "face_generator"
DEFAULT_STYLE_MODEL = "style_translator"
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

    async def GenerateImages(
        self, request: pb.GenerateImagesRequest, call: Call
    ) -> AsyncIterator[pb.GenerateImagesResponse]:
        model = self._repository.find(request.model or DEFAULT_IMAGE_MODEL, request.version, CAPABILITY)
        card, preprocessing = model.card, model.card.preprocessing
        call.model = f"{card.name}/{card.version}"
        if not isinstance(preprocessing, NoisePreprocessing):
            raise InvalidArgument.field("model", f"{card.name} does not make images of noise: call TransformImage")
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
                    image=encode_png(image),
                    index=index,
                    seed=plan.seeds[index],
                    label=plan.labels[index],
                )
        if sheet:
            yield pb.GenerateImagesResponse(
                model=card.name,
                version=card.version,
                image=encode_png(contact_sheet(made)),
                seed=plan.seeds[0],
                label=plan.labels[0] if len(set(plan.labels)) == 1 else "",
            )

    async def TransformImage(self, request: pb.TransformImageRequest, call: Call) -> pb.TransformImageResponse:
        model = self._repository.find(request.model or DEFAULT_STYLE_MODEL, request.version, CAPABILITY)
        card, preprocessing = model.card, model.card.preprocessing
        call.model = f"{card.name}/{card.version}"
        if not isinstance(preprocessing, ImagePreprocessing):
            raise InvalidArgument.field("model", f"{card.name} does not take images: call GenerateImages")
        if request.style not in card.labels:
            raise InvalidArgument.field("style", f"is {request.style!r}; {card.name} draws: {', '.join(card.labels)}")
        images = await decode_named({"image": request.image}, preprocessing, self._limits)
        role = "forward" if request.style == card.labels[0] else f"to_{request.style}"
        outputs = await model.graphs[role].infer({"images": images}, call.deadline, call.priority)
        redrawn = encode_png(outputs["redrawn"][0])
        return pb.TransformImageResponse(model=card.name, version=card.version, image=redrawn, style=request.style)


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
