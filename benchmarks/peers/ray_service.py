"""Graphs as applications of Ray Serve: `python ray_service.py REPOSITORY PORT MODEL...` takes raw values at /MODEL."""

import sys

import ray
from onnx_graph import MAX_BATCH, Graph
from ray import serve
from starlette.requests import Request
from starlette.responses import Response


@serve.deployment(num_replicas=1, max_ongoing_requests=4 * MAX_BATCH)
class OnnxDeployment:
    """One model of the repository; batches are what waits."""

    def __init__(self, repository: str, model: str) -> None:
        self.graph = Graph(repository, model)

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=0)
    async def answer(self, bodies: list[bytes]) -> list[bytes]:
        return self.graph.answer(bodies)

    async def __call__(self, request: Request) -> Response:
        return Response(await self.answer(await request.body()), media_type="application/octet-stream")


if __name__ == "__main__":
    repository, port, *models = sys.argv[1:]
    ray.init(include_dashboard=False, log_to_driver=False)
    quiet = {"enable_access_log": False}
    serve.start(http_options={"host": "127.0.0.1", "port": int(port)}, logging_config=quiet)
    applications = [
        serve.RunTarget(OnnxDeployment.bind(repository, model), model, f"/{model}", logging_config=quiet)
        for model in models
    ]
    serve.run_many(applications, blocking=True)
