"""Speech as what is explained: its log-mel energies, and the frames that the answer is about."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from artifacts.card import AudioPreprocessing
from lectern.v1 import explain_pb2 as pb
from services.codecs.audio import contents, decode_clips
from services.errors import InvalidArgument
from services.explain.methods.asking import Floats
from services.explain.network import Network, explanation_of
from services.explain.subject import Request, Subject, check_kind, read_target
from services.limits import Limits
from services.rpc import Call
from services.runtime.repository import Model

ENERGIES, FRAMES = "energies", "frames"
CLIP, START, END = "input.audio.clip", "input.audio.start_seconds", "input.audio.end_seconds"
BANDS = 12  # of a cell, and of a window that occlusion takes away
WINDOW = 16  # frames of such a window; the next begins half a window later or higher
BLUR = 8  # of frames, and of bands, one in so many is the blur's standard deviation


@dataclass(frozen=True)
class AudioKind:
    """Speech: x is its log-mel energies `[frames, bands]`.

    Args:
        start, end: seconds of the frames that the answer is about.
        frame_seconds: from one frame to the next.
        reach: the frames on which that answer depends.
    """

    x: Floats
    start: float
    end: float
    frame_seconds: float
    reach: slice

    @property
    def pixels(self) -> tuple[int, ...]:
        return self.x.shape

    @property
    def noise_scale(self) -> Floats:
        return np.asarray(np.ptp(self.x))

    def baseline(self, given: int, default: int) -> Floats:
        match given or default:
            case pb.BASELINE_BLACK:
                return np.full_like(self.x, self.x.min())
            case pb.BASELINE_WHITE:
                return np.full_like(self.x, self.x.max())
            case pb.BASELINE_MEAN:
                return np.broadcast_to(self.x.mean(0), self.x.shape).astype(np.float32)
            case pb.BASELINE_BLUR:
                low, range_ = self.x.min(), max(float(np.ptp(self.x)), 1e-6)
                picture = Image.fromarray(np.uint8(255 * (self.x - low) / range_))
                frames, bands = (n / BLUR for n in self.x.shape)
                blurred = np.asarray(picture.filter(ImageFilter.GaussianBlur((bands, frames))), np.float32)
                return np.asarray(low + blurred * np.float32(range_ / 255), np.float32)
        raise ValueError(f"is {given}; send one of Baseline's values")

    def groups(self, cells: int) -> NDArray[np.int64]:
        frames, bands = self.x.shape
        rows, columns = np.full(frames, -1), np.arange(bands) // BANDS
        count = self.reach.stop - self.reach.start
        rows[self.reach] = np.arange(count) * cells // count
        cell_of = rows[:, None] * (columns[-1] + 1) + columns
        return np.unique(cell_of, return_inverse=True)[1].reshape(cell_of.shape)  # none is empty in a short clip

    def windows(self, size: int, stride: int) -> list[tuple[slice, ...]]:
        return [window for slab in self.slabs() for window in slab]

    def slabs(self) -> list[list[tuple[slice, ...]]]:
        """The windows, those of the same frames together."""
        frames, bands = self.x.shape
        times = range(0, max(frames - WINDOW // 2, 1), WINDOW // 2)
        reached = [i for i in times if i < self.reach.stop and i + WINDOW > self.reach.start]
        lowest = range(0, bands - BANDS // 2, BANDS // 2)
        return [[(slice(i, i + WINDOW), slice(j, j + BANDS)) for j in lowest] for i in reached]

    def spread(self, values: Floats) -> Floats:
        return values


async def read_audio(
    request: Request, model: Model, preprocessing: AudioPreprocessing, call: Call, limits: Limits
) -> Subject:
    """The clip and target of a request, with the model's answer.

    Raises:
        InvalidArgument: the model cannot be explained, or takes no audio; or the clip, its frames or the target is bad.
    """
    check_kind(request, "audio", model.card)
    explanation, given = explanation_of(model.card), request.input.audio
    (samples,) = await decode_clips(contents({CLIP: given.clip}), preprocessing.sample_rate, limits)
    seconds = len(samples) / preprocessing.sample_rate
    if len(samples) > preprocessing.window:
        most = preprocessing.window / preprocessing.sample_rate
        raise InvalidArgument.field(CLIP, f"lasts {seconds:.3g} seconds; the most that are explained are {most:g}")
    start, end = given.start_seconds, given.end_seconds or seconds
    if not 0 <= start < seconds:
        raise InvalidArgument.field(START, f"is {start:g}; it must be 0 or more, and before the end at {seconds:.3g}")
    if not start < end <= seconds + 1e-3:
        raise InvalidArgument.field(END, f"is {end:g}; it must be after {start:g}, and at most {seconds:.3g}")
    graph = model.graphs[ENERGIES]
    energies = (await graph.infer({"samples": samples[None]}, call.deadline, call.priority))[ENERGIES][0]
    hop = preprocessing.hop or preprocessing.step
    frame_seconds = hop / preprocessing.sample_rate
    first = int(start / frame_seconds)
    last = max(first + 1, round(end / frame_seconds))
    counted = np.zeros((len(energies), 1), np.float32)
    counted[first:last] = 1
    reach = _reach(first, last, len(energies), preprocessing)
    kind = AudioKind(energies, start, end, frame_seconds, reach)
    network = Network(model, call, None, explanation, {FRAMES: counted[reach]}, reach=reach)
    (outputs,) = await network.outputs(kind.x[None])
    labels = model.card.labels
    return Subject(network, kind, labels, outputs, read_target(request, labels, outputs, model.card))


def _reach(first: int, last: int, frames: int, preprocessing: AudioPreprocessing) -> slice:
    """The frames on which the answer for those from `first` to before `last` depends, in whole steps."""
    if not preprocessing.hop:
        return slice(0, frames)
    context, step = preprocessing.context // preprocessing.hop, preprocessing.step // preprocessing.hop
    return slice(max(first - context, 0) // step * step, min(-(-(last + context) // step) * step, frames))
