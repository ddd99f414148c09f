"""What recipes of speech models share: log-mel energies inside the graph, Conformer blocks, augmentation.

Conformer: Gulati et al., "Conformer: Convolution-augmented Transformer for Speech Recognition" (2020), here with layer
norm in place of batch norm and a learned bias for each distance in place of sinusoids, so that a result does not depend
on how a recording was cut or padded. SpecAugment: Park et al. (2019).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

RATE = 16_000
WINDOW, HOP = 400, 160  # samples: 25 ms and 10 ms
MELS = 48
FFT = 512
LOWEST_HZ, HIGHEST_HZ = 50.0, 7600.0
FLOOR = 1e-6
STEP = 2 * HOP  # samples of one step of the networks that halve the rate of frames
FORBIDDEN = -1e4


class LogMel(nn.Module):
    """PCM int16 [N, T] at 16 kHz -> log-mel energies float32 [N, T // 160, 48].

    Frame i covers the 25 ms around the centre of samples 160 i to 160 (i + 1). The Fourier transform is a convolution
    with windowed cosines and sines: ten times faster than ONNX's STFT. A graph computes them when it is loaded.
    """

    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.bins = range(math.ceil(LOWEST_HZ * FFT / RATE), int(HIGHEST_HZ * FFT / RATE) + 1)
        self.register_buffer("filters", mel_filters(np.array(self.bins) * RATE / FFT))

    def forward(self, pcm: Tensor) -> Tensor:
        samples = pcm.float()[:, None] / 32768
        real, imaginary = F.conv1d(samples, self.waves(), stride=HOP, padding=(WINDOW - HOP) // 2).chunk(2, dim=1)
        energies = (real.square() + imaginary.square()).transpose(1, 2) @ self.filters
        return (energies + FLOOR).log()

    def waves(self) -> Tensor:
        """Cosines, then sines, of the bins in a Hann window: float32 [2 * bins, 1, 400]."""
        device = self.filters.device
        turn = torch.tensor(2 * math.pi, device=device, dtype=torch.double)  # a plain number would become a float32
        bins = torch.arange(self.bins.start, self.bins.stop, device=device, dtype=torch.double)
        places = torch.arange(WINDOW, device=device, dtype=torch.double)
        phases = turn / FFT * bins[:, None] * places
        window = 0.5 - 0.5 * (turn / WINDOW * places).cos()
        # Rounded, so that every runtime has the same: the logarithm of a silent bin magnifies what differs.
        waves: Tensor = (torch.cat([phases.cos(), phases.sin()]) * window)[:, None].half().float()
        return waves


def whole_steps(pcm: Tensor) -> Tensor:
    """PCM int16 [N, T] as float32 with zeros behind it, up to a multiple of 320 samples."""
    return F.pad(pcm.float(), (0, -pcm.shape[1] % STEP))


def mel_filters(hertz: NDArray[np.float64]) -> Tensor:
    """Triangular filters, equally wide on the mel scale, float32 [len(hertz), 48]."""
    lowest, highest = (2595 * math.log10(1 + edge / 700) for edge in (LOWEST_HZ, HIGHEST_HZ))
    mels = np.linspace(lowest, highest, MELS + 2)
    edges = 700 * (10 ** (mels / 2595) - 1)
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (hertz[:, None] - low) / (middle - low), (high - hertz[:, None]) / (high - middle)
    return torch.from_numpy(np.minimum(rising, falling).clip(0).astype(np.float32)).half().float()


@torch.no_grad()
def log_mels(clips: Sequence[NDArray[np.int16]]) -> list[Tensor]:
    """Log-mel energies float32 [T // 160, 48] of each clip."""
    front_end = LogMel()
    return [front_end(torch.from_numpy(clip)[None])[0] for clip in clips]


class Normalise(nn.Module):
    """Log-mel energies -> zero mean and unit variance, as the training data have them."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(MELS))
        self.register_buffer("deviation", torch.ones(MELS))

    def fit(self, features: Sequence[Tensor]) -> None:
        """Measure mean and deviation."""
        frames = torch.cat(list(features))
        self.mean.copy_(frames.mean(0))
        self.deviation.copy_(frames.std(0))

    def forward(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.deviation


class Attention(nn.Module):
    """Self-attention with a learned bias for each distance, to steps at most `reach` away; None = to all."""

    def __init__(self, width: int, heads: int, reach: int) -> None:
        super().__init__()
        self.heads, self.reach = heads, reach
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width)
        self.join = nn.Linear(width, width)
        self.distance = nn.Parameter(torch.zeros(heads, 2 * reach + 1))

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        items, steps, width = x.shape
        queries, keys, values = (
            part.reshape(items, steps, self.heads, width // self.heads).transpose(1, 2)
            for part in self.project(self.norm(x)).chunk(3, dim=-1)
        )
        position = torch.arange(steps, device=x.device)
        distance = position[None] - position[:, None]
        bias = self.distance[:, distance.clamp(-self.reach, self.reach) + self.reach]
        allowed = (distance.abs() <= self.reach) & valid.transpose(1, 2).bool()
        scores = queries @ keys.transpose(2, 3) / math.sqrt(width // self.heads) + bias
        weights = scores.masked_fill(~allowed[:, None], FORBIDDEN).softmax(-1)
        joined: Tensor = self.join((weights @ values).transpose(1, 2).reshape(items, steps, width))
        return joined


class Convolution(nn.Module):
    """The Conformer's convolution over time, of `kernel` steps."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.gate = nn.Linear(width, 2 * width)
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.second_norm = nn.LayerNorm(width)
        self.mix = nn.Linear(width, width)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        gated = F.glu(self.gate(self.norm(x)), dim=-1) * valid
        convolved = self.depthwise(gated.transpose(1, 2)).transpose(1, 2)
        mixed: Tensor = self.mix(F.silu(self.second_norm(convolved)))
        return mixed


class ConformerBlock(nn.Module):
    """Steps float [N, T, width] with valid [N, T, 1] -> as many, each seeing `reach + kernel // 2` around it."""

    def __init__(self, width: int, heads: int, kernel: int, reach: int, dropout: float) -> None:
        super().__init__()
        self.first = feed_forward(width, dropout)
        self.attention = Attention(width, heads, reach)
        self.convolution = Convolution(width, kernel)
        self.second = feed_forward(width, dropout)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        x = x + 0.5 * self.first(x)
        x = x + self.dropout(self.attention(x, valid))
        x = x + self.dropout(self.convolution(x, valid))
        x = x + 0.5 * self.second(x)
        normed: Tensor = self.norm(x)
        return normed


def feed_forward(width: int, dropout: float, factor: int = 2) -> nn.Sequential:
    """The Conformer's feed-forward module."""
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, factor * width),
        nn.SiLU(),
        nn.Dropout(dropout),
        nn.Linear(factor * width, width),
        nn.Dropout(dropout),
    )


class Steps(nn.Module):
    """Normalised features [N, T, 48] -> steps [N, T // 2, width], each from four frames."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(MELS, width, 4, stride=2, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        return F.silu(self.convolution(features.transpose(1, 2)).transpose(1, 2))


def valid_frames(features: Tensor, lengths: Tensor, hop: int = HOP) -> Tensor:
    """1.0 for each frame (or step, of `hop` samples) that begins before the end of its clip: float32 [N, T, 1].

    Args:
        features: [N, T, anything].
        lengths: samples of each clip, int64 [N, 1].
    """
    starts = torch.arange(features.shape[1], device=features.device) * hop
    return (starts < lengths).float()[:, :, None]


def masked(features: Tensor, masks: int, mels: int, frames: int, random: torch.Generator) -> Tensor:
    """Normalised features [N, T, 48] with random bands and stretches set to zero (SpecAugment)."""
    items, length, _ = features.shape
    keep = torch.ones(features.shape)
    for widest, size, axis in ((mels, MELS, 2), (frames, length, 1)):
        for _ in range(masks):
            width = torch.randint(0, widest + 1, (items, 1), generator=random)
            start = (torch.rand(items, 1, generator=random) * (size - width + 1)).long()
            place = torch.arange(size)
            hidden = (place >= start) & (place < start + width)
            keep = keep * (~hidden).float().unsqueeze(3 - axis)
    return features * keep.to(features.device)
