"""The engine that runs graphs in this process with ONNX Runtime: one session per graph, shared by its instances."""

from __future__ import annotations

import logging
import math
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata as packages
from pathlib import Path
from typing import Any, Literal

import onnxruntime

from lectern.distribution import how_to_install
from services import metrics
from services.runtime import memory
from services.runtime.axes import SharedAxes
from services.runtime.config import GraphConfig
from services.runtime.cost import RunCost
from services.runtime.device_memory import DeviceMemory
from services.runtime.graph import Array, EngineError, Graph, Tensor, first_line
from services.runtime.graph_cache import GraphCache
from services.runtime.instances import Instances
from services.runtime.lazy_graph import LazyGraph
from services.runtime.onnx_runner import CPU, CUDA, DEVICES, OnnxRunner
from services.runtime.response_cache import GraphResponses, Key, ResponseCache
from services.runtime.scheduler import Scheduler
from services.runtime.statistics import RequestCounter
from services.runtime.warm_up import warm_up

Device = Literal["auto", "cpu", "cuda"]

# Folding constants takes up to 400 MiB for a graph of random weights: one session at a time, in a pod of one GiB.
_CREATING = threading.Lock()
WORTH_CACHING_SECONDS = 0.15  # of a core, for one session
LONGEST_WAIT_SECONDS = 5.0  # for one that may hang; most take a tenth of a second

log = logging.getLogger(__name__)


class OnnxEngine:
    """Loads graphs with ONNX Runtime on one device.

    Args:
        device: with `cuda` a session that falls back to the CPU is an error; `auto` takes CUDA if a GPU answers.
        intra_op_threads: threads of one run on the CPU; None = as each graph's config.pbtxt says.
        warm_up_seconds: time limit of each run of a warm-up.
        run_seconds: on the CPU a batch has at most the rows that ran in about this time at the warm-up, since the next
            caller waits for it. Fixed at the warm-up, so that equal calls make equal batches with identical answers.
        scheduler: the class of the graphs' schedulers.
        cache: keeps graphs whose constants took long to fold; None = they are folded at each start.
        responses: keeps answers of the graphs whose configs ask for it; None = of none.
        gpu_memory_bytes: most memory of a GPU that one graph may take; 0 = as much as there is.

    Raises:
        EngineError: CUDA was asked for and is missing, or both ONNX Runtime packages are installed.
    """

    name = "onnxruntime"

    def __init__(
        self,
        device: Device = "auto",
        intra_op_threads: int | None = None,
        warm_up_seconds: float = 60.0,
        run_seconds: float = float("inf"),
        scheduler: Callable[..., Instances[Any]] = Scheduler,
        cache: GraphCache | None = None,
        responses: ResponseCache | None = None,
        gpu_memory_bytes: int = 0,
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
        self.run_seconds = run_seconds
        self._scheduler = scheduler
        self._cache = cache
        self._responses = responses
        self._providers: list[Any] = [(CPU, {})]
        if device != "cpu" and CUDA in onnxruntime.get_available_providers():
            self._providers.insert(0, (CUDA, cuda_options(gpu_memory_bytes)))
            # CUDA and cuDNN from pip's packages are not on the dynamic loader's path.
            onnxruntime.preload_dlls()
        self._memory = DeviceMemory(self._helper, DEVICES[CUDA])

    def load(
        self, config: GraphConfig, version: int, content: bytes, read_again: Callable[[], bytes] | None = None
    ) -> Graph:
        """Create a session from the bytes of a graph, without reading any file.

        With `read_again` and a cache, the first call creates it. Whether it can be created shows all the same, since
        this machine must have done so before: else it does so now, which also folds the graph's constants for then.
        """
        if read_again is None or self._cache is None:
            return self._load(config, version, content)
        proof = self._proof(config, content)
        if self._cache.get(proof) is None:
            self._load(config, version, content).close(0)
            self._cache.put(proof, b"")

        def load() -> Graph:
            graph = self._load(config, version, read_again())
            metrics.MODEL_INFO.labels(config.name, str(version), self.name, graph.provider).set(1)
            return graph

        return LazyGraph(config, version, load, self.warm_up_seconds)

    def _proof(self, config: GraphConfig, content: bytes) -> bytes:
        """What the cache keeps to show that the graph has been loaded with this config and device."""
        described = f"{self._providers[0][0]} {[spec.longest for spec in config.inputs]}"
        return b"\n".join((content, config.message.SerializeToString(deterministic=True), described.encode()))

    def _load(self, config: GraphConfig, version: int, content: bytes) -> Graph:
        threads = config.intra_op_threads if self.intra_op_threads is None else self.intra_op_threads
        runner = self._session(content, threads)
        _check_tensors(config, runner.inputs, runner.outputs)
        run_seconds = self.run_seconds if runner.provider == CPU else math.inf
        rows, seconds_per_row = warm_up(config, runner, self.warm_up_seconds, run_seconds)
        scheduler = self._scheduler(config, version, runner, RunCost(seconds_per_row), rows=rows)
        graph = OnnxGraph(config, version, runner, scheduler, SharedAxes(config, content))
        if self._responses and config.response_cache:
            return CachedGraph(graph, GraphResponses(self._responses, config.name, version))
        return graph

    def _session(self, content: bytes, threads: int) -> OnnxRunner:
        folded = self._cache.get(content) if self._cache else None
        options = self._options(threads)
        try:
            with _alone():
                started = time.thread_time()
                session = onnxruntime.InferenceSession(folded or content, options, providers=self._providers)
                # ONNX Runtime keeps the bytes to fall back to the CPU, which it must not.
                session.disable_fallback()
                session._model_bytes = None
                if self._cache and not folded and time.thread_time() - started > WORTH_CACHING_SECONDS:
                    self._cache.put(content, self._fold(content))
                memory.trim()
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise EngineError(f"ONNX Runtime cannot load the graph: {first_line(error)}") from error
        provider = session.get_providers()[0]
        if provider != self._providers[0][0]:
            fell_back = f"ONNX Runtime fell back to {provider}: check the driver, CUDA and cuDNN"
            if self.device == "cuda":
                raise EngineError(f"--device cuda, but {fell_back}")
            log.warning("a GPU build is installed, but %s; if the CPU is intended, set --device cpu", fell_back)
        return OnnxRunner(session, provider, memory=self._memory if provider == CUDA else None)

    def _helper(self, content: bytes) -> onnxruntime.InferenceSession:
        return onnxruntime.InferenceSession(content, self._options(threads=1), providers=self._providers)

    def _options(self, threads: int) -> onnxruntime.SessionOptions:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # failures come back as exceptions
        # Only ONNX: ONNX Runtime would recognise its own format by the first bytes, and does not validate it.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        # Without the arena a large batch's memory is returned; measured as fast up to batch 8, 12 % slower at 64.
        options.enable_cpu_mem_arena = False
        # A spinning pool burns the cores that other graphs and the transport need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options

    def _fold(self, content: bytes) -> bytes:
        """The graph with its constants folded, and otherwise as portable as it was."""
        options = self._options(threads=1)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.add_session_config_entry("session.save_model_format", "ONNX")
        with tempfile.NamedTemporaryFile() as file:
            options.optimized_model_filepath = file.name
            onnxruntime.InferenceSession(content, options, providers=[CPU])
            return Path(file.name).read_bytes()


class OnnxGraph:
    """A warm graph with its scheduler."""

    def __init__(
        self, config: GraphConfig, version: int, runner: OnnxRunner, scheduler: Instances[Any], axes: SharedAxes
    ) -> None:
        self.config = config
        self.version = version
        self.provider = runner.provider
        self.memory = runner.memory
        self._axes = axes
        self._scheduler = scheduler
        self._scheduler.start()
        self._counter = RequestCounter(config.name, version)
        self._inputs = [spec.name for spec in config.inputs]
        self._outputs = [spec.name for spec in config.outputs]
        weakref.finalize(self, self._scheduler.close)
        weakref.finalize(self, self._counter.flush)

    async def infer(
        self, inputs: Mapping[str, Array], deadline: float = float("inf"), priority: int = 0, max_wait: float = 0.0
    ) -> dict[str, Array]:
        with self._counter.request():
            return self._named(await self._scheduler.run(self._arrays(inputs), deadline, priority, max_wait))

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with self._counter.request():
            return self._named(self._scheduler.run_now(self._arrays(inputs)))

    def count_known(self, started: float) -> None:
        """Count a request that was answered without a run."""
        self._counter.count(started, failed=False)

    async def healthy(self) -> bool:
        return True

    def close(self, seconds: float) -> None:
        self._scheduler.close()
        self._scheduler.join(seconds)

    @property
    def route(self) -> tuple[Any, list[list[tuple[int, int]]]] | None:
        """Its native queue, for a transport that fills it, and the axes that must have the same length in its inputs,
        by position; None if its queue is in Python."""
        queue = getattr(self._scheduler, "queue", None)
        return None if queue is None else (queue, self._axes.positions)

    def _arrays(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        self._axes.check(inputs)
        return tuple([inputs[name] for name in self._inputs])

    def _named(self, answer: Sequence[Tensor]) -> dict[str, Tensor]:
        return dict(zip(self._outputs, answer, strict=True))


class CachedGraph:
    """A graph that computes no answer that is known: a graph is a function of its inputs, whose runs are all whole."""

    def __init__(self, graph: OnnxGraph, responses: GraphResponses) -> None:
        self.config, self.version, self.provider = graph.config, graph.version, graph.provider
        self.memory = graph.memory
        self._graph = graph
        self._responses = responses
        self._closed = False

    async def infer(
        self, inputs: Mapping[str, Array], deadline: float = float("inf"), priority: int = 0, max_wait: float = 0.0
    ) -> dict[str, Array]:
        key, known = self._look_up(inputs)
        if known is not None:
            return known
        outputs = await self._graph.infer(inputs, deadline, priority, max_wait)
        self._responses.keep(key, outputs)
        return outputs

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        key, known = self._look_up(inputs)
        if known is not None:
            return known
        outputs = self._graph.run(inputs)
        self._responses.keep(key, outputs)
        return outputs

    async def healthy(self) -> bool:
        return await self._graph.healthy()

    def close(self, seconds: float) -> None:
        self._closed = True
        self._graph.close(seconds)

    def _look_up(self, inputs: Mapping[str, Array]) -> tuple[Key | None, dict[str, Array] | None]:
        if self._closed:  # the graph refuses
            return None, None
        started = time.monotonic()
        key, known = self._responses.look_up(inputs)
        if known is not None:
            self._graph.count_known(started)
        return key, known


def cuda_options(memory_bytes: int) -> dict[str, str]:
    """How a session uses a GPU, for a server: of any batch size, with answers that hardly differ from a CPU's.

    Args:
        memory_bytes: most that it may allocate; 0 = no limit. CUDA, cuBLAS and cuDNN take some more.
    """
    options = {
        "arena_extend_strategy": "kSameAsRequested",  # the other one doubles what it allocates
        "cudnn_conv_algo_search": "HEURISTIC",  # the default tries all algorithms, again for each batch size
        "use_tf32": "0",  # which rounds float32 to 10 bits before a product, beyond what parity allows
    }
    return options | ({"gpu_mem_limit": str(memory_bytes)} if memory_bytes else {})


def _installed(package: str) -> bool:
    try:
        packages.version(package)
    except packages.PackageNotFoundError:
        return False
    return True


def _check_tensors(config: GraphConfig, inputs: Collection[str], outputs: Collection[str]) -> None:
    wrong = {t.name for t in config.inputs} ^ set(inputs)
    wrong |= {t.name for t in config.outputs} - set(outputs)
    if wrong:
        raise EngineError(f"config.pbtxt and the graph of {config.name} disagree on: {', '.join(sorted(wrong))}")


@contextmanager
def _alone() -> Iterator[None]:
    """Create no other session meanwhile, unless the other hangs: one bad graph must not keep the rest from loading."""
    alone = _CREATING.acquire(timeout=LONGEST_WAIT_SECONDS)
    try:
        yield
    finally:
        if alone:
            _CREATING.release()
