"""`lectern translate` and `lectern generate poem`."""

from __future__ import annotations

import json
import os
from functools import partial

import pytest

from tests.conftest import Server
from tests.lectern.test_cli import Run, invoke, refused

SENTENCES = ("Where is the library?", "I don't know how to swim.")
POEM = ("generate", "poem", "--form", "五言絕句", "--seed", 7)
LATIN = os.fsdecode(b"Zo\xeb")


@pytest.fixture
def run(server: Server) -> Run:
    return partial(invoke, target=server.target)


def printed(run: Run, *arguments: object, stdin: bytes = b"") -> str:
    done = run(*arguments, stdin=stdin)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def test_each_text_is_translated_on_a_line(run: Run) -> None:
    lines = printed(run, "translate", *SENTENCES).splitlines()
    assert ["圖書館" in lines[0], "游泳" in lines[1], len(lines)] == [True, True, 2]
    document = json.loads(printed(run, "translate", *SENTENCES, "--json"))
    assert type(document["version"]) is int
    assert [result["translations"][0]["text"] for result in document["results"]] == lines


def test_a_pipe_keeps_its_lines(run: Run) -> None:
    piped = printed(run, "translate", stdin="\ufeff".encode() + "\n".join(SENTENCES).encode())
    assert piped == printed(run, "translate", *SENTENCES)
    assert printed(run, "translate", "-", stdin=SENTENCES[0].encode()) == printed(run, "translate", SENTENCES[0])


def test_a_stream_prints_what_is_there_in_the_end(run: Run) -> None:
    for size in (1, 4):
        whole = printed(run, "translate", SENTENCES[0], "--beam-size", size)
        assert printed(run, "translate", SENTENCES[0], "--beam-size", size, "--stream") == whole


def test_a_translation_in_simplified_characters(run: Run) -> None:
    assert "图书馆" in (whole := printed(run, "translate", SENTENCES[0], "--script", "hans"))
    assert printed(run, "translate", SENTENCES[0], "--script", "hans", "--stream", "--beam-size", 4) == whole
    assert printed(run, "translate", SENTENCES[0], "--script", "hant") == printed(run, "translate", SENTENCES[0])


def test_several_translations_come_best_first(run: Run) -> None:
    lines = printed(run, "translate", SENTENCES[0], "--count", 4, "--beam-size", 8).splitlines()
    scores = [float(line.split("\t")[0]) for line in lines]
    assert scores == sorted(scores, reverse=True)
    assert 1 < len({line.split("\t")[1] for line in lines}) == len(lines) <= 4


def test_the_alignment_is_a_table(run: Run) -> None:
    table = printed(run, "translate", SENTENCES[0], "--alignment", "--beam-size", 1)
    assert "library" in table.splitlines()[2]
    assert "█" in table


def test_a_poem_begins_with_its_prompt_and_its_seed_repeats_it(run: Run) -> None:
    poem = printed(run, *POEM, "床前明月光，")
    assert poem.startswith("床前明月光，")
    assert len(poem.strip()) == 24  # four lines of five characters, each with a mark
    assert printed(run, *POEM, "床前明月光，", "--stream") == poem
    assert printed(run, *POEM, "-", stdin="床前明月光，\n".encode()) == poem


def test_a_blank_line_stays_blank(run: Run) -> None:
    done = run("translate", " ", SENTENCES[0])
    assert done.returncode == 0
    assert done.stdout.startswith(b"\n")
    assert run("translate", " ").returncode == 2


def test_what_is_wrong_is_named(run: Run) -> None:
    refused(invoke("translate", LATIN), 2, "not UTF-8 text (character 2)")
    refused(invoke("translate", stdin=b"Zo\xeb"), 2, "not UTF-8 text (byte 2 is 0xeb)")
    refused(invoke("translate", "Hi.", "--stream", "--json"), 2, "leave out")
    refused(run("translate", "Hi.", "--beam-size", 2, "--count", 3), 1, "count")
    refused(invoke(*POEM, LATIN), 2, "not UTF-8 text (character 2)")
    refused(invoke(*POEM, "-", stdin=b"\xeb"), 2, "not UTF-8 text")
    refused(run("generate", "poem", "床前", "--form", "sonnet"), 1, "form")
