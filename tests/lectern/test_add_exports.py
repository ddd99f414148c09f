"""`lectern add` of what frameworks export: from the file to an answer in two commands, with the framework's numbers."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn import functional

import lectern
from tests.conftest import EXPORTED, Server, serving
from tests.lectern.test_cli import invoke

CLASSES = ["tench", "goldfish", "shark", "ray", "hen"]
SIDE = 32
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # as torchvision normalises
WORDS = ["the", "cat", "dog", "sat", "ran", "home", "a"]
# What tokenizers of Hugging Face put first, what fills up, what follows, what is unknown: BERT's and RoBERTa's numbers.
SPECIAL = {"bert": ("[PAD]", "[unused]", "[UNK]", "[CLS]", "[SEP]"), "roberta": ("<s>", "<pad>", "</s>", "<unk>")}
STARTS, ENDS, UNKNOWN = ("[CLS]", "<s>"), ("[SEP]", "</s>"), ("[UNK]", "<unk>")
WIDTH, HEADS = 32, 4
PETALS = "sepal_length,sepal_width,petal_length,petal_width"


class Block(nn.Module):
    """Two convolutions and a shortcut, as torchvision's BasicBlock."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outside), nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.downsample = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class ResNet(nn.Module):
    """Normalised images float32 [N, 3, H, W] -> logits [N, 5], in the layers of torchvision's resnet18."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 32, 7, 2, 3, bias=False), nn.BatchNorm2d(32)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layers = nn.Sequential(Block(32, 64, 1), Block(64, 128, 2), Block(128, 128, 2))
        self.fc = nn.Linear(128, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(self.maxpool(functional.relu(self.bn1(self.conv1(x)))))
        logits: Tensor = self.fc(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))
        return logits


class Encoder(nn.Module):
    """Token ids and their mask, int64 [N, T] -> vectors of the tokens [N, T, 32]: one layer of a Transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(5 + len(WORDS), WIDTH), nn.Embedding(64, WIDTH)
        self.attention, self.norm = nn.Linear(WIDTH, 3 * WIDTH), nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.words(input_ids) + self.places(torch.arange(input_ids.shape[1]))
        parts = self.attention(x).unflatten(-1, (3, HEADS, WIDTH // HEADS)).permute(2, 0, 3, 1, 4)
        seen = attention_mask[:, None, None, :].bool()
        heads = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2], seen)
        x = self.norm(x + heads.transpose(1, 2).flatten(2))
        y: Tensor = x + self.mlp(x)
        return y


@dataclass(frozen=True)
class Exports:
    """The files, and the networks that they came from."""

    directory: Path
    resnet: ResNet
    encoder: Encoder
    tokenizers: dict[str, Tokenizer]
    forest: RandomForestClassifier


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Exports:
    directory = tmp_path_factory.mktemp("exports")
    torch.manual_seed(0)
    resnet, encoder = ResNet().eval(), Encoder().eval()
    for norm in (module for module in resnet.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_mean, -0.1, 0.1)  # type: ignore[arg-type]  # as if it were trained
    batch = torch.export.Dim("batch")
    images = torch.rand(2, 3, SIDE, SIDE)
    to = {"dynamo": True, "verbose": False}
    torch.onnx.export(
        resnet, (images,), directory / "resnet.onnx", dynamic_shapes=({0: batch},), external_data=True, **to
    )
    ids, axes = torch.ones(2, 5, dtype=torch.int64), {0: batch, 1: torch.export.Dim("tokens", max=64)}
    names = {"input_names": ["input_ids", "attention_mask"], "output_names": ["last_hidden_state"]}
    torch.onnx.export(
        encoder, (ids, ids.clone()), directory / "encoder.onnx", dynamic_shapes=(axes, axes), **names, **to
    )
    (directory / "classes.txt").write_text("\n".join(CLASSES))
    flowers = load_iris()
    named = np.array(["setosa", "versicolor", "virginica"])[flowers.target]
    forest = RandomForestClassifier(10, max_depth=4, random_state=0).fit(flowers.data.astype(np.float32), named)
    (directory / "forest.onnx").write_bytes(to_onnx(forest, flowers.data[:1].astype(np.float32)).SerializeToString())
    tokenizers = {kind: words(*special) for kind, special in SPECIAL.items()}
    for kind, tokenizer in tokenizers.items():
        tokenizer.save(str(directory / f"{kind}.json"))
    return Exports(directory, resnet, encoder, tokenizers, forest)


def words(*special: str) -> Tokenizer:
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    first, after, unknown = (next(t for t in special if t in names) for names in (STARTS, ENDS, UNKNOWN))
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    ends = [(first, vocabulary[first]), (after, vocabulary[after])]
    template = processors.TemplateProcessing(f"{first} $A {after}", "$A $B", ends)
    tokenizer.post_processor = template  # type: ignore[assignment]
    return tokenizer


@pytest.fixture(scope="module")
def served(exports: Exports, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that has been running while the models were added."""
    (repository := tmp_path_factory.mktemp("own") / "models").mkdir()
    folder = exports.directory
    with serving(tmp_path_factory.mktemp("server"), repository=repository) as server:
        for arguments in (
            (folder / "resnet.onnx", "--labels", folder / "classes.txt"),
            (folder / "forest.onnx", "--features", PETALS),
            *((folder / "encoder.onnx", "--tokenizer", folder / f"{kind}.json", "--name", kind) for kind in SPECIAL),
        ):
            done = invoke("add", *arguments, "--repository", repository)
            assert done.returncode == 0, done.stderr.decode()
        with lectern.Client(server.target) as client:
            wait_for(client, "resnet", "forest", *SPECIAL)
        yield server


def wait_for(client: lectern.Client, *names: str) -> None:
    from tests.waiting import wait_until

    wait_until(lambda: set(names) <= {model.name for model in client.list_models().models})


def test_weights_lie_in_a_file_beside_the_resnet(exports: Exports) -> None:
    weights = exports.directory / "resnet.onnx.data"
    assert weights.stat().st_size > 4 * 10**5 > os.stat(exports.directory / "resnet.onnx").st_size


def test_a_resnet_classifies_a_photo_as_torch_does(exports: Exports, served: Server, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    done = invoke("classify", tmp_path / "photo.png", "--model", "resnet", "--top-k", 0, "--json", target=served.target)
    (result,) = json.loads(done.stdout)["results"]
    scaled = (torch.from_numpy(pixels).permute(2, 0, 1) / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(
        DEVIATION
    )[:, None, None]
    with torch.no_grad():
        expected = exports.resnet(scaled[None].float()).softmax(1)[0]
    given = {one["label"]: one["probability"] for one in result["classes"]}
    np.testing.assert_allclose([given[label] for label in CLASSES], expected, atol=1e-5)


def test_a_forest_predicts_as_scikit_learn_does(exports: Exports, served: Server, tmp_path: Path) -> None:
    rows: NDArray[np.float64] = load_iris().data[::10]
    with (tmp_path / "rows.csv").open("w") as file:
        csv.writer(file).writerows([PETALS.split(","), *rows.tolist()])
    done = invoke("predict", tmp_path / "rows.csv", "--model", "forest", "--json", target=served.target)
    document: dict[str, Any] = json.loads(done.stdout)
    assert document["targets"] == exports.forest.classes_.tolist()
    expected = exports.forest.predict_proba(rows.astype(np.float32))
    np.testing.assert_allclose([result["values"] for result in document["results"]], expected, atol=1e-5)


@pytest.mark.parametrize("kind", SPECIAL)
def test_an_encoder_gives_the_mean_of_its_tokens(exports: Exports, served: Server, kind: str) -> None:
    texts = ["the cat sat", "the dog ran home home home", "the zebra"]
    with lectern.Client(served.target) as client:
        results = client.embed_text(texts, model=kind).results
    for text, result in zip(texts, results, strict=True):
        ids = torch.tensor([exports.tokenizers[kind].encode(text).ids])
        with torch.no_grad():
            mean = exports.encoder(ids, torch.ones_like(ids)).mean(1)[0]
        np.testing.assert_allclose(result.vector, functional.normalize(mean, dim=0), atol=1e-5)


def test_an_encoder_searches(served: Server, tmp_path: Path) -> None:
    (file := tmp_path / "text.txt").write_text("the dog ran home\n\nthe cat sat\n")
    done = invoke("search", "the cat sat", "--in", file, "--model", "bert", "--json", target=served.target)
    best = json.loads(done.stdout)["results"][0]
    assert best["text"] == "the cat sat"
    assert best["cosine"] == pytest.approx(1, abs=1e-5)


def test_its_card_is_shown_without_figures(served: Server) -> None:
    page = invoke("show", "resnet", target=served.target).stdout.decode()
    assert "resnet 1 · classify · ready" in page
    assert "How good it is" not in page
    assert "tench, goldfish, shark, ray, hen" in page


def test_a_card_that_promises_other_classes_is_never_ready(served: Server, exports: Exports, tmp_path: Path) -> None:
    """What the card says is compared with the graph, whoever wrote it."""
    added = invoke("add", exports.directory / "forest.onnx", "--features", PETALS, "--repository", tmp_path)
    assert added.returncode == 0, added.stderr
    card = tmp_path / "forest" / "1" / "card.json"
    lie = json.loads(card.read_text())
    lie["preprocessing"]["targets"].append("orchid")
    card.write_text(json.dumps(lie))
    with serving(tmp_path, "predict", repository=tmp_path) as server:
        page = " ".join(invoke("models", target=server.target).stdout.decode().split())
    assert "forest predict 1 unavailable" in page
    assert EXPORTED not in tmp_path.parents
