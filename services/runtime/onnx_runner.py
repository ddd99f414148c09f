"""Runs a session of ONNX Runtime: on the CPU as it is, on a GPU with inputs and outputs bound to its memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state

from services.runtime import memory
from services.runtime.device_memory import NEW, DeviceArray, DeviceMemory, bind
from services.runtime.graph import (
    HOST,
    InputError,
    Memory,
    MisfitError,
    Tensor,
    engine_error,
    first_line,
    is_out_of_memory,
)
from services.runtime.instances import Options

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
DEVICES = {CPU: "cpu", CUDA: "cuda"}  # ONNX Runtime's name of each provider's memory


class OnnxRunner:
    """A session; `run` releases the GIL and may be called from several threads at once.

    Args:
        bound: whether runs are bound; None = where the memory is not the CPU's. On the CPU binding saves no copy, and
            the smallest graph took 50 us in place of 8.

    Attributes:
        memory: in which inputs that a run finds in place may lie, as `Graph.run` says.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        provider: str,
        bound: bool | None = None,
        memory: DeviceMemory | None = None,
    ) -> None:
        self._session = session
        self._device = DEVICES[provider]
        self._bound = provider != CPU if bound is None else bound
        self.provider = provider
        self.memory: Memory = memory or HOST
        self.inputs = {i.name for i in session.get_inputs()}
        self.outputs = {o.name for o in session.get_outputs()}

    def options(self) -> Options:
        options: Options = onnxruntime.RunOptions()
        return options

    def run(self, outputs: Sequence[str], inputs: Mapping[str, Tensor], options: Options) -> list[Tensor]:
        try:
            if self._bound:
                return self._run_bound(outputs, inputs, options)
            return [np.asarray(output) for output in self._session.run(outputs, inputs, options)]
        except onnxruntime_pybind11_state.InvalidArgument as error:
            raise InputError(first_line(error)) from error
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            if not options.terminate and not is_out_of_memory(error) and self._is_misfit(inputs):
                raise MisfitError(first_line(error)) from error
            raise engine_error(error) from error

    def close(self) -> None:
        del self._session
        memory.give_back()

    def _run_bound(self, outputs: Sequence[str], inputs: Mapping[str, Tensor], options: Options) -> list[Tensor]:
        binding = self._session.io_binding()
        for name, array in inputs.items():
            bind(binding, name, array)
        for name in outputs:
            binding.bind_output(name, self._device)
        binding.synchronize_inputs()
        try:
            self._session.run_with_iobinding(binding, options)
        except RuntimeError as error:
            if not options.terminate and not is_out_of_memory(error):
                # Fails too, with an exception that says whose fault it is.
                self._session.run(outputs, {name: np.asarray(array) for name, array in inputs.items()})
            raise
        binding.synchronize_outputs()
        return [
            _output(value, inputs.get(name.removeprefix(NEW)) if name.startswith(NEW) else None)
            for name, value in zip(outputs, binding.get_outputs(), strict=True)
        ]

    def _is_misfit(self, inputs: Mapping[str, Tensor]) -> bool:
        """Whether a run failed because of its inputs' shapes: zeros of these shapes fail too, smaller zeros do not.

        ONNX Runtime reports this and its own faults by the same code.
        """
        dynamic = {i.name: [isinstance(d, str) or d is None for d in i.shape] for i in self._session.get_inputs()}
        smallest = {
            name: tuple(1 if free else size for free, size in zip(dynamic[name], array.shape, strict=True))
            for name, array in inputs.items()
        }
        return self._runs(smallest, inputs) and not self._runs({n: a.shape for n, a in inputs.items()}, inputs)

    def _runs(self, shapes: Mapping[str, tuple[int, ...]], inputs: Mapping[str, Tensor]) -> bool:
        try:
            self._session.run(None, {name: np.zeros(shape, inputs[name].dtype) for name, shape in shapes.items()})
        except Exception:  # ONNX Runtime's exceptions share no base class
            return False
        return True


def _output(value: onnxruntime.OrtValue, past: Tensor) -> Tensor:
    """An output: in numpy's arrays, unless it goes into an input `past` that is not."""
    if isinstance(past, DeviceArray):
        return DeviceArray(past.memory, value, tuple(value.shape()), past.dtype, past.axes)
    return np.asarray(value.numpy())
