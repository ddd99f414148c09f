"""Linear layers and embeddings in 8 bits, exact in torch and in ONNX: what is measured here is what is served.

Weights are int8 with a scale for each output, by which any two of an output add up to no more than 128: CPUs without
VNNI add two products of uint8 and int8 in 16 bits, which 255 x 128 just fits. So a sum is exact on every CPU.
Activations are rounded to 8 bits with a scale for each token (Yao et al., "ZeroQuant", 2022), not for each batch as in
ONNX Runtime's dynamic quantisation, so that an answer does not depend on what else is in its batch. The products are
ONNX's MatMulInteger.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from onnx import TensorProto
from onnxscript import INT8, UINT8, opset20
from torch import Tensor, nn
from torch.nn import functional as F

Module = TypeVar("Module", bound=nn.Module)

LEVELS = 127
ZERO = 128  # of activations, which are uint8
SMALLEST = 1e-12


@torch.library.custom_op("lectern::matmul_integer", mutates_args=())
def matmul_integer(x: Tensor, weight: Tensor) -> Tensor:
    """uint8 `[..., I]` around `ZERO` times int8 `[I, O]` -> whole numbers as float32 `[..., O]`."""
    return (x.double() - ZERO).matmul(weight.double()).float()


@matmul_integer.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[1]), dtype=torch.float32)


def _to_onnx(x: UINT8, weight: INT8) -> Any:
    op: Any = opset20
    zero = op.Cast(op.Constant(value_int=ZERO), to=TensorProto.UINT8)
    return op.Cast(op.MatMulInteger(x, weight, zero), to=TensorProto.FLOAT)


# What torch.onnx.export needs to know of the operators above.
TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {torch.ops.lectern.matmul_integer.default: _to_onnx}


class Int8Linear(nn.Module):
    """What an `nn.Linear` gives, in 8 bits."""

    weight: Tensor
    scale: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, scale = rows_as_int8(linear.weight, summands=2)
        self.register_buffer("weight", weight.T.contiguous())
        self.register_buffer("scale", scale[:, 0])
        self.bias = nn.Parameter(linear.bias.detach().clone(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        step = x.abs().amax(dim=-1, keepdim=True).clamp(min=SMALLEST) / LEVELS
        rounded = ((x / step).round() + ZERO).to(torch.uint8)
        product: Tensor = matmul_integer(rounded, self.weight)
        return product * step * self.scale + self.bias


class Int8Embedding(nn.Module):
    """What an `nn.Embedding` gives, from int8 rows."""

    weight: Tensor
    scale: Tensor

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        weight, scale = rows_as_int8(embedding.weight)
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight).float() * F.embedding(ids, self.scale)


@torch.no_grad()
def rows_as_int8(values: Tensor, summands: int = 1) -> tuple[Tensor, Tensor]:
    """Float `[N, M]` as int8 of the same shape and a scale for each row, float32 `[N, 1]`; the sizes of any `summands`
    of a row add up to 127, or by rounding to 128 if they are two."""
    scale = values.abs().topk(summands, dim=1).values.sum(1, keepdim=True).clamp(min=SMALLEST) / LEVELS
    return (values / scale).round().to(torch.int8), scale


def to_int8(module: Module) -> Module:
    """Replace every linear layer and embedding inside `module`, in place."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, Int8Linear(child))
        elif isinstance(child, nn.Embedding):
            setattr(module, name, Int8Embedding(child))
        else:
            to_int8(child)
    return module
