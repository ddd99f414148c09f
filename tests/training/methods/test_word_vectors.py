"""Vectors of words: how text becomes pairs, what the baseline counts, and how vectors are tested."""

from __future__ import annotations

import numpy as np
import pytest

from artifacts.windows import PAD, SEP, UNK
from training.data.word_tests import Analogy, Pair
from training.methods.word_vectors import (
    Corpus,
    answers_of,
    corpus_of,
    cosines_of,
    most_frequent,
    of_length_one,
    ppmi_svd,
    rank_correlation,
    word_tokenizer,
)
from training.recipes.word_vectors import bags, skip_grams, thinned

pytestmark = pytest.mark.unit

TEXTS = ["The king\u2019s son, don't fear!", "A caf\u00e9: the 2 kings."]


@pytest.fixture
def corpus() -> Corpus:
    """Two texts, of three words and of two."""
    words = np.array([4, 5, 6, 5, 7], np.int32)
    return Corpus(words, np.array([0, 0, 0, 1, 1], np.int32), np.bincount(words, minlength=8))


def test_words_are_letters_or_digits_in_lower_case_without_accents() -> None:
    assert most_frequent(TEXTS, 2) == ["the", "2"]
    assert most_frequent(TEXTS, 100) == ["the", "2", "a", "cafe", "don't", "fear", "king", "kings", "s", "son"]


def test_text_is_numbers_after_those_of_special_tokens_without_unknown_words() -> None:
    tokenizer = word_tokenizer(["the", "king", "son"])
    corpus = corpus_of(TEXTS, tokenizer)
    assert corpus.words.tolist() == [4, 5, 6, 4]
    assert corpus.texts.tolist() == [0, 0, 0, 1]
    assert corpus.counts.tolist() == [0, 0, 0, 0, 2, 1, 1]
    assert tokenizer.encode("queen").ids == [UNK]


def test_neighbours_are_of_one_text_and_within_the_window(corpus: Corpus) -> None:
    centres, others = skip_grams(corpus, 1, np.random.default_rng(0))
    pairs = sorted(zip(centres[:, 0].tolist(), others.tolist(), strict=True))
    assert pairs == [(4, 5), (5, 4), (5, 6), (5, 7), (6, 5), (7, 5)]
    together, words = bags(corpus, 1, np.random.default_rng(0))
    around = {(word, *sorted(set(row) - {PAD})) for word, row in zip(words.tolist(), together.tolist(), strict=True)}
    assert around == {(4, 5), (5, 4, 6), (6, 5), (5, 7), (7, 5)}


def test_cbow_and_skip_gram_see_the_same_pairs(corpus: Corpus) -> None:
    centres, others = skip_grams(corpus, 2, np.random.default_rng(1))
    together, words = bags(corpus, 2, np.random.default_rng(1))
    rows = zip(words.tolist(), together.tolist(), strict=True)
    pairs = sorted((word, other) for word, row in rows for other in row if other != PAD)
    assert pairs == sorted(zip(centres[:, 0].tolist(), others.tolist(), strict=True))


def test_frequent_words_are_left_out_more_often() -> None:
    words = np.repeat(np.array([4, 5], np.int32), [9900, 100])
    corpus = Corpus(words, np.zeros(10_000, np.int32), np.bincount(words))
    kept = thinned(corpus, 1e-2, np.random.default_rng(0))
    assert np.count_nonzero(kept.words == 5) == 100
    assert np.count_nonzero(kept.words == 4) == pytest.approx(9900 * (np.sqrt(1e-2 / 0.99) + 1e-2 / 0.99), rel=0.1)


def test_the_baseline_is_the_positive_pointwise_mutual_information(corpus: Corpus) -> None:
    vectors, values = ppmi_svd(corpus, 1, 3)
    assert np.all(np.diff(values) <= 0)
    # Of six pairs that stand beside each other 5 is the first of three, with each of 4, 6 and 7 once.
    expected = np.zeros((8, 8))
    expected[5, [4, 6, 7]] = expected[[4, 6, 7], 5] = np.log((1 / 6) / ((3 / 6) * (1 / 6)))
    np.testing.assert_allclose(values[:2], np.linalg.svd(expected, compute_uv=False)[:2], rtol=1e-4)
    squares = np.square(vectors[:, :2]).sum(axis=1)
    np.testing.assert_allclose(squares, [0, 0, 0, 0, 1 / 3, 1, 1 / 3, 1 / 3], atol=1e-5)


def test_an_analogy_is_answered_by_the_nearest_word_that_it_does_not_name() -> None:
    numbers = {word: number for number, word in enumerate(("man", "woman", "king", "queen", "stone"), start=SEP + 1)}
    rows = [[1, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
    vectors = np.zeros((SEP + 6, 4), np.float32)
    vectors[SEP + 1 :] = of_length_one(np.array(rows, np.float32))
    asked = [Analogy("family", "man", "woman", "king", word) for word in ("queen", "unknown")]
    assert list(answers_of(asked, numbers, vectors)) == [(asked[0], "queen")]
    pairs = [Pair("man", "man", 10), Pair("king", "queen", 7), Pair("man", "stone", 1), Pair("man", "unknown", 5)]
    cosines = cosines_of(pairs, numbers, vectors)
    assert list(cosines.values()) == pytest.approx([1, 0.5, 0])
    assert rank_correlation(cosines).value == pytest.approx(1)
