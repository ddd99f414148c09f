"""Word vectors: words in like company get like vectors, so that directions mean something, as king - man + woman shows.

Skip-gram with negative sampling (Mikolov et al., "Distributed Representations of Words and Phrases and their
Compositionality", 2013) tells the words around a word from words drawn at random; CBOW (Mikolov et al., "Efficient
Estimation of Word Representations in Vector Space", 2013) does so from the mean of all that stand around a place. Both
learn from the same text, and pairs of words that test nothing choose one. Pairs go in groups that share the words drawn
at random, so that their scores are one product of matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import torch
from lightning.fabric import Fabric
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from artifacts.card import Baseline, Limits, Metric, Table, TextPreprocessing
from artifacts.windows import CLS, PAD, SEP, padded
from lectern.client import Client
from training.data import english, word_tests
from training.export.onnx import round_to_bytes
from training.measures import Evaluation
from training.methods.text_encoder import SPECIAL, TOKENIZER
from training.methods.word_vectors import (
    Corpus,
    Vectors,
    answers_of,
    corpus_of,
    cosines_of,
    measured,
    most_frequent,
    of_length_one,
    ppmi_svd,
    rank_correlation,
    table_of_kinds,
    word_tokenizer,
)
from training.optimise import triangle
from training.run import Run, device_name
from training.served import Track
from training.trained import Graph, Trained

NEEDS: dict[str, str] = {}
SHIPPED = True
MEMORY = 4
MAX_TOKENS = 256
TEXTS_PER_REQUEST = 256
# Of config.pbtxt: rows of like lengths run together.
PADDING = {"padded_axis": 1, "pad_value": PAD, "pad_multiple": 8, "batch_budget": 4096}
SKIP_GRAM, CBOW = METHODS = ("skip-gram", "CBOW")
BASELINE = "PPMI and SVD"
POWERS = (0.0, 0.5, 1.0)  # of singular values, which weigh the baseline's vectors
LIMITS = Limits(
    intended="Which English words are alike, and analogies, in lessons on word vectors; a first search of texts by the "
    "mean of their words.",
    failures=(
        "It learned from four million words, two fifths of them from two Bibles, and knows the modern world from few "
        "texts; the card's figures leave out pairs and analogies that its vocabulary does not cover.",
        "Of the analogies it answers 8 in 100, fewer than singular vectors of the same text do (10); of opposites and "
        "adverbs next to none.",
        "A word has one vector, whatever it means in its sentence.",
        "Words in like company have like vectors, and so have opposites; people's judgement of likeness alone "
        "(SimLex-999) agrees with it little.",
        'The mean of a sentence\'s words knows nothing of their order, nor of "not".',
    ),
)


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters.

    Args:
        vocabulary: the most frequent words, at most.
        width: of a vector.
        window: a word's neighbours stand at most so far from it; how far is drawn anew for each place.
        negatives: words drawn at random for each pair, by their frequency to the power `smoothing`.
        drawn: of them for each group of pairs, which share them.
        frequent: share of the text above which occurrences of a word are left out, the more the more frequent it is.
        epochs, rate: by method; a rate is the step for the gradient of one pair, or of one place of CBOW.
        batch_size, groups: pairs or places in a step, and the groups that they are in.
    """

    vocabulary: int = 20_000
    width: int = 80
    window: int = 5
    negatives: int = 5
    drawn: int = 16
    smoothing: float = 0.75
    frequent: float = 3e-5
    epochs: Mapping[str, int] = field(default_factory=lambda: {SKIP_GRAM: 8, CBOW: 8})
    rate: Mapping[str, float] = field(default_factory=lambda: {SKIP_GRAM: 0.04, CBOW: 0.08})
    batch_size: int = 4096
    groups: int = 64


FULL = Settings()
FAST = Settings(vocabulary=400, width=16, frequent=1e-2, epochs={SKIP_GRAM: 3, CBOW: 3}, batch_size=256, groups=8)


Batch: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""Words that stand together [N, C], filled up with PAD, the word beside them [N], and words drawn at random [G, D]."""


class NegativeSampling(nn.Module):
    """Two vectors of each word: as one that is read, and as one that is predicted."""

    def __init__(self, words: int, width: int, negatives: int) -> None:
        super().__init__()
        self.negatives = negatives
        self.read = nn.Embedding(words, width, padding_idx=PAD, sparse=True)
        self.predicted = nn.Embedding(words, width, sparse=True)
        with torch.no_grad():
            self.read.weight.uniform_(-0.5 / width, 0.5 / width)[PAD] = 0
            self.predicted.weight.zero_()

    def forward(self, batch: Batch) -> Tensor:
        """The mean loss of a batch: of telling the word that stands there from those that were drawn."""
        together, beside, drawn = batch
        means = self.read(together).sum(dim=1) / (together != PAD).sum(dim=1, keepdim=True)
        right = (means * self.predicted(beside)).sum(dim=1)
        grouped = means.view(len(drawn), -1, means.shape[1])
        wrong = grouped @ self.predicted(drawn).transpose(1, 2)
        weight = self.negatives / drawn.shape[1]
        return (F.softplus(-right).sum() + weight * F.softplus(wrong).sum()) / len(beside)


class MeanVector(nn.Module):
    """Ids of words int64 [N, T], 0 = padding -> the mean vector of the known ones, float32 [N, width]."""

    def __init__(self, vectors: Vectors) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.from_numpy(vectors))

    def forward(self, ids: Tensor) -> Tensor:
        counted = (ids > SEP).to(self.vectors.dtype)  # the special tokens' vectors are zeros
        return F.embedding(ids, self.vectors).sum(dim=1) / counted.sum(dim=1, keepdim=True).clamp(min=1)


class Nearest(nn.Module):
    """Queries of length 1, float32 [N, width] -> the cosine of each word's vector, float32 [N, words]."""

    def __init__(self, vectors: nn.Parameter) -> None:
        super().__init__()
        self.vectors = vectors

    def forward(self, query: Tensor) -> Tensor:
        return query @ self.vectors.T


def train(run: Run) -> Trained:
    """Learn by both methods, keep the one that agrees better with SimLex-999, and measure it on the test."""
    settings = FAST if run.fast else FULL
    sliver = run.sliver.with_suffix(".json")
    text = english.load_sliver(sliver) if run.fast else english.load()
    tests = word_tests.load_sliver(sliver) if run.fast else word_tests.load()
    tokenizer = word_tokenizer(most_frequent(text.texts, settings.vocabulary - len(SPECIAL)))
    corpus, numbers = corpus_of(text.texts, tokenizer), words_of(tokenizer)
    fabric = run.fabric()

    def agreed(vectors: Vectors) -> Metric:
        """With people's judgement of pairs that test nothing."""
        return rank_correlation(cosines_of(tests.validation, numbers, vectors), "validation")

    def evaluated(vectors: Vectors) -> Evaluation:
        cosines = cosines_of(tests.pairs, numbers, vectors)
        return measured(tests, cosines, dict(answers_of(tests.analogies, numbers, vectors)))

    learned = {method: learn(run, fabric, settings, corpus, method, agreed) for method in METHODS}
    singular, values = ppmi_svd(corpus, settings.window, settings.width)
    counted = max((of_length_one(singular * values**power) for power in POWERS), key=lambda v: agreed(v).value)
    method = max(METHODS, key=lambda name: agreed(learned[name]).value)
    mean = round_to_bytes(MeanVector(learned[method]))
    vectors = mean.vectors.detach().numpy()
    answers = dict(answers_of(tests.analogies, numbers, vectors))
    ids = padded([[CLS, *row.ids, SEP] for row in tokenizer.encode_batch(list(text.texts[:8]))])[:, :MAX_TOKENS]
    queries = of_length_one(vectors[SEP + 1 : SEP + 9])
    return Trained(
        title="Word vectors",
        lecture="Word vectors",
        capability="embed",
        task="word embedding",
        description=f"Vectors of {len(numbers):,} English words, by {method} with negative sampling.",
        graphs={
            "forward": Graph(
                mean,
                {"ids": torch.from_numpy(ids)},
                ("mean_vector",),
                {"ids": (1,)},
                max_batch_size=64,
                padding=PADDING,
            ),
            "nearest": Graph(Nearest(mean.vectors), {"query": torch.from_numpy(queries)}, ("cosines",)),
        },
        preprocessing=TextPreprocessing(tokenizer=TOKENIZER, max_tokens=MAX_TOKENS),
        limits=LIMITS,
        metrics=(*evaluated(vectors).metrics, agreed(vectors)),
        baselines=tuple(
            Baseline(name=BASELINE, metric=metric.name, value=metric.value)
            for metric in evaluated(counted).metrics
            if not metric.name.startswith("covered")
        ),
        tables=(
            Table(
                title="Agreement with SimLex-999, which chooses",
                columns=("method", "spearman", "95 % interval"),
                rows=tuple(
                    (name, round(agreed(own).value, 4), agreed(own).interval_text)
                    for name, own in (*learned.items(), (BASELINE, counted))
                ),
            ),
            table_of_kinds(tests, answers),
        ),
        data=(
            *text.sources,
            word_tests.SOURCE.card_entry(0, len(tests.validation), len(tests.pairs) + len(tests.analogies)),
        ),
        device=device_name(fabric),
        parameters=mean.vectors.numel(),
        assets={TOKENIZER: tokenizer.to_str().encode()},
    )


def words_of(tokenizer: Tokenizer) -> dict[str, int]:
    """The number of each word, without special tokens."""
    return {word: number for word, number in tokenizer.get_vocab().items() if number > SEP}


def learn(
    run: Run, fabric: Fabric, settings: Settings, corpus: Corpus, method: str, agreed: Callable[[Vectors], Metric]
) -> Vectors:
    """The vectors of length 1 [V, width] that a method learns; those of special tokens are zeros."""
    net = NegativeSampling(len(corpus.counts), settings.width, settings.negatives)
    # The loss is a mean, and each pair of a batch moves its words as if it came alone.
    model, optimizer = fabric.setup(net, torch.optim.SGD(net.parameters(), settings.rate[method] * settings.batch_size))
    pairs = skip_grams if method == SKIP_GRAM else bags
    size = settings.batch_size
    likelihoods = np.cumsum(corpus.counts**settings.smoothing)

    def batches(epoch: int) -> list[Batch]:
        random = np.random.default_rng([run.seed, epoch])
        together, beside = pairs(thinned(corpus, settings.frequent, random), settings.window, random)
        order = random.permutation(len(beside))[: len(beside) // size * size].reshape(-1, size)
        drawn = random.random((len(order), settings.groups, settings.drawn)) * likelihoods[-1]
        words = np.searchsorted(likelihoods, drawn, side="right").astype(np.int32)
        return [
            (torch.from_numpy(together[part]), torch.from_numpy(beside[part]), torch.from_numpy(own))
            for part, own in zip(order, words, strict=True)
        ]

    def vectors() -> Vectors:
        learned = of_length_one(net.read.weight.detach().cpu().numpy())
        learned[: SEP + 1] = 0
        return learned

    run.fit(
        fabric,
        model,
        optimizer,
        batches,
        model,
        epochs=settings.epochs[method],
        settings=(settings, method),
        rate=lambda progress: triangle(progress, 0.0),
        watch=lambda: {"agreement": agreed(vectors()).value},
        label=method,
    )
    return vectors()


def thinned(corpus: Corpus, frequent: float, random: np.random.Generator) -> Corpus:
    """The text without most occurrences of the most frequent words, which tell little of their neighbours."""
    shares = np.maximum(corpus.counts / corpus.counts.sum(), 1e-12)
    kept = np.sqrt(frequent / shares) + frequent / shares
    chosen = random.random(len(corpus.words)) < kept[corpus.words]
    return replace(corpus, words=corpus.words[chosen], texts=corpus.texts[chosen])


def neighbours(
    corpus: Corpus, window: int, random: np.random.Generator
) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    """For each distance of 1 to `window`, the places whose own window, of a size that is drawn for each, reaches as far
    ahead as that within its text, and those whose window reaches as far back."""
    reach = random.integers(1, window + 1, len(corpus.words))
    for apart in range(1, window + 1):
        same = corpus.texts[apart:] == corpus.texts[:-apart]
        yield (
            apart,
            np.flatnonzero(same & (reach[:-apart] >= apart)),
            np.flatnonzero(same & (reach[apart:] >= apart)) + apart,
        )


def skip_grams(corpus: Corpus, window: int, random: np.random.Generator) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Each word [N, 1] with each of its neighbours [N]."""
    words = corpus.words
    ahead, back = [], []
    for apart, reaching_ahead, reaching_back in neighbours(corpus, window, random):
        ahead.append((words[reaching_ahead], words[reaching_ahead + apart]))
        back.append((words[reaching_back], words[reaching_back - apart]))
    centres, others = (np.concatenate(parts) for parts in zip(*ahead, *back, strict=True))
    return centres[:, None], others


def bags(corpus: Corpus, window: int, random: np.random.Generator) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The neighbours of each place that has any [N, 2 * window], filled up with PAD, and its word [N]."""
    together = np.full((len(corpus.words), 2 * window), PAD, np.int32)
    for apart, reaching_ahead, reaching_back in neighbours(corpus, window, random):
        together[reaching_ahead, 2 * apart - 2] = corpus.words[reaching_ahead + apart]
        together[reaching_back, 2 * apart - 1] = corpus.words[reaching_back - apart]
    some = (together != PAD).any(axis=1)
    return together[some], corpus.words[some]


def evaluate(client: Client, track: Track) -> Evaluation:
    """Agreement with people on pairs, and analogies, as served."""
    tests = word_tests.load()
    words = {word for pair in tests.pairs for word in (pair.first, pair.second)}
    words |= {word for analogy in tests.analogies for word in analogy.words}
    vectors = served_vectors(client, sorted(words))
    cosines = {
        pair: float(vectors[pair.first] @ vectors[pair.second])
        for pair in tests.pairs
        if pair.first in vectors and pair.second in vectors
    }
    covered = [analogy for analogy in tests.analogies if all(word in vectors for word in analogy.words)]
    answers = {}
    for analogy in track(covered, len(covered)):
        response = client.nearest([analogy.b, analogy.c], analogy.a, "word_vectors", top_k=1)
        answers[analogy] = response.words[0].word
    return measured(tests, cosines, answers)


def served_vectors(client: Client, words: Sequence[str]) -> dict[str, Vectors]:
    """What a server says of the words that it knows."""
    vectors = dict[str, Vectors]()
    for start in range(0, len(words), TEXTS_PER_REQUEST):
        part = words[start : start + TEXTS_PER_REQUEST]
        for word, result in zip(part, client.embed_text(part, "word_vectors").results, strict=True):
            if not result.notices:
                vectors[word] = np.array(result.vector, np.float32)
    return vectors
