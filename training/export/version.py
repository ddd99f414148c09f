"""Writes one version of a model into a Triton model repository: graphs, configs and card, complete or not at all."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx
from google.protobuf import text_format
from onnx import TensorProto
from PIL import Image

from artifacts.card import Card, Explanation, Figure, Limits, Metric, Parity, Training
from artifacts.versions import (
    CONFIG,
    INTRA_OP_THREADS,
    own_graphs,
    place,
    present_versions,
    read_card,
    read_config,
    serve_newest,
    serve_only,
    served_versions,
)
from inference import model_config_pb2
from training.data.fetch import sha256_file
from training.export.onnx import export_graph
from training.export.parity import ExportError, worst
from training.measures import SHARE, Evaluation, wilson
from training.trained import Graph, Trained

TRITON_TYPES: dict[int, int] = {
    TensorProto.FLOAT: model_config_pb2.TYPE_FP32,
    TensorProto.FLOAT16: model_config_pb2.TYPE_FP16,
    TensorProto.UINT8: model_config_pb2.TYPE_UINT8,
    TensorProto.INT16: model_config_pb2.TYPE_INT16,
    TensorProto.INT32: model_config_pb2.TYPE_INT32,
    TensorProto.INT64: model_config_pb2.TYPE_INT64,
    TensorProto.BOOL: model_config_pb2.TYPE_BOOL,
}


def write_version(name: str, trained: Trained, repository: Path, command: str, seed: int, seconds: float) -> Card:
    """Export every graph of `trained`, and put the result in place as the next version of `name`, which is served."""
    return write_versions(name, (trained,), repository, command, seed, seconds)[0]


def write_versions(
    name: str,
    versions: Sequence[Trained],
    repository: Path,
    command: str,
    seed: int,
    seconds: float,
    promoted: bool = True,
) -> list[Card]:
    """Export `versions` as the next ones of `name`, in this order, of which a server answers for all if they are
    `promoted`, and for none if not: then it goes on with those that it serves.

    All are complete before the first is put in place. The directory that holds a card is renamed into place last, so a
    server never sees half a version.
    """
    repository.mkdir(parents=True, exist_ok=True)
    names = {role: name if role == "forward" else f"{name}_{role}" for role in versions[0].graphs}
    first = 1 + max((*present_versions(repository / graph), 0)[0] for graph in names.values())
    training = Training(
        command=command, seed=seed, device="", seconds=round(seconds, 1), parameters=0, commit=_commit()
    )
    borrowed = {role: read_card(repository / model) for role, model in versions[0].borrowed.items()}
    with tempfile.TemporaryDirectory(dir=repository, prefix=".staging-") as staging:
        cards = []
        for version, trained in enumerate(versions, first):
            (directory := Path(staging) / str(version)).mkdir()
            cards.append(_stage(name, names, version, trained, borrowed, training, directory, served=len(versions)))
        graphs = own_graphs(cards[-1])
        if not promoted:
            serve_only(repository, graphs, served_versions(repository / name))
        for card in cards:
            for graph_name in graphs:  # the one with the card last
                place(Path(staging) / str(card.version) / graph_name, repository / graph_name, card.version)
        if promoted:  # last, for a configuration must not ask for what is not there yet
            serve_newest(repository, graphs, len(cards))
    return cards


def add_graphs(card: Card, graphs: dict[str, Graph], explanation: Explanation, repository: Path) -> Card:
    """Add graphs, by role, and what they explain to the version of `card`; its other files stay as they are."""
    names = {role: f"{card.name}_{role}" for role in graphs}
    files, parities = dict(card.files), [card.parity] if card.parity else []
    with tempfile.TemporaryDirectory(dir=repository, prefix=".staging-") as staging:
        for role, graph in graphs.items():
            parities.append(_stage_graph(names[role], graph, Path(staging), served=1))
            files[f"{names[role]}/{card.version}/model.onnx"] = sha256_file(Path(staging, names[role], "model.onnx"))
        for name in names.values():
            shutil.rmtree(repository / name / str(card.version), ignore_errors=True)
            place(Path(staging, name), repository / name, card.version)
        if read_config(repository / card.name).version_policy.WhichOneof("policy_choice") == "specific":
            serve_only(repository, list(names.values()), served_versions(repository / card.name))
        added = card.model_copy(
            update={
                "graphs": card.graphs | names,
                "explanation": explanation,
                "files": files,
                "parity": worst(parities),
            }
        )
        added.write(written := Path(staging, "card.json"))
        written.replace(repository / card.name / str(card.version) / "card.json")
    return added


def add_figures(card: Card, evaluation: Evaluation, unserved: Evaluation, limits: Limits, repository: Path) -> Card:
    """Add what bounds the figures of a version to its card: limits, intervals, each class, and calibration.

    Values stay as they were when it was trained.

    Raises:
        ExportError: a value of the card lies outside the interval that was measured.
    """
    old = {(metric.name, metric.split): metric for metric in card.metrics}
    bounded: dict[tuple[str, str], Metric] = {}
    for metric in (*unserved.metrics, *evaluation.metrics):
        key = (metric.name, metric.split)
        if key not in old or (metric.interval is None and old[key].interval is not None):
            continue
        value, interval = old[key].value, metric.interval
        if interval is not None and not interval[0] <= value <= interval[1]:
            raise ExportError(
                f"{card.name}'s card says {metric.name} {value:.4g}, measured now: {metric.interval_text}"
            )
        bounded[key] = old[key].model_copy(update={"interval": interval})
    for key, metric in old.items():
        if key not in bounded and metric.interval is None and SHARE.fullmatch(metric.name):
            bounded[key] = metric.model_copy(update={"interval": wilson(metric.value, metric.n)})
    updated = card.model_copy(
        update={
            "limits": limits,
            "metrics": tuple(bounded.get(key, metric) for key, metric in old.items()),
            "per_class": evaluation.per_class or unserved.per_class or card.per_class,
            "calibration": evaluation.calibration or unserved.calibration or card.calibration,
        }
    )
    with tempfile.TemporaryDirectory(dir=repository, prefix=".staging-") as staging:
        updated.write(written := Path(staging, "card.json"))
        written.replace(repository / card.name / str(card.version) / "card.json")
    return updated


def _stage(
    name: str,
    names: dict[str, str],
    version: int,
    trained: Trained,
    borrowed: dict[str, Card],
    training: Training,
    directory: Path,
    served: int,
) -> Card:
    """Write one version into `directory`: a folder for each graph, in the model's own also figures, assets and the
    card."""
    files: dict[str, str] = {}
    for lender in borrowed.values():
        files |= {path: checksum for path, checksum in lender.files.items() if _is_borrowed(path, lender)}
    parities: list[Parity] = []
    for role, graph in trained.graphs.items():
        parities.append(_stage_graph(names[role], graph, directory, served))
        files[f"{names[role]}/{version}/model.onnx"] = sha256_file(directory / names[role] / "model.onnx")
    for figure in trained.figures:
        (path := directory / name / figure.file).write_bytes(with_palette(figure.png))
        files[f"{name}/{version}/{figure.file}"] = sha256_file(path)
    for file, content in trained.assets.items():
        (path := directory / name / file).write_bytes(content)
        files[f"{name}/{version}/{file}"] = sha256_file(path)
    card = Card(
        name=name,
        version=version,
        title=trained.title,
        lecture=trained.lecture,
        capability=trained.capability,
        task=trained.task,
        description=trained.description,
        graphs=names | {role: lender.name for role, lender in borrowed.items()},
        preprocessing=trained.preprocessing,
        labels=trained.labels,
        tags=trained.tags,
        decision=trained.decision,
        limits=trained.limits,
        metrics=trained.metrics,
        baselines=trained.baselines,
        per_class=trained.per_class,
        calibration=trained.calibration,
        robustness=trained.robustness,
        tables=trained.tables,
        figures=tuple(Figure(title=f.title, file=f.file) for f in trained.figures),
        explanation=trained.explanation,
        data=trained.data,
        training=training.model_copy(update={"device": trained.device, "parameters": trained.parameters}),
        parity=worst(parities),
        files=files,
    )
    card.write(directory / name / "card.json")
    return card


def with_palette(png: bytes) -> bytes:
    """A PNG file in 256 colours, which nobody tells from all of them, in a third of the bytes; a grey one as it is."""
    image = Image.open(io.BytesIO(png))
    if image.mode in ("L", "P"):
        return png
    reduced = image.convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    reduced.save(buffer := io.BytesIO(), "png", optimize=True)
    return buffer.getvalue()


def _stage_graph(name: str, graph: Graph, directory: Path, served: int) -> Parity:
    (folder := directory / name).mkdir()
    parity = export_graph(graph, path := folder / "model.onnx")
    config = triton_config(name, graph, path, served)
    (folder / CONFIG).write_text(text_format.MessageToString(config))
    return parity


def triton_config(name: str, graph: Graph, path: Path, served: int = 1) -> model_config_pb2.ModelConfig:
    """The Triton ModelConfig of an exported graph; its latest `served` versions answer, batched if it has a batch."""
    model = onnx.load(path, load_external_data=False)
    config = model_config_pb2.ModelConfig(
        name=name,
        backend="onnxruntime",
        max_batch_size=graph.max_batch_size,
        instance_group=[
            model_config_pb2.ModelInstanceGroup(count=1, kind=model_config_pb2.ModelInstanceGroup.KIND_AUTO)
        ],
    )
    if served > 1:
        config.version_policy.latest.num_versions = served
    # Without it, NVIDIA's backend takes a pool of threads for each instance: 5,549 requests a second against 9,063.
    config.parameters[INTRA_OP_THREADS].string_value = "1"
    for parameter, number in graph.padding.items():
        config.parameters[parameter].string_value = str(number)
    for value in model.graph.input:
        config.input.add(name=value.name, data_type=_triton_type(value), dims=_item_shape(value, graph))
    for value in model.graph.output:
        config.output.add(name=value.name, data_type=_triton_type(value), dims=_item_shape(value, graph))
    if not graph.max_batch_size:
        return config
    # No queue policy: with one, Triton 2.51 leaves queued requests waiting for 500 ms (measured; docs/benchmarks). The
    # embedded engine bounds its queue all the same.
    config.dynamic_batching.max_queue_delay_microseconds = 0
    return config


def _triton_type(value: onnx.ValueInfoProto) -> int:
    return TRITON_TYPES[value.type.tensor_type.elem_type]


def _item_shape(value: onnx.ValueInfoProto, graph: Graph) -> list[int]:
    """Dimensions, after the batch if there is one; -1 where the length varies.

    Raises:
        ExportError: there are none, which Triton refuses.
    """
    dimensions = value.type.tensor_type.shape.dim[1 if graph.max_batch_size else 0 :]
    if not dimensions:
        raise ExportError(f"{value.name} has no dimension beside the batch, which Triton needs: make it [N, 1]")
    return [d.dim_value if d.HasField("dim_value") else -1 for d in dimensions]


def _is_borrowed(path: str, lender: Card) -> bool:
    """Whether who stands on a model needs this file of it: its forward graph, and what services read beside it."""
    return path.startswith(f"{lender.name}/") and path.endswith((".onnx", ".json"))


def _commit() -> str:
    """Of this checkout, with a `+` if it has changes; of the image, which has no repository, what it was built of."""
    if built_of := os.environ.get("LECTERN_REVISION"):
        return built_of[:12]

    def git(*arguments: str) -> str:
        result = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=Path(__file__).parent)
        return result.stdout.strip()

    commit = git("rev-parse", "--short=12", "HEAD")
    return (commit + "+" if git("status", "--porcelain", "--", ":/training", ":/artifacts") else commit) or "unknown"
