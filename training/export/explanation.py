"""The graphs that explaining needs, of any network whose answer has a derivative: see `artifacts.card.Explanation`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from artifacts.card import Explanation, Layer, Probe
from training.export.gradients import trace_gradients
from training.trained import GRADIENT, Graph, Tolerance

MAX_BATCH_SIZE = 16  # no faster per item beyond, and others' requests get their turn sooner
MODULUS = 2**31 - 1
LEVELS = 2048
Spread = tuple[torch.Size, float]


@dataclass(frozen=True)
class Explainable:
    """What a recipe adds to its `Trained`: graphs by role, and their entry in the card."""

    graphs: dict[str, Graph]
    explanation: Explanation


def explainable(
    net: nn.Module,
    x: dict[str, Tensor],
    output: str,
    *,
    labelled: bool,
    constants: Mapping[str, Tensor] | None = None,
    dynamic_axes: Mapping[str, tuple[int, ...]] | None = None,
    layers: Sequence[str] = (),
    weights: Collection[str] = (),
    tolerance: Tolerance = GRADIENT,
    exponent: float = 1.0,
    probes: tuple[Probe, ...] = (),
    reference: tuple[float, ...] = (),
    scale: tuple[float, ...] = (),
) -> Explainable:
    """Graphs that give the derivative of `net`, and of the same network with random weights, by its input.

    Args:
        net: float32 [N, ...], and the constants after it -> float32 [N, K], in evaluation mode.
        x: the input's name and an example of at least two items.
        output: name of what `net` gives.
        labelled: whether that is logits of classes.
        constants: further inputs by name, by which nothing is differentiated.
        layers: names of submodules to look into, whose outputs are [N, C, H, W], or [N, ..., C].
        weights: names of the parameters and buffers that were learned; if empty, every parameter.
        others: as in `Explanation`, or in `Graph`.
    """
    ((name, example),) = x.items()
    constants = dict(constants or {})
    net.requires_grad_(False)
    with torch.no_grad(), _watching(net, layers) as seen:
        answer = net(example, *constants.values())
    shapes = tuple(Layer(name=n, units=_units(a).shape[1], map=a.dim() == 4) for n, a in zip(layers, seen, strict=True))
    inputs = _inputs(name, example, answer.shape[1], labelled)
    if layers:
        inputs["units"] = torch.linspace(-1, 1, sum(s.units for s in shapes)).repeat(len(example), 1)
    inputs |= constants
    outputs = [output, "gradient", *(["activations"] if layers else [])]
    outputs += [f"map_{i}" for i, layer in enumerate(shapes) if layer.map]
    graphs = {}
    random = _spreads(net, weights or dict(net.named_parameters()))
    for role, spreads in (("gradient", {}), ("random_gradient", random)):
        function = _differentiated(net, layers, labelled, spreads, len(constants))
        graphs[role] = Graph(
            trace_gradients(function, tuple(inputs.values())),
            inputs,
            tuple(outputs),
            dict(dynamic_axes or {}),
            max_batch_size=MAX_BATCH_SIZE,
            tolerance=tolerance,
        )
    explanation = Explanation(
        output=output, exponent=exponent, layers=shapes, probes=probes, reference=reference, scale=scale
    )
    return Explainable(graphs, explanation)


def attackable(net: nn.Module, x: dict[str, Tensor], output: str) -> Graph:
    """The graph `gradient` alone, of a classifier without layers to look into: enough to follow it in an attack."""
    ((name, example),) = x.items()
    net.requires_grad_(False)
    with torch.no_grad():
        inputs = _inputs(name, example, net(example).shape[1], labelled=True)
    traced = trace_gradients(_differentiated(net, (), labelled=True, spreads={}), tuple(inputs.values()))
    return Graph(traced, inputs, (output, "gradient"), max_batch_size=MAX_BATCH_SIZE)


def _inputs(name: str, example: Tensor, outputs: int, labelled: bool) -> dict[str, Tensor]:
    inputs = {name: example, "weights": torch.eye(outputs)[torch.arange(len(example)) % outputs]}
    if labelled:
        inputs["log_probability"] = (torch.arange(len(example)) % 2).float()[:, None]
    return inputs


def _differentiated(
    net: nn.Module, layers: Sequence[str], labelled: bool, spreads: Mapping[str, Spread], constants: int = 0
) -> Callable[..., tuple[Tensor, ...]]:
    """The function that a graph is traced from; parameters with a spread are random."""

    def function(x: Tensor, weights: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        rest = list(others)
        x = x.detach().requires_grad_()
        with _watching(net, layers) as seen:
            answer = functional_call(net, _random_weights(spreads), (x, *others[len(others) - constants :]))
        wanted = weights * answer
        if labelled:
            share = rest.pop(0)
            wanted = weights * ((1 - share) * answer + share * answer.log_softmax(1))
        objective = wanted.sum()
        if not layers:
            return answer.detach(), *torch.autograd.grad(objective, [x])
        means = torch.cat([_units(activation) for activation in seen], 1)
        objective = objective + (rest.pop(0) * means).sum()
        by_x, *by_layers = torch.autograd.grad(objective, [x, *seen])
        maps = [
            (gradient.mean((2, 3), keepdim=True) * activation).sum(1)
            for gradient, activation in zip(by_layers, seen, strict=True)
            if activation.dim() == 4
        ]
        return tuple(value.detach() for value in (answer, by_x, means, *maps))

    # A tracer needs to see how many arguments there are.
    match labelled + bool(layers) + constants:
        case 0:
            return lambda x, weights: function(x, weights)
        case 1:
            return lambda x, weights, a: function(x, weights, a)
        case 2:
            return lambda x, weights, a, b: function(x, weights, a, b)
        case _:
            return lambda x, weights, a, b, c: function(x, weights, a, b, c)


def _spreads(net: nn.Module, names: Collection[str]) -> dict[str, Spread]:
    """Shape and spread of the tensors to draw anew; uniform values of that spread vary no more than they did.

    Powers of two, so that a product with one is exact.
    """
    tensors = {name: value for name, value in (*net.named_parameters(), *net.named_buffers()) if name in names}
    sizes = {name: value.std() if value.numel() > 1 else value.abs() for name, value in tensors.items()}
    return {
        name: (value.shape, float(2 ** (3**0.5 * sizes[name].clamp(min=2**-20)).log2().floor()))
        for name, value in tensors.items()
    }


def _random_weights(spreads: Mapping[str, Spread]) -> dict[str, Tensor]:
    """Tensors of those shapes and spreads.

    They are a hash of their places, in whole numbers, so that the graph computes them when it is loaded and its file
    need not hold them; their levels are few, so that it holds those that it does as float16.
    """
    if not spreads:
        return {}
    sizes = [shape.numel() for shape, _ in spreads.values()]
    places = torch.arange(sum(sizes))
    mixed = places * 48271 % MODULUS
    for factor in (69621, 40692):
        mixed = (mixed * mixed + factor * mixed + places) % MODULUS
    uniform = (mixed // 64 % LEVELS).float() / (LEVELS / 2) - 1
    parts = zip(spreads.items(), torch.split(uniform, sizes), strict=True)
    return {name: part.reshape(shape) * spread for (name, (shape, spread)), part in parts}


@contextmanager
def _watching(net: nn.Module, layers: Sequence[str]) -> Iterator[list[Tensor]]:
    """The outputs of those layers, as they are computed."""
    seen: list[Tensor] = []
    hooks = [net.get_submodule(name).register_forward_hook(lambda *call: seen.append(call[2])) for name in layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _units(activation: Tensor) -> Tensor:
    """Mean activation of each unit [N, C], of a map [N, C, H, W] or of [N, ..., C]."""
    if activation.dim() == 4:
        return activation.mean((2, 3))
    return activation.flatten(1, -2).mean(1) if activation.dim() > 2 else activation
