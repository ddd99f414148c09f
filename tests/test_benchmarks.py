"""What the benchmarks promise beside their figures: a wrong answer, or one that failed, ends in a failure."""

from __future__ import annotations

import concurrent.futures
import json
import math
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType

import grpc
import numpy as np
import pytest
from prometheus_client.samples import Sample
from tritonclient.grpc import service_pb2 as oip
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceServicer, add_GRPCInferenceServiceServicer_to_server

from benchmarks import __main__ as command
from benchmarks.load import _run, check, check_http, http_call, infer_request
from benchmarks.options import ROOT, Options
from benchmarks.rpcs import Lag, Work
from training.cpu import cpu_features, cpu_name

REQUEST = infer_request("double", {"x": np.array([[1.0, -2.0]], np.float32)})
H2LOAD = """finished in 1.00s, 10.00 req/s, 1KB/s
requests: 10 total, 10 started, 10 done, 10 succeeded, 0 failed, 0 errored, 0 timeout
traffic: 1.23KB (1262) total, 100B (100) headers (space savings 95.72%), {size}B ({size}) data
"""


class Double(GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Answers with twice the input."""

    def ModelInfer(self, request: oip.ModelInferRequest, context: object) -> oip.ModelInferResponse:  # noqa: N802
        doubled = 2 * np.frombuffer(request.raw_input_contents[0], np.float32).reshape(request.inputs[0].shape)
        response = oip.ModelInferResponse(model_name=request.model_name, raw_output_contents=[doubled.tobytes()])
        response.outputs.add(name="y", datatype="FP32", shape=doubled.shape)
        return response


@pytest.fixture
def target() -> Iterator[str]:
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
    add_GRPCInferenceServiceServicer_to_server(Double(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None)


def test_the_right_answer_passes_the_check(target: str) -> None:
    response = check(target, REQUEST, {"y": np.array([[2.0, -4.0]])})
    assert response.model_name == "double"


@pytest.mark.parametrize(
    ("expected", "problem"),
    [
        ({"y": np.array([[2.0, -3.0]])}, "is wrong by 1 in y, up to 3"),
        ({"y": np.array([[2.0, np.nan]])}, "is wrong by nan"),
        ({"y": np.array([2.0, -4.0])}, r"answers without y \[2\]"),
        ({"z": np.array([[2.0, -4.0]])}, r"answers without z \[1, 2\]"),
    ],
)
def test_a_wrong_answer_fails_the_check(target: str, expected: dict[str, np.ndarray], problem: str) -> None:
    with pytest.raises(RuntimeError, match=problem):
        check(target, REQUEST, expected)


class DoubleOverHttp(BaseHTTPRequestHandler):
    """Answers with twice the input, in the form that it came."""

    def do_POST(self) -> None:
        body, form = self.rfile.read(int(self.headers["content-length"])), self.headers["content-type"]
        if form == "application/json":
            content = json.dumps((2 * np.array(json.loads(body))).tolist()).encode()
        else:
            content = (2 * np.frombuffer(body, np.float32)).tobytes()
        self.send_response(200)
        self.send_header("content-type", form)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None: ...


@pytest.mark.parametrize(
    ("body", "sent", "size"), [("bytes", b"\0\0\x80?\xcd\xcc\xcc=", 8), ("json", b"[[1.0,0.1]]", None)]
)
def test_an_answer_over_http_is_checked(body: str, sent: bytes, size: int | None) -> None:
    server = HTTPServer(("127.0.0.1", 0), DoubleOverHttp)
    threading.Thread(target=server.serve_forever).start()
    try:
        call = http_call("double", np.array([[1.0, 0.1]], np.float32), body)
        assert (call.path, call.body) == ("/double", sent)
        target = f"127.0.0.1:{server.server_port}"
        assert check_http(target, call, np.array([[2.0, 0.2]], np.float32)).size == size
        with pytest.raises(RuntimeError, match=r"/double at .* is wrong by 1 in its answer, up to 3"):
            check_http(target, call, np.array([[3.0, 0.2]], np.float32))
    finally:
        server.shutdown()
        server.server_close()


def test_answers_of_another_size_fail_a_measurement() -> None:
    """h2load takes a gRPC error for a success: it has trailers, and no message."""
    assert _run(["echo", H2LOAD.format(size=250)], 10, 25) == 10
    with pytest.raises(RuntimeError, match="10 answers of 225 bytes, not of 25 each"):
        _run(["echo", H2LOAD.format(size=225)], 10, 25)


def test_lag_is_told_by_the_bounds_that_timers_kept() -> None:
    before = Lag({0.001: 5, 0.02: 6, math.inf: 6})
    lag = Lag({0.001: 103, 0.02: 106, math.inf: 106}).since(before)
    assert (lag.at_most(0.98), lag.at_most(0.99), lag.at_most(1)) == (0.001, 0.02, 0.02)


def test_work_is_told_of_each_request_by_what_the_server_counted() -> None:
    before = {"grpc_server_handled_total": 10, "lectern_inference_seconds_sum": 1, "lectern_batch_size_sum": 7}
    more = {"grpc_server_handled_total": 4, "lectern_inference_seconds_sum": 0.02, "lectern_codec_seconds_sum": 0.008}
    more |= {"lectern_batch_size_count": 2, "lectern_batch_size_sum": 6}
    after = {name: before.get(name, 0) + value for name, value in more.items()}
    work = Work.between(*([Sample(name, {}, value) for name, value in counts.items()] for counts in (before, after)))
    assert (work.graphs, work.codec, work.runs, work.rows) == pytest.approx((5, 2, 0.5, 1.5))


def test_one_that_fails_fails_all_and_stops_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[Options] = []

    def fail(options: Options) -> None:
        raise RuntimeError("the cell is wrong")

    for name, run in (("bad", fail), ("good", given.append)):
        module = ModuleType(name)
        module.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, f"benchmarks.{name}", module)
    monkeypatch.setattr(command, "BENCHMARKS", ("bad", "good"))
    monkeypatch.setattr(command.shutil, "which", lambda name: f"/usr/bin/{name}")
    with pytest.raises(SystemExit, match="failed: bad"):
        command.main(["--brief"])
    assert "the cell is wrong" in capsys.readouterr().err
    command.main(["good"])
    brief, full = given
    assert brief.brief
    assert ROOT not in brief.reports.parents
    assert (full.brief, full.reports) == (False, ROOT / "docs" / "benchmarks")


def test_every_part_of_make_bench_can_be_run() -> None:
    for name in command.BENCHMARKS:
        assert "def run(options: Options) -> None:" in (ROOT / "benchmarks" / f"{name}.py").read_text()


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        ("model name\t: AMD EPYC 7543\nflags\t\t: sse4_2 avx2 fma\n", "AMD EPYC 7543 (AVX2; no AVX-512, VNNI, bf16)"),
        (
            "model name\t: Xeon\nflags\t\t: avx2 avx512f avx512_vnni avx512_bf16\n\nflags\t\t: none\n",
            "Xeon (AVX2, AVX-512, VNNI, bf16)",
        ),
        ("BogoMIPS\t: 50\nFeatures\t: fp asimd bf16\n", "CPU of unknown model (bf16; no AVX2, AVX-512, VNNI)"),
        ("", "CPU of unknown model (no AVX2, AVX-512, VNNI, bf16)"),
    ],
)
def test_a_cpu_is_named_with_what_matters(tmp_path: Path, cpuinfo: str, name: str) -> None:
    (path := tmp_path / "cpuinfo").write_text(cpuinfo)
    assert cpu_name(path) == name


def test_a_cpu_with_vnni_in_avx_alone_has_it(tmp_path: Path) -> None:
    (path := tmp_path / "cpuinfo").write_text("flags : avx2 avx_vnni\n")
    assert cpu_features(path) == {"AVX2": True, "AVX-512": False, "VNNI": True, "bf16": False}
