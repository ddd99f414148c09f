"""The table of EvaluateRobustness: accuracy of models under attacks, behind defences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lectern.v1 import defend_pb2 as pb
from services.codecs.images import decode_images
from services.defend.attacks import Attack, Goal, attack, read_attack, source_of
from services.defend.classifier import Classifier, Indices
from services.defend.defences import Chain, defence_randoms, read_chain
from services.defend.methods.pixels import Images, shrunk_to_pixels
from services.errors import InvalidArgument
from services.limits import Limits
from services.runtime.repository import Repository

DEFAULT_ATTACKS = (
    pb.EvaluatedAttack(method=pb.AttackMethod(fgsm=pb.Fgsm())),
    pb.EvaluatedAttack(method=pb.AttackMethod(pgd=pb.Pgd())),
)


@dataclass(frozen=True)
class Test:
    """Images `[N, height, width, channels]` as a model takes them, and their true classes `[N]`."""

    images: Images
    classes: Indices


@dataclass(frozen=True)
class Cell:
    """A model, an attack on it (None = none), and defences.

    Args:
        row: place of the attack among those of the request; -1 = none.
        source: whose gradients the attack follows.
        against: what the attack knows of: the defences, or the bare model.
    """

    classifier: Classifier
    row: int
    attack: Attack | None
    words: str
    source: Classifier
    against: Chain
    chain: Chain


@dataclass(frozen=True)
class Measured:
    """A cell with what came out: the attacked images, and the first of them behind the defences with its class."""

    cell: Cell
    accuracy: float
    attacked: Images
    first: Images
    prediction: pb.PredictedClass
    right: bool

    def message(self, done: int, total: int) -> pb.EvaluateRobustnessResponse:
        card = self.cell.classifier.card
        return pb.EvaluateRobustnessResponse(
            model=card.name,
            version=card.version,
            attack=self.cell.words,
            defence=self.cell.chain.words,
            accuracy=self.accuracy,
            n=len(self.attacked),
            done=done,
            total=total,
        )


def read_cells(
    request: pb.EvaluateRobustnessRequest, classifiers: Sequence[Classifier], repository: Repository, limits: Limits
) -> list[Cell]:
    """Every cell, model by model and attack by attack, so that a request is refused before work begins.

    Raises:
        NotFound, Unavailable: a model of a cell. InvalidArgument: too many cells, or a parameter of one.
    """
    attacks = list(request.attacks) or list(DEFAULT_ATTACKS)
    total = len(classifiers) * (len(attacks) + 1) * (len(request.defences) + 1)
    if total > limits.robustness_cells:
        raise InvalidArgument.field(
            "attacks", f"make {total} cells with models and defences; the most are {limits.robustness_cells}"
        )
    cells = []
    for classifier in classifiers:
        bare = read_chain((), classifier, repository, limits)
        chains = [bare]
        for i, defence in enumerate(request.defences):
            chains.append(read_chain(defence.chain, classifier, repository, limits, f"defences[{i}].chain"))
        cells += [Cell(classifier, -1, None, "none", classifier, bare, chain) for chain in chains]
        for row, evaluated in enumerate(attacks):
            how = read_attack(evaluated.method, limits, f"attacks[{row}].method")
            words = how.words + (f" by {evaluated.gradient_of}" if evaluated.gradient_of else "")
            words += ", aware" if evaluated.aware else ""
            for chain in chains:
                against = chain if evaluated.aware else bare
                source = source_of(how, evaluated.gradient_of, against, repository, f"attacks[{row}].")
                cells.append(Cell(classifier, row, how, words, source, against, chain))
    return cells


async def read_test(request: pb.EvaluateRobustnessRequest, classifier: Classifier, limits: Limits) -> Test:
    """The images and their classes, as the model takes them.

    Raises:
        InvalidArgument: an image cannot be read, or a label is not one of the model's.
    """
    images = await decode_images([test.image for test in request.images], classifier.preprocessing, limits)
    labels = enumerate(test.label for test in request.images)
    return Test(images, np.array([classifier.index_of(label, f"images[{i}].label") for i, label in labels]))


async def measure(cell: Cell, test: Test, before: Sequence[Measured], seed: int) -> Measured:
    """Accuracy in a cell; an attack that knows nothing of the defences is made once, and taken from `before`."""
    same = (m for m in before if (m.cell.classifier, m.cell.row) == (cell.classifier, cell.row))
    known = next((m.attacked for m in same if m.cell.against is cell.against), None)
    attacked = test.images
    if known is not None:
        attacked = known
    elif cell.attack is not None:
        goal = Goal(cell.against, cell.source, cell.against.draws, test.classes, targeted=False, seed=seed)
        attacked = shrunk_to_pixels(await attack(cell.attack, test.images, goal), test.images)
    cleaned, _ = await cell.chain.clean(attacked, defence_randoms(seed, len(attacked)))
    logits = await cell.chain.classifier.logits(cleaned)
    hits = logits.argmax(1) == test.classes
    (prediction,) = cell.chain.classifier.predictions(logits[:1])
    return Measured(cell, float(hits.mean()), attacked, cleaned[0], prediction, bool(hits[0]))
