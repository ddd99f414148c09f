"""What the generative adversarial recipes share: networks, losses, augmentation and the loop that trains a pair.

Generator and discriminator are residual (Miyato et al., "Spectral Normalization for Generative Adversarial Networks",
2018) with the cheap blocks of Liu et al., "Towards Faster and Stabilized GAN Training for High-fidelity Few-shot Image
Synthesis" (2021). They are trained with the hinge loss, both sides augmented alike (Zhao et al., "Differentiable
Augmentation for Data-Efficient GAN Training", 2020); labels enter as in Miyato & Koyama, "cGANs with Projection
Discriminator" (2018). What is shipped is the moving average of the generator's weights.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from lightning.fabric import Fabric
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from artifacts.noise import noise
from lectern.client import Client
from training.optimise import descend
from training.run import Run
from training.served import Track, png

LATENT = 128
SHIFT, CUT = 0.125, 0.5  # of an image's side, in `augment`
SERVED_BATCH = 60  # a multiple of ten labels, and no more than a server makes at once


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of a pair.

    Args:
        widths: the generator's channels, from 4 x 4 pixels up, twice the side each.
        average_decay: of the moving average of the generator's weights; 0 = its last weights.
        augmented: whether the discriminator sees both sides augmented.
    """

    epochs: int
    batch_size: int
    widths: tuple[int, ...]
    discriminator_width: int
    learning_rate: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.99)
    average_decay: float = 0.999
    augmented: bool = True
    loss: Literal["hinge", "logistic"] = "hinge"


class Up(nn.Module):
    """Twice the height and width, with a shortcut."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(channels_in, channels_out, 4, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels_out)
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)) + F.interpolate(self.shortcut(x), scale_factor=2.0))


class Generator(nn.Module):
    """Noise float32 [N, LATENT], and labels int64 [N, 1] if there are `classes` -> images [N, channels, S, S] in -1..1.

    The side S is 4 doubled with each width after the first.
    """

    def __init__(self, widths: tuple[int, ...], channels: int, classes: int = 0) -> None:
        super().__init__()
        self.classes = classes
        # A convolution, not a linear layer: its arithmetic does not depend on how many images are made at once.
        self.start = nn.ConvTranspose2d(LATENT + classes, widths[0], 4, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        self.blocks = nn.Sequential(*(Up(a, b) for a, b in pairwise(widths)))
        self.colour = nn.Conv2d(widths[-1], channels, 3, padding=1)

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        if labels is not None:
            noise = torch.cat([noise, F.one_hot(labels[:, 0], self.classes).to(noise.dtype)], 1)
        x = F.relu(self.norm(self.start(noise[:, :, None, None])))
        return torch.tanh(self.colour(self.blocks(x)))

    def fold_norms(self) -> Generator:
        """Fold each batch norm into the convolution before it."""
        self.start = nn.utils.fusion.fuse_conv_bn_eval(self.start, self.norm, transpose=True)
        self.norm = nn.Identity()  # type: ignore[assignment]
        for block in self.blocks:
            assert isinstance(block, Up)
            block.conv = nn.utils.fusion.fuse_conv_bn_eval(block.conv, block.norm, transpose=True)
            block.norm = nn.Identity()  # type: ignore[assignment]
        return self


class Down(nn.Module):
    """Half the height and width, with a shortcut."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            _convolution(channels_in, channels_out, 4, stride=2, padding=1),
            _convolution(channels_out, channels_out, 3, padding=1),
        )
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), _convolution(channels_in, channels_out, 1))

    def forward(self, x: Tensor) -> Tensor:
        halves: Tensor = (self.convolutions(x) + self.shortcut(x)) / 2
        return halves


class Discriminator(nn.Module):
    """Images [N, channels, S, S], and labels int64 [N, 1] if there are `classes` -> how real they look [N].

    The side S is 4 doubled `steps` times.
    """

    def __init__(self, width: int, steps: int, channels: int, classes: int = 0) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(steps)]
        self.start = nn.Sequential(spectral_norm(nn.Conv2d(channels, width, 4, stride=2, padding=1)), nn.LeakyReLU(0.2))
        self.blocks = nn.Sequential(*(Down(a, b) for a, b in pairwise(widths)))
        self.end = nn.Sequential(_convolution(widths[-1], widths[-1], 1), nn.Flatten())
        self.score = spectral_norm(nn.Linear(16 * widths[-1], 1))
        self.embedding = spectral_norm(nn.Embedding(classes, 16 * widths[-1])) if classes else None

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        features = self.end(self.blocks(self.start(images)))
        score: Tensor = self.score(features)[:, 0]
        if self.embedding is not None and labels is not None:
            score = score + (self.embedding(labels[:, 0]) * features).sum(1)
        return score


def _convolution(channels_in: int, channels_out: int, size: int, stride: int = 1, padding: int = 0) -> nn.Sequential:
    """A convolution with spectral and batch norm, and what follows it."""
    convolution = nn.Conv2d(channels_in, channels_out, size, stride, padding, bias=False)
    return nn.Sequential(spectral_norm(convolution), nn.BatchNorm2d(channels_out), nn.LeakyReLU(0.2))


class Images(nn.Module):
    """A trained generator as it is served: the same inputs -> images uint8 [N, S, S, channels].

    Args:
        crop: pixels left out on each side.
    """

    def __init__(self, generator: nn.Module, crop: int = 0) -> None:
        super().__init__()
        self.generator = generator
        self.crop = crop

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        images: Tensor = self.generator(noise) if labels is None else self.generator(noise, labels)
        if self.crop:
            images = images[:, :, self.crop : -self.crop, self.crop : -self.crop]
        return ((images + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)


def fit(
    run: Run,
    fabric: Fabric,
    generator: nn.Module,
    discriminator: nn.Module,
    settings: Settings,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64] | None = None,
    description: str = "",
) -> nn.Module:
    """Train the pair on images [N, S, S, channels]; returns the averaged generator, in evaluation mode on the CPU."""
    average = averaged(generator, settings.average_decay)
    g, g_optimizer = _set_up(fabric, generator, settings)
    d, d_optimizer = _set_up(fabric, discriminator, settings)
    average = average.to(fabric.device)
    state = {
        "generator": g,
        "discriminator": d,
        "average": average,
        "generator_optimizer": g_optimizer,
        "discriminator_optimizer": d_optimizer,
    }
    loss = {"hinge": hinge, "logistic": logistic}[settings.loss]
    prepared = augment if settings.augmented else nn.Identity()
    batches = len(images) // settings.batch_size
    description = description or run.name
    for epoch in run.epochs(fabric, settings.epochs, state, (description, settings)):
        torch.manual_seed(run.seed * 1_000_003 + epoch)
        losses = torch.zeros(2)
        data = shuffled(images, labels, settings.batch_size)
        for real, label in run.track(data, f"{description} epoch {epoch + 1}/{settings.epochs}", batches):
            inputs = [fabric.to_device(torch.randn(len(real), LATENT))]
            if label is not None:
                inputs.append(fabric.to_device(label))
            fake = g(*inputs)
            real_score = d(prepared(fabric.to_device(real)), *inputs[1:]).float()
            d_loss = loss(real_score, 1) + loss(d(prepared(fake.detach()), *inputs[1:]).float(), -1)
            descend(fabric, d_optimizer, d_loss)
            discriminator.requires_grad_(False)
            fake_score = d(prepared(fake), *inputs[1:]).float()
            g_loss = -fake_score.mean() if settings.loss == "hinge" else logistic(fake_score, 1)
            descend(fabric, g_optimizer, g_loss)
            discriminator.requires_grad_(True)
            average.update_parameters(generator)
            losses += torch.stack([d_loss.detach(), g_loss.detach()]).cpu()
        d_mean, g_mean = (losses / batches).tolist()
        run.log(epoch=epoch + 1, discriminator_loss=d_mean, generator_loss=g_mean)
    return average.module.cpu().eval()


def averaged(module: nn.Module, decay: float) -> AveragedModel:
    """The exponential moving average of a module's weights and buffers, so far its own."""
    average_fn = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(module, multi_avg_fn=average_fn, use_buffers=True)


def hinge(scores: Tensor, side: int) -> Tensor:
    """Mean loss of scores [N] of images that are real (side 1) or not (-1); nothing beyond the margin."""
    return F.relu(1 - side * scores).mean()


def logistic(scores: Tensor, side: int) -> Tensor:
    """Mean binary cross-entropy of scores [N] of images that are real (side 1) or not (-1)."""
    return F.softplus(-side * scores).mean()


def shuffled(
    images: NDArray[np.uint8], labels: NDArray[np.int64] | None, batch_size: int
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Whole batches in random order: images [N, channels, S, S] in -1..1 and labels [N, 1]."""
    pixels = torch.from_numpy(images)
    for index in torch.split(torch.randperm(len(images)), batch_size):
        if len(index) == batch_size:
            batch = pixels[index].permute(0, 3, 1, 2).float() / 127.5 - 1
            yield batch, None if labels is None else torch.from_numpy(labels)[index][:, None]


def augment(x: Tensor) -> Tensor:
    """Random brightness, saturation and contrast, a shift, and a square cut out: differentiable, another each image."""
    n, channels, height, width = x.shape

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(n, 1, 1, 1, device=x.device) * (high - low) + low

    x = x + uniform(-0.5, 0.5)
    if channels > 1:
        grey = x.mean(1, keepdim=True)
        x = (x - grey) * uniform(0, 2) + grey
    mean = x.mean((1, 2, 3), keepdim=True)
    x = (x - mean) * uniform(0.5, 1.5) + mean
    rows, columns = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    most = int(height * SHIFT)
    down, right = torch.randint(-most, most + 1, (2, n, 1), device=x.device)
    padded = F.pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 1)
    row, column = ((at + 1).clamp(0, height + 1) for at in (rows + down, columns + right))
    x = padded[torch.arange(n, device=x.device)[:, None, None], row[:, :, None], column[:, None, :]].permute(0, 3, 1, 2)
    side = int(height * CUT)
    top, left = torch.randint(-(side // 2), height - side // 2, (2, n, 1), device=x.device)
    in_rows = (rows >= top) & (rows < top + side)
    in_columns = (columns >= left) & (columns < left + side)
    kept: Tensor = ~(in_rows[:, None, :, None] & in_columns[:, None, None, :])
    return x * kept


def _set_up(fabric: Fabric, net: nn.Module, settings: Settings) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The net on the device, with an optimizer."""
    optimizer = torch.optim.Adam(net.parameters(), settings.learning_rate, settings.betas, fused=True)
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return fabric.setup(net, optimizer)  # type: ignore[no-any-return]


def served(generator: nn.Module, crop: int = 0) -> Images:
    """A trained generator as it is served: norms folded."""
    assert isinstance(generator, Generator)
    return Images(generator.fold_norms(), crop)


def served_images(client: Client, model: str, count: int, track: Track) -> NDArray[np.uint8]:
    """What a server makes of the seeds 0 to count - 1, labels in turn: uint8 [count, S, S] or [count, S, S, 3]."""
    starts = range(0, count, SERVED_BATCH)
    responses = (
        response
        for start in track(starts, len(starts))
        for response in client.generate_images(start, min(SERVED_BATCH, count - start), model=model)
    )
    return np.stack([np.asarray(Image.open(io.BytesIO(response.image))) for response in responses])


@torch.no_grad()
def sample(images: nn.Module, seeds: range, batch_size: int = 32) -> NDArray[np.uint8]:
    """Images uint8 [N, S, S, channels] of seeds, as a server makes them; labels, if there are any, in turn."""
    classes = images.generator.classes if isinstance(images.generator, Generator) else 0
    made = []
    for start in range(0, len(seeds), batch_size):
        batch = seeds[start : start + batch_size]
        inputs = [torch.from_numpy(np.stack([noise(seed, LATENT) for seed in batch]))]
        if classes:
            inputs.append((torch.tensor(batch) % classes)[:, None])
        made.append(images(*inputs).numpy())
    return np.concatenate(made)


def rows_to_png(*rows: NDArray[np.uint8]) -> bytes:
    """A PNG file of rows of images uint8 [N, S, S, channels], one row below the other."""
    sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
    return png(sheet if sheet.shape[2] == 3 else sheet[:, :, 0])
