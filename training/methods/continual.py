"""Methods against forgetting: what each parameter was worth to past tasks, and a pull back towards where it was.

Each method gives every parameter an importance, and holds it near its value after the last task with the penalty
`strength / 2 * importance * (parameter - value)^2`. They differ in the importance alone; none keeps data of old tasks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

EXAMPLES_AT_ONCE = 20  # of per-example gradients, each as large as the network


class Regulariser(ABC):
    """One method, for one network.

    In training: after each optimizer step `observe` then `pull`; after each task `remember`.

    Args:
        network: images -> logits [N, K].
        strength: of the penalty; 0 = none, which is naive fine-tuning.
    """

    keeps = True  # importance adds up over the tasks

    def __init__(self, network: nn.Module, strength: float) -> None:
        self.network = network
        self.strength = strength
        self.parameters = list(network.parameters())
        self.importance = [torch.zeros_like(p) for p in self.parameters]
        self.anchors = [p.detach().clone() for p in self.parameters]

    def observe(self, gradients: list[Tensor], moves: list[Tensor]) -> None:  # noqa: B027 - most need not
        """Take note of a step: the gradients of the task's loss, and how far each parameter moved."""

    @torch.no_grad()
    def pull(self, rate: float) -> None:
        """Take the penalty's step, implicitly, so that no strength is too large for the learning rate.

        Solves `new = old - rate * strength * importance * (new - anchor)` (a proximal step).
        """
        for parameter, importance, anchor in zip(self.parameters, self.importance, self.anchors, strict=True):
            share = rate * self.strength * importance
            parameter.add_(share * anchor).div_(1 + share)

    def remember(self, images: Tensor, labels: Tensor) -> None:
        """Add what a task that was just learned makes important, and hold its parameters from now on."""
        for importance, added in zip(self.importance, self.importance_of(images, labels), strict=True):
            importance.mul_(self.keeps).add_(added)
        self.anchors = [p.detach().clone() for p in self.parameters]

    @abstractmethod
    def importance_of(self, images: Tensor, labels: Tensor) -> list[Tensor]:
        """What the last task makes important, from some of its examples."""


class Naive(Regulariser):
    """Fine-tuning: nothing is important."""

    def importance_of(self, images: Tensor, labels: Tensor) -> list[Tensor]:
        return [torch.zeros_like(p) for p in self.parameters]


class EWC(Regulariser):
    """Elastic weight consolidation: the diagonal of the Fisher information, with labels drawn from the network's own
    predictions (Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", 2017)."""

    def importance_of(self, images: Tensor, labels: Tensor) -> list[Tensor]:
        with torch.no_grad():
            drawn = torch.multinomial(self.network(images).softmax(1), 1)[:, 0]
        return per_example(self.network, images, drawn, F.cross_entropy, torch.square)


class MAS(Regulariser):
    """Memory aware synapses: how much the squared length of the output changes (Aljundi et al., "Memory Aware Synapses:
    Learning what (not) to forget", 2018)."""

    def importance_of(self, images: Tensor, labels: Tensor) -> list[Tensor]:
        return per_example(self.network, images, labels, lambda logits, _: logits.square().sum(), torch.abs)


class SI(Regulariser):
    """Synaptic intelligence: how much of the loss's decrease each parameter's path brought about (Zenke, Poole and
    Ganguli, "Continual Learning Through Synaptic Intelligence", 2017)."""

    damping = 0.1

    def __init__(self, network: nn.Module, strength: float) -> None:
        super().__init__(network, strength)
        self.path = [torch.zeros_like(p) for p in self.parameters]

    @torch.no_grad()
    def observe(self, gradients: list[Tensor], moves: list[Tensor]) -> None:
        for path, gradient, move in zip(self.path, gradients, moves, strict=True):
            path -= gradient * move

    @torch.no_grad()
    def importance_of(self, images: Tensor, labels: Tensor) -> list[Tensor]:
        importance = []
        for path, parameter, anchor in zip(self.path, self.parameters, self.anchors, strict=True):
            importance.append(path.clamp(min=0) / ((parameter - anchor).square() + self.damping))
            path.zero_()
        return importance


class RWalk(Regulariser):
    """Riemannian walk: a running Fisher information, and the decrease of the loss along the path per distance in that
    metric, each scaled to at most 1 (Chaudhry et al., "Riemannian Walk for Incremental Learning", 2018)."""

    keeps = False  # both of its parts remember earlier tasks themselves
    decay = 0.99
    damping = 1e-3

    def __init__(self, network: nn.Module, strength: float) -> None:
        super().__init__(network, strength)
        self.fisher = [torch.zeros_like(p) for p in self.parameters]
        self.path = [torch.zeros_like(p) for p in self.parameters]

    @torch.no_grad()
    def observe(self, gradients: list[Tensor], moves: list[Tensor]) -> None:
        for fisher, path, gradient, move in zip(self.fisher, self.path, gradients, moves, strict=True):
            fisher.lerp_(gradient.square(), 1 - self.decay)
            path += (-gradient * move / (0.5 * fisher * move.square() + self.damping)).clamp(min=0)

    @torch.no_grad()
    def importance_of(self, images: Tensor, labels: Tensor) -> list[Tensor]:
        largest = [max(float(t.max()) for t in tensors) or 1.0 for tensors in (self.fisher, self.path)]
        importance = [f / largest[0] + p / largest[1] for f, p in zip(self.fisher, self.path, strict=True)]
        for path in self.path:
            path *= 0.5  # what came earlier counts less
        return importance


class SCP(Regulariser):
    """Sliced Cramer preservation: how much projections of the mean output on random directions change (Kolouri et al.,
    "Sliced Cramer Synaptic Consolidation for Preserving Deeply Learned Representations", 2020)."""

    slices = 100

    def importance_of(self, images: Tensor, labels: Tensor) -> list[Tensor]:
        mean = self.network(images).mean(0)
        directions = F.normalize(torch.randn(self.slices, len(mean), device=mean.device), dim=1)
        importance = [torch.zeros_like(p) for p in self.parameters]
        for direction in directions:
            gradients = torch.autograd.grad(mean @ direction, self.parameters, retain_graph=True)
            for total, gradient in zip(importance, gradients, strict=True):
                total += gradient.square() / self.slices
        return importance


METHODS: dict[str, type[Regulariser]] = {"EWC": EWC, "MAS": MAS, "SI": SI, "RWalk": RWalk, "SCP": SCP, "naive": Naive}


def per_example(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    measure: Callable[[Tensor], Tensor],
) -> list[Tensor]:
    """The mean over examples of `measure` of the gradient of `loss(logits [1, K], label [1])`, for each parameter."""
    parameters = {name: p.detach() for name, p in network.named_parameters()}

    def of_one(parameters: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        return loss(functional_call(network, parameters, (image[None],)), label[None])

    gradients = vmap(grad(of_one), in_dims=(None, 0, 0))
    totals = [torch.zeros_like(p) for p in parameters.values()]
    for some, their in zip(*(torch.split(x, EXAMPLES_AT_ONCE) for x in (images, labels)), strict=True):
        for total, gradient in zip(totals, gradients(parameters, some, their).values(), strict=True):
            total += measure(gradient).sum(0) / len(images)
    return totals
