"""ONNX Runtime as every server here runs it; the peers' own environments import this file, so it needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

# Of the peers' batches: rows, and the seconds that a request waits for others where it must wait.
MAX_BATCH, MAX_WAIT = 64, 0.002


def session(graph: Path) -> onnxruntime.InferenceSession:
    """One thread a run, no spinning."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


class Graph:
    """A model of a repository, of one input and one output."""

    def __init__(self, repository: Path | str, model: str) -> None:
        self.session = session(Path(repository, model, "1", "model.onnx"))
        tensor, self.output = self.session.get_inputs()[0], self.session.get_outputs()[0].name
        self.input, self.shape = tensor.name, tuple(tensor.shape[1:])
        self.dtype: type[np.generic] = np.uint8 if "uint8" in tensor.type else np.float32

    def run(self, rows: np.ndarray) -> np.ndarray:
        """Rows of the output."""
        return self.session.run([self.output], {self.input: np.ascontiguousarray(rows, self.dtype)})[0]

    def answer(self, bodies: Sequence[bytes]) -> list[bytes]:
        """Run requests of raw values as one batch; each gets the raw values of its own rows."""
        batch = np.frombuffer(b"".join(bodies), self.dtype).reshape(-1, *self.shape)
        size = len(batch[0].tobytes())
        ends = np.cumsum([len(body) // size for body in bodies])
        return [rows.tobytes() for rows in np.split(self.run(batch), ends[:-1])]
