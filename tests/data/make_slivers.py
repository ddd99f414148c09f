"""Makes the slivers that `--fast` recipes and tests use: `python tests/data/make_slivers.py` (fetches the data)."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np

from training.data import cifar10, covid, fonts, mnist, omniglot

HERE = Path(__file__).parent
PER_CLASS = 20


def image_classifier() -> None:
    """20 training photos of each class, shuffled; and the first 200 photos of the official test split."""
    data = cifar10.load()
    chosen = np.concatenate([np.flatnonzero(data.train.labels == label)[:PER_CLASS] for label in range(10)])
    chosen = np.random.default_rng(0).permutation(chosen)
    for name, split, index in (
        ("image_classifier", data.train, chosen),
        ("image_classifier_test", data.test, np.arange(10 * PER_CLASS)),
    ):
        labels = split.labels[index].astype(np.uint8)
        np.savez_compressed(HERE / f"{name}.npz", images=split.images[index], labels=labels)


def covid_regressor(rows: int = 120) -> None:
    """Made-up rows of the survey's schema: smooth random walks, of which the target is the last. Nothing is real."""
    random = np.random.default_rng(0)
    states = random.integers(0, covid.STATES, rows)
    walks = 20 + np.cumsum(random.normal(0, 1, (rows, covid.DAYS, covid.DAILY)), axis=1)
    table = covid.load()
    columns = [re.sub(r"\.\d$", "", name) for name in (*table.names, table.target)]
    for path, count in ((HERE / "covid_regressor.csv", rows), (HERE.parents[1] / "docs/examples/survey.csv", 3)):
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", *columns])
            for i in range(count):
                values = [f"{v:.4f}" for v in walks[i].ravel()]
                writer.writerow([i, *np.eye(covid.STATES, dtype=int)[states[i]], *values])


def few_shot_classifier() -> None:
    """60 training characters of the fonts, the same of the test fonts, 20 of Omniglot, and its first official run."""
    drawn, written = fonts.load(lambda files, *_: files), omniglot.load()
    arrays = {}
    for name, glyphs, characters in (
        ("fonts", drawn.train, 60),
        ("test", drawn.test, 60),
        ("omniglot", written.train, 20),
    ):
        few = glyphs.characters < characters
        for part in ("images", "characters", "writers"):
            arrays[f"{name}_{part}"] = getattr(glyphs, part)[few]
    run = written.runs[0]
    arrays |= {"support": run.support, "queries": run.queries, "answers": run.answers}
    np.savez_compressed(HERE / "few_shot_classifier.npz", **arrays)


def lifelong_classifier() -> None:
    """300 training digits of MNIST."""
    train = mnist.load().train
    np.savez_compressed(
        HERE / "lifelong_classifier.npz", images=train.images[:300], labels=train.labels[:300].astype(np.uint8)
    )


if __name__ == "__main__":
    image_classifier()
    covid_regressor()
    few_shot_classifier()
    lifelong_classifier()
