"""DefendService: attacks on image classifiers, defences against them, and how well these hold."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np

from lectern.v1 import defend_pb2 as pb
from services import pools
from services.codecs.images import decode_images, encode_png
from services.codecs.tensors import to_raw
from services.defend import pictures, robustness
from services.defend.attacks import RANGE, Goal, attack, read_attack, shrink_to_pixels, source_of
from services.defend.classifier import CAPABILITIES, Classifier, Indices
from services.defend.defences import defence_randoms, read_chain
from services.defend.detection import detect, read_threshold
from services.defend.smoothing import read_smoothing
from services.errors import InvalidArgument, PermissionDenied
from services.limits import Limits
from services.parameters import whole
from services.rpc import Call
from services.runtime.repository import Repository

DEFAULT_MODEL = "image_classifier"


class DefendServicer:
    """Answers DefendService for models that classify images.

    Args:
        allow_attacks: whether attacked images are given away.
    """

    numeric = True
    models_of = CAPABILITIES
    settings = ("allow_attacks",)

    def __init__(self, repository: Repository, limits: Limits, allow_attacks: bool) -> None:
        self._repository = repository
        self._limits = limits
        self._allow_attacks = allow_attacks

    async def Attack(self, request: pb.AttackRequest, call: Call) -> pb.AttackResponse:
        if not self._allow_attacks:
            raise PermissionDenied("attacks are off; an operator turns them on with LECTERN_ALLOW_ATTACKS=true")
        asked = read_attack(request.method, self._limits)
        classifier = self._find(request.model, request.version, call)
        chain = read_chain(request.defences, classifier, self._repository, self._limits)
        source = source_of(asked, request.gradient_of, chain, self._repository)
        images = await decode_images(request.images, classifier.preprocessing, self._limits)
        logits = await classifier.logits(images)
        classes = _classes(request, classifier, logits.argmax(1))
        draws = whole(request, "draws", chain.draws, 1, self._limits.attack_draws, "draws")
        targeted = request.WhichOneof("target") is not None
        goal = Goal(chain, source, draws, classes, targeted, request.seed)
        found = await attack(asked, images, goal)
        attacked = shrink_to_pixels(found, images)
        answers = await chain.logits(attacked, request.seed)
        changes = (attacked.astype(np.float32) - images).reshape(len(images), -1) / RANGE
        response = pb.AttackResponse(model=classifier.card.name, version=classifier.card.version)
        columns = (attacked, found, classifier.said(logits), chain.classifier.said(answers), goal.reached(answers))
        for pixels, values, before, after, success, change in zip(*columns, changes, strict=True):
            response.results.add(
                image=encode_png(pixels),
                values=to_raw(values) if request.include_values else b"",
                before=before,
                after=after,
                success=success,
                linf=float(np.abs(change).max()),
                l2=float(np.linalg.norm(change)),
            )
        if request.include_picture:
            response.picture = await pools.codecs.run(pictures.attacks, images, attacked, response.results)
        return response

    async def Defend(self, request: pb.DefendRequest, call: Call) -> pb.DefendResponse:
        smoothing = read_smoothing(request, self._limits)
        classifier = self._find(request.model, request.version, call)
        threshold = read_threshold(request, classifier.card)
        chain = read_chain(request.defences, classifier, self._repository, self._limits)
        images = await decode_images(request.images, classifier.preprocessing, self._limits)
        logits = await classifier.logits(images)
        detections = await detect(images, logits, classifier, threshold)
        cleaned, _ = await chain.clean(images, defence_randoms(request.seed, len(images)))
        answers = await chain.classifier.logits(cleaned)
        response = pb.DefendResponse(model=classifier.card.name, version=classifier.card.version)
        columns = (images, cleaned, classifier.said(logits), chain.classifier.said(answers), detections)
        for i, (image, clean, before, after, detection) in enumerate(zip(*columns, strict=True)):
            certificate = await smoothing.certify(image, chain, request.seed + i) if smoothing else None
            response.results.add(
                image=encode_png(clean), before=before, after=after, detection=detection, certificate=certificate
            )
        return response

    async def EvaluateRobustness(
        self, request: pb.EvaluateRobustnessRequest, call: Call
    ) -> AsyncIterator[pb.EvaluateRobustnessResponse]:
        names = [(m.model, m.version) for m in request.models] or [("", 0)]
        classifiers = [self._find(name, version, call) for name, version in names]
        cells = robustness.read_cells(request, classifiers, self._repository, self._limits)
        tests = [await robustness.read_test(request, classifier, self._limits) for classifier in classifiers]
        measured: list[robustness.Measured] = []
        for cell in cells:
            measured.append(
                await robustness.measure(cell, tests[classifiers.index(cell.classifier)], measured, request.seed)
            )
            response = measured[-1].message(len(measured), len(cells))
            if len(measured) == len(cells):
                response.picture = await pools.codecs.run(pictures.table, measured, images=self._allow_attacks)
            yield response

    def _find(self, name: str, version: int, call: Call) -> Classifier:
        found = Classifier.find(self._repository, name or DEFAULT_MODEL, version, call)
        call.model = f"{found.card.name}/{found.card.version}"
        return found


def _classes(request: pb.AttackRequest, classifier: Classifier, said: Indices) -> Indices:
    """Of each image, the target, or its true class: what the model says of it unless the caller knows better.

    Raises:
        InvalidArgument: there is no such class, or not one label for each image.
    """
    labels = classifier.card.labels
    match request.WhichOneof("target"):
        case "target_index":
            if request.target_index >= len(labels):
                raise InvalidArgument.field(
                    "target_index", f"is {request.target_index}; {classifier.card.name} has 0 to {len(labels) - 1}"
                )
            return np.full_like(said, request.target_index)
        case "target_label":
            return np.full_like(said, classifier.index_of(request.target_label, "target_label"))
    if not request.labels:
        return said
    if len(request.labels) != len(said):
        raise InvalidArgument.field("labels", f"has {len(request.labels)} for {len(said)} images; send one for each")
    return np.array([classifier.index_of(label, f"labels[{i}]") for i, label in enumerate(request.labels)])
