"""`lectern add`: from a file that a framework wrote to an answer, in two commands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, parser
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn

import lectern
from lectern.v1 import model_pb2
from tests.conftest import EXPORTED, ROOT, Server, encode, serving

COLOURS = ["red", "green", "blue"]


class Brightest(nn.Module):
    """Which channel is the brightest, of pixels from 0 to 1: as torchvision's nets, [N, 3, H, W] -> [N, 3]."""

    def __init__(self, probabilities: bool = False) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3)
        self.probabilities = probabilities
        with torch.no_grad():
            self.head.weight.copy_(10 * torch.eye(3))
            self.head.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))
        return logits.softmax(1) if self.probabilities else logits


def export(path: Path, net: nn.Module, dynamic: bool, external_data: bool) -> None:
    shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
    example = torch.rand(2 if dynamic else 1, 3, 8, 6)
    torch.onnx.export(net.eval(), (example,), path, dynamo=True, dynamic_shapes=shapes, verbose=False)
    if external_data:  # torch leaves few numbers inside
        onnx.save(onnx.load(path), path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=0)


def forest(path: Path) -> None:
    """As skl2onnx writes a classifier of three flowers by four numbers: labels, and a map of probabilities."""
    graph = """
    <ir_version: 10, opset_import: ["" : 20, "ai.onnx.ml" : 1]>
    forest (float[N, 4] X) => (string[N] output_label, float[N, 3] output_probability) {
        weights = Constant <value = float[4, 3] {1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0}> ()
        scores = MatMul (X, weights)
        probabilities = Softmax <axis = 1> (scores)
        best = ArgMax <axis = 1, keepdims = 0> (scores)
        names = Constant <value = string[3] {"rose", "tulip", "lily"}> ()
        output_label = Gather (names, best)
    }
    """
    model = parser.parse_model(graph)
    maps = helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    model.graph.output[1].type.CopyFrom(helper.make_sequence_type_proto(maps))
    labels = ["rose", "tulip", "lily"]
    model.graph.node.append(
        helper.make_node(
            "ZipMap", ["probabilities"], ["output_probability"], domain="ai.onnx.ml", classlabels_strings=labels
        )
    )
    onnx.save(model, path)


def sentence_encoder(path: Path) -> None:
    """As Optimum writes one: the vectors of tokens, which are rows of a table, where the mask counts."""
    graph = """
    <ir_version: 10, opset_import: ["" : 20]>
    bert (int64[N, T] input_ids, int64[N, T] attention_mask, int64[N, T] token_type_ids)
        => (float[N, T, 2] last_hidden_state) {
        vectors = Gather (table, input_ids)
        one = Constant <value = int64[1] {2}> ()
        seen = Cast <to = 1> (attention_mask)
        counted = Unsqueeze (seen, one)
        segments = Cast <to = 1> (token_type_ids)
        shift = Unsqueeze (segments, one)
        kept = Mul (vectors, counted)
        last_hidden_state = Add (kept, shift)
    }
    """
    model = parser.parse_model(graph)
    table = np.array([[9, 9], [0, 0], [0, 0], [0, 0], [1, 0], [0, 1]], np.float32)
    model.graph.initializer.append(numpy_helper.from_array(table, "table"))
    onnx.save(model, path)
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "cat": 4, "dog": 5}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.save(str(path.with_name("tokenizer.json")))


def add(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lectern", "add", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("files")
    export(directory / "fixed.onnx", Brightest(), dynamic=False, external_data=True)
    export(directory / "dynamic.onnx", Brightest(probabilities=True), dynamic=True, external_data=False)
    forest(directory / "forest.onnx")
    sentence_encoder(directory / "encoder.onnx")
    (directory / "colours.txt").write_text("\n".join(COLOURS))
    return directory


@pytest.fixture(scope="module")
def served(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    repository = tmp_path_factory.mktemp("own") / "models"
    to = ("--repository", repository)
    colours = ("--labels", files / "colours.txt", "--pixels", "0..1")
    for arguments in (
        (files / "fixed.onnx", *colours),
        (files / "dynamic.onnx", *colours),
        (files / "forest.onnx",),
        (files / "encoder.onnx", "--tokenizer", files / "tokenizer.json"),
        (files / "fixed.onnx", "--kind", "raw", "--name", "bare"),
    ):
        done = add(*arguments, *to)
        assert done.returncode == 0, done.stderr
    os.utime(repository / "bare" / "1" / "model.onnx", (0, 0))
    with serving(tmp_path_factory.mktemp("server"), repository=repository) as server:
        yield server


@pytest.fixture
def client(served: Server) -> Iterator[lectern.Client]:
    with lectern.Client(served.target) as client:
        yield client


def test_every_model_is_ready(client: lectern.Client) -> None:
    models = {m.name: (m.capability, m.versions[0].state) for m in client.list_models().models}
    ready = model_pb2.MODEL_STATE_READY
    assert models == {
        "bare": ("", ready),
        "dynamic": ("classify", ready),
        "encoder": ("embed", ready),
        "fixed": ("classify", ready),
        "forest": ("predict", ready),
    }


@pytest.mark.parametrize("model", ["fixed", "dynamic"])
def test_a_net_of_torch_classifies_photos(client: lectern.Client, model: str) -> None:
    photos = [encode(np.full((30, 40, 3), 255 * np.eye(3, dtype=np.uint8)[channel], np.uint8)) for channel in range(3)]
    results = client.classify_image(photos, model=model).results
    assert [result.classes[0].label for result in results] == COLOURS
    chances = np.exp([10, 0, 0]) / np.exp([10, 0, 0]).sum()
    assert [c.probability for c in results[0].classes] == pytest.approx(sorted(chances, reverse=True), abs=1e-4)


def test_a_forest_of_scikit_learn_gives_probabilities(client: lectern.Client) -> None:
    rows = np.array([[3, 1, 0, 5], [0, 0, 2, 5]], np.float32)
    results = client.predict(rows, model="forest").results
    expected = np.exp(rows[:, :3]) / np.exp(rows[:, :3]).sum(1, keepdims=True)
    np.testing.assert_allclose([list(result.values) for result in results], expected, atol=1e-5)
    card = client.get_model("forest").model.versions[0].card
    assert list(card["preprocessing"]["targets"]) == ["rose", "tulip", "lily"]


def test_a_sentence_encoder_gives_vectors(client: lectern.Client) -> None:
    cat, dog, both = client.embed_text(["cat", "dog", "cat dog"], model="encoder").results
    assert list(cat.vector) == pytest.approx([1, 0])
    assert list(dog.vector) == pytest.approx([0, 1])
    assert list(both.vector) == pytest.approx([0.5**0.5] * 2)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["colours.txt"], "is not an ONNX model"),
        (["fixed.onnx", "--name", "Bad Name"], "is no name for a model"),
        (["fixed.onnx", "--labels", "one.txt"], "it has 3 classes, and there are 1 labels"),
        (["fixed.onnx", "--kind", "table"], "a table's inputs are"),
        (["forest.onnx", "--features", "a,b"], "it takes 4 columns, and 2 have names"),
        (["forest.onnx", "--labels", "one.txt"], "it gives 3 numbers, and there are 1 labels"),
        (["encoder.onnx"], "needs its tokenizer"),
        (["alone/fixed.onnx"], "fixed.onnx.data must lie beside"),
        (["custom.onnx"], "it has operators of my.company"),
        (["old.onnx", "--kind", "image"], "opset 9"),
    ],
)
def test_what_cannot_be_added_says_why_and_leaves_nothing(
    files: Path, tmp_path: Path, arguments: list[str], problem: str
) -> None:
    (files / "one.txt").write_text("only")
    (files / "alone").mkdir(exist_ok=True)
    (files / "alone" / "fixed.onnx").write_bytes((files / "fixed.onnx").read_bytes())
    custom = parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20, "my.company" : 1]> g (float[N, 3] x) => (float[N, 3] y) '
        "{ y = my.company.Magic (x) }"
    )
    onnx.save(custom, files / "custom.onnx")
    old = parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 9]> g (float[N, 3, 8, 8] x) => (float[N, 192] y) { y = Flatten (x) }'
    )
    onnx.save(old, files / "old.onnx")
    path, *options = arguments
    options = [str(files / option) if option.endswith(".txt") else option for option in options]
    done = add(files / path, *options, "--repository", tmp_path / "models")
    assert done.returncode == 1
    assert problem in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "models").glob("*")) if (tmp_path / "models").exists() else True


def test_what_the_model_does_not_name_is_said(files: Path, tmp_path: Path) -> None:
    to = ("--repository", tmp_path)
    assert "calls its columns X_0, X_1, X_2, X_3 (--features names them)" in add(files / "forest.onnx", *to).stdout
    assert "calls its classes 0 to 2 (--labels names them)" in add(files / "fixed.onnx", *to).stdout


def test_a_model_that_was_trained_here_keeps_its_name_and_another_gets_a_version(files: Path, tmp_path: Path) -> None:
    shutil.copytree(EXPORTED / "image_classifier", tmp_path / "image_classifier")
    for name in ("image_classifier", "image_classifier_gradient"):
        refused = add(files / "fixed.onnx", "--name", name, "--repository", tmp_path)
        assert refused.returncode == 1
        assert f"{name} is a graph of image_classifier" in " ".join(refused.stderr.split())
    assert [path.name for path in tmp_path.iterdir()] == ["image_classifier"]
    for version in (1, 2):
        assert f"fixed {version}, image, is in" in add(files / "fixed.onnx", "--repository", tmp_path).stdout


def test_a_card_that_does_not_fit_its_graph_is_never_ready(files: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models"
    for name in ("honest", "lying"):
        assert add(files / "fixed.onnx", "--name", name, "--repository", repository).returncode == 0
    card = repository / "lying" / "1" / "card.json"
    told = json.loads(card.read_text())
    told["preprocessing"]["height"] = 32
    card.write_text(json.dumps(told))
    with serving(tmp_path, repository=repository) as server, lectern.Client(server.target) as client:
        states = {m.name: (m.versions[0].state, m.versions[0].reason) for m in client.list_models().models}
    assert states["honest"] == (model_pb2.MODEL_STATE_READY, "")
    assert states["lying"][0] == model_pb2.MODEL_STATE_UNAVAILABLE
    assert "the input 'images' must be UINT8 [32, 6, 3] an item, not UINT8 [8, 6, 3]" in states["lying"][1]
