"""`make bench DEVICE=cuda`, which runs where a GPU is lent for minutes: here its steps are taken on the CPU."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from benchmarks import __main__ as command
from benchmarks import device
from benchmarks.device import Checked, Measured, compared, tolerance_of
from benchmarks.options import Options
from services.runtime.onnx_runner import CPU, CUDA
from training.trained import FLOAT32, GRADIENT, IMAGE

RIGHT, RATES = Checked(1e-5, 1e-4, 1, 0.99), Measured(8, 100.0, 90.0)


def test_its_steps_work(capsys: pytest.CaptureFixture[str]) -> None:
    command.main(
        ["device", "--brief", "--seconds", "0.01", "--only", "lunar_lander", "sentiment", "garment", "zh_step"]
    )
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith("| `")]
    assert sum(line.startswith("| 1 | 1.00 | ") for line in lines) == 1  # of the decoding
    graphs = ("garment_generator", "lunar_lander", "sentiment_classifier", "translator_en_zh_step")
    assert [row[0] for row in rows] == [f"| `{name}`" for name in graphs]
    for _, difference, _, levels, agreement, _, bare, ours, _ in rows:
        assert (float(difference), int(levels), float(agreement)) == (0, 0, 1)
        assert float(bare.replace(",", "")) > 0
        assert float(ours.replace(",", "")) > 0


@pytest.mark.parametrize("wheel", ["cpu", "gpu"])
def test_without_a_gpu_it_says_so_in_one_line(monkeypatch: pytest.MonkeyPatch, wheel: str) -> None:
    if wheel == "gpu":  # which names CUDA even where it finds none, and then gives a session on the CPU
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
        monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    with pytest.raises(SystemExit) as caught:
        command.main(["--device", "cuda"])
    message = str(caught.value)
    assert message.startswith("nothing was measured: --device cuda")
    assert "\n" not in message


def run(tmp_path: object) -> None:
    device.run(Options(brief=False, reports=tmp_path, device="cuda"))  # type: ignore[arg-type]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_engine", lambda _: None)
    monkeypatch.setattr(device, "decoding", lambda *_: [])
    monkeypatch.setattr(device, "hardware", lambda _: ", a GPU, driver 1")


@pytest.mark.usefixtures("gpu")
def test_a_wrong_graph_fails_it_and_the_report_has_all(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    def of_graph(engine: object, name: str, seconds: float) -> tuple[Checked, Measured]:
        if name == "poem_generator":
            raise RuntimeError("output next is gone")
        return (Checked(0.2, 1e-4, 0, 1.0) if name == "lunar_lander" else RIGHT), RATES

    monkeypatch.setattr(device, "of_graph", of_graph)
    with pytest.raises(
        RuntimeError, match="lunar_lander answers otherwise than on the CPU; poem_generator: output next"
    ):
        run(tmp_path)
    text = (tmp_path / "cuda.md").read_text()  # type: ignore[operator]
    assert ", a GPU, driver 1" in text
    assert "- **lunar_lander answers otherwise than on the CPU**" in text
    assert "| `lunar_lander` | 2.0e-01 | 1e-04 | 0 | 1.000 | 8 | 100 | 90 | 0.90 |" in text


@pytest.mark.usefixtures("gpu")
def test_it_ends_in_time(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(device, "of_graph", lambda *_: (RIGHT, RATES))
    monkeypatch.setattr(device, "LIMIT_SECONDS", -1.0)
    with pytest.raises(RuntimeError, match="image_classifier: no time was left for it"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("output", "checked"),
    [
        (
            {"y": np.array([[2.0, -4.0]]), "image": np.array([7], np.uint8), "next": np.array([1, 2])},
            Checked(0, 1, 0, 1),
        ),
        (
            {"y": np.array([[2.0, -3.0]]), "image": np.array([9], np.uint8), "next": np.array([1, 3])},
            Checked(0.25, 1, 2, 0.5),
        ),
    ],
)
def test_differences_are_measured_as_parity_is(output: dict[str, np.ndarray], checked: Checked) -> None:
    expected = {"y": np.array([[2.0, -4.0]]), "image": np.array([7], np.uint8), "next": np.array([1, 2])}
    assert compared([(expected, expected), (expected, output)], 1.0).difference == checked.difference
    result = compared([(expected, output)], 1.0)
    assert result == checked
    assert result.right == (checked.levels <= 1 and checked.agreement == 1)
    with pytest.raises(RuntimeError, match=r"output y \[1\] is not \[1, 2\] finite numbers"):
        compared([(expected, {**output, "y": np.array([2.0])})], 1.0)
    with pytest.raises(RuntimeError, match="finite"):
        compared([(expected, {**output, "y": np.array([[2.0, np.nan]])})], 1.0)


def test_tolerances_are_those_of_the_export() -> None:
    assert (FLOAT32.relative, GRADIENT.relative, IMAGE.levels) == (device.FLOAT32, device.GRADIENT, device.LEVELS)
    assert tolerance_of("image_classifier") == FLOAT32.relative
    assert tolerance_of("image_classifier_gradient") == GRADIENT.relative
    assert tolerance_of("text_encoder") == 0.25  # as its card says
