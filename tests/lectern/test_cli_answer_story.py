"""`lectern answer-story`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import Server
from tests.lectern.test_cli import Run, invoke

STORY = "Mary got the football there.\n\nMary moved to the garden.\n"
QUESTION = "Where is the football?"


@pytest.fixture
def run(story_reader: Server) -> Run:
    return partial(invoke, target=story_reader.target)


def test_each_sentence_has_a_bar_for_each_hop_and_the_answer_comes_last(run: Run, tmp_path: Path) -> None:
    (file := tmp_path / "story.txt").write_text(STORY)
    document = json.loads(run("answer-story", str(file), QUESTION, "--json").stdout)
    done = run("answer-story", str(file), QUESTION)
    assert done.returncode == 0, done.stderr
    head, first, second, question, answer = done.stdout.decode().splitlines()
    assert head.split() == ["hop", "1", "hop", "2", "hop", "3"]
    assert question.strip() == QUESTION
    for i, (line, sentence) in enumerate(zip((first, second), STORY.splitlines()[::2], strict=True)):
        weights = [f"{hop['attention'][i]:.0%}" for hop in document["hops"] if hop["attention"][i] >= 0.01]
        assert line.strip().startswith(sentence)
        assert [part for part in line.split() if part.endswith("%")] == weights
    assert answer.split()[0] == document["answers"][0]["text"]


def test_sentences_come_from_options_or_standard_input(run: Run) -> None:
    sentences = STORY.split("\n\n")
    given = run("answer-story", *(f"--sentence={s.strip()}" for s in sentences), QUESTION, "--json", "--top-k", "3")
    piped = run("answer-story", "-", QUESTION, "--json", "--top-k", "3", stdin=STORY.encode())
    assert len(json.loads(given.stdout)["answers"]) == 3
    assert given.stdout == piped.stdout


@pytest.mark.parametrize(
    "arguments", [[QUESTION], ["a.txt", "b.txt", QUESTION], ["a.txt", QUESTION, "--sentence", "x"]]
)
def test_a_story_is_given_once(run: Run, arguments: list[str]) -> None:
    done = run("answer-story", *arguments)
    assert done.returncode == 2
    assert b"one FILE, or --sentence, and one QUESTION" in done.stderr


def test_notices_go_to_standard_error(run: Run) -> None:
    done = run("answer-story", "--sentence", "Priya took the lute.", "Where is Priya?")
    assert (
        b"note: story: has words that memory_reader has never seen, which it takes for names: Priya, lute"
        in done.stderr
    )
