"""In-context learning: classes of a table's rows from examples in the request, without training on them.

A Transformer that has seen nothing but made-up tables (a prior-data fitted network: Müller et al., "Transformers Can Do
Bayesian Inference", 2022; Hollmann et al., "TabPFN: A Transformer That Solves Small Tabular Classification Problems in
a Second", 2023). In each step of training it sees new tables, the labels of some of their rows, and answers for the
others, so it learns to learn; one pass then does for a real table what fitting a classifier does.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from lightning.fabric import Fabric
from numpy.typing import NDArray
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn import functional as F

from artifacts.card import Baseline, ExamplesPreprocessing, Limits, Metric
from artifacts.card import Table as Comparison
from lectern.client import Client
from training import measures
from training.data import tables
from training.data.tables import SPLITS, Table
from training.export.onnx import round_to_bytes
from training.measures import Evaluation
from training.methods import synthetic_tables
from training.methods.synthetic_tables import MOST_CLASSES, MOST_EXAMPLES, MOST_FEATURES, Prior, Sizes
from training.methods.table_network import Served, Shape, TableNetwork, forms_of
from training.optimise import decayed, triangle
from training.run import Run, device_name
from training.served import Track
from training.trained import Graph, Trained

NEEDS: dict[str, str] = {}
MEMORY = 2
SHIPPED = True
UNSURE = 0.6
PASSES = 8  # of 1, 2, 4 and 8 the one with which most rows of held-out synthetic tables were right
HELD_OUT = 1_000_003  # seed of the synthetic tables that are held out
LIMITS = Limits(
    intended="Small tables of numbers and a few categories: up to 512 rows whose class is known, 64 columns and 10 "
    "classes.",
    failures=(
        "It predicts classes, no numbers, and no more than 10 classes.",
        "Of more than 512 examples it looks at an even share of each class.",
        "It reads no names or sentences, and takes a category for a number: its place in the alphabet.",
        "What a column is called tells it nothing, nor what any other table was like.",
        "It has seen made-up tables alone. Where something that is fitted to each table is better, its table says so; "
        "on linnerud, with ten examples, the interval is too wide to tell.",
    ),
)
Classify: TypeAlias = Callable[[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]], NDArray[np.int64]]
"""Examples [S, F], their classes [S] and queries [Q, F] -> classes of the queries [Q]."""
Batch: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]
"""Forms of rows, sizes, classes of examples, as `TableNetwork` takes them; classes of queries [B, Q], -1 = any."""


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters.

    Args:
        epochs: of so many steps each.
        held_out: batches of synthetic tables to measure on.
        splits: of each real table.
    """

    shape: Shape = field(default_factory=Shape)
    sizes: Sizes = field(default_factory=Sizes)
    epochs: int = 14
    steps: int = 400
    rate: float = 1.5e-3
    weight_decay: float = 0.01
    held_out: int = 24
    splits: int = SPLITS


FULL = Settings()
FAST = Settings(
    shape=Shape(width=32, layers=2, heads=2, inner=64),
    sizes=Sizes(examples=(12, 60), features=(2, 16), queries=32, rows=512),
    epochs=2,
    steps=15,
    held_out=2,
    splits=2,
)


def train(run: Run) -> Trained:
    """Learn from synthetic tables, and measure on real ones, beside what is fitted to each of them."""
    settings = FAST if run.fast else FULL
    fabric = run.fabric()
    held_out = batches(settings, HELD_OUT, settings.held_out)
    net = round_to_bytes(learn(run, fabric, settings, held_out))
    served = Served(net, PASSES).eval()
    real = tables.load()[: 2 if run.fast else None]
    classifiers: dict[str, Classify] = {"table_learner": partial(answer, served), **SIMPLER}
    answered = {name: right_of(real, settings.splits, classify) for name, classify in classifiers.items()}
    learner, *simpler = answered.values()
    inputs, *further = (example_of(real[i], rows) for i, rows in ((1, 40), (0, 60), (1, 12)))
    return Trained(
        title="Classes of rows from examples",
        lecture="in-context learning",
        capability="predict",
        task="classification from examples",
        description="A Transformer that learned from made-up tables alone: it classifies the rows of a table by rows "
        "whose classes the request gives, in one pass and without training.",
        graphs={
            "forward": Graph(
                served,
                inputs,
                ("logits",),
                dynamic_axes={"examples": (0, 1), "labels": (0,), "queries": (0, 1)},
                max_batch_size=0,
                further_inputs=tuple(further),
            )
        },
        preprocessing=ExamplesPreprocessing(
            max_examples=MOST_EXAMPLES, max_features=MOST_FEATURES, max_classes=MOST_CLASSES
        ),
        decision={"unsure": UNSURE},
        limits=LIMITS,
        metrics=(*metrics_of(real, learner, simpler[0]), *synthetic_metrics(net, held_out)),
        baselines=tuple(
            Baseline(name=name, metric=metric.name, value=metric.value)
            for name, right in zip(SIMPLER, simpler, strict=True)
            for metric in metrics_of(real, right)
        ),
        tables=(by_table(real, answered),),
        data=(
            synthetic_tables.card_entry(settings.epochs * settings.steps, settings.held_out),
            tables.card_entry(real),
        ),
        device=device_name(fabric),
        parameters=sum(p.numel() for p in net.parameters()),
    )


def batches(settings: Settings, seed: int, count: int) -> list[Batch]:
    """So many batches of synthetic tables."""
    prior = Prior(settings.sizes, seed)
    return [batch_of(prior) for _ in range(count)]


@torch.no_grad()
def batch_of(prior: Prior) -> Batch:
    """The next tables, as the network takes them."""
    drawn = prior.batch()
    shown = drawn.labels[:, : drawn.examples]
    forms, size = forms_of(drawn.rows[:, : drawn.examples], shown, drawn.rows[:, drawn.examples :])
    return forms, size, shown, drawn.asked


def learn(run: Run, fabric: Fabric, settings: Settings, held_out: Sequence[Batch]) -> TableNetwork:
    """Learn from tables that are new in every step."""
    net = TableNetwork(settings.shape)
    optimizer = torch.optim.AdamW(decayed(net, settings.weight_decay), settings.rate, betas=(0.9, 0.98))
    model, optimizer = fabric.setup(net, optimizer)

    def drawn(epoch: int) -> Iterator[Batch]:
        prior = Prior(settings.sizes, run.seed, epoch)
        for _ in range(settings.steps):
            yield batch_of(prior)

    def loss(batch: Batch) -> Tensor:
        forms, size, shown, asked = batch
        return F.nll_loss(model(forms, size, shown).flatten(0, 1), asked.flatten(), ignore_index=-1)

    run.fit(
        fabric,
        model,
        optimizer,
        drawn,
        loss,
        epochs=settings.epochs,
        settings=settings,
        count=settings.steps,
        rate=lambda progress: triangle(progress, 0.05),
        largest_gradient=1.0,
        watch=lambda: watched(net, held_out),
    )
    return net.cpu().eval()


@torch.no_grad()
def watched(net: TableNetwork, held_out: Sequence[Batch]) -> Mapping[str, float]:
    """Accuracy on synthetic tables that are held out."""
    return {"held_out": float(np.mean([right.mean() for right in right_of_synthetic(net, held_out)]))}


@torch.no_grad()
def right_of_synthetic(net: TableNetwork, held_out: Sequence[Batch]) -> list[NDArray[np.float64]]:
    """The share of right answers of each table of each batch."""
    device = net.encoder.device
    shares = []
    for forms, size, shown, asked in held_out:
        said = net(forms.to(device), size.to(device), shown.to(device)).argmax(2).cpu()
        shares.append((((said == asked).sum(1)) / (asked >= 0).sum(1).clamp(min=1)).double().numpy())
    return shares


def synthetic_metrics(net: TableNetwork, held_out: Sequence[Batch]) -> tuple[Metric, ...]:
    """Accuracy on synthetic tables that are held out."""
    shares = np.concatenate(right_of_synthetic(net, held_out))
    return (measures.mean("accuracy_synthetic", shares, "validation"),)


@torch.no_grad()
def answer(
    net: Served, rows: NDArray[np.float32], labels: NDArray[np.int64], queries: NDArray[np.float32]
) -> NDArray[np.int64]:
    """What the network says of queries."""
    classes: NDArray[np.int64] = net(*map(torch.from_numpy, (rows, labels, queries))).argmax(1).numpy()
    return classes


def fitted(model: object) -> Classify:
    """A classifier of scikit-learn's that is fitted to each table, on standardised columns."""

    def classify(
        rows: NDArray[np.float32], labels: NDArray[np.int64], queries: NDArray[np.float32]
    ) -> NDArray[np.int64]:
        pipeline = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler(), model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a solver that has not quite arrived
            classes: NDArray[np.int64] = pipeline.fit(rows, labels).predict(queries)
        return classes

    return classify


SIMPLER: dict[str, Classify] = {
    "logistic regression": fitted(LogisticRegression(max_iter=1000)),
    "5 nearest neighbours": fitted(KNeighborsClassifier(5)),
}


@dataclass(frozen=True)
class Right:
    """Of each row of a table [N], how often it was asked about, and how often the answer was right."""

    hits: NDArray[np.float64]
    asked: NDArray[np.float64]


def right_of(real: Sequence[Table], splits: int, classify: Classify) -> list[Right]:
    """How often each row of each table is classified right, by half of its table or the most examples that go in."""
    found = []
    for table in real:
        hits, asked = np.zeros(len(table)), np.zeros(len(table))
        for shown, others in table.splits(splits, MOST_EXAMPLES):
            said = classify(table.rows[shown], table.labels[shown], table.rows[others])
            asked[others] += 1
            hits[others] += said == table.labels[others]
        found.append(Right(hits, asked))
    return found


def metrics_of(real: Sequence[Table], right: Sequence[Right], compared: Sequence[Right] = ()) -> tuple[Metric, ...]:
    """The mean accuracy over tables, which should be no less than that of what it is compared with; and each one's."""
    target = mean_accuracy(compared) if compared else None
    return (
        Metric(
            name="accuracy",
            value=mean_accuracy(right),
            split="test",
            n=sum(map(len, real)),
            target=target,
            interval=interval_of(right),
        ),
        *(
            Metric(
                name=f"accuracy_{table.name}",
                value=measures.ratio(one.hits, one.asked),
                split="test",
                n=len(table),
                interval=interval_of([one]),
            )
            for table, one in zip(real, right, strict=True)
        ),
    )


def mean_accuracy(right: Sequence[Right]) -> float:
    """Each table counts the same."""
    return float(np.mean([measures.ratio(one.hits, one.asked) for one in right]))


def interval_of(right: Sequence[Right], compared: Sequence[Right] = ()) -> measures.Interval:
    """Of the mean accuracy, or of how much it is above another; rows are resampled within each table, since a row that
    is asked about in several splits is still one."""
    random = np.random.default_rng(0)
    others = compared or [Right(np.zeros_like(one.hits), one.asked) for one in right]
    gains = np.zeros(measures.RESAMPLES)
    for one, other in zip(right, others, strict=True):
        rows = random.integers(len(one.hits), size=(measures.RESAMPLES, len(one.hits)))
        gains += (one.hits - other.hits)[rows].sum(1) / one.asked[rows].sum(1) / len(right)
    low, high = np.quantile(gains, ((1 - measures.CONFIDENCE) / 2, (1 + measures.CONFIDENCE) / 2))
    return float(low), float(high)


def by_table(real: Sequence[Table], answered: Mapping[str, Sequence[Right]]) -> Comparison:
    """The accuracy on each table, of the network and of what is fitted to each; and how far the first two are apart."""
    first, second, *_ = answered.values()
    rows: list[tuple[int | float | str, ...]] = []
    for i, table in enumerate(real):
        shown = next(table.splits(1, MOST_EXAMPLES))[0]
        shares = (round(measures.ratio(right[i].hits, right[i].asked), 4) for right in answered.values())
        shape = (f"{len(table)} x {len(table.columns)}", int(table.labels.max()) + 1, len(shown))
        rows.append((table.name, *shape, *shares, gap([first[i]], [second[i]])))
    means = (round(mean_accuracy(right), 4) for right in answered.values())
    rows.append(("mean", "", "", "", *means, gap(first, second)))
    return Comparison(
        title="Accuracy on each table, the mean of random splits, which are the same for all",
        columns=("table", "rows x columns", "classes", "examples", *answered, "above the second (95 %)"),
        rows=tuple(rows),
    )


def gap(right: Sequence[Right], compared: Sequence[Right]) -> str:
    """The interval of how much more accurate one is than another."""
    low, high = interval_of(right, compared)
    return f"{low:+.3f} to {high:+.3f}"


def example_of(table: Table, examples: int) -> dict[str, Tensor]:
    """So many rows of a table and some to classify, with a missing cell and a column that says nothing."""
    shown, others = next(table.splits(1, examples))
    rows = table.rows.copy()
    rows[shown[0], 0], rows[:, 1] = np.nan, 3.0
    arrays = {"examples": rows[shown], "labels": table.labels[shown], "queries": rows[others[:30]]}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def evaluate(client: Client, track: Track) -> Evaluation:
    """The accuracy on each table, as served."""
    real = tables.load()

    def ask(rows: NDArray[np.float32], labels: NDArray[np.int64], queries: NDArray[np.float32]) -> NDArray[np.int64]:
        # The server sorts labels, so their order is that of the classes.
        names = [f"{label:02d}" for label in labels.tolist()]
        response = client.predict_from_examples(rows, names, queries, "table_learner", top_k=1)
        return np.array([result.classes[0].index for result in response.results])

    right = [right_of([table], SPLITS, ask)[0] for table in track(real, len(real))]
    return Evaluation(metrics_of(real, right, right_of(real, SPLITS, SIMPLER["logistic regression"])))
