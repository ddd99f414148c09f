"""HW14: handwritten digits at five rotations, learned one after the other without forgetting the ones before.

Five methods against forgetting (`training/continual.py`) beside naive fine-tuning and joint training, on two sequences
of five tasks each: MNIST turned by 0, 36, .. 144 degrees, and MNIST with its pixels in five random orders. A task's
images are never seen again once the next begins, and the network is not told which task an image is of. What is served
is the best method's network after all five rotations.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from matplotlib.figure import Figure as Plot
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from lectern.card import Baseline, ImagePreprocessing, Metric, Table
from lectern.client import Client
from training.continual import METHODS, Regulariser
from training.data import mnist
from training.data.idx import Split
from training.data.mnist import Mnist
from training.evaluate import Track
from training.export.onnx import round_to_half
from training.recipe import Figure, Graph, Trained
from training.run import Run, device_name

TARGET = 0.90
TASKS, ANGLE = 5, 36
LABELS = tuple("0123456789")
SERVED_BATCH = 100
EVALUATION_SECONDS = 600
JOINT = "joint"
AGAINST_FORGETTING = tuple(name for name in METHODS if name != "naive")


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters, chosen on the validation split.

    Args:
        hidden, active: units of the hidden layer, and how many of them answer an image.
        epochs: of each task.
        examples: of a task, from which EWC, MAS and SCP estimate what is important.
        strengths: of each method's penalty, on rotations and on permutations.
    """

    hidden: int = 2000
    active: int = 100
    epochs: int = 3
    batch_size: int = 64
    learning_rate: float = 0.05
    momentum: float = 0.9
    examples: int = 1000
    strengths: dict[str, tuple[float, float]] = field(
        default_factory=lambda: {
            "EWC": (100.0, 100.0),
            "MAS": (1.0, 1.0),
            "SI": (1.0, 1.0),
            "RWalk": (1.0, 1.0),
            "SCP": (1.0, 1.0),
            "naive": (0.0, 0.0),
        }
    )


FULL = Settings()
FAST = Settings(hidden=50, active=10, epochs=1, examples=20)


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


@dataclass
class Learned:
    """What a method reached.

    Args:
        accuracies: on the test split, [task just learned, task asked].
        validation: mean accuracy over the validation split of all tasks, after the last.
    """

    accuracies: NDArray[np.float64]
    validation: float
    weights: dict[str, Tensor]

    @property
    def accuracy(self) -> float:
        """Mean over all tasks after the last."""
        return float(self.accuracies[-1].mean())

    @property
    def forgetting(self) -> float:
        """Mean over earlier tasks of the best accuracy there ever was, less the last (Chaudhry et al. 2018)."""
        earlier = self.accuracies[:, :-1]
        return float((earlier.max(axis=0) - earlier[-1]).mean())


class DigitClassifier(nn.Module):
    """Digits uint8 [N, 28, 28, 1] -> logits float32 [N, 10].

    Of the hidden units only the most active answer (Srivastava et al., "Compete to Compute", 2013): tasks then share
    few weights, so that holding some leaves others free.
    """

    def __init__(self, hidden: int = FULL.hidden, active: int = FULL.active) -> None:
        super().__init__()
        self.active = active
        self.hidden = nn.Linear(28 * 28, hidden)
        self.head = nn.Linear(hidden, len(LABELS))
        nn.init.zeros_(self.head.weight)

    def forward(self, images: Tensor) -> Tensor:
        x = (images.flatten(1).float() - 33.0) / 79.0  # mean and deviation of MNIST's pixels
        activity = self.hidden(x)
        least = activity.topk(self.active, dim=1).values[:, -1:]
        logits: Tensor = self.head(torch.where(activity >= least, activity.relu(), 0.0))
        return logits


def turned(images: NDArray[np.uint8], task: int) -> NDArray[np.uint8]:
    """Turned counterclockwise by 36 degrees times the task's number."""
    pictures = (Image.fromarray(image) for image in images)
    return np.stack([np.asarray(p.rotate(ANGLE * task, Image.Resampling.BILINEAR)) for p in pictures])


def shuffled(images: NDArray[np.uint8], task: int) -> NDArray[np.uint8]:
    """The same pixels in a random order that the task's number fixes."""
    order = np.random.default_rng(task).permutation(28 * 28)
    return images.reshape(len(images), -1)[:, order].reshape(images.shape)


ROTATIONS, PERMUTATIONS = Sequence("rotations", turned), Sequence("permutations", shuffled)


def train(run: Run) -> Trained:
    """Learn both sequences by every method, and ship what the best on validation made of the rotations."""
    settings = FAST if run.fast else FULL
    data = load_sliver(run) if run.fast else mnist.load()
    fabric = run.fabric()
    work = [(sequence, method) for sequence in (ROTATIONS, PERMUTATIONS) for method in (*METHODS, JOINT)]
    state: dict[str, Any] = {"learned": {}}
    for i in run.epochs(fabric, len(work), state, settings):
        sequence, method = work[i]
        learned = learn(run, fabric, settings, data, sequence, method)
        state["learned"][sequence.name, method] = learned
        run.console.print(
            f"{sequence.name} {method}: accuracy {learned.accuracy:.4f}, forgetting {learned.forgetting:.4f}"
        )
    found: dict[tuple[str, str], Learned] = state["learned"]
    best = max(AGAINST_FORGETTING, key=lambda method: found[ROTATIONS.name, method].validation)
    shipped = found[ROTATIONS.name, best]
    net = DigitClassifier(settings.hidden, settings.active)
    net.load_state_dict(shipped.weights)
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
        metrics=metrics(found, best, len(data.test), len(data.validation)),
        baselines=tuple(
            Baseline(name=method, metric=f"accuracy{suffix}", value=found[sequence.name, method].accuracy)
            for sequence, suffix in ((ROTATIONS, ""), (PERMUTATIONS, "_permutations"))
            for method in ("naive", JOINT)
        ),
        tables=tables(found, best),
        figures=(Figure("Mean accuracy over the tasks seen so far", "forgetting.png", plot(found)),),
        data=(mnist.card_entry(data),),
        device=device_name(fabric),
        parameters=sum(p.numel() for p in net.parameters()),
    )


def evaluate(client: Client, track: Track) -> tuple[Metric, ...]:
    """Accuracy on the official test digits at all five rotations, sent as PNG files over one stream."""
    test = mnist.load().test
    right: list[NDArray[np.bool_]] = []
    starts = range(0, len(test), SERVED_BATCH)
    for task in range(TASKS):
        images, labels = ROTATIONS.task(test, task)
        batches = ([_png(image.numpy()[..., 0]) for image in images[s : s + SERVED_BATCH]] for s in starts)
        stream = client.stream_classify_image(batches, model="lifelong_classifier", top_k=1, timeout=EVALUATION_SECONDS)
        answers = track(stream, len(starts))
        found = [result.classes[0].index for answer in answers for result in answer.results]
        right.append(np.array(found) == labels.numpy())
    value = float(np.concatenate(right).mean())
    return (Metric(name="accuracy", value=value, split="test", n=TASKS * len(test), target=TARGET),)


def load_sliver(run: Run) -> Mnist:
    """A few hundred real digits from a committed `.npz` (`images`, `labels`), split 60/20/20 in order."""
    with np.load(run.sliver.with_suffix(".npz")) as file:
        images, labels = file["images"], file["labels"].astype(np.int64)
    first, second = int(len(labels) * 0.6), int(len(labels) * 0.8)
    cuts = (slice(first), slice(first, second), slice(second, None))
    return Mnist(*(Split(images[cut], labels[cut]) for cut in cuts))


def learn(run: Run, fabric: Fabric, settings: Settings, data: Mnist, sequence: Sequence, method: str) -> Learned:
    """Learn the five tasks of a sequence one after the other, or together with the method `joint`."""
    torch.manual_seed(run.seed)
    net = fabric.to_device(DigitClassifier(settings.hidden, settings.active))
    which = (ROTATIONS, PERMUTATIONS).index(sequence)
    regulariser = (
        METHODS["naive"](net, 0.0) if method == JOINT else METHODS[method](net, settings.strengths[method][which])
    )
    tasks = [sequence.task(data.train, number) for number in range(TASKS)]
    if method == JOINT:
        tasks = [(torch.cat([images for images, _ in tasks]), torch.cat([labels for _, labels in tasks]))]
    tests = [sequence.task(data.test, number) for number in range(TASKS)]
    accuracies = []
    for number, (images, labels) in enumerate(tasks):
        description = f"{run.name} {sequence.name} {method} {number + 1}/{len(tasks)}"
        fit(run, fabric, settings, regulariser, images, labels, description)
        few = torch.randperm(len(images))[: settings.examples]
        regulariser.remember(fabric.to_device(images[few]), fabric.to_device(labels[few]))
        if number == len(tasks) - 1:
            round_to_half(net)  # what is measured last is what is stored
        accuracies.append([accuracy(net, *test) for test in tests])
    validation = [accuracy(net, *sequence.task(data.validation, number)) for number in range(TASKS)]
    weights = {name: value.cpu() for name, value in net.state_dict().items()}
    return Learned(np.array(accuracies), float(np.mean(validation)), weights)


def fit(
    run: Run,
    fabric: Fabric,
    settings: Settings,
    regulariser: Regulariser,
    images: Tensor,
    labels: Tensor,
    description: str,
) -> None:
    """Learn one task by SGD with momentum and a falling rate, held back by the regulariser."""
    net, parameters = regulariser.network, regulariser.parameters
    optimizer = torch.optim.SGD(parameters, settings.learning_rate, settings.momentum)
    steps = len(images) // settings.batch_size * settings.epochs
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, max(1, steps))
    for batch in run.track(_batches(len(images), settings), description, steps):
        before = [p.detach().clone() for p in parameters]
        loss = F.cross_entropy(net(fabric.to_device(images[batch])), fabric.to_device(labels[batch]))
        optimizer.zero_grad(set_to_none=True)
        fabric.backward(loss)
        optimizer.step()
        gradients = [p.grad for p in parameters if p.grad is not None]
        regulariser.observe(gradients, [p.detach() - b for p, b in zip(parameters, before, strict=True)])
        # Momentum makes of each gradient 1 / (1 - momentum) steps.
        regulariser.pull(float(schedule.get_last_lr()[0]) / (1 - settings.momentum))
        schedule.step()


@torch.no_grad()
def accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images whose largest logit is the label's."""
    device = next(net.parameters()).device
    found = torch.cat([net(batch.to(device)).argmax(1).cpu() for batch in torch.split(images, 1000)])
    return float((found == labels).float().mean())


def metrics(found: dict[tuple[str, str], Learned], best: str, test: int, validation: int) -> tuple[Metric, ...]:
    """Of the method that is shipped."""
    rotations, permutations = (found[sequence.name, best] for sequence in (ROTATIONS, PERMUTATIONS))
    n = TASKS * test
    return (
        Metric(name="accuracy", value=rotations.accuracy, split="test", n=n, target=TARGET),
        Metric(name="forgetting", value=rotations.forgetting, split="test", n=n),
        Metric(name="accuracy_permutations", value=permutations.accuracy, split="test", n=n),
        Metric(name="forgetting_permutations", value=permutations.forgetting, split="test", n=n),
        Metric(name="accuracy", value=rotations.validation, split="validation", n=TASKS * validation),
    )


def tables(found: dict[tuple[str, str], Learned], best: str) -> tuple[Table, ...]:
    """Every method beside the others; and how the shipped one fared from task to task."""
    rows = []
    for method in (*METHODS, JOINT):
        row: list[float | str] = [method]
        for sequence in (ROTATIONS, PERMUTATIONS):
            learned = found[sequence.name, method]
            row += [round(learned.accuracy, 4), "" if method == JOINT else round(learned.forgetting, 4)]
        rows.append(tuple(row))
    columns = (
        "method",
        *(f"{s.name}: {what}" for s in (ROTATIONS, PERMUTATIONS) for what in ("accuracy", "forgetting")),
    )
    matrix = found[ROTATIONS.name, best].accuracies
    angles = tuple(f"{ANGLE * task} degrees" for task in range(TASKS))
    return (
        Table(title="After the fifth task, on the test split of all five", columns=columns, rows=tuple(rows)),
        Table(
            title=f"{best} on rotations: accuracy after each task",
            columns=("learned up to", *angles),
            rows=tuple((angle, *np.round(row, 4).tolist()) for angle, row in zip(angles, matrix, strict=True)),
        ),
    )


def plot(found: dict[tuple[str, str], Learned]) -> bytes:
    """Mean accuracy over the tasks seen so far, as a PNG file."""
    picture = Plot(figsize=(9, 3.6), layout="constrained")
    panels = picture.subplots(1, 2, sharey=True)
    for panel, sequence in zip(panels, (ROTATIONS, PERMUTATIONS), strict=True):
        for method in METHODS:
            matrix = found[sequence.name, method].accuracies
            so_far = [matrix[task, : task + 1].mean() for task in range(TASKS)]
            style = {"color": "black", "linestyle": "--"} if method == "naive" else {}
            panel.plot(range(1, TASKS + 1), so_far, marker="o", markersize=3, label=method, **style)
        panel.axhline(found[sequence.name, JOINT].accuracy, color="grey", linestyle=":", label="joint training")
        panel.set(title=sequence.name, xlabel="tasks learned", xticks=range(1, TASKS + 1))
    panels[0].set_ylabel("mean test accuracy")
    panels[1].legend(fontsize=8)
    buffer = io.BytesIO()
    picture.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _batches(count: int, settings: Settings) -> Iterator[Tensor]:
    for _ in range(settings.epochs):
        order = torch.randperm(count)
        yield from torch.split(order[: count - count % settings.batch_size], settings.batch_size)


def _png(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
