"""The repository that is measured: the committed image classifier, and an MLP of the phoneme net's size."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from google.protobuf import text_format
from numpy.typing import NDArray
from torch import nn

from artifacts.card import DataSource, Metric, TabularPreprocessing
from artifacts.versions import CONFIG, read_card, read_config
from benchmarks.peers.onnx_graph import session
from training.export.version import write_version
from training.trained import Graph, Trained

CLASSIFIER = "image_classifier"
FEATURES, HIDDEN, CLASSES = 429, 1024, 41


def make_repository(exported: Path, target: Path, instances: int) -> None:
    """Write both graphs with `instances` each into `target`, which nothing else is loaded beside."""
    card = read_card(exported / CLASSIFIER)
    source, version = exported / CLASSIFIER, target / CLASSIFIER / "1"  # where every server looks
    version.mkdir(parents=True)
    shutil.copy(source / CONFIG, target / CLASSIFIER)
    shutil.copy(source / str(card.version) / "model.onnx", version)
    # The classifier alone, without the gradients that explain it.
    graph = f"{CLASSIFIER}/{{}}/model.onnx"
    changes = {
        "version": 1,
        "graphs": {"forward": CLASSIFIER},
        "explanation": None,
        "figures": (),
        "files": {graph.format(1): card.files[graph.format(card.version)]},
    }
    card.model_copy(update=changes).write(version / "card.json")
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES)
    )
    unmeasured = Metric(name="none", value=0, split="test", n=1)
    nothing = DataSource(source="none", version="0", sha256="0" * 64, licence="none", train=0, validation=0, test=0)
    features, targets = (tuple(f"{axis}{i}" for i in range(count)) for axis, count in (("x", FEATURES), ("y", CLASSES)))
    trained = Trained(
        title="untrained MLP",
        lecture="HW2",
        capability="predict",
        task="speed",
        description="Random weights; only its size matters.",
        graphs={"forward": Graph(net, {"features": torch.randn(2, FEATURES)}, ("prediction",), max_batch_size=64)},
        preprocessing=TabularPreprocessing(features=features, targets=targets),
        metrics=(unmeasured,),
        data=(nothing,),
        device="none",
        parameters=0,
    )
    write_version("mlp", trained, target, "benchmark", 0, 0.0)
    for model in (target / CLASSIFIER, target / "mlp"):
        config = read_config(model)
        config.ClearField("version_policy")
        config.instance_group[0].count = instances
        (model / CONFIG).write_text(text_format.MessageToString(config))


def answers(repository: Path, model: str, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
    """What bare ONNX Runtime says of the inputs, by output."""
    bare = session(repository / model / "1" / "model.onnx")
    names = [output.name for output in bare.get_outputs()]
    return dict(zip(names, bare.run(names, dict(inputs)), strict=True))
