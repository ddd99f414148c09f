"""The command line as a user runs it: a process of its own against a real server."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import lectern
from tests.waiting import WAIT

Run = Callable[..., subprocess.CompletedProcess[bytes]]


def invoke(*arguments: object, stdin: bytes = b"", target: str = "127.0.0.1:1") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "lectern", *map(str, arguments)]
    environment = os.environ | {"LECTERN_TARGET": target, "COLUMNS": "200", "NO_COLOR": "1"}
    return subprocess.run(command, input=stdin, capture_output=True, env=environment, timeout=WAIT)


@pytest.fixture
def run(server: Any) -> Run:
    return lambda *arguments, stdin=b"": invoke(*arguments, stdin=stdin, target=server.target)


@pytest.fixture
def files(photos: np.ndarray, png: Callable[..., bytes], tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"photo[{i}].png" for i in range(3)]
    for path, photo in zip(paths, photos, strict=False):
        path.write_bytes(png(photo))
    return paths


@pytest.fixture
def features(server: Any) -> list[str]:
    with lectern.Client(server.target, timeout=WAIT) as client:
        card: Any = client.get_model("covid_regressor").model.versions[0].card
        return list(card["preprocessing"]["features"])


def as_csv(*rows: object) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer).writerows(rows)  # type: ignore[arg-type]
    return buffer.getvalue().encode()


def refused(done: subprocess.CompletedProcess[bytes], code: int, *words: str) -> None:
    """Assert that it ended with `code` and `words` on stderr, without a result or a traceback."""
    errors = done.stderr.decode()
    assert (done.returncode, done.stdout) == (code, b""), errors
    assert "Traceback" not in errors
    for word in words:
        assert word in errors


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys; sys.argv = ['lectern', '--help']\nfrom lectern.cli import main\n"
        "try: main()\nexcept SystemExit: print({'grpc', 'numpy', 'IPython', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")
    assert "lectern classify cat.png dog.jpg" in done.stdout


@pytest.mark.parametrize(
    "command",
    [
        "serve",
        "models",
        "classify",
        "classify-few-shot",
        "predict",
        "generate images",
        "transform",
        "act",
        "episode",
        "console",
        "train",
        "token create",
    ],
)
def test_each_command_explains_itself_by_example(command: str) -> None:
    done = invoke(*command.split(), "--help")
    assert done.returncode == 0
    assert f" lectern {command}".encode() in done.stdout


def test_version() -> None:
    assert invoke("--version").stdout.startswith(b"lectern 0.")


def test_models(run: Run) -> None:
    done = run("models")
    assert done.returncode == 0
    line = next(line for line in done.stdout.decode().splitlines() if line.startswith("image_classifier"))
    assert {"HW3", "classify", "ready", "accuracy"} <= set(line.split())


def test_models_as_json(run: Run) -> None:
    models = json.loads(run("models", "--json").stdout)["models"]
    model = next(model for model in models if model["name"] == "image_classifier")
    version = model["versions"][0]
    assert (model["lecture"], version["state"], version["card"]["version"]) == ("HW3", "ready", version["version"])


def test_classify_prints_a_table_per_file(run: Run, files: list[Path]) -> None:
    done = run("classify", *files, "--top-k", 2)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.decode().splitlines() if line.strip()]
    assert len(lines) == 3 * len(files)
    assert [line.strip() for line in lines[::3]] == [str(path) for path in files]
    assert "%" in lines[1]


def test_classify_as_json(run: Run, files: list[Path]) -> None:
    answer = json.loads(run("classify", *files, "--json").stdout)
    assert answer["model"] == "image_classifier"
    assert [result["file"] for result in answer["results"]] == [str(path) for path in files]
    classes = answer["results"][0]["classes"]
    assert len(classes) == 3
    assert classes[0]["probability"] >= classes[1]["probability"]


def test_classify_reads_standard_input(run: Run, files: list[Path]) -> None:
    piped = json.loads(run("classify", "-", "--json", stdin=files[0].read_bytes()).stdout)
    named = json.loads(run("classify", files[0], "--json").stdout)
    assert piped["results"][0]["classes"][0]["label"] == named["results"][0]["classes"][0]["label"]


def test_more_files_than_one_request_takes(run: Run, files: list[Path]) -> None:
    answer = json.loads(run("classify", *files * 90, "--top-k", 1, "--json").stdout)
    labels = [result["classes"][0]["label"] for result in answer["results"]]
    assert labels == labels[:3] * 90


def test_a_file_that_is_no_image_is_named(run: Run, files: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "notes.bin"
    other.write_bytes(b"\0not an image")
    refused(run("classify", files[0], other), 1, f"error: {other}:")


@pytest.fixture
def letters(png: Callable[..., bytes], tmp_path: Path) -> tuple[Path, Path]:
    """A folder with three examples of two classes, and another drawing of the second."""
    bars = {"across": np.zeros((28, 28), np.uint8), "down": np.zeros((28, 28), np.uint8)}
    bars["across"][12:15, 4:24], bars["down"][4:24, 12:15] = 255, 255
    for label, drawing in bars.items():
        (folder := tmp_path / "letters" / label).mkdir(parents=True)
        for shift in range(3):
            (folder / f"{shift}.png").write_bytes(png(np.roll(drawing, shift, (0, 1))))
    (unknown := tmp_path / "unknown.png").write_bytes(png(255 - np.roll(bars["down"], -1, (0, 1))))
    return tmp_path / "letters", unknown


@pytest.mark.parametrize("method", ["prototypes", "maml", "first-order-maml"])
def test_new_classes_are_learned_from_folders(run: Run, letters: tuple[Path, Path], method: str) -> None:
    support, unknown = letters
    done = run("classify-few-shot", "--support", support, unknown, "--method", method, "--json")
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["results"]
    assert (result["file"], result["classes"][0]["label"]) == (str(unknown), "down")


def test_examples_that_do_not_do_are_named(run: Run, letters: tuple[Path, Path], tmp_path: Path) -> None:
    support, unknown = letters
    refused(run("classify-few-shot", "--support", tmp_path / "none", unknown), 2, "none")
    refused(run("classify-few-shot", "--support", support / "down", unknown), 2, "no folder of PNG")
    refused(run("classify-few-shot", "--support", support, unknown, "--steps", 3), 1, "MAML methods only")
    (bad := support / "down" / "9.png").write_text("not an image")
    refused(run("classify-few-shot", "--support", support, unknown), 1, f"error: {bad}:")


def test_a_missing_file_is_wrong_usage(run: Run, tmp_path: Path) -> None:
    refused(run("classify", tmp_path / "none.png"), 2, "none.png: no such file")
    refused(run("classify", tmp_path), 2, "is a directory")


def test_wrong_arguments_are_wrong_usage() -> None:
    refused(invoke("classify"), 2, "name files, or give texts with --text")
    refused(invoke("clasify"), 2, "Did you mean")
    refused(invoke("models", "--timeout", "soon"), 2, "--timeout")
    refused(invoke("models", "--tls-cert", __file__), 2, "go together")
    refused(invoke("serve", "--port", "70000"), 2, "--port")


def test_an_unknown_model_points_to_the_list(run: Run, files: list[Path]) -> None:
    refused(run("classify", files[0], "--model", "nobody"), 1, "nobody", "`lectern models`")


def test_no_server_says_how_to_start_one() -> None:
    refused(invoke("models"), 1, "no server at 127.0.0.1:1: start one with `lectern serve`", "--target")


def test_a_server_that_does_not_answer_meets_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = f"127.0.0.1:{silent.getsockname()[1]}"
        refused(invoke("models", "--timeout", "0.5", target=target), 1, f"no answer from {target} within 0.5 s")


def test_ctrl_c_is_quiet() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = f"127.0.0.1:{silent.getsockname()[1]}"
        command = [sys.executable, "-m", "lectern", "models", "--target", target]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        connection, _ = silent.accept()  # from here on it waits for an answer
        with connection:
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=WAIT) == (b"", b"")
    assert process.returncode == 130


def test_predict_finds_columns_by_name(run: Run, features: list[str]) -> None:
    header = ["id", *(name.split(".")[0] for name in features), "target"]
    named = run("predict", "-", stdin=as_csv(header, [7, *[1] * len(features), 9], [8, *[2] * len(features), 9]))
    bare = run("predict", "-", stdin=as_csv([1] * len(features), [2] * len(features)))
    assert named.returncode == 0, named.stderr
    assert named.stdout == bare.stdout
    assert len(named.stdout.splitlines()) == 3


def test_predict_as_json_in_several_requests(run: Run, features: list[str], tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(as_csv(*([i % 2] * len(features) for i in range(5000))))
    answer = json.loads(run("predict", path, "--json").stdout)
    values = [result["values"] for result in answer["results"]]
    assert (answer["model"], len(values), len(values[0])) == ("covid_regressor", 5000, len(answer["targets"]))
    assert np.ptp(values[::2]) == pytest.approx(0, abs=1e-4)


def test_predict_says_what_is_wrong_with_a_table(run: Run, features: list[str], tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(as_csv(features[:-1], [1] * (len(features) - 1)))
    refused(run("predict", path), 2, "1 of", f"missing: {features[-1]}")
    refused(run("predict", "-", stdin=as_csv([1, 2])), 2, "row 1 has 2 columns", str(len(features)))
    refused(
        run("predict", "-", stdin=as_csv([1] * len(features), ["x"] * len(features))), 2, f"row 2, column {features[0]}"
    )
    refused(run("predict", "-", stdin=b"\x89PNG\r\n"), 2, "UTF-8")
    refused(run("predict", path, "--model", "image_classifier"), 2, "takes no rows")


OBSERVATION = (0.0, 1.4, 0.3, -0.5, -0.1, 0.05, 0, 0)


def test_act_takes_numbers_or_a_table(run: Run) -> None:
    names = ["y", "x", "x_velocity", "y_velocity", "angle", "angular_velocity", "left_leg_contact", "right_leg_contact"]
    swapped = (OBSERVATION[1], OBSERVATION[0], *OBSERVATION[2:])
    numbers = run("act", *OBSERVATION)
    table = run("act", "-", stdin=as_csv(names, swapped, swapped))
    assert numbers.returncode == 0, numbers.stderr
    header, line = numbers.stdout.splitlines()
    assert header == b"action,probability,value"
    assert table.stdout.splitlines() == [header, line, line]


def test_act_as_json_draws_by_the_seed(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "observations.csv"
    path.write_bytes(as_csv(*[[0] * 8] * 5000))
    first, again = (json.loads(run("act", path, "--sample", "--seed", 3, "--json").stdout) for _ in range(2))
    assert (first["model"], first, len(first["results"])) == ("lunar_lander", again, 5000)
    labels = [result["label"] for result in first["results"]]
    assert len(set(labels)) > 1
    assert labels[:100] != labels[4096:4196]


def test_act_says_what_is_wrong(run: Run, tmp_path: Path) -> None:
    refused(run("act", 1, 2), 1, "observations[0].features: has 2 values; the model takes 8")
    refused(run("act", 1, 2, "--seed", 2**64), 2, "--seed")
    refused(run("act", 1, "two"), 2, "give numbers, or one file")
    refused(run("act", tmp_path / "none.csv"), 2, "none.csv: no such file")
    refused(run("act", "-", "--model", "covid_regressor", stdin=b"1,2"), 2, "takes no observations")
    refused(run("act", "-", stdin=b"1,2"), 2, "row 1 has 2 columns", "angular_velocity")
    refused(run("predict", "-", "--model", "lunar_lander", stdin=b"1,2"), 2, "takes no rows")


def test_episode_says_how_it_went(run: Run) -> None:
    done = run("episode", "--seed", 7)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(rb"(ended|cut off) after \d+ steps, total reward -?\d+\.\d\n", done.stdout)


def test_episode_as_an_animation(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "flight.gif"
    done = run("episode", "--out", path, "--max-steps", 21)
    assert done.stdout.endswith(f"; 6 frames in {path}\n".encode()), done.stderr
    with Image.open(path) as film:
        assert (film.n_frames, film.size) == (6, (300, 200))  # type: ignore[attr-defined]
        durations = []
        for frame in range(6):
            film.seek(frame)
            durations.append(film.info["duration"])
    assert durations == [80, 80, 80, 80, 80, 2000]


def test_episode_as_pictures_and_json(run: Run, tmp_path: Path) -> None:
    done = run("episode", "--out", tmp_path / "new" / "frames", "--max-steps", 5, "--frame-every", 2, "--json")
    results = json.loads(done.stdout)["results"]
    assert [result["step"] for result in results] == [1, 2, 3, 4, 5]
    assert sorted(path.name for path in (tmp_path / "new" / "frames").iterdir()) == ["0001.png", "0003.png", "0005.png"]


def test_episode_says_what_is_wrong(run: Run, tmp_path: Path) -> None:
    refused(run("episode", "--out", tmp_path / "nowhere" / "flight.gif"), 2, "nowhere: no such directory")
    (tmp_path / "file").touch()
    refused(run("episode", "--out", tmp_path / "file"), 2, "is a file")
    refused(run("episode", "--max-steps", 5000), 1, "max_steps: is 5000; it may be 1 to 1000")


def test_training_an_unknown_model_says_which_there_are() -> None:
    refused(invoke("train", "nobody"), 1, "nobody", "image_classifier")


@pytest.fixture
def without_ipython(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "IPython.py").write_text("raise ImportError('hidden by a test')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))


@pytest.mark.usefixtures("without_ipython")
def test_the_console_says_what_it_needs() -> None:
    refused(invoke("console"), 1, "pip install ipython")
