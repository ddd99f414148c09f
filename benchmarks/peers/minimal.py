"""The least that a Python gRPC server can do: what Lectern's checks, queue, metrics and errors are measured against.

`python benchmarks/peers/minimal.py REPOSITORY PORT`, in any environment, serves ModelInfer with grpc.aio and uvloop,
and one thread for each graph that runs whatever is queued; nothing is checked, bounded, counted or cancelled.
ModelInfer of the model `echo` gives the request's bytes back, which is what the transport alone costs.
"""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
from pathlib import Path

import grpc
import numpy as np
import uvloop
from numpy.typing import NDArray
from onnx_graph import MAX_BATCH, Graph  # type: ignore[import-not-found]
from tritonclient.grpc import service_pb2 as pb

Item = tuple[NDArray[np.generic], "asyncio.Future[NDArray[np.generic]]"]
DTYPES = {"UINT8": np.uint8, "FP32": np.float32}


class Batcher:
    """One graph, and the thread that runs it."""

    def __init__(self, graph: Graph, loop: asyncio.AbstractEventLoop) -> None:
        self.graph = graph
        self.queue: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self.loop = loop
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            items = [self.queue.get()]
            while len(items) < MAX_BATCH and not self.queue.empty():
                items.append(self.queue.get())
            array = np.concatenate([item[0] for item in items])
            rows = self.graph.run(array)
            self.loop.call_soon_threadsafe(_resolve, items, rows)


def _resolve(items: list[Item], rows: NDArray[np.generic]) -> None:
    for i, (_, future) in enumerate(items):
        future.set_result(rows[i : i + 1])


async def serve(graphs: dict[str, Graph], port: int) -> None:
    """Serve every graph, by its model's name, until the process ends."""
    loop = asyncio.get_running_loop()
    batchers = {model: Batcher(graph, loop) for model, graph in graphs.items()}

    async def infer(message: bytes, context: object) -> bytes:
        request = pb.ModelInferRequest.FromString(message)
        if request.model_name == "echo":
            return message
        batcher, tensor = batchers[request.model_name], request.inputs[0]
        array = np.frombuffer(request.raw_input_contents[0], DTYPES[tensor.datatype]).reshape(tensor.shape)
        future: asyncio.Future[NDArray[np.generic]] = loop.create_future()
        batcher.queue.put((array, future))
        rows = await future
        response = pb.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
        response.outputs.add(name=batcher.graph.output, datatype="FP32", shape=rows.shape)
        response.raw_output_contents.append(rows.tobytes())
        return response.SerializeToString()  # type: ignore[no-any-return]

    async def ready(message: bytes, context: object) -> bytes:
        return pb.ModelReadyResponse(ready=True).SerializeToString()  # type: ignore[no-any-return]

    handlers = {
        "ModelInfer": grpc.unary_unary_rpc_method_handler(infer),
        "ModelReady": grpc.unary_unary_rpc_method_handler(ready),
    }
    server = grpc.aio.server(options=[("grpc.so_reuseport", 1)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    repository = Path(sys.argv[1])
    models = [path.parents[1].name for path in repository.glob("*/1/model.onnx")]
    uvloop.run(serve({model: Graph(repository, model) for model in models}, int(sys.argv[2])))
