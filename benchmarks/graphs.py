"""The repository that is measured: the committed image classifier, and an MLP of the phoneme net's size."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import nn

from lectern.card import DataSource, Metric, TabularPreprocessing
from training.export.version import write_version
from training.recipe import Graph, Trained

FEATURES, HIDDEN, CLASSES = 429, 1024, 41


def make_repository(exported: Path, target: Path, instances: int) -> None:
    """Write both graphs with `instances` each into `target`."""
    shutil.copytree(exported / "image_classifier", target / "image_classifier")
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES)
    )
    unmeasured = Metric(name="none", value=0, split="test", n=1)
    nothing = DataSource(source="none", version="0", sha256="0" * 64, licence="none", train=0, validation=0, test=0)
    features = TabularPreprocessing(features=tuple(f"x{i}" for i in range(FEATURES)), targets=("y",))
    trained = Trained(
        title="untrained MLP",
        lecture="HW2",
        capability="predict",
        task="speed",
        description="Random weights; only its size matters.",
        graphs={"forward": Graph(net, {"features": torch.randn(2, FEATURES)}, ("prediction",), max_batch_size=64)},
        preprocessing=features,
        metrics=(unmeasured,),
        data=(nothing,),
        device="none",
        parameters=0,
    )
    write_version("mlp", trained, target, "benchmark", 0, 0.0)
    for config in target.glob("*/config.pbtxt"):
        config.write_text(config.read_text().replace("count: 1", f"count: {instances}"))
