"""HW14: handwritten digits at five rotations, learned one after the other without forgetting the ones before.

Five methods against forgetting (`training/methods/continual.py`) beside naive fine-tuning and joint training, on two
sequences of five tasks each: MNIST turned by 0, 36, .. 144 degrees, and MNIST with its pixels in five random orders. A
task's images are never seen again once the next begins, and the network is not told which task an image is of. What is
served is the best method's network after all five rotations.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning.fabric import Fabric
from matplotlib.figure import Figure as Plot
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from artifacts.card import Baseline, Card, ImagePreprocessing, Limits, Metric, Table
from artifacts.card import Split as DataSplit
from lectern.client import Client
from training import measures
from training.data import mnist
from training.data.idx import Split
from training.data.mnist import Mnist
from training.export.onnx import round_to_bytes, round_to_half
from training.measures import Decisions, Evaluation
from training.methods.continual import METHODS, Regulariser
from training.run import Run, device_name
from training.served import Track, png
from training.trained import Figure, Graph, Trained

NEEDS: dict[str, str] = {}
MEMORY = 4
SHIPPED = True
TARGET = 0.90
TASKS, ANGLE = 5, 36
LABELS = tuple("0123456789")
SERVED_BATCH = 100
EVALUATION_SECONDS = 600
JOINT = "joint"
AGAINST_FORGETTING = tuple(name for name in METHODS if name != "naive")
LIMITS = Limits(
    intended="Single handwritten digits, light on black, 28 x 28 pixels, turned by 0, 36, 72, 108 or 144 degrees.",
    failures=(
        "Version 1 classifies 0.71 of the digits of another collection correctly.",
        "It classifies 0.21 of digits in dark ink on light paper correctly.",
        "It still forgets: on tasks before the last, accuracy is 0.033 lower than it was.",
    ),
)


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters.

    Args:
        filters, active: kinds of features, and how many features answer an image.
        epochs: of each task.
        examples: of a task, from which EWC, MAS and SCP estimate what is important.
        strengths: of each method's penalty, about; each sequence takes the one of their multiples by `factors` that is
            best on the validation split, after learning `trial` images of each task.
    """

    filters: int = 1200
    active: int = 200
    epochs: int = 2
    batch_size: int = 128
    learning_rate: float = 100.0
    examples: int = 1000
    strengths: tuple[tuple[str, float], ...] = (
        ("EWC", 20.0),
        ("MAS", 0.012),
        ("SI", 0.02),
        ("RWalk", 0.12),
        ("SCP", 70.0),
    )
    factors: tuple[float, ...] = (0.4, 1.0, 2.5)
    trial: int = 15_000


FULL = Settings()
FAST = Settings(filters=10, active=20, epochs=1, examples=20, factors=(1.0,), trial=100)


@dataclass(frozen=True)
class Sequence:
    """Tasks that differ in what is done to an image, and nothing else.

    Args:
        change: images uint8 [N, 28, 28] and a task's number, from 0, to the task's images.
    """

    name: str
    change: Callable[[NDArray[np.uint8], int], NDArray[np.uint8]]

    def task(self, split: Split, number: int) -> tuple[Tensor, Tensor]:
        """Images uint8 [N, 28, 28, 1] and labels int64 [N] of one task."""
        images = torch.from_numpy(self.change(split.images, number))[..., None]
        return images, torch.from_numpy(split.labels.astype(np.int64))


@dataclass(frozen=True)
class Features:
    """Of images, in sparse form: positions int32 [N, A], values float32 [N, A], labels int64 [N]; `size` positions."""

    where: Tensor
    values: Tensor
    labels: Tensor
    size: int

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Tensor) -> Features:
        return Features(self.where[rows], self.values[rows], self.labels[rows], self.size)

    def dense(self) -> Tensor:
        """The features float32 [N, size]."""
        return torch.zeros(len(self), self.size, device=self.values.device).scatter(1, self.where.long(), self.values)

    def logits(self, head: nn.Linear) -> Tensor:
        """What a layer gives for them, without the work for all the zeros."""
        summed = F.embedding_bag(self.where.long(), head.weight.T, per_sample_weights=self.values, mode="sum")
        logits: Tensor = summed + head.bias
        return logits

    def __add__(self, other: Features) -> Features:
        where, values, labels = (
            torch.cat(pair)
            for pair in ((self.where, other.where), (self.values, other.values), (self.labels, other.labels))
        )
        return Features(where, values, labels, self.size)


@dataclass(frozen=True)
class Task:
    train: Features
    validation: Features
    test: Features


@dataclass
class Learned:
    """What a method reached.

    Args:
        accuracies: on the test split, [task just learned, task asked].
        validation: mean accuracy over the validation split of all tasks, after the last.
        strength: of the penalty.
        weights: of the layer of logits.
    """

    accuracies: Tensor
    validation: float
    strength: float
    weights: dict[str, Tensor]

    @property
    def accuracy(self) -> float:
        """Mean over all tasks after the last."""
        return float(self.accuracies[-1].mean())

    @property
    def forgetting(self) -> float:
        """Mean over earlier tasks of the best accuracy there ever was, less the last (Chaudhry et al. 2018)."""
        earlier = self.accuracies[:, :-1]
        return float((earlier.amax(0) - earlier[-1]).mean())


class DigitClassifier(nn.Module):
    """Digits uint8 [N, 28, 28, 1] -> logits float32 [N, 10].

    The first layer is fixed: random filters, of whose many answers only the strongest are kept, as in a fly's brain
    (Shen, Dasgupta and Navlakha, "Reducing Catastrophic Forgetting with Associative Learning", 2023). Images of
    different tasks then share few features. All learning is in the layer of logits.
    """

    def __init__(self, filters: int = FULL.filters, active: int = FULL.active) -> None:
        super().__init__()
        self.active = active
        self.filters = nn.Conv2d(1, filters, 10, stride=3, bias=False).requires_grad_(False)
        nn.init.normal_(self.filters.weight)
        with torch.no_grad():
            self.filters.weight -= self.filters.weight.mean((1, 2, 3), keepdim=True)  # even ground is no answer
        self.head = nn.Linear(filters * 7 * 7, len(LABELS))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits

    def features(self, images: Tensor) -> Tensor:
        """Features float32 [N, F], of length 1."""
        where, values = self.strongest(images)
        return torch.zeros(len(images), self.head.in_features, device=values.device).scatter(1, where, values)

    def strongest(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Positions int64 [N, A] of the features that are kept, and their values."""
        answers = self.filters(images.permute(0, 3, 1, 2).float()).flatten(1)
        values, where = answers.relu().topk(self.active, dim=1)
        return where, F.normalize(values, dim=1)


def turned(images: NDArray[np.uint8], task: int) -> NDArray[np.uint8]:
    """Turned counterclockwise by 36 degrees times the task's number."""
    pictures = (Image.fromarray(image) for image in images)
    return np.stack([np.asarray(p.rotate(ANGLE * task, Image.Resampling.BILINEAR)) for p in pictures])


def shuffled(images: NDArray[np.uint8], task: int) -> NDArray[np.uint8]:
    """The same pixels in a random order that the task's number fixes."""
    order = np.random.default_rng(task).permutation(28 * 28)
    return images.reshape(len(images), -1)[:, order].reshape(images.shape)


ROTATIONS, PERMUTATIONS = SEQUENCES = Sequence("rotations", turned), Sequence("permutations", shuffled)


def train(run: Run) -> Trained:
    """Learn both sequences by every method, and ship what the best on validation made of the rotations."""
    settings = FAST if run.fast else FULL
    data = load_sliver(run) if run.fast else mnist.load()
    fabric = run.fabric()
    learned: dict[str, Learned] = {}
    for sequence in SEQUENCES:
        learned |= learn_all(run, fabric, settings, data, sequence)
    best = max(AGAINST_FORGETTING, key=lambda method: learned[f"{ROTATIONS.name} {method}"].validation)
    net = new_network(run, settings)
    net.head.load_state_dict(learned[f"{ROTATIONS.name} {best}"].weights)
    evaluation = measured([decide(net, ROTATIONS.task(data.test, task)[0]) for task in range(TASKS)], data.test)
    return Trained(
        title="Lifelong digit classifier",
        lecture="HW14",
        capability="classify",
        task="image classification",
        description=(
            f"Reads handwritten digits turned by 0, 36, 72, 108 or 144 degrees, learned one rotation after the other "
            f"with {best} against forgetting."
        ),
        graphs={"forward": Graph(net, {"images": ROTATIONS.task(data.test, 1)[0][:8]}, ("logits",), max_batch_size=64)},
        preprocessing=ImagePreprocessing(height=28, width=28, channels=1, resample="box"),
        labels=LABELS,
        metrics=metrics(learned, best, len(data.test), len(data.validation)),
        limits=LIMITS,
        per_class=evaluation.per_class,
        calibration=evaluation.calibration,
        baselines=tuple(
            Baseline(name=method, metric=f"accuracy{suffix}", value=learned[f"{sequence.name} {method}"].accuracy)
            for sequence, suffix in ((ROTATIONS, ""), (PERMUTATIONS, "_permutations"))
            for method in ("naive", JOINT)
        ),
        tables=tables(learned, best),
        figures=(Figure("Mean accuracy over the tasks seen so far", "forgetting.png", plot(learned)),),
        data=(mnist.SOURCE.entry_of(data),),
        device=device_name(fabric),
        parameters=sum(p.numel() for p in net.parameters()),
    )


def evaluate(client: Client, track: Track) -> Evaluation:
    """Accuracy on the official test digits at all five rotations, sent as PNG files over one stream."""
    test = mnist.load().test
    decisions: list[Decisions] = []
    starts = range(0, len(test), SERVED_BATCH)
    for task in range(TASKS):
        images, _ = ROTATIONS.task(test, task)
        batches = ([png(image.numpy()[..., 0]) for image in images[s : s + SERVED_BATCH]] for s in starts)
        stream = client.stream_classify_image(batches, model="lifelong_classifier", top_k=1, timeout=EVALUATION_SECONDS)
        answers = track(stream, len(starts))
        best = [result.classes[0] for answer in answers for result in answer.results]
        decisions.append(Decisions(np.array([c.index for c in best]), np.array([c.probability for c in best])))
    return measured(decisions, test)


def measured(by_task: list[Decisions], test: Split) -> Evaluation:
    """What decisions on the test digits at each rotation amount to."""
    labels = np.tile(test.labels.astype(np.int64), TASKS)
    decisions = Decisions(
        np.concatenate([d.classes for d in by_task]), np.concatenate([d.confidences for d in by_task])
    )
    accuracy = task_share("accuracy", decisions.accuracy(labels), len(test), target=TARGET)
    return measures.classified(decisions, labels, LABELS, (accuracy,))


@torch.no_grad()
def decide(net: DigitClassifier, images: Tensor) -> Decisions:
    """What the network says of images uint8 [N, 28, 28, 1]."""
    return Decisions.of(torch.cat([net(batch) for batch in torch.split(images, 500)]))


def unserved(card: Card, repository: Path, track: Track) -> Evaluation:
    """The shares of a card that are of networks or digits no server has, with their intervals."""
    return Evaluation(
        tuple(
            task_share(metric.name, metric.value, metric.n // TASKS, metric.split)
            for metric in card.metrics
            if metric.name.startswith("accuracy") and (metric.name, metric.split) != ("accuracy", "test")
        )
    )


def task_share(name: str, value: float, digits: int, split: DataSplit = "test", **target: Any) -> Metric:
    """A share of digits, each asked in every task; a digit that is hard in one is so in others, so that no more than
    the digits are independent."""
    return measures.share(name, value, TASKS * digits, split, independent=digits, **target)


def load_sliver(run: Run) -> Mnist:
    """A few hundred real digits from a committed `.npz` (`images`, `labels`), split 60/20/20 in order."""
    with np.load(run.sliver.with_suffix(".npz")) as file:
        images, labels = file["images"], file["labels"].astype(np.int64)
    first, second = int(len(labels) * 0.6), int(len(labels) * 0.8)
    cuts = (slice(first), slice(first, second), slice(second, None))
    return Mnist(*(Split(images[cut], labels[cut]) for cut in cuts))


def learn_all(run: Run, fabric: Fabric, settings: Settings, data: Mnist, sequence: Sequence) -> dict[str, Learned]:
    """Learn a sequence by every method, each from the same start."""
    methods = (*METHODS, JOINT)
    state: dict[str, Any] = {"learned": {}}
    tasks: list[Task] = []
    for i in run.epochs(fabric, len(methods), state, (settings, sequence.name)):
        tasks = tasks or tasks_of(run, fabric, settings, data, sequence)
        name = f"{sequence.name} {methods[i]}"
        strength = choose_strength(run, fabric, settings, tasks, methods[i], name)
        learned = learn(run, fabric, settings, tasks, methods[i], strength, name)
        state["learned"][name] = asdict(learned)
        run.console.print(
            f"{name}: accuracy {learned.accuracy:.4f}, forgetting {learned.forgetting:.4f}, "
            f"validation {learned.validation:.4f}, strength {strength:g}",
            highlight=False,
        )
    return {name: Learned(**fields) for name, fields in state["learned"].items()}


def choose_strength(run: Run, fabric: Fabric, settings: Settings, tasks: list[Task], method: str, name: str) -> float:
    """The strength of a method's penalty that does best on the validation split, after a trial on part of each task."""
    about = dict(settings.strengths).get(method)
    if about is None:
        return 0.0
    part = torch.arange(settings.trial)
    trial = [Task(task.train[part], task.validation, task.validation) for task in tasks]
    tried = {
        factor * about: learn(run, fabric, settings, trial, method, factor * about, f"{name} {factor:g}").validation
        for factor in settings.factors
    }
    run.console.print(f"{name}: {', '.join(f'{s:g}: {v:.4f}' for s, v in tried.items())}", highlight=False)
    return max(tried, key=lambda strength: tried[strength])


def tasks_of(run: Run, fabric: Fabric, settings: Settings, data: Mnist, sequence: Sequence) -> list[Task]:
    """The features of a sequence's images, which are the same for every method."""
    net = cast(DigitClassifier, fabric.to_device(new_network(run, settings)))

    @torch.no_grad()
    def features(split: Split, number: int) -> Features:
        images, labels = sequence.task(split, number)
        strongest = [net.strongest(fabric.to_device(batch)) for batch in torch.split(images, 500)]
        where, values = (torch.cat(parts) for parts in zip(*strongest, strict=True))
        return Features(where.int(), values, fabric.to_device(labels), net.head.in_features)

    numbers = run.track(range(TASKS), f"{run.name} {sequence.name} features", TASKS)
    return [Task(*(features(split, n) for split in (data.train, data.validation, data.test))) for n in numbers]


def learn(
    run: Run, fabric: Fabric, settings: Settings, tasks: list[Task], method: str, strength: float, name: str
) -> Learned:
    """Learn tasks one after the other, or together with the method `joint`."""
    head = cast(nn.Linear, fabric.to_device(new_network(run, settings).head))
    regulariser = METHODS["naive" if method == JOINT else method](head, strength)
    stages = [task.train for task in tasks]
    if method == JOINT:
        stages = [sum(stages[1:], start=stages[0])]
    accuracies = []
    for number, stage in enumerate(stages):
        fit(run, settings, head, regulariser, stage, f"{run.name} {name} {number + 1}/{len(stages)}")
        few = stage[torch.randperm(len(stage))[: settings.examples]]
        regulariser.remember(few.dense(), few.labels)
        if number == len(stages) - 1:
            round_to_bytes(head)  # what is measured last is what is stored
        accuracies.append([accuracy(head, task.test) for task in tasks])
    validation = float(np.mean([accuracy(head, task.validation) for task in tasks]))
    weights = {name: value.cpu() for name, value in head.state_dict().items()}
    return Learned(torch.tensor(accuracies, dtype=torch.float64), validation, strength, weights)


def fit(
    run: Run, settings: Settings, head: nn.Linear, regulariser: Regulariser, stage: Features, description: str
) -> None:
    """Learn one task by gradient descent with a falling rate, held back by the regulariser."""
    per_epoch = len(stage) // settings.batch_size
    steps = per_epoch * settings.epochs
    for step in run.track(range(steps), description, steps):
        if step % per_epoch == 0:
            order = torch.randperm(len(stage)).to(stage.labels.device)
        start = step % per_epoch * settings.batch_size
        batch = stage[order[start : start + settings.batch_size]]
        rate = settings.learning_rate * (1 - step / steps)
        loss = F.cross_entropy(batch.logits(head), batch.labels)
        gradients = list(torch.autograd.grad(loss, regulariser.parameters))
        moves = [-rate * gradient for gradient in gradients]
        with torch.no_grad():
            for parameter, move in zip(regulariser.parameters, moves, strict=True):
                parameter.add_(move)
        regulariser.observe(gradients, moves)
        regulariser.pull(rate)


def new_network(run: Run, settings: Settings) -> DigitClassifier:
    """Before any task; the same for every method."""
    torch.manual_seed(run.seed)
    return round_to_half(DigitClassifier(settings.filters, settings.active))


@torch.no_grad()
def accuracy(head: nn.Linear, features: Features) -> float:
    """Share of images whose largest logit is the label's."""
    return float((features.logits(head).argmax(1) == features.labels).float().mean())


def metrics(learned: dict[str, Learned], best: str, test: int, validation: int) -> tuple[Metric, ...]:
    """Of the method that is shipped."""
    rotations, permutations = (learned[f"{sequence.name} {best}"] for sequence in SEQUENCES)
    return (
        task_share("accuracy", rotations.accuracy, test, target=TARGET),
        Metric(name="forgetting", value=rotations.forgetting, split="test", n=TASKS * test),
        task_share("accuracy_permutations", permutations.accuracy, test),
        Metric(name="forgetting_permutations", value=permutations.forgetting, split="test", n=TASKS * test),
        task_share("accuracy", rotations.validation, validation, "validation"),
    )


def tables(learned: dict[str, Learned], best: str) -> tuple[Table, ...]:
    """Every method beside the others; and how the shipped one fared from task to task."""
    rows = []
    for method in (*METHODS, JOINT):
        row: list[float | str] = [method]
        for sequence in SEQUENCES:
            outcome = learned[f"{sequence.name} {method}"]
            row += [
                round(outcome.accuracy, 4),
                "" if method == JOINT else round(outcome.forgetting, 4),
                outcome.strength,
            ]
        rows.append(tuple(row))
    figures = ("accuracy", "forgetting", "strength")
    columns = ("method", *(f"{s.name}: {figure}" for s in SEQUENCES for figure in figures))
    matrix = learned[f"{ROTATIONS.name} {best}"].accuracies
    angles = tuple(f"{ANGLE * task} degrees" for task in range(TASKS))
    return (
        Table(title="After the fifth task, on the test split of all five", columns=columns, rows=tuple(rows)),
        Table(
            title=f"{best} on rotations: accuracy after each task",
            columns=("learned up to", *angles),
            rows=tuple(
                (angle, *(round(value, 4) for value in row)) for angle, row in zip(angles, matrix.tolist(), strict=True)
            ),
        ),
    )


def plot(learned: dict[str, Learned]) -> bytes:
    """Mean accuracy over the tasks seen so far, as a PNG file."""
    picture = Plot(figsize=(9, 3.6), layout="constrained")
    panels = picture.subplots(1, 2, sharey=True)
    for panel, sequence in zip(panels, SEQUENCES, strict=True):
        for method in METHODS:
            matrix = learned[f"{sequence.name} {method}"].accuracies
            so_far = [float(matrix[task, : task + 1].mean()) for task in range(TASKS)]
            style = {"color": "black", "linestyle": "--"} if method == "naive" else {}
            panel.plot(range(1, TASKS + 1), so_far, marker="o", markersize=3, label=method, **style)
        panel.axhline(learned[f"{sequence.name} {JOINT}"].accuracy, color="grey", linestyle=":", label="joint training")
        panel.set(title=sequence.name, xlabel="tasks learned", xticks=range(1, TASKS + 1))
    panels[0].set_ylabel("mean test accuracy")
    panels[1].legend(fontsize=8)
    buffer = io.BytesIO()
    picture.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
