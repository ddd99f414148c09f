"""How often a search by vectors finds the sentence that answers a question, and what it is compared with."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from artifacts.windows import CLS, SEP, padded
from training.data.qamr import Retrieval
from training.methods.exported_encoder import SENTENCE, ExportedEncoder
from training.methods.text_encoder import TextEncoder, mean_of, pretrained
from training.run import Run

FOUND = 10  # sentences that a search gives
MAX_TOKENS = 256
TEXTS_AT_ONCE = 64
# Of the layer's fit; its likeness to what is taught is chosen by validation.
LIKENESS, EPOCHS, QUESTIONS_AT_ONCE, RATE, TEMPERATURE = (2.0, 8.0), 10, 1024, 1e-3, 0.05


@dataclass(frozen=True)
class Means:
    """Mean vectors [N, width] of a search's sentences and of its questions."""

    sentences: Tensor
    questions: Tensor

    def found(self, layer: nn.Linear, data: Retrieval) -> float:
        """How often the search finds, by what a layer makes of them."""
        with torch.no_grad():
            vectors = torch.cat([layer(self.sentences), layer(self.questions)]).numpy()
        return float(data.found(cosines(data, vectors), FOUND).mean())


def fit_layer(
    run: Run, layer: nn.Linear, search: tuple[Retrieval, Retrieval], means: tuple[Means, Means], taught: Tensor
) -> None:
    """Fit the layer that makes sentence vectors of mean vectors: a question's shall be nearer to that of the sentence
    that answers it than to any other's (contrastive learning: van den Oord et al., "Representation Learning with
    Contrastive Predictive Coding", 2018), and those of sentences like the ones that are taught.

    Args:
        search: to learn from, and to choose the best epoch by.
        means: their vectors.
        taught: vectors of the first's sentences [N, width], of length 1.
    """
    first, best = deepcopy(layer.state_dict()), (means[1].found(layer, search[1]), deepcopy(layer.state_dict()))
    right = torch.from_numpy(search[0].answers)
    for likeness in LIKENESS:
        layer.load_state_dict(first)
        optimizer = torch.optim.AdamW(layer.parameters(), lr=RATE, weight_decay=0.0)
        for epoch in range(EPOCHS):
            for asked in torch.split(torch.randperm(len(right)), QUESTIONS_AT_ONCE):
                sentences = F.normalize(layer(means[0].sentences), dim=1)
                questions = F.normalize(layer(means[0].questions[asked]), dim=1)
                told_apart = F.cross_entropy(questions @ sentences.T / TEMPERATURE, right[asked])
                unlike = 1 - (sentences * taught).sum(1).mean()
                optimizer.zero_grad()
                (told_apart + likeness * unlike).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            found = means[1].found(layer, search[1])
            run.log(likeness=likeness, epoch=epoch + 1, found=found)
            if found > best[0]:
                best = (found, deepcopy(layer.state_dict()))
    layer.load_state_dict(best[1])


def told_apart(sentences: Tensor, questions: Tensor, numbers: Tensor) -> Tensor:
    """How improbable it is that each question finds its sentence among all, which may be there several times.

    Args:
        sentences: [N, width], of length 1; questions: likewise.
        numbers: which sentence each row is, int64 [N].
    """
    scores = questions @ sentences.T / TEMPERATURE
    same = numbers[:, None] == numbers[None]
    return (scores.logsumexp(1) - scores.masked_fill(~same, -torch.inf).logsumexp(1)).mean()


@torch.no_grad()
def mean_vectors(run: Run, encoder: TextEncoder, tokenizer: Tokenizer, texts: Sequence[str], what: str) -> Tensor:
    """The mean vector of each text [N, width], of its first window."""
    encodings = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    rows = [[CLS, *one.ids[: MAX_TOKENS - 2], SEP] for one in encodings]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    groups = [order[start : start + TEXTS_AT_ONCE] for start in range(0, len(order), TEXTS_AT_ONCE)]
    vectors = torch.zeros(len(rows), encoder.width)
    for group in run.track(groups, f"{run.name} {what}", len(groups)):
        ids = torch.from_numpy(padded([rows[i] for i in group]))
        ids = ids[:, : max(len(rows[i]) for i in group)]
        with torch.autocast("cpu", torch.bfloat16):
            of_tokens = encoder(ids, torch.zeros_like(ids))
        vectors[group] = mean_of(of_tokens.float(), ids)
    return vectors


def found_by(run: Run, data: Retrieval, encoder: ExportedEncoder, what: str) -> NDArray[np.bool_]:
    """Whether a search by an encoder's sentence vectors finds the sentence that answers each question [N]."""
    texts = (*data.sentences, *data.questions)
    parts = [texts[start : start + TEXTS_AT_ONCE] for start in range(0, len(texts), TEXTS_AT_ONCE)]
    vectors = [encoder.pooled(part, SENTENCE) for part in run.track(parts, f"{run.name} {what}", len(parts))]
    return data.found(cosines(data, np.concatenate(vectors)), FOUND)


def cosines(data: Retrieval, vectors: NDArray[np.floating]) -> NDArray[np.floating]:
    """Of each question with each sentence, from the vectors of all sentences and then all questions [N, width]."""
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    sentences, asked = np.split(vectors, [len(data.sentences)])
    scores: NDArray[np.floating] = asked @ sentences.T
    return scores


def minilm_recall(run: Run, searched: Retrieval) -> float:
    """What MiniLM finds as it was, with all of its vocabulary."""
    encoder, tokenizer = pretrained([], sys.maxsize, 0, 0.0)
    texts = (*searched.sentences, *searched.questions)
    vectors = mean_vectors(run, encoder.eval(), tokenizer, texts, "MiniLM").numpy()
    return float(searched.found(cosines(searched, vectors), FOUND).mean())


def tfidf_recall(searched: Retrieval) -> float:
    """What weighted word counts find."""
    words = TfidfVectorizer(sublinear_tf=True, stop_words="english")
    sentences = words.fit_transform(searched.sentences)
    scores = (words.transform(searched.questions) @ sentences.T).toarray()
    return float(searched.found(scores, FOUND).mean())
