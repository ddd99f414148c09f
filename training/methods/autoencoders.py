"""The autoencoders of HW8, after the lecture: five ways to squeeze a picture through a narrow code.

Each network maps pictures float32 [N, 1, S, S] with values 0..1 to a code and back:

- fully connected and convolutional: Hinton and Salakhutdinov, "Reducing the Dimensionality of Data with Neural
  Networks" (2006);
- denoising: Vincent et al., "Extracting and Composing Robust Features with Denoising Autoencoders" (2008);
- variational: Kingma and Welling, "Auto-Encoding Variational Bayes" (2014), with the weight of Higgins et al.,
  "beta-VAE" (2017);
- vector-quantised: van den Oord et al., "Neural Discrete Representation Learning" (2017).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHUNK = 500


class Autoencoder(nn.Module):
    """Pictures to codes and back; `loss` is what its training minimises."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def encode(self, pictures: Tensor) -> Tensor:
        """Codes float32 [N, D]."""
        return self.encoder(pictures)  # type: ignore[no-any-return]

    def decode(self, codes: Tensor) -> Tensor:
        """Pictures float32 [N, 1, S, S]."""
        return self.decoder(codes)  # type: ignore[no-any-return]

    def loss(self, pictures: Tensor) -> Tensor:
        """Mean squared error of a pixel."""
        return F.mse_loss(self.decode(self.encode(pictures)), pictures)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.loss(pictures)


class Denoising(Autoencoder):
    """Sees pictures with Gaussian noise and rebuilds them without."""

    noise = 0.3

    def loss(self, pictures: Tensor) -> Tensor:
        noisy = pictures + self.noise * torch.randn_like(pictures)
        return F.mse_loss(self.decode(self.encode(noisy)), pictures)


class Variational(Autoencoder):
    """A code is drawn from a Gaussian kept near the standard one; `encode` gives its mean."""

    weight = 1e-3  # of the divergence, beside a squared error averaged over pixels

    def encode(self, pictures: Tensor) -> Tensor:
        mean: Tensor = self.encoder(pictures).chunk(2, dim=1)[0]
        return mean

    def loss(self, pictures: Tensor) -> Tensor:
        drawn: Tensor = self.encoder(pictures)
        mean, log_variance = drawn.chunk(2, dim=1)
        codes = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        divergence: Tensor = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2
        return F.mse_loss(self.decode(codes), pictures) + self.weight * divergence


class VectorQuantised(Autoencoder):
    """Each cell of the code is replaced by the nearest of `size` vectors before it is decoded."""

    commitment = 0.25

    def __init__(self, encoder: nn.Module, decoder: nn.Module, size: int, width: int) -> None:
        super().__init__(encoder, decoder)
        self.codebook = nn.Parameter(torch.randn(size, width) / width**0.5)

    def quantise(self, codes: Tensor) -> Tensor:
        """The nearest vectors of the codebook, in the codes' own shape."""
        cells = codes.reshape(-1, self.codebook.shape[1])
        nearest = squared_distances(cells, self.codebook).argmin(1)
        return self.codebook[nearest].reshape(codes.shape)

    def decode(self, codes: Tensor) -> Tensor:
        return self.decoder(self.quantise(codes))  # type: ignore[no-any-return]

    def loss(self, pictures: Tensor) -> Tensor:
        codes = self.encode(pictures)
        quantised = self.quantise(codes)
        moved = F.mse_loss(quantised, codes.detach()) + self.commitment * F.mse_loss(codes, quantised.detach())
        straight_through = codes + (quantised - codes).detach()
        return F.mse_loss(self.decoder(straight_through), pictures) + moved


def fully_connected(size: int, code: int) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder with two hidden layers, for pictures of `size` x `size`."""
    pixels, wide, narrow = size * size, 256, 64
    encoder = nn.Sequential(
        nn.Flatten(), nn.Linear(pixels, wide), nn.GELU(), nn.Linear(wide, narrow), nn.GELU(), nn.Linear(narrow, code)
    )
    decoder = nn.Sequential(
        nn.Linear(code, narrow), nn.GELU(), nn.Linear(narrow, wide), nn.GELU(), nn.Linear(wide, pixels),
        nn.Unflatten(1, (1, size, size)),
    )  # fmt: skip
    return encoder, decoder


def convolutional(size: int, code: int, width: int, halvings: int = 2, drawn: int = 1) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder that halve the picture `halvings` times while they double `width` channels.

    Args:
        drawn: numbers that the encoder gives for each number of the code: 2 for mean and variance.
    """
    channels = [1, *(width * 2**i for i in range(halvings))]
    last, side = channels[-1], size // 2**halvings
    down = [layer for pair in pairwise(channels) for layer in _down(*pair)]
    up = [layer for pair in zip(channels[:1:-1], channels[-2:0:-1], strict=True) for layer in _up(*pair)]
    encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(last * side * side, code * drawn))
    decoder = nn.Sequential(
        nn.Linear(code, last * side * side), nn.GELU(), nn.Unflatten(1, (last, side, side)), *up,
        nn.ConvTranspose2d(width, 1, 4, 2, 1),
    )  # fmt: skip
    return encoder, decoder


def spatial(size: int, code: int, width: int) -> tuple[nn.Module, nn.Module]:
    """As `convolutional`, with `code` numbers for each cell of a map of size / 4, for a codebook of that width."""
    side = size // 4
    encoder = nn.Sequential(
        *_down(1, width), *_down(width, 2 * width), nn.Conv2d(2 * width, code, 1), _ChannelsLast(), nn.Flatten()
    )
    decoder = nn.Sequential(
        nn.Unflatten(1, (side, side, code)), _ChannelsFirst(), nn.Conv2d(code, 2 * width, 1), nn.GELU(),
        *_up(2 * width, width), nn.ConvTranspose2d(width, 1, 4, 2, 1),
    )  # fmt: skip
    return encoder, decoder


class _ChannelsLast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


class _ChannelsFirst(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)


def _down(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [nn.Conv2d(channels_in, channels_out, 4, 2, 1, bias=False), nn.BatchNorm2d(channels_out), nn.GELU()]


def _up(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [nn.ConvTranspose2d(channels_in, channels_out, 4, 2, 1, bias=False), nn.BatchNorm2d(channels_out), nn.GELU()]


def squared_distances(rows: Tensor, others: Tensor) -> Tensor:
    """Squared Euclidean distances [N, M] between rows [N, D] and others [M, D]."""
    products = rows @ others.T
    return (rows.square().sum(1, keepdim=True) - 2 * products + others.square().sum(1)).clamp(min=0)


@torch.no_grad()
def batched(function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """`function` over chunks of `rows`, joined."""
    return torch.cat([function(chunk) for chunk in torch.split(rows, CHUNK)])


@torch.no_grad()
def nearest(rows: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distance of each row [N, D] to the nearest of others [M, D], and the index of that one; [N] each."""
    minima = [squared_distances(chunk, others).min(1) for chunk in torch.split(rows, CHUNK)]
    return torch.cat([f.values for f in minima]), torch.cat([f.indices for f in minima])


@torch.no_grad()
def k_means(rows: Tensor, count: int, random: torch.Generator, rounds: int = 10) -> Tensor:
    """At most `count` centres [K, D] of rows [N, D] (Lloyd 1982), from rows drawn at random."""
    centres = rows[torch.randperm(len(rows), generator=random)[:count]].clone()
    for _ in range(rounds):
        owners = nearest(rows, centres)[1]
        sums = torch.zeros_like(centres).index_add_(0, owners, rows)
        members = torch.bincount(owners, minlength=len(centres))[:, None]
        centres = torch.where(members > 0, sums / members.clamp(min=1), centres)
    return centres
