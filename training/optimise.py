"""Optimizers, learning rates and the step down a gradient, as several recipes have them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR


def triangle(progress: float, peak: float, start: float = 0.0, end: float = 0.0) -> float:
    """A learning rate's share at a progress of 0..1: from `start` up to 1 at `peak`, then down to `end`."""
    if progress < peak:
        return start + (1 - start) * progress / peak
    return end + (1 - end) * (1 - progress) / (1 - peak)


def nesterov(parameters: Iterable[Any], rate: float, momentum: float, weight_decay: float = 0.0) -> SGD:
    """Stochastic gradient descent with Nesterov momentum, of parameters or of groups of them."""
    return SGD(parameters, lr=rate, momentum=momentum, weight_decay=weight_decay, nesterov=True)


def decayed(net: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """A network's parameters in two groups: weights, which decay, and norms and biases, which do not."""
    weights = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim == 1]
    return [{"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def one_cycle(
    net: nn.Module, peak_rate: float, weight_decay: float, steps: int, warm_up: float = 0.3
) -> tuple[AdamW, OneCycleLR]:
    """AdamW whose rate rises to its peak in a share `warm_up` of the steps, and falls to nothing in the rest (Smith and
    Topin, "Super-Convergence", 2018)."""
    optimizer = AdamW(net.parameters(), peak_rate, weight_decay=weight_decay)
    return optimizer, OneCycleLR(optimizer, peak_rate, total_steps=steps, pct_start=warm_up)


def descend(
    fabric: Fabric, optimizer: Optimizer, loss: Tensor, model: nn.Module | None = None, largest: float | None = None
) -> None:
    """One step down the gradient of `loss`, the norm of which over the `model` is bounded by `largest`."""
    optimizer.zero_grad(set_to_none=True)
    fabric.backward(loss)
    if model is not None and largest is not None:
        fabric.clip_gradients(model, optimizer, max_norm=largest)
    optimizer.step()


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """The learning rate of every group of parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate
