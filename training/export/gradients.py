"""Functions that take gradients inside, as graphs of plain operators, which ONNX can hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions, get_decompositions
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

aten = torch.ops.aten


def trace_gradients(function: Callable[..., object], inputs: tuple[Tensor, ...]) -> GraphModule:
    """Trace `function`, which may use `torch.func.grad`, with every derivative written out.

    Lengths of axes stay variables unless they are 0 or 1 in `inputs`. Tensors that are the same object are traced as
    one, so pass each input as a tensor of its own.
    """
    decompositions = (
        core_aten_decompositions()
        | get_decompositions([aten.silu_backward])
        | {
            aten.convolution_backward.default: _convolution_backward,
            aten.max_pool2d_with_indices_backward.default: _max_pool_backward,
        }
    )
    tracer = make_fx(function, decomposition_table=decompositions, tracing_mode="symbolic", _allow_non_fake_inputs=True)
    traced = tracer(*inputs)
    for node in traced.graph.nodes:
        if node.target is aten.view.default:  # holds for the example's layout in memory alone
            node.target = aten.reshape.default
    traced.graph.eliminate_dead_code()
    traced.recompile()
    return traced


def _convolution_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    wanted: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """`aten.convolution_backward` by convolutions; with groups, or of a transposed one, by its input alone."""
    assert groups == 1 or not (transposed or any(wanted[1:]))
    if transposed:
        assert not any(wanted[1:])
        return aten.convolution(gradient, weight, None, stride, padding, dilation, False, [0, 0], 1), None, None
    axes = range(x.dim() - 2)
    of_x = of_weight = of_bias = None
    if wanted[0]:
        # A strided convolution may not reach the far end: as much more as it can miss, then what there is.
        most = [stride[i] - 1 for i in axes]
        of_x = aten.convolution(gradient, weight, None, stride, padding, dilation, True, most, groups)
        for i in axes:
            of_x = of_x.narrow(2 + i, 0, x.shape[2 + i]) if most[i] else of_x
    if wanted[1]:
        # Examples and channels change places; stride and dilation too.
        swapped = x.transpose(0, 1), gradient.transpose(0, 1)
        of_weight = aten.convolution(*swapped, None, dilation, padding, stride, False, [0] * len(axes), 1)
        of_weight = of_weight.transpose(0, 1)
        for i in axes:
            of_weight = of_weight.narrow(2 + i, 0, weight.shape[2 + i])
    if wanted[2]:
        of_bias = gradient.sum([0, *(2 + i for i in axes)])
    return of_x, of_weight, of_bias


def _max_pool_backward(
    gradient: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    indices: Tensor,
) -> Tensor:
    """`aten.max_pool2d_with_indices_backward` of windows that tile the map: a pixel gets the gradient of its window if
    it is the one that was taken, so that of equal pixels only one does."""
    assert list(stride) in ([], list(kernel))
    assert not any(padding)
    batch, channels, height, width = x.shape
    assert height % kernel[0] == width % kernel[1] == 0

    def spread(values: Tensor) -> Tensor:
        tiles = values[:, :, :, None, :, None].expand(-1, -1, -1, kernel[0], -1, kernel[1])
        return tiles.reshape(batch, channels, height, width)

    places = torch.arange(height * width).reshape(height, width)
    return torch.where(spread(indices) == places, spread(gradient), 0.0)
