"""An exported text encoder as the models run it that stand on it: on one thread, rows of like lengths together."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from safetensors.torch import load
from tokenizers import Encoding, Tokenizer
from torch import Tensor, nn

from artifacts.card import TextPreprocessing
from artifacts.versions import read_card
from artifacts.windows import PAD, mean_embedding, stacked, text_windows
from training.methods.text_encoder import TOKENIZER

ENCODER = "text_encoder"
HEADS = "heads.safetensors"  # the linear layers that learned with it, beside its graph
VECTORS, MEAN, SENTENCE = "vectors", "mean_vector", "sentence_vector"
ROWS_AT_ONCE = 16
# Of config.pbtxt: a run costs about as much as 8 tokens more, and a batch beyond 256 is slower for each token.
PADDING = {"padded_axis": 1, "pad_value": PAD, "pad_multiple": 8, "batch_budget": 256}
TIMED_RUNS = 20

Row: TypeAlias = tuple[Sequence[int], Sequence[int]]
"""Ids and segments of tokens."""


class ExportedEncoder:
    """The content of a model.onnx that takes ids and segments, and its tokenizer.

    Args:
        preprocessing: how services feed it.
        heads: weight and bias of the linear layers that learned with it, by `TASK.weight` and `TASK.bias`.
    """

    def __init__(
        self,
        content: bytes,
        tokenizer: Tokenizer,
        preprocessing: TextPreprocessing,
        heads: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.content, self.tokenizer, self.preprocessing = content, tokenizer, preprocessing
        self._heads = heads or {}

    @classmethod
    def of(cls, repository: Path) -> ExportedEncoder:
        """The one that a repository serves."""
        card = read_card(repository / ENCODER)
        assert isinstance(card.preprocessing, TextPreprocessing)
        directory = repository / ENCODER / str(card.version)
        return cls(
            (directory / "model.onnx").read_bytes(),
            Tokenizer.from_file(str(directory / TOKENIZER)),
            card.preprocessing,
            load((directory / HEADS).read_bytes()),
        )

    @property
    def sha256(self) -> str:
        """Of its content."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def tasks(self) -> list[str]:
        """Whose linear layers learned with it."""
        return sorted({name.partition(".")[0] for name in self._heads})

    def head(self, task: str) -> nn.Linear:
        """The linear layer that learned a task."""
        weight, bias = self._heads[f"{task}.weight"], self._heads[f"{task}.bias"]
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": bias})
        return layer.eval().requires_grad_(False)

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """Tokens of texts, without special ones."""
        return self.tokenizer.encode_batch(list(texts), add_special_tokens=False)

    def run(self, rows: Sequence[Row], output: str) -> list[NDArray[np.float32]]:
        """An output for each row; one with an axis of tokens has the row's own."""
        lengths = np.array([len(ids) for ids, _ in rows])
        order = np.argsort(lengths, kind="stable")
        results: dict[int, NDArray[np.float32]] = {}
        for chosen in np.array_split(order, max(1, -(-len(order) // ROWS_AT_ONCE))):
            ids, segments = (stacked([np.array([rows[i][part]], np.int64) for i in chosen]) for part in (0, 1))
            (values,) = self._session.run([output], {"ids": ids, "segments": segments})
            for i, value in zip(chosen.tolist(), values, strict=True):
                results[i] = value[: lengths[i]] if value.ndim > 1 else value
        return [results[i] for i in range(len(rows))]

    def pooled(self, texts: Sequence[str], output: str = MEAN) -> NDArray[np.float32]:
        """A vector for each text [N, width], the mean over its windows, as the service computes it."""
        windows = [text_windows(encoding.ids, self.preprocessing.max_tokens) for encoding in self.encode(texts)]
        rows: list[Row] = []
        for one in windows:
            rows += [(ids[:length], [0] * length) for ids, length in zip(one.ids, one.lengths.tolist(), strict=True)]
        vectors = iter(self.run(rows, output))
        parts = ([next(vectors) for _ in one.sizes] for one in windows)
        return np.concatenate([mean_embedding(np.stack(p), one) for p, one in zip(parts, windows, strict=True)])

    def milliseconds(self, tokens: int) -> float:
        """The fastest of several runs of one row, on one thread."""
        inputs = {name: np.ones((1, tokens), dtype=np.int64) for name in ("ids", "segments")}
        fastest = float("inf")
        for _ in range(TIMED_RUNS):
            started = time.perf_counter()
            self._session.run([MEAN], inputs)
            fastest = min(fastest, 1000 * (time.perf_counter() - started))
        return fastest

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # callers run several side by side
        return onnxruntime.InferenceSession(self.content, options)


def applied(layer: nn.Linear, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a linear layer makes of vectors [.., width]."""
    with torch.no_grad():
        values: NDArray[np.float32] = layer(torch.from_numpy(vectors)).numpy()
    return values
