"""What a memory network learns from: gaps in the memory, stand-ins for words, sentences that are computed once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from artifacts.stories import FIRST_STAND_IN, STAND_INS
from artifacts.windows import PAD
from training.data import SLIVERS, babi
from training.recipes.memory_reader import (
    FAST,
    SENTENCES,
    LstmReader,
    MemoryReader,
    Reader,
    Renaming,
    Served,
    batch_of,
    distinct,
    labels_of,
    vocabulary_of,
    with_gaps,
)

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def data() -> babi.Stories:
    return babi.load_sliver(SLIVERS / "memory_reader.json")


@pytest.fixture(scope="module")
def reader(data: babi.Stories) -> Reader:
    return Reader(vocabulary_of(data.train), labels_of(data))


def test_gaps_keep_the_order_and_forget_the_oldest() -> None:
    stories = np.tile(np.arange(1, SENTENCES + 1), (20, 1))
    spread = with_gaps(stories, 0.2, np.random.default_rng(0))
    assert spread.shape[1] <= SENTENCES
    assert (spread == 0).any()
    for row in spread:
        kept = row[row > 0]
        np.testing.assert_array_equal(kept, np.arange(1, len(kept) + 1))


def test_sentences_are_kept_once_and_the_empty_one_is_the_first() -> None:
    words = np.array([[[3, 4], [0, 0]], [[3, 4], [5, 0]]])
    sentences, places = distinct(words)
    np.testing.assert_array_equal(sentences[places], words)
    assert len(sentences) == 3
    assert sentences[0].tolist() == [PAD, PAD]
    assert places[0, 1] == 0


def test_a_batch_with_stand_ins_asks_the_same(data: babi.Stories, reader: Reader) -> None:
    rows, renaming = reader.rows(data.train), Renaming.of(reader)
    settings = FAST.__class__(renamed=1.0, gaps=0.0, blurred=0.0)
    chosen = np.arange(200)
    sentences, places, asked, answers = batch_of(rows, chosen, renaming, settings, np.random.default_rng(1))
    first = len(reader.labels) - len(STAND_INS)
    stood_in = 0
    for i, question in enumerate(chosen):
        before = [*rows.words[rows.stories[question]][: places.shape[1]].ravel(), *rows.words[rows.questions[question]]]
        after = [*sentences[places[i]].ravel().tolist(), *asked[i].tolist()]
        renamed = {a: b for a, b in zip(before, after, strict=True) if a != b}
        assert len(set(renamed.values())) == len(renamed)
        assert all(
            a in np.flatnonzero(renaming.named) and b < FIRST_STAND_IN + len(STAND_INS) for a, b in renamed.items()
        )
        old, new = rows.answers[question], int(answers[i])
        if new >= first:
            stood_in += 1
            (word,) = np.flatnonzero(renaming.label_words[old])
            assert renamed[word] == FIRST_STAND_IN + new - first
        else:
            assert new == old
            assert not renaming.label_words[old, list(renamed)].any()
    assert stood_in > 10


def test_what_is_served_computes_the_same(data: babi.Stories, reader: Reader) -> None:
    torch.manual_seed(0)
    net = MemoryReader(reader.size, len(reader.labels), FAST).eval()
    rows = reader.rows(data.test)
    words = torch.from_numpy(rows.words)
    asked = words[torch.from_numpy(rows.questions)]
    logits, attention = net(words, torch.from_numpy(rows.stories), asked)
    stories = [reader.story(question) for question in data.test]
    sentences, questions = (
        torch.from_numpy(np.stack([getattr(s, n) for s in stories])) for n in ("sentences", "question")
    )
    served = Served(net)(sentences, questions)
    torch.testing.assert_close(served[0], logits)
    torch.testing.assert_close(served[1], attention)
    assert attention.shape == (len(rows), FAST.hops, SENTENCES)
    torch.testing.assert_close(attention.sum(2), torch.ones(len(rows), FAST.hops))
    assert not attention[torch.from_numpy(rows.stories == 0)[:, None].expand_as(attention)].any()


def test_the_lstm_reads_across_gaps(data: babi.Stories, reader: Reader) -> None:
    torch.manual_seed(0)
    net = LstmReader(reader.size, len(reader.labels), FAST).eval()
    rows = reader.rows(data.test[:6])
    words = torch.from_numpy(rows.words)
    asked = words[torch.from_numpy(rows.questions)]
    gaps = with_gaps(rows.stories[:, :20], 0.3, np.random.default_rng(0))
    expected, _ = net(words, torch.from_numpy(rows.stories), asked)
    torch.testing.assert_close(net(words, torch.from_numpy(gaps), asked)[0], expected)
