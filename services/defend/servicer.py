"""DefendService: attacks on image classifiers, defences against them, and how well these hold."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np

from artifacts import squeezing
from artifacts.card import ImagePreprocessing
from lectern.v1 import defend_pb2 as pb
from services import pools
from services.answering import ModelChoice, answering
from services.codecs.images import decode_images
from services.codecs.png import encode_png
from services.codecs.tensors import to_raw
from services.defend import CAPABILITY, robustness, robustness_pictures
from services.defend.attacks import Goal, attack, read_attack, source_of
from services.defend.certification import read_smoothing
from services.defend.classifier import Classifier, Indices
from services.defend.defences import defence_randoms, read_chain
from services.defend.detection import detections, read_threshold
from services.defend.methods.pixels import RANGE, Images, shrunk_to_pixels
from services.errors import InvalidArgument, PermissionDenied
from services.limits import Limits
from services.parameters import whole
from services.rpc import Call
from services.runtime.repository import Repository


class DefendServicer:
    """Answers DefendService for models that classify images.

    Args:
        allow_attacks: whether attacked images are given away.
    """

    def __init__(self, repository: Repository, limits: Limits, allow_attacks: bool) -> None:
        self._repository = repository
        self._limits = limits
        self._allow_attacks = allow_attacks

    async def Attack(self, request: pb.AttackRequest, call: Call) -> pb.AttackResponse:
        if not self._allow_attacks:
            raise PermissionDenied("attacks are off; an operator turns them on with LECTERN_ALLOW_ATTACKS=true")
        method = read_attack(request.method, self._limits)
        classifier = self._classifier(request, call)
        chain = read_chain(request.defences, classifier, self._repository, self._limits)
        source = source_of(method, request.gradient_of, chain, self._repository)
        images = await decode_images(request.images, classifier.preprocessing, self._limits)
        logits = await classifier.logits(images)
        classes = _classes(request, classifier, logits.argmax(1))
        draws = whole(request, "draws", chain.draws, 1, self._limits.attack_draws, "draws")
        targeted = request.WhichOneof("target") is not None
        goal = Goal(chain, source, draws, classes, targeted, request.seed)
        values = await attack(method, images, goal)
        attacked = shrunk_to_pixels(values, images)
        answers = await chain.logits(attacked, request.seed)
        response = pb.AttackResponse(model=classifier.card.name, version=classifier.card.version)
        before, after = classifier.predictions(logits), chain.classifier.predictions(answers)
        columns = zip(images, attacked, before, after, goal.reached(answers), strict=True)
        response.results.extend(_attacked_image(*row) for row in columns)
        if request.include_values:
            for result, value in zip(response.results, values, strict=True):
                result.values = to_raw(value)
        if request.include_picture:
            response.picture = await pools.codecs.run(robustness_pictures.attacks, images, attacked, response.results)
        return response

    async def Defend(self, request: pb.DefendRequest, call: Call) -> pb.DefendResponse:
        smoothing = read_smoothing(request, self._limits)
        classifier = self._classifier(request, call)
        threshold = read_threshold(request, classifier.card)
        chain = read_chain(request.defences, classifier, self._repository, self._limits)
        images = await decode_images(request.images, classifier.preprocessing, self._limits)
        squeezed = await pools.codecs.run(squeezing.squeezed, images)
        cleaned, _ = await chain.clean(images, defence_randoms(request.seed, len(images)))
        behind = chain.classifier
        # What one model says of all that is asked, it says in one batch, and never twice of the same image.
        again = [cleaned] if chain.defences and behind is classifier else []
        logits, *others = await classifier.logits_of_each([images, *squeezed, *again])
        answers = others.pop() if again else logits if behind is classifier else await behind.logits(cleaned)
        response = pb.DefendResponse(model=classifier.card.name, version=classifier.card.version)
        predictions = classifier.predictions(logits), behind.predictions(answers)
        columns = zip(images, cleaned, *predictions, detections(logits, others, threshold), strict=True)
        for i, (image, clean, before, after, detection) in enumerate(columns):
            certificate = await smoothing.certificate(image, chain, request.seed + i) if smoothing else None
            response.results.add(
                image=encode_png(clean), before=before, after=after, detection=detection, certificate=certificate
            )
        return response

    async def EvaluateRobustness(
        self, request: pb.EvaluateRobustnessRequest, call: Call
    ) -> AsyncIterator[pb.EvaluateRobustnessResponse]:
        classifiers = [self._classifier(model, call) for model in request.models or [pb.EvaluatedModel()]]
        cells = robustness.read_cells(request, classifiers, self._repository, self._limits)
        tests = [await robustness.read_test(request, classifier, self._limits) for classifier in classifiers]
        measured: list[robustness.Measured] = []
        for cell in cells:
            measured.append(
                await robustness.measure(cell, tests[classifiers.index(cell.classifier)], measured, request.seed)
            )
            response = measured[-1].message(len(measured), len(cells))
            if len(measured) == len(cells):
                response.picture = await pools.codecs.run(
                    robustness_pictures.table, measured, images=self._allow_attacks
                )
            yield response

    def _classifier(self, choice: ModelChoice, call: Call) -> Classifier:
        model, preprocessing = answering(self._repository, call, choice, CAPABILITY, ImagePreprocessing)
        return Classifier.of(model, preprocessing, call)


def _attacked_image(
    image: Images, attacked: Images, before: pb.PredictedClass, after: pb.PredictedClass, success: bool
) -> pb.AttackedImage:
    change = (attacked.astype(np.float32) - image).ravel() / RANGE
    linf, l2 = float(np.abs(change).max()), float(np.linalg.norm(change))
    return pb.AttackedImage(image=encode_png(attacked), before=before, after=after, success=success, linf=linf, l2=l2)


def _classes(request: pb.AttackRequest, classifier: Classifier, predicted: Indices) -> Indices:
    """Of each image, the target, or its true class: the one that the model predicts unless the caller knows better.

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
            return np.full_like(predicted, request.target_index)
        case "target_label":
            return np.full_like(predicted, classifier.index_of(request.target_label, "target_label"))
    if not request.labels:
        return predicted
    if len(request.labels) != len(predicted):
        raise InvalidArgument.field(
            "labels", f"has {len(request.labels)} for {len(predicted)} images; send one for each"
        )
    return np.array([classifier.index_of(label, f"labels[{i}]") for i, label in enumerate(request.labels)])
