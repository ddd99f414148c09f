"""Methods side by side on one input, for Compare: each with figures of how far it can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lectern.v1 import explain_pb2 as pb
from services.errors import InvalidArgument
from services.explain import method_table
from services.explain.attribution import Attribution
from services.explain.image_input import ImageKind
from services.explain.methods.deletion_insertion import Scale, deletion_and_insertion
from services.explain.methods.rank_correlation import rank_correlation
from services.explain.methods.sobel import edges
from services.explain.subject import Subject
from services.limits import Limits

REGIONS = 8  # along an image's longer side, that are taken away one by one


@dataclass(frozen=True)
class Compared:
    """A method, its attribution, that of the network with random weights, and its figures as a message."""

    name: str
    attribution: Attribution
    by_random_weights: Attribution | None
    message: pb.ComparedExplanation

    @property
    def figures(self) -> Sequence[str]:
        """Its figures in words."""
        lines = [f"deletion {self.message.deletion:.3f}", f"insertion {self.message.insertion:.3f}"]
        if self.message.HasField("correlation_with_random_weights"):
            lines.append(f"random weights {self.message.correlation_with_random_weights:.2f}")
        return lines


async def compare(
    subject: Subject, methods: Sequence[pb.ExplanationMethod], seed: int, limits: Limits
) -> list[Compared]:
    """Each of the methods, or if there is none, each that explains the subject; then what they are compared with.

    Raises:
        InvalidArgument: a method or one of its parameters does not fit; says which of `methods`.
    """
    rows: list[Compared] = []
    for i, method in enumerate(methods or method_table.available(subject)):
        try:
            attribution = await method_table.explain(subject, method, seed, limits)
        except InvalidArgument as error:
            raise _of_method(error, i) from None
        compared = await _judged(subject, method_table.name_of(method), attribution)
        if subject.network.has_random_weights:
            by_random_weights = replace(subject, network=replace(subject.network, random=True))
            random = await method_table.explain(by_random_weights, method, seed, limits)
            compared.message.correlation_with_random_weights = rank_correlation(attribution.map, random.map)
            compared = replace(compared, by_random_weights=random)
        if attribution.promised is not None:
            compared.message.completeness_gap = attribution.gap
        rows.append(compared)
    for name, reference in references(subject, seed).items():
        rows.append(await _judged(subject, name, reference))
    return rows


def references(subject: Subject, seed: int) -> dict[str, Attribution]:
    """What methods are compared with: a random order, and where an image changes most."""
    values = np.random.default_rng(seed).random(subject.kind.pixels).astype(np.float32)
    attributions = {"random": Attribution(subject.kind.spread(values[None])[0], signed=False)}
    if isinstance(subject.kind, ImageKind):
        attributions["edges"] = Attribution(edges(subject.kind.x)[..., None], signed=False)
    return attributions


async def _judged(subject: Subject, name: str, attribution: Attribution) -> Compared:
    mean, blurred = (subject.baseline(None, baseline) for baseline in (pb.BASELINE_MEAN, pb.BASELINE_BLUR))
    scale = Scale()
    if not subject.classifies:
        full, nothing = await subject.values(np.stack([subject.kind.x, mean]))
        scale = Scale.between(full, nothing)
    deletion, insertion = await deletion_and_insertion(
        attribution.map,
        subject.kind.groups(REGIONS),
        subject.remaining(mean, probability=True),
        subject.remaining(blurred, probability=True),
        signed=attribution.signed,
        scale=scale,
    )
    message = pb.ComparedExplanation(
        method=name, attribution=attribution.message(), deletion=deletion, insertion=insertion
    )
    return Compared(name, attribution, None, message)


def _of_method(error: InvalidArgument, index: int) -> InvalidArgument:
    """The same error, of that one of `methods`."""

    def renamed(text: str) -> str:
        return text.replace("method", f"methods[{index}]", 1) if text.startswith("method") else text

    violations = [(renamed(field), description) for field, description in error.violations]
    return InvalidArgument(renamed(error.message), violations=violations)
