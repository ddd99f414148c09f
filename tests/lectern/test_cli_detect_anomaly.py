"""`lectern detect-anomaly`, and the clients' methods beneath it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import lectern
from tests.conftest import SLIVERS, encode
from tests.lectern.test_cli import Run, invoke, refused, run
from tests.waiting import WAIT

__all__ = ["run"]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """A real piece of clothing, and a digit."""
    paths = [tmp_path / "shoe.png", tmp_path / "digit.png"]
    with np.load(SLIVERS / "anomaly_detector_test.npz") as pictures:
        paths[0].write_bytes(encode(pictures["images"][9]))
        paths[1].write_bytes(encode(pictures["mnist"][0]))
    return paths


def test_a_table_says_which_is_an_anomaly(run: Run, files: list[Path]) -> None:
    done = run("detect-anomaly", *files)
    assert done.returncode == 0, done.stderr
    _, shoe, digit = (line.split() for line in done.stdout.decode().splitlines() if line.strip())
    assert shoe[:2] == [str(files[0]), "no"]
    assert digit[:2] == [str(files[1]), "yes"]


def test_json_has_a_result_for_each_file_without_its_picture(run: Run, files: list[Path], tmp_path: Path) -> None:
    options = ("--false-positive-rate", 0.01, "--heat-map", tmp_path / "maps", "--json")
    answer = json.loads(run("detect-anomaly", *files, *options).stdout)
    assert (answer["model"], [r["file"] for r in answer["results"]]) == ("anomaly_detector", [str(f) for f in files])
    shoe, digit = answer["results"]
    assert set(shoe) == {"file", "score", "probability", "threshold", "anomalous"}
    assert not shoe["anomalous"]
    assert shoe["probability"] < digit["probability"]
    assert shoe["threshold"] == digit["threshold"]


def test_pictures_of_one_file_and_of_several(run: Run, files: list[Path], tmp_path: Path) -> None:
    heat_map, rebuilt = tmp_path / "new" / "where.png", tmp_path / "rebuilt"
    assert run("detect-anomaly", files[1], "--heat-map", heat_map, "--reconstruction", rebuilt).returncode == 0
    assert (Image.open(heat_map).size, Image.open(rebuilt / "1-digit.png").size) == ((224, 224), (224, 224))
    assert run("detect-anomaly", *files, "--heat-map", tmp_path / "maps").returncode == 0
    assert sorted(p.name for p in (tmp_path / "maps").iterdir()) == ["1-shoe.png", "2-digit.png"]


def test_what_is_wrong_is_named(run: Run, files: list[Path], tmp_path: Path) -> None:
    (text := tmp_path / "notes.txt").write_text("no image")
    refused(run("detect-anomaly", files[0], text), 1, f"error: {text}:")
    refused(run("detect-anomaly", files[0], "--false-positive-rate", 0.7), 1, "false_positive_rate", "at most 0.5")
    refused(invoke("detect-anomaly", *files, "--heat-map", "out.png"), 2, "name a directory")


async def test_both_clients_answer_alike(server: Any, files: list[Path]) -> None:
    options = {"false_positive_rate": 0.1, "include_heat_map": True}
    with lectern.Client(server.target, timeout=WAIT) as client:
        detected = client.detect_anomaly(files, **options)
        streamed = list(client.stream_detect_anomaly([files, files[0]], **options))
    async with lectern.aio.Client(server.target, timeout=WAIT) as client:
        assert (await client.detect_anomaly(files, **options)).results == detected.results
        also_streamed = [answer async for answer in client.stream_detect_anomaly([files, files[0]], **options)]
    assert [len(answer.results) for answer in streamed] == [2, 1]
    for answers in (streamed, also_streamed):
        assert [r.heat_map for r in answers[0].results] == [r.heat_map for r in detected.results]
        assert not any(r.reconstruction for answer in answers for r in answer.results)
