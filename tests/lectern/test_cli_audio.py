"""`lectern classify` of recordings, `lectern listen` and `lectern verify-speaker`, as a user runs them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT, Server, encode, record
from tests.lectern.test_cli import Run, invoke
from training.data.audio import read

EXAMPLES = ROOT / "docs" / "examples"
SENTENCE = EXAMPLES / "sentence.wav"


@pytest.fixture
def run(speech: Server) -> Run:
    return lambda *arguments, stdin=b"": invoke(*arguments, stdin=stdin, target=speech.target)


def test_a_recording_is_recognised_by_its_content_and_shown_as_segments(run: Run, tmp_path: Path) -> None:
    unnamed = tmp_path / "talk"
    unnamed.write_bytes(record(read(SENTENCE), "FLAC"))
    result = run("classify", unnamed)
    assert result.returncode == 0, result.stderr
    title, head, first, *_ = result.stdout.decode().splitlines()
    assert title.split()[-2:] == ["5.50", "s"]
    assert head.split() == ["start", "end", "confidence"]
    assert first.split()[0] == "0.00"


def test_json_has_segments_and_a_pipe_is_as_good_as_a_file(run: Run) -> None:
    named, piped = (
        json.loads(run("classify", "--json", file, stdin=SENTENCE.read_bytes()).stdout) for file in (SENTENCE, "-")
    )
    assert named["model"] == "phoneme_classifier"
    assert named["results"][0]["segments"] == piped["results"][0]["segments"]
    first = named["results"][0]["segments"][0]
    assert set(first) == {"label", "index", "start_seconds", "end_seconds", "confidence"}
    assert named["results"][0]["duration_seconds"] == pytest.approx(5.5, abs=0.01)


def test_a_model_of_whole_clips_shows_its_classes(run: Run) -> None:
    result = run("classify", "--model", "speaker_classifier", EXAMPLES / "armelle_1.wav", EXAMPLES / "armelle_2.wav")
    assert result.returncode == 0, result.stderr
    assert result.stdout.decode().count("%") == 6
    assert "armelle_2.wav" in result.stdout.decode()


def test_recordings_and_pictures_need_a_command_each(run: Run, tmp_path: Path) -> None:
    picture = tmp_path / "picture.webp"
    picture.write_bytes(encode(np.zeros((32, 32, 3), np.uint8), "WEBP"))
    result = run("classify", SENTENCE, picture)
    assert result.returncode == 2
    assert "a command each" in result.stderr.decode()


def test_a_refused_recording_is_named(run: Run, tmp_path: Path) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(SENTENCE.read_bytes()[:40])
    result = run("classify", SENTENCE, broken)
    assert result.returncode == 1
    assert f"{broken}: cannot be read as audio" in result.stderr.decode()


def test_listen_prints_the_segments_of_a_stream(run: Run) -> None:
    raw = read(SENTENCE).astype("<i2").tobytes()
    whole = json.loads(run("classify", "--json", SENTENCE).stdout)["results"][0]["segments"]
    lines = run("listen", "--json", stdin=raw + b"\0").stdout.splitlines()
    segments = [json.loads(line) for line in lines]
    assert [s["label"] for s in segments] == [s["label"] for s in whole]
    assert segments[-1]["end_seconds"] == pytest.approx(whole[-1]["end_seconds"])
    table = run("listen", stdin=raw)
    assert table.returncode == 0, table.stderr
    assert len(table.stdout.splitlines()) == len(whole)


def test_verify_speaker_says_who_it_is_or_is_not(run: Run) -> None:
    files = (EXAMPLES / "armelle_1.wav", EXAMPLES / "armelle_2.wav")
    answer = json.loads(run("verify-speaker", *files, "--json").stdout)
    assert answer["model"] == "speaker_classifier"
    assert answer["same_speaker"] == (answer["score"] >= answer["threshold"])
    same = run("verify-speaker", *files, "--threshold", "-1")
    assert "the same speaker" in same.stdout.decode()
    other = run("verify-speaker", "-", files[1], "--threshold", "1", stdin=files[0].read_bytes())
    assert other.returncode == 0, other.stderr
    assert "different speakers" in other.stdout.decode()


@pytest.mark.parametrize("wrong", [lambda p: p / "none.wav", lambda p: p], ids=["missing", "directory"])
def test_verify_speaker_names_files_that_are_none(run: Run, tmp_path: Path, wrong: Callable[[Path], Path]) -> None:
    result = run("verify-speaker", SENTENCE, wrong(tmp_path))
    assert result.returncode == 2
    assert str(wrong(tmp_path)) in result.stderr.decode()
