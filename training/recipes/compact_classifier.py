"""HW13: a small network that a large one teaches, pruned, and quantised to 8-bit integers.

The student's late layers are depthwise separable (Howard et al., "MobileNets", 2017); its early ones are dense, which
is faster where channels are few (Tan & Le, "EfficientNetV2", 2021). It learns from the teacher's softened probabilities
(Hinton et al., "Distilling the Knowledge in a Neural Network", 2015). Pruning takes the smallest weights of the whole
network (Han et al., "Learning both Weights and Connections", 2015), quantisation is static, with a scale for each
channel (Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
2018). Every training writes two versions: first the student as float32, then as int8, so that callers can choose.
"""

from __future__ import annotations

import io
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import torch
from matplotlib.figure import Figure as Plot
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from artifacts.card import Baseline, ImagePreprocessing, Limits, Metric, Table, known
from artifacts.versions import read_card
from lectern.client import Client
from training import measures
from training.cpu import cpu_name
from training.data import cifar10
from training.data.cifar10 import Cifar10, Split
from training.export.onnx import export_graph, load_weights, round_to_half, served_graph, stored_weights
from training.export.quantize import quantize
from training.measures import Decisions, Evaluation
from training.methods.photos import augmented, learning_rate, score, served_decisions
from training.optimise import decayed, descend, nesterov
from training.run import EXPORTED, Run, device_name
from training.served import Track
from training.trained import QUANTISED, Figure, Graph, Trained

NEEDS = {"teacher": "image_classifier"}
MEMORY = 4
SHIPPED = True
TARGET_ACCURACY = 0.88
TARGET_SPEEDUP = 2.5  # of int8 over float32
INT8_LOSS = 0.01  # of accuracy, at most
PRUNING_LOSS = 0.01
PRUNING = "Pruning: test accuracy by share of weights that are zero"
SPARSITIES = (0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
CALIBRATION_PHOTOS = 512
TIMED_BATCHES = (1, 32)
TIMED_RUNS = 200
LIMITS = Limits(
    intended="Photos as for image_classifier, where memory or time is short.",
    failures=(
        "How much faster int8 is depends on the CPU: at a batch of 32 version 4 is 2.8 times as fast as version 3 "
        "with VNNI, 1.9 with AVX2 alone and 1.6 with AVX512 without VNNI.",
        "It always answers with one of its classes.",
    ),
)


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters; learning rate and weight decay are for a loss averaged over the batch.

    Args:
        dense: output channels of the dense convolutions; the last of them halves height and width.
        separable: output channels of the depthwise-separable convolutions.
        temperature: divides the logits of teacher and student before their probabilities are compared.
        distillation: share of that comparison in the loss; the rest is cross-entropy with the labels.
    """

    epochs: int = 60
    batch_size: int = 256
    dense: tuple[int, ...] = (48, 48, 48)
    separable: tuple[int, ...] = (128, 128, 128)
    peak_learning_rate: float = 0.4
    weight_decay: float = 3e-4
    momentum: float = 0.9
    translate: int = 3
    temperature: float = 2.0
    distillation: float = 0.9
    pruning_learning_rate: float = 0.02


FULL = Settings()
FAST = Settings(epochs=2, batch_size=20, dense=(16, 16), separable=(16,), peak_learning_rate=0.05)


class Convolution(nn.Module):
    """A 3 x 3 convolution, dense or depthwise separable, with batch norm and ReLU."""

    def __init__(self, channels_in: int, channels_out: int, separable: bool) -> None:
        super().__init__()
        self.depthwise = (
            nn.Conv2d(channels_in, channels_in, 3, padding=1, groups=channels_in, bias=False)
            if separable
            else nn.Identity()
        )
        size, padding = (1, 0) if separable else (3, 1)
        self.conv = nn.Conv2d(channels_in, channels_out, size, padding=padding, bias=False)
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(self.depthwise(x))))


class CompactClassifier(nn.Module):
    """Photos uint8 or float [N, 32, 32, 3] with values 0..255 -> logits float32 [N, 10]."""

    def __init__(
        self, dense: tuple[int, ...] = FULL.dense, separable: tuple[int, ...] = FULL.separable, classes: int = 10
    ) -> None:
        super().__init__()
        self.dense = nn.Sequential(*(Convolution(a, b, False) for a, b in zip((12, *dense[:-1]), dense, strict=True)))
        pairs = zip((dense[-1], *separable[:-1]), separable, strict=True)
        self.separable = nn.Sequential(*(Convolution(a, b, True) for a, b in pairs))
        self.head = nn.Linear(separable[-1], classes)

    def forward(self, photos: Tensor) -> Tensor:
        # Each 2 x 2 patch becomes one pixel of 12 channels: an integer graph runs few-channel convolutions slowly.
        x = photos.reshape(-1, 16, 2, 16, 6).permute(0, 1, 3, 2, 4).reshape(-1, 16, 16, 12)
        x = (x.float() / 64 - 2).permute(0, 3, 1, 2)
        x = self.separable(F.max_pool2d(self.dense(x), 2))
        logits: Tensor = self.head(F.avg_pool2d(x, 8).flatten(1))
        return logits

    @torch.no_grad()
    def fold_norms(self) -> CompactClassifier:
        """Fold each batch norm into the convolution before it."""
        for block in (*self.dense, *self.separable):
            assert isinstance(block, Convolution)
            block.conv, block.norm = nn.utils.fusion.fuse_conv_bn_eval(block.conv, block.norm), nn.Identity()  # type: ignore[assignment]
        return self


def train(run: Run) -> tuple[Trained, Trained]:
    """Distil, prune and quantise; measure each network, the teacher, and a student that learned from labels alone."""
    settings = FAST if run.fast else FULL
    data = cifar10.load_sliver(run.sliver.with_name("image_classifier.npz")) if run.fast else cifar10.load()
    teacher = served_graph(EXPORTED / NEEDS["teacher"])
    lessons = teacher_logits(run, teacher, data.train.images)
    student, device = fit(run, settings, data, lessons)
    alone, _ = fit(run, replace(settings, distillation=0.0), data, lessons)
    curve, pruned = prune(run, settings, student, data, lessons)
    float32 = forward_graph(student, data)
    files = {
        "teacher": teacher,
        "student without distillation": exported(forward_graph(alone, data)),
        "student": exported(float32),
        "student, pruned": exported(forward_graph(pruned, data)),
    }
    pruning = Table(
        title=PRUNING, columns=("sparsity", "pruned at once", "fine-tuned for an epoch at each step"), rows=tuple(curve)
    )
    return pair(run, data, float32, files, pruning, Figure(PRUNING, "pruning.png", plot(curve)), device)


def requantize(run: Run) -> tuple[Trained, Trained]:
    """The served pair's float32 network again, and in 8 bits as training/export/quantize.py makes them now; both are
    measured anew, the networks that were compared with them are not."""
    model = run.repository / run.name
    card = read_card(model, read_card(model).version - 1)
    directory = model / str(card.version)
    content = (directory / "model.onnx").read_bytes()
    data = cifar10.load_sliver(run.sliver.with_name("image_classifier.npz")) if run.fast else cifar10.load()
    run.seconds, settings = known(card.training).seconds, FAST if run.fast else FULL
    net = CompactClassifier(settings.dense, settings.separable).eval().fold_norms()
    float32 = replace(graph_of(load_weights(net, content), data), onnx=content)
    files = {"teacher": served_graph(EXPORTED / NEEDS["teacher"]), "student": content}
    (pruning,) = (table for table in card.tables if table.title == PRUNING)
    figure = Figure(PRUNING, "pruning.png", (directory / "pruning.png").read_bytes())
    first, second = pair(run, data, float32, files, pruning, figure, known(card.training).device)
    return replace(first, baselines=card.baselines), replace(second, baselines=card.baselines)


def pair(
    run: Run, data: Cifar10, float32: Graph, files: dict[str, bytes], pruning: Table, figure: Figure, device: str
) -> tuple[Trained, Trained]:
    """The student as float32 and in 8 bits, measured beside the other files."""
    examples = data.train.images[:CALIBRATION_PHOTOS]
    files = files | {"student, int8": quantize(files["student"], {"images": examples})}
    int8 = replace(float32, onnx=files["student, int8"], tolerance=QUANTISED)
    measured = {name: measure(content, data.test) for name, content in files.items()}
    measured["student, int8"] = replace(measured["student, int8"], parameters=measured["student"].parameters)
    times = [milliseconds(run, files, data.test.images[:batch]) for batch in TIMED_BATCHES]
    validation = Decisions.of(onnx_logits(files["student"], data.validation.images)).accuracy(data.validation.labels)
    metrics = (
        *accuracies(measured["student"].decisions, measured["student, int8"].decisions, data.test),
        Metric(
            name="speedup_int8",
            value=times[-1]["student"] / times[-1]["student, int8"],
            split="test",
            n=TIMED_BATCHES[-1],
            target=TARGET_SPEEDUP,
        ),
        measures.share("accuracy", validation, len(data.validation), "validation"),
    )
    exact, quantised = (
        measures.classified(measured[name].decisions, data.test.labels, cifar10.LABELS, chosen)
        for name, chosen in (("student", metrics), ("student, int8", (metrics[1], metrics[0], *metrics[2:])))
    )
    first = Trained(
        title="Compact CIFAR-10 classifier, float32",
        lecture="HW13",
        capability="classify",
        task="image classification",
        description=(
            "A network of under 100,000 parameters, taught by image_classifier, that sorts 32 x 32 colour photos into "
            "ten classes. Of each pair of versions the first computes in float32, the second in int8, with weights of "
            "7 bits, so that it answers alike on every CPU."
        ),
        graphs={"forward": float32},
        preprocessing=ImagePreprocessing(height=32, width=32, channels=3, resample="box"),
        labels=cifar10.LABELS,
        metrics=exact.metrics,
        limits=LIMITS,
        per_class=exact.per_class,
        calibration=exact.calibration,
        baselines=tuple(
            Baseline(name=name, metric="accuracy", value=measured[name].accuracy)
            for name in ("student without distillation", "teacher")
            if name in measured
        ),
        tables=(
            Table(
                title=f"Compression; times are the fastest of runs in turns on one thread of {cpu_name()}",
                columns=(
                    "network",
                    "parameters other than zero",
                    "bytes",
                    "bytes, zipped",
                    *(f"ms, batch of {batch}" for batch in TIMED_BATCHES),
                    "accuracy",
                ),
                rows=tuple(
                    (name, m.parameters, m.size, m.zipped, *(round(t[name], 4) for t in times), m.accuracy)
                    for name, m in measured.items()
                ),
            ),
            pruning,
        ),
        figures=(figure,),
        data=(cifar10.SOURCE.entry_of(data),),
        device=device,
        parameters=measured["student"].parameters,
    )
    second = replace(
        first,
        title="Compact CIFAR-10 classifier, int8",
        graphs={"forward": int8},
        metrics=quantised.metrics,
        per_class=quantised.per_class,
        calibration=quantised.calibration,
    )
    return first, second


def evaluate(client: Client, track: Track) -> Evaluation:
    """Accuracy of the newest pair of versions on the official test photos, sent as PNG files."""
    test = cifar10.load().test
    newest = client.get_model("compact_classifier").model.versions[0].version
    float32, int8 = (
        served_decisions(client, track, test.images, "compact_classifier", version) for version in (newest - 1, newest)
    )
    return measures.classified(int8, test.labels, cifar10.LABELS, accuracies(float32, int8, test)[::-1])


def accuracies(float32: Decisions, int8: Decisions, test: Split) -> tuple[Metric, Metric]:
    """Of both arithmetics on the test photos."""
    exact, n = float32.accuracy(test.labels), len(test)
    return (
        measures.share("accuracy", exact, n, target=TARGET_ACCURACY),
        measures.share("accuracy_int8", int8.accuracy(test.labels), n, target=exact - INT8_LOSS),
    )


def teacher_logits(run: Run, teacher: bytes, images: NDArray[np.uint8]) -> Tensor:
    """What the teacher says of each photo and of its mirror image: float32 [2, N, 10]."""
    views = (images, images[:, :, ::-1])
    return torch.stack([torch.from_numpy(onnx_logits(teacher, v)) for v in run.track(views, f"{run.name} teacher", 2)])


def fit(run: Run, settings: Settings, data: Cifar10, lessons: Tensor) -> tuple[CompactClassifier, str]:
    """Train a student on the train split; the validation split is only watched. Returns it and the device's name."""
    fabric = run.fabric("bf16-mixed")
    net = CompactClassifier(settings.dense, settings.separable).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = nesterov(decayed(net, settings.weight_decay), settings.peak_learning_rate, settings.momentum)
    model, optimizer = fabric.setup(net, optimizer)
    run.fit(
        fabric,
        model,
        optimizer,
        lambda epoch: taught(run, settings, data, lessons, epoch),
        lambda batch: loss_of(model, settings, batch),
        epochs=settings.epochs,
        settings=settings,
        count=len(data.train) // settings.batch_size,
        rate=learning_rate,
        watch=lambda: {"validation_accuracy": score(model, data.validation)},
    )
    return net.eval().cpu(), device_name(fabric)


class Taught(NamedTuple):
    """Photos float32 [N, 32, 32, 3], their labels int64 [N], and what the teacher says of them, float32 [N, 10]."""

    photos: Tensor
    labels: Tensor
    logits: Tensor


def taught(run: Run, settings: Settings, data: Cifar10, lessons: Tensor, epoch: int) -> Iterator[Taught]:
    """The batches of an epoch."""
    for batch in augmented(data.train, settings.batch_size, settings.translate, run.seed, epoch):
        yield Taught(batch.photos, batch.labels, lessons[batch.mirrored.long(), batch.positions])


def loss_of(model: nn.Module, settings: Settings, batch: Taught) -> Tensor:
    """Cross-entropy with the labels, and the distance from the teacher."""
    logits = model(batch.photos).float()
    loss = (1 - settings.distillation) * F.cross_entropy(logits, batch.labels)
    if settings.distillation:
        loss = loss + settings.distillation * distillation_loss(logits, batch.logits, settings.temperature)
    return loss


def distillation_loss(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence from the teacher's to the student's softened probabilities (Hinton et al., 2015);
    logits float [N, classes] each. The square of the temperature keeps the gradient's size."""
    student, teacher = (logits / temperature).log_softmax(1), (taught / temperature).softmax(1)
    return F.kl_div(student, teacher, reduction="batchmean") * temperature**2


def prune(
    run: Run, settings: Settings, student: CompactClassifier, data: Cifar10, lessons: Tensor
) -> tuple[list[tuple[float, ...]], CompactClassifier]:
    """Take ever more of the smallest weights, with an epoch of fine-tuning after each step.

    Returns rows of sparsity and test accuracy, pruned at once and fine-tuned; and the sparsest network that loses at
    most a point on the validation split.
    """
    fabric = run.fabric("bf16-mixed")
    net = deepcopy(student).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = nesterov(decayed(net, settings.weight_decay), settings.pruning_learning_rate, settings.momentum)
    model, optimizer = fabric.setup(net, optimizer)
    rows = [(0.0, *[score(student, data.test)] * 2)]
    state: dict[str, Any] = {"model": model, "optimizer": optimizer, "rows": rows, "best": student.state_dict()}
    least = score(student, data.validation) - PRUNING_LOSS
    count = len(data.train) // settings.batch_size
    for i in run.epochs(fabric, len(SPARSITIES), state, ("pruning", settings)):
        at_once = deepcopy(student)
        keep_largest(at_once, 1 - SPARSITIES[i])
        masks = keep_largest(net, 1 - SPARSITIES[i])
        model.train()
        batches = taught(run, settings, data, lessons, settings.epochs + i)
        for batch in run.track(batches, f"{run.name} pruned to {1 - SPARSITIES[i]:.0%}", count):
            descend(fabric, optimizer, loss_of(model, settings, fabric.to_device(batch)))
            for weight, mask in masks:
                weight.data.mul_(mask)
        if score(model, data.validation) >= least:
            state["best"] = {name: value.detach().cpu().clone() for name, value in net.state_dict().items()}
        state["rows"].append((SPARSITIES[i], score(at_once, data.test), score(model, data.test)))
        run.log(**dict(zip(("sparsity", "pruned_at_once", "fine_tuned"), state["rows"][-1], strict=True)))
    best = deepcopy(student)
    best.load_state_dict(state["best"])
    return state["rows"], best


@torch.no_grad()
def keep_largest(net: nn.Module, share: float) -> list[tuple[nn.Parameter, Tensor]]:
    """Zero all but the largest weights of the whole network; returns each weight with its mask of what stays."""
    weights = [p for p in net.parameters() if p.ndim > 1]
    sizes = torch.cat([w.abs().flatten() for w in weights])
    threshold = sizes.kthvalue(max(1, round(len(sizes) * (1 - share)))).values
    masks = [(weight, weight.abs() > threshold) for weight in weights]
    for weight, mask in masks:
        weight.mul_(mask)
    return masks


def plot(rows: Sequence[tuple[float, ...]]) -> bytes:
    """Accuracy by sparsity as a PNG file."""
    figure = Plot(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for column, label, marker in ((2, "fine-tuned for an epoch at each step", "o"), (1, "pruned at once", "s")):
        axes.plot([row[0] for row in rows], [row[column] for row in rows], marker=marker, label=label)
    axes.set(xlabel="share of weights that are zero", ylabel="test accuracy", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    figure.savefig(buffer := io.BytesIO(), format="png", dpi=120)
    return buffer.getvalue()


def forward_graph(net: CompactClassifier, data: Cifar10) -> Graph:
    """The network as it is exported: norms folded, weights as float16 holds them."""
    return graph_of(round_to_half(deepcopy(net).eval().fold_norms()), data)


def graph_of(net: nn.Module, data: Cifar10) -> Graph:
    """A network with an example of its input."""
    return Graph(net, {"images": torch.from_numpy(data.test.images[:8])}, ("logits",), max_batch_size=64)


def exported(graph: Graph) -> bytes:
    """The ONNX file of a graph."""
    with TemporaryDirectory() as directory:
        export_graph(graph, path := Path(directory) / "model.onnx")
        return path.read_bytes()


@dataclass(frozen=True)
class Measured:
    """An ONNX file: weights that are not zero, bytes as they are and zipped, what it decides on a split, and the share
    that is right."""

    parameters: int
    size: int
    zipped: int
    decisions: Decisions
    accuracy: float


def measure(content: bytes, split: Split) -> Measured:
    """What an ONNX file holds, and decides on a split."""
    # What a module holds has a dot in its name; the exporter's own constants have none.
    weights = sum(int(np.count_nonzero(w)) for name, w in stored_weights(content).items() if "." in name)
    decisions = Decisions.of(onnx_logits(content, split.images))
    zipped = len(zlib.compress(content, 9))
    return Measured(weights, len(content), zipped, decisions, decisions.accuracy(split.labels))


def onnx_logits(content: bytes, images: NDArray[np.uint8], batch_size: int = 250) -> NDArray[np.float32]:
    """Logits float32 [N, 10] of an ONNX file, by ONNX Runtime."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    starts = range(0, len(images), batch_size)
    return np.concatenate([session.run(["logits"], {"images": images[i : i + batch_size]})[0] for i in starts])


def milliseconds(run: Run, files: Mapping[str, bytes], images: NDArray[np.uint8]) -> dict[str, float]:
    """The fastest of many runs of each ONNX file on `images`, taken in turns on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = {name: onnxruntime.InferenceSession(content, options) for name, content in files.items()}
    fastest = dict.fromkeys(files, float("inf"))
    runs = 2 if run.fast else TIMED_RUNS
    for _ in run.track(range(runs), f"{run.name} timing, batch of {len(images)}", runs):
        for name, session in sessions.items():
            started = time.perf_counter()
            session.run(["logits"], {"images": images})
            fastest[name] = min(fastest[name], 1000 * (time.perf_counter() - started))
    return fastest
