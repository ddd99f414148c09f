"""The methods by their names in a request: each entry reads its parameters, and hands the method what it asks by."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lectern.v1 import explain_pb2 as pb
from services.errors import InvalidArgument
from services.explain.attribution import Attribution
from services.explain.audio_input import AudioKind
from services.explain.fields import field_of, number, whole
from services.explain.image_input import ImageKind
from services.explain.methods.grad_cam import grad_cam
from services.explain.methods.gradient_times_input import gradient_times_input
from services.explain.methods.integrated_gradients import integrated_gradients
from services.explain.methods.kernel_shap import kernel_shap
from services.explain.methods.lime import lime
from services.explain.methods.occlusion import occlusion, occlusion_closer
from services.explain.methods.rise import rise
from services.explain.methods.saliency import saliency
from services.explain.methods.sentences_first import LongText, kernel_shap_of_text, lime_of_text, occlusion_of_text
from services.explain.methods.smooth_grad import smooth_grad
from services.explain.subject import Subject
from services.explain.text_input import TextKind
from services.limits import Limits

STEPS, MOST_STEPS, GAP = 100, 400, 0.01
CELLS, MOST_CELLS = 8, 32
SAMPLES = 256
# A text of more words is explained by sentences first, then by words in those whose value is at least this share of the
# largest.
SHORT_TEXT, MATTERS = 40, 0.25
# Of speech, slabs of time are taken away first, then the windows of those that change at least this share of the most.
SLAB_MATTERS = 0.02


async def explain(subject: Subject, method: pb.ExplanationMethod, seed: int, limits: Limits) -> Attribution:
    """The attribution by the method that is set.

    Raises:
        InvalidArgument: the method or one of its parameters does not fit.
    """
    name = name_of(method)
    return await METHODS[name](subject, getattr(method, name), seed, limits)


def name_of(method: pb.ExplanationMethod, field: str = "method") -> str:
    """Which method is set.

    Raises:
        InvalidArgument: none that this server knows.
    """
    name = method.WhichOneof("kind")
    if name is None:
        raise InvalidArgument.field(field, f"is not set, or not known here; there are: {', '.join(METHODS)}")
    return str(name)


def available(subject: Subject) -> list[pb.ExplanationMethod]:
    """Each method that explains this subject, with its defaults."""
    left_out = set() if isinstance(subject.kind, ImageKind) else {"rise"}
    if not isinstance(subject.kind, TextKind) or subject.kind.attention is None:
        left_out.add("attention")
    if not subject.network.has_gradients:
        left_out |= FOLLOW_GRADIENTS
    if not subject.network.map_layers:
        left_out.add("grad_cam")
    methods = []
    for name in METHODS:
        if name not in left_out:
            methods.append(pb.ExplanationMethod())
            getattr(methods[-1], name).SetInParent()
    return methods


async def _saliency(subject: Subject, method: pb.Saliency, seed: int, limits: Limits) -> Attribution:
    return Attribution(await saliency(subject.kind.x, subject.derive), signed=False)


async def _gradient_times_input(
    subject: Subject, method: pb.GradientTimesInput, seed: int, limits: Limits
) -> Attribution:
    baseline = subject.baseline(None, pb.BASELINE_BLACK)
    return Attribution(await gradient_times_input(subject.kind.x, baseline, subject.derive), signed=True)


async def _smooth_grad(subject: Subject, method: pb.SmoothGrad, seed: int, limits: Limits) -> Attribution:
    samples = whole(method, "samples", 50, 1, limits.explanation_samples)
    size = number(method, "noise", 0.15, most=1)
    x, scale = subject.kind.x, subject.kind.noise_scale
    values = await smooth_grad(x, subject.derive, scale=scale, size=size, samples=samples, seed=seed)
    return Attribution(values, signed=False)


async def _integrated_gradients(
    subject: Subject, method: pb.IntegratedGradients, seed: int, limits: Limits
) -> Attribution:
    """Unless the caller says how many steps, more are taken while values do not add up: gradients that jump, as where
    another training picture becomes the nearest, take more than smooth ones."""
    steps = whole(method, "steps", STEPS, 1, limits.explanation_samples)
    baseline = subject.baseline(method, pb.BASELINE_BLACK)
    most = steps if method.HasField("steps") else min(MOST_STEPS, limits.explanation_samples)
    while True:
        values, difference = await integrated_gradients(subject.kind.x, baseline, subject.derive, steps=steps)
        attribution = Attribution(values, signed=True, promised=difference)
        if attribution.gap <= GAP or 2 * steps > most:
            return attribution
        steps *= 2


async def _grad_cam(subject: Subject, method: pb.GradCam, seed: int, limits: Limits) -> Attribution:
    layers, name = subject.network.map_layers, subject.card.name
    if not layers:
        raise InvalidArgument.field("method", f"grad_cam needs a layer that is a map; {name} has none")
    layer = method.layer or layers[-1]
    if layer not in layers:
        raise InvalidArgument.field(field_of(method, "layer"), f"is {layer!r}; {name} has: {', '.join(layers)}")
    return Attribution(await grad_cam(subject.kind.x, subject.derive, layer=layer), signed=False)


async def _occlusion(subject: Subject, method: pb.Occlusion, seed: int, limits: Limits) -> Attribution:
    pixels = subject.kind.pixels
    for name in ("window", "stride"):
        if method.HasField(name) and not isinstance(subject.kind, ImageKind):
            raise InvalidArgument.field(field_of(method, name), "is for images; of other inputs the parts are fixed")
    window = whole(method, "window", min(8, *pixels), 1, min(pixels))
    stride = whole(method, "stride", max(1, window // 4), 1, window)
    windows = subject.kind.windows(window, stride)
    if len(windows) > (most := limits.explanation_samples):
        raise InvalidArgument.field(
            field_of(method, "stride"), f"is {stride}: {len(windows)} windows; the most are {most}"
        )
    remaining = subject.remaining(subject.baseline(method, pb.BASELINE_MEAN))
    if long := _long_text(subject, limits):
        return _spread(subject, await occlusion_of_text(long, remaining))
    if isinstance(subject.kind, AudioKind):
        return _spread(subject, await occlusion_closer(pixels, subject.kind.slabs(), remaining, share=SLAB_MATTERS))
    return _spread(subject, await occlusion(pixels, windows, remaining))


async def _lime(subject: Subject, method: pb.Lime, seed: int, limits: Limits) -> Attribution:
    samples = whole(method, "samples", SAMPLES, 2, limits.explanation_samples)
    groups = _groups(subject, method)
    remaining = subject.remaining(subject.baseline(method, pb.BASELINE_MEAN), probability=True)
    if not method.HasField("samples") and (long := _long_text(subject, limits)):
        return _spread(subject, await lime_of_text(long, remaining, seed=seed))
    return _spread(subject, await lime(groups, remaining, samples=samples, seed=seed))


async def _rise(subject: Subject, method: pb.Rise, seed: int, limits: Limits) -> Attribution:
    if not isinstance(subject.kind, ImageKind):
        raise InvalidArgument.field("method", "rise is for images")
    samples = whole(method, "samples", SAMPLES, 2, limits.explanation_samples)
    cells = whole(method, "cells", 6, 2, MOST_CELLS)
    keep = number(method, "keep", 0.5, most=1, below=True)
    remaining = subject.remaining(np.zeros_like(subject.kind.x), probability=True)
    values = await rise(subject.kind.pixels, remaining, samples=samples, cells=cells, keep=keep, seed=seed)
    return _spread(subject, values, signed=False)


async def _kernel_shap(subject: Subject, method: pb.KernelShap, seed: int, limits: Limits) -> Attribution:
    samples = whole(method, "samples", SAMPLES, 2, limits.explanation_samples)
    groups = _groups(subject, method)
    remaining = subject.remaining(subject.baseline(method, pb.BASELINE_MEAN))
    if not method.HasField("samples") and (long := _long_text(subject, limits)):
        values, difference = await kernel_shap_of_text(long, remaining)
    else:
        values, difference = await kernel_shap(groups, remaining, samples=samples, seed=seed)
    return _spread(subject, values, promised=difference)


async def _attention(subject: Subject, method: pb.Attention, seed: int, limits: Limits) -> Attribution:
    name = subject.card.name
    if not isinstance(subject.kind, TextKind):
        raise InvalidArgument.field("method", f"is for texts, which {name} does not take")
    if subject.kind.attention is None:
        raise InvalidArgument.field("method", f"is not for {name}, which was exported without its attention")
    return Attribution(await subject.kind.attention(), signed=False)


def _groups(subject: Subject, method: pb.Lime | pb.KernelShap) -> NDArray[np.int64]:
    parts = subject.kind.pixels
    if method.HasField("cells") and len(parts) == 1:
        raise InvalidArgument.field(field_of(method, "cells"), "is not for rows and texts, whose parts stand alone")
    most = MOST_CELLS if len(parts) == 1 else min(MOST_CELLS, max(parts))
    return subject.kind.groups(whole(method, "cells", CELLS, 2, most))


def _long_text(subject: Subject, limits: Limits) -> LongText | None:
    """The subject, if it is a text of many words."""
    kind = subject.kind
    if not isinstance(kind, TextKind) or len(kind.words) <= SHORT_TEXT:
        return None
    return LongText(kind.sentences, MATTERS, limits.text_explanation_calls)


def _spread(
    subject: Subject, values: NDArray[Any], *, signed: bool = True, promised: float | None = None
) -> Attribution:
    """Values of pixels, features or words, `[*pixels]`, in the shape of x or what broadcasts to it."""
    return Attribution(subject.kind.spread(values.astype(np.float32)[None])[0], signed, promised)


METHODS: dict[str, Callable[[Subject, Any, int, Limits], Awaitable[Attribution]]] = {
    "saliency": _saliency,
    "gradient_times_input": _gradient_times_input,
    "smooth_grad": _smooth_grad,
    "integrated_gradients": _integrated_gradients,
    "grad_cam": _grad_cam,
    "occlusion": _occlusion,
    "lime": _lime,
    "rise": _rise,
    "kernel_shap": _kernel_shap,
    "attention": _attention,
}
FOLLOW_GRADIENTS = {"saliency", "gradient_times_input", "smooth_grad", "integrated_gradients", "grad_cam"}
