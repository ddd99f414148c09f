"""Vectors of words by what stands around them: text as numbers, the baseline that counts, and tests of any vectors.

A word's number is its place in a vocabulary whose first numbers are the special tokens of artifacts.windows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, stats
from scipy.sparse.linalg import svds
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from artifacts.card import Metric, Split, Table
from artifacts.windows import SEP, UNK
from training import measures
from training.data.word_tests import Analogy, Pair, WordTests
from training.measures import Evaluation
from training.methods.text_encoder import SPECIAL, UNKNOWN

Vectors = NDArray[np.float32]
# Letters, with an apostrophe that begins no "'s", or digits.
WORD = Regex(r"\p{L}+(?:'(?!s\b)\p{L}+)*|\p{N}+")
QUESTIONS_AT_ONCE = 256


@dataclass(frozen=True)
class Corpus:
    """Running text: the number of each word that the vocabulary has, int32 [T], which text it is of, int32 [T], and how
    often each word of the vocabulary occurs, int64 [V]."""

    words: NDArray[np.int32]
    texts: NDArray[np.int32]
    counts: NDArray[np.int64]


def word_tokenizer(words: Sequence[str]) -> Tokenizer:
    """A tokenizer of whole words in lower case, without accents; any other word is unknown."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate((*SPECIAL, *words))}, unk_token=UNKNOWN))
    apostrophe = normalizers.Replace(Regex("[\u2018\u2019`]"), "'")
    tokenizer.normalizer = normalizers.Sequence([apostrophe, normalizers.BertNormalizer(lowercase=True)])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(WORD, "removed", invert=True)
    return tokenizer


def most_frequent(texts: Iterable[str], count: int) -> list[str]:
    """So many words of texts at most, the most frequent first; of equally frequent ones the first of the alphabet."""
    splitter = word_tokenizer(())
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(
            word for word, _ in splitter.pre_tokenizer.pre_tokenize_str(splitter.normalizer.normalize_str(text))
        )
    return sorted(counts, key=lambda word: (-counts[word], word))[:count]


def corpus_of(texts: Sequence[str], tokenizer: Tokenizer) -> Corpus:
    """Texts as numbers, without the words that the vocabulary lacks."""
    encodings = (np.array(encoding.ids, np.int32) for encoding in tokenizer.encode_batch(list(texts)))
    known = [ids[ids != UNK] for ids in encodings]
    words = np.concatenate(known)
    places = np.repeat(np.arange(len(known), dtype=np.int32), [len(ids) for ids in known])
    return Corpus(words, places, np.bincount(words, minlength=tokenizer.get_vocab_size()))


def ppmi_svd(corpus: Corpus, window: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The baseline: singular vectors [V, width] and values [width], the largest first, of the positive pointwise mutual
    information of words that stand at most `window` words apart (Bullinaria and Levy, "Extracting Semantic
    Representations from Word Co-occurrence Statistics", 2007; Levy et al., "Improving Distributional Similarity with
    Lessons Learned from Word Embeddings", 2015)."""
    size = len(corpus.counts)
    counts = sparse.csr_matrix((size, size), dtype=np.float64)
    for apart in range(1, window + 1):
        beside = corpus.texts[apart:] == corpus.texts[:-apart]
        pair = (corpus.words[:-apart][beside], corpus.words[apart:][beside])
        counts += sparse.coo_matrix((np.ones(len(pair[0])), pair), (size, size)).tocsr()
    counts = (counts + counts.T).tocoo()
    sums = np.asarray(counts.sum(axis=0)).ravel()
    information = np.log(counts.data * sums.sum() / (sums[counts.row] * sums[counts.col]))
    positive = sparse.csr_matrix((np.maximum(information, 0), (counts.row, counts.col)), (size, size))
    vectors, values, _ = svds(positive.astype(np.float32), k=width, random_state=0)
    order = np.argsort(-values)
    return vectors[:, order], values[order]


def of_length_one(vectors: Vectors) -> Vectors:
    """Vectors [N, width] of length 1; those of length 0 stay so."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    shortened: Vectors = (vectors / np.where(lengths == 0, 1, lengths)).astype(np.float32)
    return shortened


def cosines_of(pairs: Iterable[Pair], numbers: Mapping[str, int], vectors: Vectors) -> dict[Pair, float]:
    """The cosine of each pair whose words have vectors of length 1 in [V, width]."""
    known = (pair for pair in pairs if pair.first in numbers and pair.second in numbers)
    return {pair: float(vectors[numbers[pair.first]] @ vectors[numbers[pair.second]]) for pair in known}


def rank_correlation(cosines: Mapping[Pair, float], split: Split = "test") -> Metric:
    """Spearman's correlation of cosines with what people said of the pairs."""
    values, scores = np.array(list(cosines.values())), np.array([pair.score for pair in cosines])
    interval = measures.bootstrap(_spearman, values, scores)
    return Metric(name="spearman", value=_spearman(values, scores), split=split, n=len(cosines), interval=interval)


def answers_of(
    analogies: Iterable[Analogy], numbers: Mapping[str, int], vectors: Vectors
) -> Iterator[tuple[Analogy, str]]:
    """The word nearest to b - a + c, but for these three, of each analogy whose words all have vectors of length 1 in
    [V, width] (Mikolov et al., "Linguistic Regularities in Continuous Space Word Representations", 2013)."""
    words = {number: word for word, number in numbers.items()}
    known = [analogy for analogy in analogies if all(word in numbers for word in analogy.words)]
    for start in range(0, len(known), QUESTIONS_AT_ONCE):
        part = known[start : start + QUESTIONS_AT_ONCE]
        a, b, c, _ = np.array([[numbers[word] for word in analogy.words] for analogy in part]).T
        cosines = (vectors[b] - vectors[a] + vectors[c]) @ vectors.T
        cosines[:, : SEP + 1] = -np.inf
        for own in (a, b, c):
            cosines[np.arange(len(part)), own] = -np.inf
        yield from zip(part, (words[i] for i in cosines.argmax(axis=1).tolist()), strict=True)


def measured(tests: WordTests, cosines: Mapping[Pair, float], answers: Mapping[Analogy, str]) -> Evaluation:
    """How well vectors agree with people on the pairs and analogies that the vocabulary covers, and how many those
    are."""
    right = np.array([answer == analogy.d for analogy, answer in answers.items()])
    of_grammar = np.array([analogy.kind.startswith("gram") for analogy in answers])
    parts = {
        "analogies": right,
        "semantic": right[~of_grammar],
        "syntactic": right[of_grammar],
    }
    return Evaluation(
        (
            rank_correlation(cosines),
            *(measures.share(f"accuracy_{name}", float(part.mean()), len(part)) for name, part in parts.items()),
            measures.share("covered_pairs", len(cosines) / len(tests.pairs), len(tests.pairs)),
            measures.share("covered_analogies", len(answers) / len(tests.analogies), len(tests.analogies)),
        )
    )


def table_of_kinds(tests: WordTests, answers: Mapping[Analogy, str]) -> Table:
    """The analogies by kind."""
    asked = Counter(analogy.kind for analogy in tests.analogies)
    covered = Counter(analogy.kind for analogy in answers)
    right = Counter(analogy.kind for analogy, answer in answers.items() if answer == analogy.d)
    rows = tuple((kind, asked[kind], covered[kind], round(right[kind] / max(1, covered[kind]), 4)) for kind in asked)
    return Table(title="Analogies by kind", columns=("kind", "questions", "covered", "accuracy"), rows=rows)


def _spearman(values: NDArray[np.float64], scores: NDArray[np.float64]) -> float:
    """The correlation of ranks; not a number where all are equal."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.corrcoef(stats.rankdata(values), stats.rankdata(scores))[0, 1])
