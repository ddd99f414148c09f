"""Questions about short stories of people, places and things.

bAbI (Weston et al., "Towards AI-Complete Question Answering", 2015), its tasks of which the answer is found in a few
sentences, with 10,000 questions each to learn from. A tenth of their stories by hash validates; the test files are the
test split, as in the literature.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from training.data.fetch import GitHubFiles
from training.data.hashing import bucket

TASKS = {
    1: "single-supporting-fact",
    2: "two-supporting-facts",
    6: "yes-no-questions",
    7: "counting",
    8: "lists-sets",
    11: "basic-coreference",
    12: "conjunction",
    13: "compound-coreference",
    15: "basic-deduction",
    18: "size-reasoning",
    20: "agents-motivations",
}


def file_of(task: int, split: str) -> str:
    """The name of the file of a task's `train` or `test` questions."""
    return f"qa{task}_{TASKS[task]}_{split}.txt"


SOURCE = GitHubFiles(
    name="1202kbs/MemN2N-Tensorflow/bAbI/en-10k",
    version="4eec02fc619f96555a5f686fc7463d8a78f681a2",
    sha256="bf394eb8b0ad93e64d010d045829b28709a66996ec2c797cc26fa0d84048cd67",
    licence="CC-BY-3.0",
    files=tuple(file_of(task, split) for task in TASKS for split in ("train", "test")),
)
# Words of which another could stand in the same place: who, where, and what.
PEOPLE = (
    "mary",
    "john",
    "daniel",
    "sandra",
    "gertrude",
    "winona",
    "emily",
    "jessica",
    "sumit",
    "yann",
    "antoine",
    "jason",
)
PLACES = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
THINGS = ("apple", "football", "milk", "pajamas", "chest", "container", "suitcase")


@dataclass(frozen=True)
class Question:
    """A question on the sentences before it, oldest first, and its answer: a word, or several with commas between.

    Args:
        story: the text of the whole story, which other questions may be about too.
    """

    task: int
    story: str
    sentences: tuple[str, ...]
    text: str
    answer: str


@dataclass(frozen=True)
class Stories:
    train: tuple[Question, ...]
    validation: tuple[Question, ...]
    test: tuple[Question, ...]


def load() -> Stories:
    """The data set, fetched on first use (13 MB)."""
    directory = SOURCE.fetch()
    learned = [story for task in TASKS for story in read(directory, task, "train")]
    test = [question for task in TASKS for story in read(directory, task, "test") for question in story]
    train, validation = list[Question](), list[Question]()
    for story in learned:
        (validation if bucket("\n".join(story[-1].sentences), 10) == 1 else train).extend(story)
    return Stories(tuple(train), tuple(validation), tuple(test))


def load_sliver(path: Path) -> Stories:
    """A committed sliver of training stories, split 80/10/10 in turns."""
    stories = [tuple(questions_of(task, lines)) for task, lines in json.loads(path.read_text())]
    parts = [[q for story in stories[first::10] for q in story] for first in range(10)]
    return Stories(tuple(q for part in parts[2:] for q in part), tuple(parts[1]), tuple(parts[0]))


def read(directory: Path, task: int, split: str) -> Iterator[tuple[Question, ...]]:
    """The stories of one file, each as its questions."""
    for story in stories_of((directory / file_of(task, split)).read_text().splitlines()):
        yield tuple(questions_of(task, story))


def stories_of(lines: Iterable[str]) -> Iterator[list[str]]:
    """Lines of a file, story by story: each story numbers its lines from 1."""
    begun = 0

    def number(line: str) -> int:
        nonlocal begun
        begun += line.startswith("1 ")
        return begun

    return (list(story) for _, story in groupby(lines, number))


def questions_of(task: int, lines: Sequence[str]) -> Iterator[Question]:
    """The questions of one story: lines with a tab, after which the answer stands."""
    sentences, story = list[str](), "\n".join(lines)
    for line in lines:
        text = line.split(" ", 1)[1]
        if "\t" not in text:
            sentences.append(text)
            continue
        question, answer, _ = text.split("\t")
        yield Question(task, story, tuple(sentences), question.strip(), answer)
