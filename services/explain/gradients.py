"""Explanations by gradients: saliency, gradient x input, SmoothGrad, integrated gradients, Grad-CAM."""

from __future__ import annotations

import numpy as np
from PIL import Image

from lectern.noise import noise
from lectern.v1 import explain_pb2 as pb
from services.errors import InvalidArgument
from services.explain.attribution import Attribution
from services.explain.parameters import field_of, number, whole
from services.explain.subjects import Floats, Subject
from services.limits import Limits

STEPS, MOST_STEPS, GAP = 100, 400, 0.01


async def saliency(subject: Subject, method: pb.Saliency, seed: int, limits: Limits) -> Attribution:
    """Simonyan et al., "Deep Inside Convolutional Networks", 2014."""
    return Attribution(np.abs(await _gradient(subject)), signed=False)


async def gradient_times_input(
    subject: Subject, method: pb.GradientTimesInput, seed: int, limits: Limits
) -> Attribution:
    """Shrikumar et al., "Not Just a Black Box", 2016."""
    baseline = subject.baseline(None, pb.BASELINE_BLACK)
    return Attribution(await _gradient(subject) * (subject.kind.x - baseline), signed=True)


async def smooth_grad(subject: Subject, method: pb.SmoothGrad, seed: int, limits: Limits) -> Attribution:
    """Smilkov et al., "SmoothGrad: removing noise by adding noise", 2017.

    The noise is that of `lectern.noise` for the seed, `samples` times the input's size in one draw.
    """
    samples = whole(method, "samples", 50, 1, limits.explanation_samples)
    size = number(method, "noise", 0.15, most=1)
    x = subject.kind.x
    drawn = noise(seed, samples * x.size).reshape(samples, *x.shape) * subject.kind.noise_scale * np.float32(size)
    total = np.zeros(x.shape, np.float64)
    async for part in subject.gradients(x + drawn):
        total += np.abs(part["gradient"]).sum(0)
    return Attribution((total / samples).astype(np.float32), signed=False)


async def integrated_gradients(
    subject: Subject, method: pb.IntegratedGradients, seed: int, limits: Limits
) -> Attribution:
    """Sundararajan et al., "Axiomatic Attribution for Deep Networks", 2017; by Gauss-Legendre quadrature.

    Unless the caller says how many steps, more are taken while values do not add up: gradients that jump, as where
    another training picture becomes the nearest, take more than smooth ones.
    """
    steps = whole(method, "steps", STEPS, 1, limits.explanation_samples)
    baseline = subject.baseline(method, pb.BASELINE_BLACK)
    found = await _along(subject, baseline, steps)
    while not method.HasField("steps") and found.gap > GAP and 2 * steps <= min(MOST_STEPS, limits.explanation_samples):
        steps *= 2
        found = await _along(subject, baseline, steps)
    return found


async def _along(subject: Subject, baseline: Floats, steps: int) -> Attribution:
    """Gradients from the baseline to the input, times the way."""
    x = subject.kind.x
    points, weights = np.polynomial.legendre.leggauss(steps)
    places = ((1 + points) / 2).astype(np.float32).reshape(-1, *[1] * x.ndim)
    # Both ends travel along, as their difference is what the values should add up to.
    xs = np.concatenate([baseline + places * (x - baseline), x[None], baseline[None]])
    total, done, outputs = np.zeros(x.shape, np.float64), 0, []
    async for part in subject.gradients(xs):
        share = weights[done : done + len(part["gradient"])] / 2
        total += np.tensordot(share, part["gradient"][: len(share)], 1)
        done += len(part["gradient"])
        outputs.append(part[subject.explanation.output][:, subject.target])
    at_x, at_baseline = np.concatenate(outputs)[-2:]
    return Attribution((total * (x - baseline)).astype(np.float32), signed=True, promised=float(at_x - at_baseline))


async def grad_cam(subject: Subject, method: pb.GradCam, seed: int, limits: Limits) -> Attribution:
    """Selvaraju et al., "Grad-CAM", 2017."""
    layers = subject.explanation.layers
    maps = [layer.name for layer in layers if layer.map]
    if not maps:
        raise InvalidArgument.field("method", f"grad_cam needs a layer that is a map; {_name(subject)} has none")
    wanted = method.layer or maps[-1]
    if wanted not in maps:
        known = f"{_name(subject)} has: {', '.join(maps)}"
        raise InvalidArgument.field(field_of(method, "layer"), f"is {wanted!r}; {known}")
    index = [layer.name for layer in layers].index(wanted)
    parts = [part async for part in subject.gradients(subject.kind.x[None])]
    found = Image.fromarray(parts[0][f"map_{index}"][0].clip(min=0))
    height, width = subject.kind.pixels
    enlarged = found.resize((width, height), Image.Resampling.BILINEAR)
    return Attribution(np.asarray(enlarged, np.float32)[..., None], signed=False)


async def _gradient(subject: Subject) -> Floats:
    parts = [part async for part in subject.gradients(subject.kind.x[None])]
    return np.asarray(parts[0]["gradient"][0])


def _name(subject: Subject) -> str:
    return subject.model.card.name
