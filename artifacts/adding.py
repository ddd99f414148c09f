"""Takes an ONNX model that was made elsewhere into a repository, with a card if it fits a kind of input.

A server's graphs take what clients send: bytes of pixels, rows of numbers. So what a model wants done to its input, and
to its output, becomes part of its graph here.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from google.protobuf import text_format
from onnx import TensorProto
from tokenizers import Tokenizer

from artifacts.card import Card, ImagePreprocessing, Preprocessing, TabularPreprocessing, TextPreprocessing
from artifacts.datatypes import DTYPES
from artifacts.graph_surgery import (
    AddError,
    Surgery,
    copies,
    element_type,
    first_line,
    inputs_of,
    kept_labels,
    largest_batch,
    read,
    remove_strings,
    remove_zip_maps,
    session_of,
    shape_of,
    shown,
)
from artifacts.own_tokens import around, own_ids, plain
from artifacts.versions import CONFIG, place, present_versions, serve_newest, served_cards
from artifacts.windows import PAD
from inference.model_config_pb2 import DataType, ModelConfig, ModelInput, ModelOutput

Kind = Literal["image", "table", "text", "raw"]
GRAPH_FILE, CARD_FILE, TOKENIZER_FILE = "model.onnx", "card.json", "tokenizer.json"
TOKENS = 256
MOST_NAMED = 8
# Mean and standard deviation of each channel, of values from 0 to 1.
PIXELS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "0..1": ((0.0,), (1.0,)),
    "-1..1": ((0.5,), (0.5,)),
    "0..255": ((0.0,), (1 / 255,)),
}
NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Wish:
    """How a model is to be taken in.

    Args:
        name: of the model in the repository.
        kind: None = what its inputs look like.
        labels: of its classes, in the order of its outputs; empty = those in the graph, or numbers.
        features: names of a table's columns; empty = numbers.
        pixels: a key of `PIXELS`: what the values of pixels become.
        tokenizer: the file `tokenizer.json` of a text model.
    """

    name: str
    kind: Kind | None = None
    labels: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    pixels: str = "imagenet"
    tokenizer: Path | None = None


@dataclass
class Added:
    """A version that was taken in, what it serves, and what was done to the model."""

    name: str
    version: int
    kind: Kind
    inputs: dict[str, str]
    outputs: dict[str, str]
    done: list[str] = field(default_factory=list)


def add(path: Path, repository: Path, wish: Wish) -> Added:
    """Take the model of a file in, as the next version of `wish.name`.

    Raises:
        AddError: it cannot be served so. OSError: a file cannot be read or written.
    """
    if not NAME.fullmatch(wish.name):
        raise AddError(f"{wish.name!r} is no name for a model: small letters, digits and _, a letter first (--name)")
    _check_free(wish.name, repository)
    done: list[str] = []
    model = read(path, done)
    remove_zip_maps(model, done)
    remove_strings(model, done)
    rows = largest_batch(model, done)
    kind = wish.kind or guess(model)
    wrapped = _WRAPPERS[kind](model, wish, done)
    if wrapped is not None and not rows:
        raise AddError("its inputs and outputs have no batch as their first axis: add it as raw tensors (--kind raw)")
    config = _config(wish.name, model, rows)
    content = model.SerializeToString()
    check_runs(content, config)
    version = _write(repository, wish, config, content, wrapped)
    return Added(wish.name, version, kind, _described(config.input), _described(config.output), done)


def _check_free(name: str, repository: Path) -> None:
    """Whether a model may have this name: another version of one that was taken in, but of none that was trained here.

    Raises:
        AddError: it may not.
    """
    for card in served_cards(repository) if repository.is_dir() else []:
        if card.training is not None and name in (card.name, *card.graphs.values()):
            raise AddError(
                f"{name} is a graph of {card.name}, which `lectern train` made: choose another name (--name)"
            )


def _image(model: onnx.ModelProto, wish: Wish, done: list[str]) -> _Wrapped:
    """Bytes of pixels in front, logits of the classes behind."""
    source = _only(model, rank=4, what="an image")
    _, *axes = shape_of(source)
    channels_first = axes[0] in (1, 3) and axes[2] not in (1, 3)
    channels, height, width = axes if channels_first else (axes[2], axes[0], axes[1])
    if channels not in (1, 3) or min(height, width) < 1:
        raise AddError(
            f"the input {source.name!r} is [N, {axes}]: an image has 1 or 3 channels, and a fixed height and width"
        )
    graph = Surgery(model)
    pixels = graph.replace_input(source, "images", TensorProto.UINT8, [height, width, channels])
    if element_type(source) != TensorProto.UINT8:
        mean, deviation = PIXELS[wish.pixels]
        values = graph.node("Cast", pixels, to=TensorProto.FLOAT)
        means, deviations = (np.resize(np.array(figures, np.float32), channels) for figures in (mean, deviation))
        scaled = graph.node("Mul", values, graph.constant(1 / 255 / deviations))
        pixels = graph.node("Sub", scaled, graph.constant(means / deviations))
        pixels = graph.node("Cast", pixels, to=element_type(source))
        done.append(f"reads pixels as {wish.pixels} (mean {mean}, deviation {deviation} of 0..1; --pixels chooses)")
    if channels_first:
        pixels = graph.node("Transpose", pixels, perm=[0, 3, 1, 2])
    graph.feed(source, pixels)
    labels = graph.classes(wish.labels, done)
    preprocessing = ImagePreprocessing(height=height, width=width, channels=channels)
    return _Wrapped("classify", "image classification", preprocessing, labels)


def _table(model: onnx.ModelProto, wish: Wish, done: list[str]) -> _Wrapped:
    """Rows of numbers in front, whether the model takes them together or column by column, and numbers behind."""
    sources = copies(inputs_of(model))
    widths = [shape_of(source)[1] if len(shape_of(source)) == 2 else 0 for source in sources]
    if min(widths) < 1:
        raise AddError(f"a table's inputs are [N, columns], with their number fixed; it has {shown(sources)}")
    features = wish.features or tuple(
        source.name if width == 1 and len(sources) > 1 else f"{source.name}_{i}"
        for source, width in zip(sources, widths, strict=True)
        for i in range(width)
    )
    if len(features) != sum(widths):
        raise AddError(f"it takes {sum(widths)} columns, and {len(features)} have names")
    if not wish.features:
        done.append(f"calls its columns {named(features)} (--features names them)")
    graph = Surgery(model)
    rows = graph.replace_input(sources[0], "features", TensorProto.FLOAT, [len(features)])
    for other in sources[1:]:
        graph.drop_input(other)
    starts = np.cumsum([0, *widths[:-1]])
    for source, start, width in zip(sources, starts, widths, strict=True):
        part = graph.node("Gather", rows, graph.constant(np.arange(start, start + width)), axis=1)
        graph.feed(source, graph.node("Cast", part, to=element_type(source)))
    target = graph.best_output(ranks=(1, 2))
    values = (
        target if len(shape_of(graph.values[target])) == 2 else graph.node("Unsqueeze", target, graph.constant([1]))
    )
    width = graph.replace_outputs(
        "prediction", graph.node("Cast", values, to=TensorProto.FLOAT), len(shape_of(graph.values[target])) == 1
    )
    if wish.labels and len(wish.labels) != width:
        raise AddError(f"it gives {width} numbers, and there are {len(wish.labels)} labels (--labels)")
    targets = wish.labels or kept_labels(model)
    if len(targets) != width:
        targets = tuple(["prediction"] if width == 1 else (f"prediction_{i}" for i in range(width)))
        done.append(f"calls what it gives {named(targets)} (--labels names them)")
    return _Wrapped("predict", "prediction from a table", TabularPreprocessing(features=features, targets=targets))


def _text(model: onnx.ModelProto, wish: Wish, done: list[str]) -> _Wrapped:
    """Token ids in front, a vector of the text behind."""
    if wish.tokenizer is None:
        raise AddError("a text model needs its tokenizer, a file tokenizer.json (--tokenizer)")
    if wish.labels:
        raise AddError("a text model gives vectors, which have no labels (--labels)")
    tokenizer = _tokenizer(wish.tokenizer)
    sources = {source.name: source for source in copies(inputs_of(model))}
    known = {"input_ids", "attention_mask", "token_type_ids"}
    if "input_ids" not in sources or not sources.keys() <= known:
        raise AddError(f"a text model takes {', '.join(sorted(known))}; it has {shown(sources.values())}")
    graph = Surgery(model)
    ids = graph.replace_input(sources["input_ids"], "ids", TensorProto.INT64, ["tokens"])
    tokens = around(tokenizer)
    tokenizer.no_padding()
    own, mask = own_ids(graph, ids, tokens)
    given = {
        "input_ids": own,
        "attention_mask": mask,
        "token_type_ids": graph.node("Mul", own, graph.constant(0)),
    }
    for name, source in sources.items():
        if name != "input_ids":
            graph.drop_input(source)
        graph.feed(source, graph.node("Cast", given[name], to=element_type(source)))
    best = graph.best_output(ranks=(2, 3), wanted=("sentence_embedding", "last_hidden_state"))
    vector = best
    if len(shape_of(graph.values[best])) == 3:
        weights = graph.node("Unsqueeze", graph.node("Cast", mask, to=TensorProto.FLOAT), graph.constant([2]))
        total = graph.node("ReduceSum", graph.node("Mul", best, weights), graph.constant([1]), keepdims=0)
        vector = graph.node("Div", total, graph.node("ReduceSum", weights, graph.constant([1]), keepdims=0))
        done.append("takes the mean of the tokens' vectors")
    graph.replace_outputs("mean_vector", vector)
    preprocessing = TextPreprocessing(
        tokenizer=TOKENIZER_FILE,
        max_tokens=min(TOKENS, tokenizer.truncation["max_length"] if tokenizer.truncation else TOKENS),
    )
    assets = {TOKENIZER_FILE: plain(wish.tokenizer.read_bytes())}
    return _Wrapped("embed", "sentence embedding", preprocessing, padding=PAD, assets=assets)


_WRAPPERS: dict[Kind, Callable[[onnx.ModelProto, Wish, list[str]], _Wrapped | None]] = {
    "image": _image,
    "table": _table,
    "text": _text,
    "raw": lambda model, wish, done: None,
}


@dataclass(frozen=True)
class _Wrapped:
    """What a card says of a model whose graph takes and gives what the capability's clients send."""

    capability: str
    task: str
    preprocessing: Preprocessing
    labels: tuple[str, ...] = ()
    padding: int | None = None
    assets: Mapping[str, bytes] = field(default_factory=dict)


def check_runs(content: bytes, config: ModelConfig) -> None:
    """Run the graph once on one row, and on two.

    Raises:
        AddError: it cannot.
    """
    session = session_of(content)
    for rows in (1, 2) if config.max_batch_size > 1 else (1,):
        batch = [rows] if config.max_batch_size else []
        inputs = {
            t.name: np.zeros([*batch, *(n if n > 0 else 4 for n in t.dims)], DTYPES[DataType.Name(t.data_type)[5:]])
            for t in config.input
        }
        try:
            session.run([output.name for output in config.output], inputs)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise AddError(f"it does not run on {rows} rows of zeros: {first_line(error)}") from error


def _config(name: str, model: onnx.ModelProto, rows: int) -> ModelConfig:
    config = ModelConfig(name=name, backend="onnxruntime", max_batch_size=rows)
    if rows > 1:
        config.dynamic_batching.SetInParent()
    for values, described in ((inputs_of(model), config.input), (model.graph.output, config.output)):
        for value in values:
            kind = TensorProto.DataType.Name(element_type(value)).replace("FLOAT16", "FP16")
            kind = {"FLOAT": "FP32", "DOUBLE": "FP64"}.get(kind, kind)
            if kind not in DTYPES:
                raise AddError(f"{value.name!r} is of {kind}, which is not served")
            described.add(name=value.name, data_type=DataType.Value(f"TYPE_{kind}"), dims=shape_of(value)[bool(rows) :])
    return config


def _write(repository: Path, wish: Wish, config: ModelConfig, content: bytes, wrapped: _Wrapped | None) -> int:
    """Put the next version into the repository, complete, and let it be served; returns its number."""
    repository.mkdir(parents=True, exist_ok=True)
    model = repository / wish.name
    version = max(present_versions(model), default=0) + 1
    if wrapped is not None and wrapped.padding is not None:
        padding = {"padded_axis": 1, "pad_value": wrapped.padding, "pad_multiple": 8, "batch_budget": 4096}
        for key, value in padding.items():
            config.parameters[key].string_value = str(value)
    files = {GRAPH_FILE: content, **(wrapped.assets if wrapped else {})}
    with tempfile.TemporaryDirectory(dir=repository, prefix=".staging-") as directory:
        (staged := Path(directory) / wish.name).mkdir()
        for name, data in files.items():
            (staged / name).write_bytes(data)
        (staged / CONFIG).write_text(text_format.MessageToString(config))
        if wrapped is not None:
            sums = {f"{wish.name}/{version}/{name}": hashlib.sha256(data).hexdigest() for name, data in files.items()}
            Card(
                name=wish.name,
                version=version,
                title=wish.name.replace("_", " "),
                capability=wrapped.capability,
                task=wrapped.task,
                description="Taken in by `lectern add`.",
                graphs={"forward": wish.name},
                preprocessing=wrapped.preprocessing,
                labels=wrapped.labels,
                files=sums,
            ).write(staged / CARD_FILE)
        place(staged, model, version)
    serve_newest(repository, [wish.name], 1)
    return version


def _described(tensors: Iterable[ModelInput | ModelOutput]) -> dict[str, str]:
    return {t.name: f"{DataType.Name(t.data_type).removeprefix('TYPE_')} {list(t.dims)}" for t in tensors}


def named(names: Sequence[str]) -> str:
    """Names that were made up, of which the first and the last tell enough."""
    return ", ".join(names) if len(names) <= MOST_NAMED else f"{names[0]} to {names[-1]}"


def guess(model: onnx.ModelProto) -> Kind:
    """What kind of input a model seems to take."""
    shapes = {value.name: shape_of(value) for value in inputs_of(model)}
    if "input_ids" in shapes:
        return "text"
    (first, *others) = shapes.values()
    if not others and len(first) == 4 and ({1, 3} & {first[1], first[3]}):
        return "image"
    return "table" if all(len(shape) == 2 and shape[1] > 0 for shape in shapes.values()) else "raw"


def _only(model: onnx.ModelProto, rank: int, what: str) -> onnx.ValueInfoProto:
    values = copies(inputs_of(model))
    if len(values) != 1 or len(shape_of(values[0])) != rank:
        raise AddError(f"{what} is one input with {rank} axes; it has {shown(values)}")
    return values[0]


def _tokenizer(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise AddError(f"{path} is no tokenizer of the library `tokenizers`: {first_line(error)}") from error
