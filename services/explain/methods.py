"""The methods by name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from lectern.v1 import explain_pb2 as pb
from services.errors import InvalidArgument
from services.explain import gradients, perturbations
from services.explain.attention import attention
from services.explain.attribution import Attribution
from services.explain.subjects import GRADIENT, ImageKind, Subject
from services.explain.texts import TextKind
from services.limits import Limits

Method = Callable[[Subject, Any, int, Limits], Awaitable[Attribution]]
METHODS: dict[str, Method] = {
    "saliency": gradients.saliency,
    "gradient_times_input": gradients.gradient_times_input,
    "smooth_grad": gradients.smooth_grad,
    "integrated_gradients": gradients.integrated_gradients,
    "grad_cam": gradients.grad_cam,
    "occlusion": perturbations.occlusion,
    "lime": perturbations.lime,
    "rise": perturbations.rise,
    "kernel_shap": perturbations.kernel_shap,
    "attention": attention,
}
FOLLOW_GRADIENTS = {"saliency", "gradient_times_input", "smooth_grad", "integrated_gradients", "grad_cam"}


def name_of(method: pb.ExplanationMethod, field: str = "method") -> str:
    """Which method is set.

    Raises:
        InvalidArgument: none that this server knows.
    """
    name = method.WhichOneof("kind")
    if name is None:
        raise InvalidArgument.field(field, f"is not set, or not known here; there are: {', '.join(METHODS)}")
    return str(name)


async def explain(subject: Subject, method: pb.ExplanationMethod, seed: int, limits: Limits) -> Attribution:
    """What the method finds.

    Raises:
        InvalidArgument: the method or one of its parameters does not fit.
    """
    name = name_of(method)
    return await METHODS[name](subject, getattr(method, name), seed, limits)


def available(subject: Subject) -> list[pb.ExplanationMethod]:
    """Each method that explains this subject, with its defaults."""
    left_out = set() if isinstance(subject.kind, ImageKind) else {"rise"}
    if not isinstance(subject.kind, TextKind) or subject.kind.attention is None:
        left_out.add("attention")
    if GRADIENT not in subject.model.graphs:
        left_out |= FOLLOW_GRADIENTS
    if not any(layer.map for layer in subject.explanation.layers):
        left_out.add("grad_cam")
    methods = [pb.ExplanationMethod() for name in METHODS if name not in left_out]
    for method, name in zip(methods, (name for name in METHODS if name not in left_out), strict=True):
        getattr(method, name).SetInParent()
    return methods
