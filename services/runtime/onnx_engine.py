"""ONNX Runtime in process: one session per graph, which its instances share."""

from __future__ import annotations

import logging
import math
import threading
import time
import weakref
from collections.abc import Collection, Mapping, Sequence
from importlib import metadata as packages
from typing import Any, Literal

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state

from lectern.distribution import how_to_install
from services.runtime import memory
from services.runtime.axes import SharedAxes
from services.runtime.config import GraphConfig
from services.runtime.cost import RunCost
from services.runtime.graph import Array, EngineError, Graph, InputError, MisfitError
from services.runtime.scheduler import Options, Scheduler
from services.runtime.statistics import RequestCounter

Device = Literal["auto", "cpu", "cuda"]
WARM_UP_BYTES = 256 * 2**20  # most of the inputs of its largest batch
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

log = logging.getLogger(__name__)


class OnnxEngine:
    """Loads graphs with ONNX Runtime on one device.

    Args:
        device: `cuda` makes a session that would run on the CPU an error; `auto` takes CUDA where a GPU answers.
        intra_op_threads: threads that one run uses on the CPU; None = as each graph's config.pbtxt says.
        warm_up_seconds: longest time that the runs of a warm-up may take.

    Raises:
        EngineError: CUDA was asked for and is not there, or both ONNX Runtime packages are installed.
    """

    name = "onnxruntime"

    def __init__(
        self, device: Device = "auto", intra_op_threads: int | None = None, warm_up_seconds: float = 60.0
    ) -> None:
        installed = [p for p in ("onnxruntime", "onnxruntime-gpu") if _installed(p)]
        if len(installed) > 1:
            raise EngineError(
                "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: "
                f"uninstall both, then {how_to_install('cpu')}, or the same with `gpu`"
            )
        if device == "cuda" and CUDA not in onnxruntime.get_available_providers():
            raise EngineError(f"--device cuda needs onnxruntime-gpu: in a new environment, {how_to_install('gpu')}")
        self.device = device
        self.intra_op_threads = intra_op_threads
        self.warm_up_seconds = warm_up_seconds
        self._providers: list[Any] = [(CPU, {})]
        if device != "cpu" and CUDA in onnxruntime.get_available_providers():
            self._providers.insert(0, (CUDA, {"arena_extend_strategy": "kSameAsRequested"}))
            # CUDA and cuDNN from pip's packages are not on the loader's path.
            onnxruntime.preload_dlls()

    def load(self, config: GraphConfig, version: int, content: bytes) -> Graph:
        """A session from the bytes of a graph; nothing outside them is read."""
        threads = config.intra_op_threads if self.intra_op_threads is None else self.intra_op_threads
        runner = self._session(content, threads)
        _check_tensors(config, runner.inputs, runner.outputs)
        cost = RunCost(_warm_up(config, runner, self.warm_up_seconds))
        return OnnxGraph(config, version, runner, cost, SharedAxes(config, content))

    def _session(self, content: bytes, threads: int) -> OnnxRunner:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # failures come back as exceptions
        # Not ONNX Runtime's own format, which would be recognised by its first bytes and is not checked.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        # Without the arena a large batch's memory comes back; measured as fast up to batch 8, 12 % slower at 64.
        options.enable_cpu_mem_arena = False
        # A spinning pool burns the cores that other graphs and the transport need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = onnxruntime.InferenceSession(content, options, providers=self._providers)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise EngineError(f"ONNX Runtime cannot load the graph: {_first_line(error)}") from error
        provider = session.get_providers()[0]
        if provider != self._providers[0][0]:
            fell_back = f"ONNX Runtime fell back to {provider}: check the driver, CUDA and cuDNN"
            if self.device == "cuda":
                raise EngineError(f"--device cuda, but {fell_back}")
            log.warning("a GPU build is installed, but %s; --device cpu says that this is meant", fell_back)
        return OnnxRunner(session, provider)


class OnnxGraph:
    """A warm graph with its scheduler."""

    def __init__(self, config: GraphConfig, version: int, runner: OnnxRunner, cost: RunCost, axes: SharedAxes) -> None:
        self.config = config
        self.version = version
        self.provider = runner.provider
        self._axes = axes
        self._scheduler = Scheduler(config, version, runner, cost)
        self._scheduler.start()
        self._counter = RequestCounter(config.name, version)
        weakref.finalize(self, self._scheduler.close)

    async def infer(
        self, inputs: Mapping[str, Array], deadline: float = float("inf"), priority: int = 0, max_wait: float = 0.0
    ) -> dict[str, Array]:
        with self._counter.request():
            return self._named(await self._scheduler.run(self._arrays(inputs), deadline, priority, max_wait))

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        with self._counter.request():
            return self._named(self._scheduler.run_now(self._arrays(inputs)))

    async def healthy(self) -> bool:
        return True

    def close(self, seconds: float) -> None:
        self._scheduler.close()
        self._scheduler.join(seconds)

    def _arrays(self, inputs: Mapping[str, Array]) -> tuple[Array, ...]:
        self._axes.check(inputs)
        return tuple(inputs[t.name] for t in self.config.inputs)

    def _named(self, answer: Sequence[Array]) -> dict[str, Array]:
        return dict(zip((t.name for t in self.config.outputs), answer, strict=True))


class OnnxRunner:
    """A session; `run` releases the GIL and may be called from several threads at once."""

    def __init__(self, session: onnxruntime.InferenceSession, provider: str) -> None:
        self._session = session
        self.provider = provider
        self.inputs = {i.name for i in session.get_inputs()}
        self.outputs = {o.name for o in session.get_outputs()}

    def options(self) -> Options:
        options: Options = onnxruntime.RunOptions()
        return options

    def run(self, outputs: Sequence[str], inputs: Mapping[str, Array], options: Options) -> list[Array]:
        try:
            results: list[Array] = self._session.run(outputs, inputs, options)
        except onnxruntime_pybind11_state.InvalidArgument as error:
            raise InputError(_first_line(error)) from error
        except Exception as error:
            if not options.terminate and self._is_misfit(inputs):
                raise MisfitError(_first_line(error)) from error
            raise EngineError(_first_line(error)) from error
        return [np.asarray(r) for r in results]

    def close(self) -> None:
        del self._session
        memory.give_back()

    def _is_misfit(self, inputs: Mapping[str, Array]) -> bool:
        """Whether a run failed because of its inputs' shapes: so zeros of these shapes fail, and of others do not.

        ONNX Runtime has one code for this and for faults of its own.
        """
        dynamic = {i.name: [isinstance(d, str) or d is None for d in i.shape] for i in self._session.get_inputs()}
        smallest = {
            name: tuple(1 if free else size for free, size in zip(dynamic[name], array.shape, strict=True))
            for name, array in inputs.items()
        }
        return self._runs(smallest, inputs) and not self._runs({n: a.shape for n, a in inputs.items()}, inputs)

    def _runs(self, shapes: Mapping[str, tuple[int, ...]], inputs: Mapping[str, Array]) -> bool:
        try:
            self._session.run(None, {name: np.zeros(shape, inputs[name].dtype) for name, shape in shapes.items()})
        except Exception:  # ONNX Runtime's exceptions share no base class
            return False
        return True


def _installed(package: str) -> bool:
    try:
        packages.version(package)
    except packages.PackageNotFoundError:
        return False
    return True


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _check_tensors(config: GraphConfig, inputs: Collection[str], outputs: Collection[str]) -> None:
    wrong = {t.name for t in config.inputs} ^ set(inputs)
    wrong |= {t.name for t in config.outputs} - set(outputs)
    if wrong:
        raise EngineError(f"config.pbtxt and the graph of {config.name} disagree on: {', '.join(sorted(wrong))}")


def _warm_up(config: GraphConfig, runner: OnnxRunner, seconds: float) -> float:
    """Run once at the smallest and the largest batch, so that the first caller does not pay for it.

    Returns seconds that a further row takes; 0 where that depends on its length.

    Raises:
        EngineError: a run fails, or does not end in time.
    """
    item = sum(math.prod(1 if d < 0 else d for d in t.shape) * t.dtype.itemsize for t in config.inputs)
    if item > WARM_UP_BYTES:
        raise EngineError(f"config.pbtxt of {config.name} says that one item has {item} bytes")
    most = min(config.max_batch_size, WARM_UP_BYTES // max(1, item))
    batches, taken = sorted({1, max(1, most)}), []
    for rows in batches:
        shape = (rows,) if config.max_batch_size else ()
        inputs = {t.name: np.zeros((*shape, *(1 if d < 0 else d for d in t.shape)), t.dtype) for t in config.inputs}
        options = runner.options()
        timer = threading.Timer(seconds, setattr, (options, "terminate", True))
        timer.daemon = True
        timer.start()
        started = time.monotonic()
        try:
            runner.run([t.name for t in config.outputs], inputs, options)
        except EngineError as error:
            if options.terminate:
                raise EngineError(f"the warm-up of {config.name} does not end within {seconds:g} s") from error
            raise
        finally:
            timer.cancel()
        taken.append(time.monotonic() - started)
    if len(batches) == 1 or any(d < 0 for t in config.inputs for d in t.shape):
        return 0.0
    return max(0.0, (taken[1] - taken[0]) / (batches[1] - batches[0]))
