"""`lectern answer`, and `lectern classify` of texts."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import ROOT, Server
from tests.lectern.test_cli import Run, invoke, refused

STORY = ROOT / "docs" / "examples" / "beagle.txt"
QUESTION = "Who commanded the ship?"


@pytest.fixture
def run(reader: Server) -> Run:
    return partial(invoke, target=reader.target)


def test_answers_come_with_what_stands_around_them(run: Run) -> None:
    done = run("answer", "--context", STORY, "--threshold", 1, "--top-k", 2, QUESTION, "When?")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode().splitlines()
    assert QUESTION in lines
    assert "When?" in lines
    assert sum("%" in line for line in lines) == 4


def test_json_has_offsets_into_the_file(run: Run) -> None:
    answer = json.loads(run("answer", "--context", STORY, "--top-k", 3, "--json", QUESTION).stdout)
    assert answer["model"] == "question_answerer"
    (result,) = answer["results"]
    assert (result["question"], len(result["answers"])) == (QUESTION, 3)
    for one in result["answers"]:
        assert STORY.read_text()[one["start"] : one["end"]] == one["text"]


def test_the_context_comes_from_a_pipe_too(run: Run) -> None:
    piped = run("answer", QUESTION, "--json", stdin=STORY.read_bytes())
    named = run("answer", QUESTION, "--json", "--context", STORY)
    assert piped.returncode == 0, piped.stderr
    assert piped.stdout == named.stdout


def test_no_answer_is_an_answer(run: Run) -> None:
    done = run("answer", "--context", STORY, "--threshold", 1e-9, QUESTION)
    assert "no answer" in done.stdout.decode()


def test_texts_are_classified_from_arguments_files_and_pipes(run: Run, tmp_path: Path) -> None:
    text = "What a lovely film!"
    (file := tmp_path / "review.txt").write_text(text)
    from_arguments = json.loads(run("classify", "--text", text, "--text", "Dull.", "--json").stdout)
    assert [result["text"] for result in from_arguments["results"]] == [text, "Dull."]
    for arguments, stdin in (([file], b""), (["-"], text.encode()), (["-"], b"\xef\xbb\xbf" + text.encode())):
        from_file = json.loads(run("classify", *arguments, "--json", stdin=stdin).stdout)
        assert from_file["model"] == "sentiment_classifier"
        for one, other in zip(from_file["results"][0]["classes"], from_arguments["results"][0]["classes"], strict=True):
            assert one == other | {"probability": pytest.approx(other["probability"], abs=1e-4)}
    assert text in run("classify", "--text", text).stdout.decode()


def test_what_is_wrong_is_named(run: Run, tmp_path: Path) -> None:
    (latin := tmp_path / "latin.txt").write_bytes("Zoë".encode("latin-1"))
    (blank := tmp_path / "blank.txt").write_text(" \n")
    refused(invoke("answer", "--context", latin, QUESTION), 2, f"{latin}: not UTF-8 text (byte 2 is 0xeb)")
    refused(invoke("answer", "--context", tmp_path / "none", QUESTION), 2, "no such file")
    refused(invoke("answer", "--context", STORY, os.fsdecode(b"Zo\xeb?")), 2, "not UTF-8 text (character 2)")
    refused(invoke("classify", "--text", os.fsdecode(b"Zo\xeb!")), 2, "not UTF-8 text (character 2)")
    refused(invoke("classify"), 2, "--text")
    refused(invoke("classify", blank, "--text", "a"), 2, "--text")
    refused(run("answer", "--context", blank, QUESTION), 1, "context", "nothing but spaces")
    refused(run("classify", blank), 1, f"{blank}: has nothing but spaces")
    refused(run("classify", "--text", " "), 1, "texts[0]")
