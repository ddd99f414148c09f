"""ONNX Runtime in process: one session per graph instance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any, Literal, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

Array = NDArray[Any]
Device = Literal["auto", "cpu", "cuda"]
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class EngineError(RuntimeError):
    """The engine cannot load or run a graph."""


class Runner(Protocol):
    """A loaded graph: runs one batch at a time for each caller thread."""

    provider: str

    def run(self, outputs: Sequence[str], inputs: Mapping[str, Array]) -> list[Array]:
        """Outputs by position for the named inputs."""


class OnnxEngine:
    """Loads graphs with ONNX Runtime on one device.

    Args:
        device: `cuda` makes a session that would run on the CPU an error; `auto` takes CUDA where a GPU answers.
        intra_op_threads: threads that one run uses on the CPU.

    Raises:
        EngineError: CUDA was asked for and is not there, or both ONNX Runtime packages are installed.
    """

    name = "onnxruntime"

    def __init__(self, device: Device = "auto", intra_op_threads: int = 1) -> None:
        installed = [p for p in ("onnxruntime", "onnxruntime-gpu") if _installed(p)]
        if len(installed) > 1:
            raise EngineError(
                "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: "
                "uninstall both, then install lectern[cpu] or lectern[gpu]"
            )
        if device == "cuda" and CUDA not in onnxruntime.get_available_providers():
            raise EngineError("--device cuda needs onnxruntime-gpu: pip install 'lectern[gpu]' in a new environment")
        self.device = device
        self.intra_op_threads = intra_op_threads

    def load(self, graph: bytes) -> OnnxRunner:
        """Create a session from the bytes of a graph; nothing outside them is read.

        Raises:
            EngineError: the graph is invalid, or it would not run on the device that was asked for.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.intra_op_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Without the arena a large batch's memory comes back; measured as fast up to batch 8, 12 % slower at 64.
        options.enable_cpu_mem_arena = False
        # A spinning pool burns the cores that other graphs and the transport need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        wants_cuda = self.device == "cuda" or (self.device == "auto" and CUDA in onnxruntime.get_available_providers())
        providers: list[Any] = [(CUDA, {"arena_extend_strategy": "kSameAsRequested"})] if wants_cuda else []
        providers.append((CPU, {}))
        try:
            session = onnxruntime.InferenceSession(graph, options, providers=providers)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise EngineError(f"ONNX Runtime cannot load the graph: {_first_line(error)}") from error
        provider = session.get_providers()[0]
        if self.device == "cuda" and provider != CUDA:
            raise EngineError(
                f"--device cuda, but ONNX Runtime fell back to {provider}: check the driver, CUDA and cuDNN"
            )
        return OnnxRunner(session, provider)


class OnnxRunner:
    """A session; `run` releases the GIL and may be called from several threads at once."""

    def __init__(self, session: onnxruntime.InferenceSession, provider: str) -> None:
        self._session = session
        self.provider = provider
        self.inputs = {i.name: (i.type, tuple(i.shape)) for i in session.get_inputs()}
        self.outputs = tuple(o.name for o in session.get_outputs())

    def run(self, outputs: Sequence[str], inputs: Mapping[str, Array]) -> list[Array]:
        try:
            results: list[Array] = self._session.run(outputs, inputs)
        except Exception as error:
            raise EngineError(_first_line(error)) from error
        return [np.asarray(r) for r in results]


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
