"""The result of a method: what each value of the input contributes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lectern.v1 import explain_pb2 as pb
from services.codecs.tensors import to_raw
from services.explain.methods.asking import Floats


@dataclass(frozen=True)
class Attribution:
    """What each value of the input contributes.

    Args:
        values: float32 `[height, width, channels or 1]`, `[features]` or `[words]`.
        signed: whether those below 0 speak against the target.
        promised: what they should add up to, if the method says so.
    """

    values: Floats
    signed: bool
    promised: float | None = None

    @property
    def gap(self) -> float:
        """How far their sum is from what is promised, relative to that; 0 if nothing is."""
        if self.promised is None:
            return 0.0
        return abs(float(self.values.sum(dtype=np.float64)) - self.promised) / max(abs(self.promised), 1e-6)

    @property
    def map(self) -> Floats:
        """One value for each pixel, feature or word."""
        return np.asarray(self.values.sum(-1) if self.values.ndim == 3 else self.values)

    def message(self) -> pb.Attribution:
        return pb.Attribution(shape=self.values.shape, values=to_raw(self.values), signed=self.signed)
