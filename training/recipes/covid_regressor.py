"""HW1: how many COVID-19 tests are positive on the fifth day, from five days of a survey.

Gaussian process regression (Rasmussen & Williams, "Gaussian Processes for Machine Learning", 2006, chapters 2, 4, 5) on
the change since the day before. The kernel adds a linear part, a smooth part (squared exponential with a length scale
for each feature, so that it learns which ones matter) and a linear part of each state's own; a small state's survey is
noisier, so each state has its own noise. Hyper-parameters maximise the marginal likelihood.

The mean of two processes is shipped, one on every answer and one on the illness answers alone. That, and the number of
steps, were chosen by cross-validation over the rows that are not test; the shipped model learns from all of those.

Windows of one state overlap: of the course's own random split, 530 of 540 test rows have their target among the days of
a training row. What counts is therefore the split by state, for which the same recipe learns from other states alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from lightning.fabric import Fabric
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV
from torch import Tensor, nn

from artifacts.card import Baseline, Card, Limits, Metric, TabularPreprocessing, known
from artifacts.card import Split as DataSplit
from lectern.client import Client
from training import measures
from training.data import covid
from training.data.covid import DAILY, DAYS, STATES, Covid, Split
from training.export.explanation import Explainable, explainable
from training.export.onnx import load_weights
from training.measures import Evaluation
from training.run import Run, device_name
from training.served import Track
from training.trained import Graph, Trained

NEEDS: dict[str, str] = {}
MEMORY = 3
SHIPPED = True
TARGET = 0.95
PREVIOUS = STATES + DAILY * (DAYS - 2) + DAILY - 1  # column of the target's value on the fourth day
# Among a day's answers: COVID-like and influenza-like illness, own and in the community, and positive tests.
ILLNESS = (0, 1, 2, 3, DAILY - 1)
LIMITS = Limits(
    intended="The share of positive tests on the fifth day of a window of the survey, in a US state, from that "
    "day's other answers and the four days before: the course's own task.",
    failures=(
        "In the course's random split 530 of 540 test rows have their target among the days of a training row, so "
        "that its MSE of 0.930 says little; on eight states that it never saw, the MSE is 1.134 (ridge regression "
        "1.230, previous day 1.303).",
        "It needs the fifth day's survey, so it forecasts nothing.",
        "Of a row unlike those that it learned from, of no state or with an answer that nobody gave, it says something "
        "all the same, with a notice; `strict` refuses such rows.",
    ),
)


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of the fit."""

    views: tuple[tuple[int, ...], ...] = (tuple(range(DAILY)), ILLNESS)
    steps: int = 20
    learning_rate: float = 0.1


FULL = Settings()
FAST = Settings(steps=3)


class Inputs(nn.Module):
    """Raw rows float32 [N, 116] -> states [N, 37], standardised features [N, F] and the previous day's target [N].

    The features are the mean of each answer of `view` over the days and its change from day to day; where the target
    itself would stand, on the fifth day, the previous day's value does. The last answer of a view is the target's.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, rows: Tensor, view: tuple[int, ...]) -> None:
        super().__init__()
        self.view = list(view)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))
        features = self(rows)[1]
        self.mean, self.scale = features.mean(0), features.std(0) + 1e-6

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        previous = rows[:, PREVIOUS]
        days = torch.cat([rows[:, STATES:], previous[:, None]], 1).reshape(-1, DAYS, DAILY)[:, :, self.view]
        changes = (days[:, 1:] - days[:, :-1]).flatten(1)[:, :-1]
        features = torch.cat([days.mean(1), changes], 1)
        return rows[:, :STATES], (features - self.mean) / self.scale, previous


class Kernel(nn.Module):
    """Covariance of the change since the day before, all scales as logarithms."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Parameter(torch.full((width,), -2.5))
        self.inverse_length = nn.Parameter(torch.full((width,), -2.0))
        self.smooth = nn.Parameter(torch.tensor(-1.0))
        self.state_linear = nn.Parameter(torch.full((width,), -4.0))
        self.state_offset = nn.Parameter(torch.tensor(-2.0))
        self.noise = nn.Parameter(torch.tensor(-0.3))
        self.state_noise = nn.Parameter(torch.zeros(STATES))

    def forward(self, states: Tensor, features: Tensor) -> Tensor:
        """Covariance [N, N] of rows with themselves, noise included."""
        linear = (features * (2 * self.linear).exp()) @ features.T
        own = (2 * self.state_offset).exp() + (features * (2 * self.state_linear).exp()) @ features.T
        noise = (2 * self.noise + 2 * states @ self.state_noise).exp()
        smooth = squared_exponential(features * self.inverse_length.exp(), features * self.inverse_length.exp())
        return linear + (2 * self.smooth).exp() * smooth + (states @ states.T) * own + torch.diag(noise)

    def log_prior(self) -> Tensor:
        """Weak pull to the initial scales; log density up to a constant."""
        scales = ((self.linear, -2.5), (self.inverse_length, -2.0), (self.state_linear, -4.0))
        return -0.02 * sum((p - start).square().sum() for p, start in scales) - 3 * self.state_noise.square().sum()


class CovidRegressor(nn.Module):
    """Mean of several processes: raw rows float32 [N, 116] -> share of positive tests float32 [N, 1], in percent."""

    def __init__(self, processes: list[GaussianProcess]) -> None:
        super().__init__()
        self.processes = nn.ModuleList(processes)

    def forward(self, rows: Tensor) -> Tensor:
        return torch.stack([process(rows) for process in self.processes]).mean(0)


class GaussianProcess(nn.Module):
    """The predictive mean given `rows` and `targets`: raw rows [N, 116] -> share of positive tests [N, 1]."""

    linear: Tensor
    state_offset: Tensor
    state_linear: Tensor
    inverse_length: Tensor
    centres: Tensor
    smooth: Tensor

    def __init__(self, inputs: Inputs, kernel: Kernel, rows: Tensor, targets: Tensor) -> None:
        super().__init__()
        states, features, previous = inputs(rows)
        inverse_length = kernel.inverse_length.exp()
        centres = (features * inverse_length).half().to(features)  # as they are stored
        features = centres / inverse_length
        change = targets - previous
        scale = change.std()
        weights = torch.linalg.solve(kernel(states, features), change / scale) * scale
        self.inputs = inputs
        # The linear parts of the kernel sum up to plain weights; only the smooth part needs the training rows.
        self.register_buffer("linear", (2 * kernel.linear).exp() * (weights @ features))
        self.register_buffer("state_offset", (2 * kernel.state_offset).exp() * (weights @ states))
        self.register_buffer(
            "state_linear", (2 * kernel.state_linear).exp() * ((weights[:, None] * states).T @ features)
        )
        self.register_buffer("inverse_length", inverse_length)
        self.register_buffer("centres", centres)
        self.register_buffer("smooth", (2 * kernel.smooth).exp() * weights)

    def forward(self, rows: Tensor) -> Tensor:
        states, features, previous = self.inputs(rows)
        linear = features @ self.linear + states @ self.state_offset + (states @ self.state_linear * features).sum(1)
        smooth = squared_exponential(features * self.inverse_length, self.centres) @ self.smooth
        prediction: Tensor = previous + linear + smooth
        return prediction[:, None]


def squared_exponential(a: Tensor, b: Tensor) -> Tensor:
    """exp(-|a_i - b_j|^2 / 2) [N, M] of rows a [N, D] and b [M, D]."""
    squares = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T
    return torch.exp(-0.5 * squares.clamp(min=0))


def train(run: Run) -> Trained:
    """Fit, and measure on the fixed split and on held-out states."""
    settings = FAST if run.fast else FULL
    data = covid.read(run.sliver.with_suffix(".csv")) if run.fast else covid.load()
    model, device = fit(run, settings, data.train + data.validation)
    by_state, validation = held_out(run, settings, data)
    explained = explain(model, data)
    return Trained(
        title="COVID-19 test positivity",
        lecture="HW1",
        capability="predict",
        task="regression",
        description="Share of positive tests on the fifth day (percent) in a US state, from five days of a survey.",
        graphs={
            "forward": forward(model, data),
            **explained.graphs,
        },
        explanation=explained.explanation,
        preprocessing=preprocessing(data),
        limits=LIMITS,
        metrics=(by_state, random_mse(predict(model, data.test), data.test), validation),
        baselines=baselines(data),
        data=(covid.SOURCE.entry_of(data),),
        device=device,
        parameters=sum(b.numel() for b in model.buffers()),
    )


def forward(model: CovidRegressor, data: Covid) -> Graph:
    """The graph that answers."""
    return Graph(model, {"features": torch.from_numpy(data.test.features[:16])}, ("prediction",), max_batch_size=256)


def preprocessing(data: Covid) -> TabularPreprocessing:
    """Its columns, with what training saw of them; a share in percent is 0 to 100."""
    known = (data.train + data.validation).features
    bounds = zip(known.min(0).tolist(), known.max(0).tolist(), strict=True)
    return TabularPreprocessing(
        features=data.names,
        targets=(data.target,),
        bounds=tuple(bounds),
        one_of=((0, STATES),),
        target_bounds=((0, 100),),
    )


def full_data() -> Covid:
    """What it is trained on."""
    return covid.load()


def restore(content: bytes) -> CovidRegressor:
    """The model that was exported to the ONNX file `content`."""
    sizes = {t.name: t.dims for t in onnx.load_from_string(content).graph.initializer}
    rows = torch.rand(sizes["processes.0.centres"][0], STATES + DAYS * DAILY - 1)
    processes = []
    with torch.no_grad():  # of the right shapes, to be filled
        for view in FULL.views:
            inputs = Inputs(rows, view)
            kernel = Kernel(len(inputs.mean))
            processes.append(GaussianProcess(inputs, kernel, rows, torch.rand(len(rows))))
    model = CovidRegressor(processes).eval()
    load_weights(model, content)
    return model


def explain(model: CovidRegressor, data: Covid) -> Explainable:
    """What ExplainService needs of it; features that stand for a state are compared with those of a mean state."""
    known = (data.train + data.validation).features
    return explainable(
        model,
        {"features": torch.from_numpy(data.test.features[:4])},
        "prediction",
        labelled=False,
        weights=[n for n, _ in model.named_buffers() if n.endswith(("linear", "state_offset", "smooth"))],
        reference=tuple(known.mean(0).tolist()),
        scale=tuple((known.std(0) + 1e-6).tolist()),
    )


def fit(run: Run, settings: Settings, rows: Split) -> tuple[CovidRegressor, str]:
    """A regressor that learned from `rows`, and the device's name; in float64, as covariances need."""
    fabric = run.fabric("64-true")
    features, targets = (fabric.to_device(torch.from_numpy(a).double()) for a in (rows.features, rows.targets))
    processes = [_fit_process(run, fabric, settings, view, features, targets) for view in settings.views]
    return CovidRegressor(processes).float().cpu().eval(), device_name(fabric)


def _fit_process(
    run: Run, fabric: Fabric, settings: Settings, view: tuple[int, ...], rows: Tensor, targets: Tensor
) -> GaussianProcess:
    inputs = Inputs(rows, view).to(rows.device)
    states, features, previous = inputs(rows)
    change = targets - previous
    change = change / change.std()
    kernel = Kernel(features.shape[1])
    wrapped, optimizer = fabric.setup(kernel, torch.optim.Adam(kernel.parameters(), settings.learning_rate))

    def loss(whole: tuple[Tensor, Tensor]) -> Tensor:
        normal = torch.distributions.MultivariateNormal(torch.zeros_like(change), wrapped(*whole))
        likelihood: Tensor = normal.log_prob(change)  # type: ignore[no-untyped-call]
        return -likelihood - kernel.log_prior()

    run.fit(
        fabric,
        wrapped,
        optimizer,
        lambda epoch: [(states, features)],
        loss,
        epochs=settings.steps,
        settings=(settings, view, len(rows)),
        label=f"{len(rows)} rows, {len(view)} answers",
    )
    with torch.no_grad():
        return GaussianProcess(inputs, kernel, rows, targets)


def held_out(run: Run, settings: Settings, data: Covid) -> tuple[Metric, Metric]:
    """Errors of models like the shipped one that learned from less: on states of which they saw nothing, and on the
    validation rows."""
    known, unknown = data.by_state()
    other_states, _ = fit(run, settings, known)
    earlier, _ = fit(run, settings, data.train)
    return (
        mse("mse_by_state", predict(other_states, unknown), unknown),
        mse("mse", predict(earlier, data.validation), data.validation, "validation"),
    )


@torch.no_grad()
def predict(model: nn.Module, rows: Split) -> NDArray[np.float32]:
    """A model's predictions [N]."""
    predictions: NDArray[np.float32] = model(torch.from_numpy(rows.features))[:, 0].numpy()
    return predictions


def mse(name: str, predictions: NDArray[Any], rows: Split, split: DataSplit = "test", **target: Any) -> Metric:
    """Mean squared error, in percent squared; days of one state are alike, so whole states are resampled."""
    squares = np.square(predictions - rows.targets).astype(np.float64)
    states, n = rows.features[:, :STATES].argmax(1), len(rows)
    sums, counts = np.bincount(states, squares), np.bincount(states)
    interval = measures.bootstrap(measures.ratio, sums[counts > 0], counts[counts > 0])
    return Metric(name=name, value=float(squares.mean()), split=split, n=n, at_most=True, interval=interval, **target)


def random_mse(predictions: NDArray[Any], test: Split) -> Metric:
    """The error on the course's random split."""
    return mse("mse", predictions, test, target=TARGET)


def unserved(card: Card, repository: Path, track: Track) -> Evaluation:
    """Errors of models that are not exported, fitted again."""
    run = Run(card.name, seed=known(card.training).seed, device="cpu", restart=True)
    (metrics,) = track((held_out(run, FULL, data) for data in [covid.load()]), 1)
    run.forget_checkpoints()
    return Evaluation(metrics)


def evaluate(client: Client, track: Track) -> Evaluation:
    """Mean squared error on the test rows."""
    test = covid.load().test
    (response,) = track((client.predict(rows) for rows in [test.features]), 1)
    predicted = np.array([result.values[0] for result in response.results])
    return Evaluation((random_mse(predicted, test),))


def baselines(data: Covid) -> tuple[Baseline, ...]:
    """What the mean, the previous day and a ridge regression reach on states of which they saw nothing, and on the test
    split."""
    splits = (("mse_by_state", *data.by_state()), ("mse", data.train + data.validation, data.test))
    return tuple(baseline for split in splits for baseline in simple_guesses(*split))


def simple_guesses(metric: str, known: Split, test: Split) -> tuple[Baseline, ...]:
    """Errors of guesses that take no more than a line."""
    mean, scale = known.features.mean(0), known.features.std(0) + 1e-6
    ridge = RidgeCV(alphas=np.logspace(-1, 3, 13)).fit((known.features - mean) / scale, known.targets)
    guesses = {
        "mean of the training rows": np.full(len(test), known.targets.mean()),
        "previous day": test.features[:, PREVIOUS],
        "ridge regression": ridge.predict((test.features - mean) / scale),
    }
    return tuple(
        Baseline(name=name, metric=metric, value=float(np.square(guess - test.targets).mean()))
        for name, guess in guesses.items()
    )
