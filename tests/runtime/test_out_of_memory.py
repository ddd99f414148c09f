"""Too little memory for a run: the caller is told to try again later, whatever runs out of it, and whoever waits."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grpc
import numpy as np
import onnxruntime
import pytest
from onnx import parser
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, RuntimeException
from tritonclient.grpc import service_pb2
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from benchmarks.load import infer_request
from lectern.errors import LecternError
from services.errors import ResourceExhausted
from services.runtime.graph import Array, EngineError, MisfitError, OutOfMemoryError
from services.runtime.onnx_runner import CPU, CUDA, OnnxRunner
from tests.conftest import Server, serving
from tests.graphs import add_graph
from tests.programs import needs_native
from tests.runtime.bench import SCHEDULERS, Bench
from tests.runtime.fakes import Options, Runner, column

# x -> x, for which a run takes 4 bytes for each number up to the largest x.
HUNGRY = parser.parse_model("""
<ir_version: 10, opset_import: ["" : 20]>
hungry (float[N, 1] x) => (float[N, 1] y) {
    most = ReduceMax <keepdims = 0> (x)
    one = Constant <value = int64[1] {1}> ()
    scalar = Reshape (most, one)
    places = Cast <to = 7> (scalar)
    zero = Constant <value = float[1] {0.0}> ()
    zeros = Expand (zero, places)
    sum = ReduceSum <keepdims = 0> (zeros)
    y = Add (x, sum)
}
""")
CONFIG = """
backend: "onnxruntime" max_batch_size: 8
input [{ name: "x" data_type: TYPE_FP32 dims: [1] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [1] }]
"""
TOO_MUCH = 2.0**46  # floats: 256 TiB, more than a process can address
ARENA = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. Name:'conv' "
    "Status Message: /onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:376 void* onnxruntime::BFCArena::"
    "AllocateRawInternal(size_t, bool, onnxruntime::Stream*, bool, onnxruntime::WaitNotificationFn) "
)
CALL = (
    "[ONNXRuntimeError] : 1 : FAIL : /onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:129 "
    "onnxruntime::CudaCall {} ; GPU=0 ; hostname=node ; file=cuda_allocator.cc ; line=47 ; "
    "expr=cudaMalloc((void**)&p, size); "
)


@pytest.fixture(scope="module", params=["grpc", "native"])
def hungry(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if request.param == "native":
        needs_native()
    directory = tmp_path_factory.mktemp("hungry")
    add_graph(directory / "repository", "hungry", HUNGRY, CONFIG)
    with serving(directory, "predict", "--transport", request.param, repository=directory / "repository") as server:
        yield server


def infer(channel: grpc.aio.Channel, value: float) -> Any:
    request = infer_request("hungry", {"x": np.array([[value]], np.float32)})
    return GRPCInferenceServiceStub(channel).ModelInfer(request)


async def test_a_run_that_needs_too_much_is_refused_and_told_when_to_try_again(hungry: Server) -> None:
    async with grpc.aio.insecure_channel(hungry.target) as channel:
        for _ in range(2):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await infer(channel, TOO_MUCH)
            assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert (LecternError.of(caught.value).retry_after or 0) > 0
            assert "the memory of its device is full" in (caught.value.details() or "")


async def test_those_who_share_its_batch_get_their_answers(hungry: Server) -> None:
    async with grpc.aio.insecure_channel(hungry.target) as channel:
        values = [1.0, 2.0, TOO_MUCH, 3.0, 4.0]
        answers = await asyncio.gather(*(infer(channel, value) for value in values), return_exceptions=True)
    for value, answer in zip(values, answers, strict=True):
        if value == TOO_MUCH:
            assert isinstance(answer, grpc.aio.AioRpcError)
        else:
            assert isinstance(answer, service_pb2.ModelInferResponse)
            assert np.frombuffer(answer.raw_output_contents[0], np.float32) == value


class Short(Runner):
    """Has memory for two rows."""

    def run(self, outputs: Sequence[str], inputs: Mapping[str, Array], options: Options) -> list[Array]:
        (x,) = inputs.values()
        if len(x) > 2:
            self.runs.append(len(x))
            raise OutOfMemoryError("CUDA failure 2: out of memory")
        return super().run(outputs, inputs, options)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_batch_that_is_too_large_runs_in_parts(scheduler: Any) -> None:
    bench = Bench(scheduler, max_batch_size=8, runner=Short)
    tasks = [bench.submit(column(value)) for value in range(8)]
    bench.run()
    assert [task.result()[0].item() for task in tasks] == [2 * value for value in range(8)]
    assert sorted(bench.runner.runs) == [2, 2, 2, 2, 4, 4, 8]
    whole = bench.submit(column(1, 2, 3))
    bench.run()
    error = whole.exception()
    assert isinstance(error, ResourceExhausted)
    assert error.retry_after == 1.0
    bench.close()


class Session:
    """Fails with a given error, and with another input's shape."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def get_inputs(self) -> list[Any]:
        return []

    def get_outputs(self) -> list[Any]:
        return []

    def run(self, *_: object) -> list[Array]:
        raise self.error

    def io_binding(self) -> None:
        raise self.error


@pytest.mark.parametrize("provider", [CPU, CUDA])
@pytest.mark.parametrize(
    "error",
    [
        RuntimeException(ARENA + "Failed to allocate memory for requested buffer of size 8388608000\n"),
        Fail(ARENA + "Available memory of 0 is smaller than requested bytes of 2048"),
        RuntimeException(ARENA + "Failed to find a free memory block despite calling Extend. rounded_bytes=512"),
        RuntimeError(
            "Error when binding input: " + ARENA + "Available memory of 0 is smaller than requested bytes of 9"
        ),
        Fail(CALL.format("CUDA failure 2: out of memory")),
        RuntimeException(CALL.format("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED")),
        RuntimeException(CALL.format("CUDNN failure 4: CUDNN_STATUS_ALLOC_FAILED")),
        Fail(CALL.format("CUDNN_FE failure 11: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED")),
    ],
    ids=lambda error: str(error)[-60:],
)
def test_what_a_gpu_says_when_its_memory_is_full_is_known(error: Exception, provider: str) -> None:
    runner = OnnxRunner(Session(error), provider)
    with pytest.raises(OutOfMemoryError):
        runner.run(["y"], {}, Options())


@pytest.mark.parametrize("provider", [CPU, CUDA])
@pytest.mark.parametrize(
    "words",
    ["CUDA failure 700: an illegal memory access was encountered", "CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED"],
)
def test_another_failure_of_a_gpu_is_not_its_memory(words: str, provider: str) -> None:
    with pytest.raises(EngineError) as caught:
        OnnxRunner(Session(Fail(CALL.format(words))), provider).run(["y"], {}, Options())
    assert not isinstance(caught.value, (OutOfMemoryError, MisfitError))


@pytest.mark.parametrize("bound", [False, True])
def test_an_arena_that_cannot_grow_says_so(bound: bool) -> None:
    """The arena of a GPU is the class that the CPU has too, and this is the real one."""
    session = onnxruntime.InferenceSession(HUNGRY.SerializeToString(), providers=[CPU])
    runner = OnnxRunner(session, CPU, bound)
    with pytest.raises(OutOfMemoryError, match="Failed to allocate memory for requested buffer"):
        runner.run(["y"], {"x": np.array([[TOO_MUCH]], np.float32)}, runner.options())
