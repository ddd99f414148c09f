"""Pairs of sentences, as an exported encoder reads them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.data.entailment import Pairs
from training.methods.exported_encoder import MEAN, ExportedEncoder
from training.methods.reading import ENTAILMENT, PairExamples
from training.run import Run

PAIRS_AT_ONCE = 64


def mean_vectors(run: Run, encoder: ExportedEncoder, pairs: Pairs, what: str) -> NDArray[np.float32]:
    """The mean vector of each pair [N, width]."""
    window = encoder.preprocessing.max_tokens
    examples = PairExamples(ENTAILMENT, encoder.tokenizer, pairs, window).draw(np.random.default_rng(0))
    rows = [(example.ids, example.segments) for example in examples]
    starts = range(0, len(rows), PAIRS_AT_ONCE)
    return np.concatenate(
        [
            np.stack(encoder.run(rows[start : start + PAIRS_AT_ONCE], MEAN))
            for start in run.track(starts, f"{run.name} {what}", len(starts))
        ]
    )
