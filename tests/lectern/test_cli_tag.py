"""`lectern tag`."""

from __future__ import annotations

import json
from functools import partial

import pytest

from tests.conftest import Server
from tests.lectern.test_cli import Run, invoke

TEXT = "add the song Blue Train to my Dinner Jazz playlist"


@pytest.fixture
def run(tagger: Server) -> Run:
    return partial(invoke, target=tagger.target)


def test_the_text_comes_first_and_then_a_line_for_each_part(run: Run) -> None:
    document = json.loads(run("tag", "--json", TEXT).stdout)
    (result,) = document["results"]
    done = run("tag", TEXT)
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.decode().splitlines()
    assert first.startswith(f"{TEXT}  {result['classes'][0]['label']}")
    assert len(rest) == len(result["spans"])
    for line, span in zip(rest, result["spans"], strict=True):
        assert span["label"] in line
        assert span["text"] in line


def test_standard_input_is_a_text_a_line(run: Run) -> None:
    document = json.loads(run("tag", "--json", stdin=f"{TEXT}\n\nwill it rain?\n".encode()).stdout)
    assert [result["text"] for result in document["results"]] == [TEXT, "will it rain?"]
