"""Few-shot requests: the classes that their examples show, and the method and steps that they ask for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from lectern.v1 import classify_pb2 as pb
from services.errors import InvalidArgument
from services.limits import Limits

FEWEST_CLASSES = 2
# Role of the graph that answers, by method.
ROLES = {
    pb.FEW_SHOT_METHOD_PROTOTYPES: "forward",
    pb.FEW_SHOT_METHOD_MAML: "maml",
    pb.FEW_SHOT_METHOD_FIRST_ORDER_MAML: "first_order_maml",
}


def classes_of(support: Sequence[pb.LabelledImage], limits: Limits) -> tuple[str, ...]:
    """The distinct labels, sorted, so that the order of the examples does not matter.

    Raises:
        InvalidArgument: an example without a label, too few or too many classes, or too many examples of one.
    """
    for i, example in enumerate(support):
        if not example.label:
            raise InvalidArgument.field(f"support[{i}].label", "is empty; name the class that the image shows")
    counts = Counter(example.label for example in support)
    if not FEWEST_CLASSES <= len(counts) <= limits.few_shot_classes:
        advice = f"send examples of {FEWEST_CLASSES} to {limits.few_shot_classes}"
        raise InvalidArgument.field("support", f"shows {len(counts)} classes; {advice}")
    label, count = counts.most_common(1)[0]
    if count > limits.few_shot_examples:
        most = f"the most of one class is {limits.few_shot_examples}"
        raise InvalidArgument.field("support", f"has {count} examples of {label!r}; {most}")
    return tuple(sorted(counts))


def one_hot(labels: Iterable[str], classes: Sequence[str]) -> NDArray[np.float32]:
    """Labels `[S]` as float32 `[S, len(classes)]`."""
    position = {label: i for i, label in enumerate(classes)}
    return np.eye(len(classes), dtype=np.float32)[[position[label] for label in labels]]


def method_and_steps(
    request: pb.ClassifyFewShotRequest, own_steps: int, limits: Limits
) -> tuple[pb.FewShotMethod, int]:
    """The method that answers, a key of `ROLES`, and how many gradient steps it takes; 0 = it takes none.

    Args:
        own_steps: as many as the model was meta-trained with.

    Raises:
        InvalidArgument: there is no such method, or it does not take that many steps.
    """
    method = request.method or pb.FEW_SHOT_METHOD_PROTOTYPES
    if method not in ROLES:
        raise InvalidArgument.field("method", f"is {method}; there are: {', '.join(map(str, ROLES))}")
    if method == pb.FEW_SHOT_METHOD_PROTOTYPES:
        if request.steps:
            raise InvalidArgument.field("steps", "are taken by the MAML methods only; send 0")
        return method, 0
    if request.steps > limits.few_shot_steps:
        raise InvalidArgument.field("steps", f"is {request.steps}; the most is {limits.few_shot_steps}")
    return method, request.steps or own_steps
