"""HW15: new characters from one or a few drawings of each.

Three methods of learning to learn, over the same convolutional embedding. A prototypical network (Snell, Swersky and
Zemel, "Prototypical Networks for Few-shot Learning", 2017) sorts by distance to each class's mean embedding. MAML
(Finn, Abbeel and Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", 2017) takes gradient
steps on the examples, from weights meta-learned through such steps; first-order MAML is meta-learned without second
derivatives. So that MAML takes any number of classes, its last layer starts at zero (Kao, Chiu and Chen, "MAML Is a
Noisy Contrastive Learner in Classification", 2022). Starting it at the prototypes (Triantafillou et al.,
"Meta-Dataset", 2020) leaves the inner loop nothing to do: with one example of a class it is its own prototype. The
inner loop is a loop of the ONNX graph, of as many steps as a request asks for.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from lightning.fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn import functional as F

from artifacts.card import Baseline, DataSource, ImagePreprocessing, Limits, Metric
from lectern.client import Client
from lectern.methods import FewShotMethod
from training import measures
from training.data import fonts, omniglot
from training.data.fonts import Glyphs
from training.data.omniglot import OneShotRun
from training.export.gradients import trace_gradients
from training.export.onnx import round_to_bytes
from training.measures import Evaluation
from training.methods.episodes import Episode, EpisodeSampler, fixed_episodes
from training.optimise import descend, one_cycle
from training.run import Run, device_name
from training.served import Track, png
from training.trained import Graph, Trained

NEEDS: dict[str, str] = {}
MEMORY = 2
SHIPPED = True
TARGETS = {"accuracy": 0.95, "accuracy_omniglot": 0.85}
WAYS, OMNIGLOT_WAYS = 5, 20
EPISODES, MAML_EPISODES, FAST_EPISODES, VALIDATION_EPISODES, VALIDATION_RUNS = 1000, 300, 20, 50, 5
MOST_STEPS = 100  # so that no input of the raw graph keeps a server busy for ever
METHODS: tuple[FewShotMethod, ...] = ("prototypes", "maml", "first_order_maml")
State = tuple[Tensor, ...]
Answer = Callable[[Episode], NDArray[np.int64]]
LIMITS = Limits(
    intended="Single characters or signs, one to a picture, of classes that are shown by an example or a few.",
    failures=(
        "On Omniglot's official runs, 20 ways with one example, it is right on 0.890 of 400 queries; by MAML on "
        "0.795, by first-order MAML on 0.703.",
        "It knows strokes on an even ground: it was never tried on photos.",
    ),
)


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters.

    Args:
        epochs: of `episodes` each, of the embedding; ways by set (fonts, Omniglot).
        meta_epochs: of `meta_episodes` each, of either MAML, from the embedding's weights.
        head_rate, inner_rate, inner_steps: of gradient descent on the examples; the last layer, which starts at zero,
            has a rate of its own.
    """

    channels: tuple[int, ...] = (64, 64, 128, 128, 128)
    epochs: int = 15
    episodes: int = 100
    ways: tuple[int, int] = (40, 32)
    queries: int = 2
    learning_rate: float = 4e-3
    weight_decay: float = 1e-2
    meta_epochs: int = 3
    meta_episodes: int = 40
    meta_ways: tuple[int, int] = (5, 5)
    meta_learning_rate: float = 1e-4
    head_rate: float = 1.0
    inner_rate: float = 0.01
    inner_steps: int = 5


FULL = Settings()
FAST = Settings(
    channels=(8, 8, 8, 8, 8), epochs=2, episodes=10, ways=(8, 4), meta_epochs=1, meta_episodes=2, inner_steps=2
)


@dataclass(frozen=True)
class Data:
    """Drawings of fonts and of Omniglot's writers."""

    train: tuple[Glyphs, Glyphs]
    validation: tuple[Glyphs, Glyphs]
    test: Glyphs
    runs: tuple[OneShotRun, ...]
    sources: tuple[DataSource, ...]


class Embedding(nn.Module):
    """Drawings uint8 or float [N, 28, 28, 1], dark on light or light on dark -> float32 [N, D]."""

    def __init__(self, channels: tuple[int, ...] = FULL.channels) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(zip((1, *channels[:-1]), channels, strict=True)):
            conv = nn.Conv2d(before, after, 3, stride=1 + (i + 1) % 2, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(after), nn.ReLU()]
        # Distances of embeddings of several thousand numbers would be too large to learn from.
        nn.init.constant_(cast(nn.BatchNorm2d, layers[-2]).weight, channels[-1] ** -0.5)
        self.layers = nn.Sequential(*layers[:-1], nn.Flatten())
        self.size = channels[-1] * math.ceil(fonts.SIZE / 8) ** 2

    def forward(self, drawings: Tensor) -> Tensor:
        embedded: Tensor = self.layers(ink(drawings))
        return embedded

    @torch.no_grad()
    def fold_norms(self) -> Embedding:
        """Fold each batch norm into the convolution before it, so that no answer depends on its neighbours."""
        layers = list(self.layers.eval())
        folded: list[nn.Module] = []
        for layer, after in zip(layers, [*layers[1:], nn.Identity()], strict=True):
            if isinstance(after, nn.BatchNorm2d):
                folded.append(nn.utils.fusion.fuse_conv_bn_eval(cast(nn.Conv2d, layer), after))
            elif not isinstance(layer, nn.BatchNorm2d):
                folded.append(layer)
        self.layers = nn.Sequential(*folded)
        return self


class PrototypicalNet(nn.Module):
    """Support [S, 28, 28, 1] with labels one-hot [S, N], and queries [Q, 28, 28, 1] -> logits float32 [Q, N]."""

    def __init__(self, embedding: Embedding) -> None:
        super().__init__()
        self.embedding = embedding

    def forward(self, support: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
        return logits(self.embedding(queries), *prototype_head(self.embedding(support), labels))


class Maml(nn.Module):
    """As `PrototypicalNet`, after `steps` [1] of gradient descent on the support."""

    def __init__(self, embedding: Embedding, head_rate: float, rate: float) -> None:
        super().__init__()
        self.embedding = embedding
        self.names = [name for name, _ in embedding.layers.named_parameters()]
        self.rates = (head_rate, head_rate, *(rate for _ in self.names))
        self.traced_step: Callable[..., State] | None = None

    def forward(self, support: Tensor, labels: Tensor, queries: Tensor, steps: Tensor) -> Tensor:
        strokes = ink(support)
        state = self.start(labels)
        if torch.compiler.is_exporting():
            state = self._export_loop(strokes, labels, state, steps)
        else:
            for _ in range(min(int(steps), MOST_STEPS)):
                state = self.step(strokes, labels, *state)
        return self.answer(ink(queries), state)

    def start(self, labels: Tensor) -> State:
        """What the inner loop changes: weight and bias of the last layer, then the embedding's parameters."""
        ways = labels.shape[1]
        return labels.new_zeros(ways, self.embedding.size), labels.new_zeros(ways), *self.embedding.parameters()

    def step(self, strokes: Tensor, labels: Tensor, *state: Tensor, first_order: bool = False) -> State:
        """One step of gradient descent on the support's cross-entropy.

        Args:
            first_order: take the gradients as constants, so that nothing is differentiated twice.
        """

        def loss(*state: Tensor) -> Tensor:
            class_logits = self.answer(strokes, state)
            return -(labels * F.log_softmax(class_logits, dim=1)).sum() / labels.sum()

        gradients = grad(loss, argnums=tuple(range(len(state))))(*state)
        if first_order:
            gradients = tuple(gradient.detach() for gradient in gradients)
        return tuple(
            value - rate * gradient for value, rate, gradient in zip(state, self.rates, gradients, strict=True)
        )

    def answer(self, strokes: Tensor, state: State) -> Tensor:
        """Logits of queries after the inner loop."""
        return logits(self._embed(strokes, state), *state[:2])

    def trace(self, support: Tensor, labels: Tensor) -> Callable[..., State]:
        """One step with its gradients written out, as an export needs it; the same for every network of this shape."""
        with torch.no_grad():
            strokes = ink(support)
            state = [value.clone() for value in self.start(labels)]
            return trace_gradients(self.step, (strokes, labels, *state))

    def _embed(self, strokes: Tensor, state: State) -> Tensor:
        parameters = dict(zip(self.names, state[2:], strict=True))
        return cast(Tensor, functional_call(self.embedding.layers, parameters, (strokes,)))

    def _export_loop(self, strokes: Tensor, labels: Tensor, state: State, steps: Tensor) -> State:
        step = self.traced_step
        assert step is not None

        most = steps[0].clamp(max=MOST_STEPS)

        def go_on(i: Tensor, *_: Tensor) -> Tensor:
            return i < most

        def body(i: Tensor, *state: Tensor) -> State:
            return i + 1, *(_packed(value) for value in step(strokes, labels, *state))

        start = (torch.zeros((), dtype=torch.int64), *(_packed(value.detach()) for value in state))
        return cast(State, torch.while_loop(go_on, body, start))[1:]  # type: ignore[no-untyped-call]


def ink(drawings: Tensor) -> Tensor:
    """Drawings [N, H, W, 1] as strokes of any ink on any ground: float32 [N, 1, H, W], zero mean, unit variance.

    The ground is what most of the border shows; strokes come out positive.
    """
    x = drawings.float().permute(0, 3, 1, 2)
    border = torch.cat([x[:, :, 0], x[:, :, -1], x[:, :, :, 0], x[:, :, :, -1]], dim=2).mean((1, 2))
    darkest, brightest = x.amin((1, 2, 3)), x.amax((1, 2, 3))
    sign = torch.where(border > (darkest + brightest) / 2, -1.0, 1.0)[:, None, None, None]
    centred = x - x.mean((1, 2, 3), keepdim=True)
    deviation = (centred.square().mean((1, 2, 3), keepdim=True) + 1).sqrt()  # 1: an empty image has none
    return sign * centred / deviation


def prototype_head(embedded: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Weight [N, D] and bias [N] of the linear layer whose logits are minus the squared distances to the class means.

    The square of the query's own length is left out: it is the same for all classes.
    """
    prototypes = (labels.T @ embedded) / labels.sum(0)[:, None]
    return 2 * prototypes, -prototypes.square().sum(1)


def _packed(value: Tensor) -> Tensor:
    """Equal values in plain memory order: a loop's state must not change its layout."""
    return value.clone(memory_format=torch.contiguous_format)


def logits(embedded: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Logits [Q, N] of embeddings [Q, D]."""
    return embedded @ weight.T + bias


def train(run: Run) -> Trained:
    """Train the embedding, then either MAML from it; round to 8 bits, and measure exactly that."""
    settings = FAST if run.fast else FULL
    data = load_sliver(run) if run.fast else load(run)
    embedding, fabric = fit_embedding(run, settings, data)
    models: dict[FewShotMethod, nn.Module] = {"prototypes": PrototypicalNet(embedding)}
    for method in METHODS[1:]:
        models[method] = meta_train(run, settings, data, fabric, embedding, method)
    steps = torch.tensor([settings.inner_steps])
    tests = episodes_of(data.test, data.runs, FAST_EPISODES if run.fast else EPISODES)
    metrics = []
    for method, model in models.items():
        answer = answerer(round_to_bytes(model.eval()), *(() if method == "prototypes" else (steps,)))
        metrics += measure(method, tests, partial(_track, run, method), answer)
    return Trained(
        limits=LIMITS,
        title="Few-shot character classifier",
        lecture="HW15",
        capability="classify",
        task="few-shot image classification",
        description=(
            "Sorts drawings of characters into classes that the request itself shows by one or a few examples each, by "
            "a prototypical network, MAML or first-order MAML."
        ),
        graphs=graphs_of(models, data.test, settings.inner_steps),
        preprocessing=ImagePreprocessing(height=fonts.SIZE, width=fonts.SIZE, channels=1, resample="box"),
        decision={"steps": settings.inner_steps},
        metrics=tuple(metrics),
        baselines=tuple(
            Baseline(name="nearest neighbour on pixels", metric=name, value=accuracy(episodes, nearest_pixels))
            for name, episodes in tests.items()
        ),
        data=data.sources,
        device=device_name(fabric),
        parameters=sum(p.numel() for model in models.values() for p in model.parameters()),
    )


def evaluate(client: Client, track: Track) -> Evaluation:
    """Accuracy of each method on the fixed episodes and on Omniglot's official runs, as PNG files."""
    tests = episodes_of(fonts.load_test(lambda files, _, count: track(files, count)), omniglot.load_runs(), EPISODES)

    def answer(method: FewShotMethod, episode: Episode) -> NDArray[np.int64]:
        # The server sorts labels, so their order is that of the classes.
        # Dark ink on white, as on paper.
        support = {
            f"{label:02d}": png(255 - image) for label, image in zip(episode.labels, episode.support, strict=True)
        }
        response = client.classify_few_shot(support, [png(255 - q) for q in episode.queries], top_k=1, method=method)
        return np.array([result.classes[0].index for result in response.results])

    return Evaluation(tuple(m for method in METHODS for m in measure(method, tests, track, partial(answer, method))))


def load(run: Run) -> Data:
    """Fonts and Omniglot, fetched on first use."""
    drawn, written = fonts.load(run.track), omniglot.load()
    return Data(
        train=(drawn.train, written.train),
        validation=(drawn.validation, written.validation),
        test=drawn.test,
        runs=written.runs,
        sources=(*fonts.card_entries(drawn), *omniglot.card_entries(written)),
    )


def load_sliver(run: Run) -> Data:
    """A few characters and one run from the committed `.npz`."""
    with np.load(run.sliver.with_suffix(".npz")) as file:
        drawn, written, test = (
            Glyphs(*(file[f"{name}_{part}"] for part in ("images", "characters", "writers")))
            for name in ("fonts", "omniglot", "test")
        )
        runs = (OneShotRun(file["support"], file["queries"], file["answers"]),)
    sources = (
        *(package.source.card_entry(len(drawn), 0, len(test)) for package in fonts.TRAIN[:1]),
        omniglot.TEST.card_entry(len(written), 0, len(runs[0].queries)),
    )
    return Data((drawn, written), (test, written), test, runs, sources)


def fit_embedding(run: Run, settings: Settings, data: Data) -> tuple[Embedding, Fabric]:
    """Train on episodes with many classes; returns the embedding with its norms folded, on the CPU."""
    fabric = run.fabric("bf16-mixed")
    net = Embedding(settings.channels).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    steps = settings.epochs * settings.episodes
    optimizer, schedule = one_cycle(net, settings.learning_rate, settings.weight_decay, steps, warm_up=0.1)
    model, optimizer = fabric.setup(net, optimizer)
    ways, drawings = sum(settings.ways), 1 + settings.queries
    labels = fabric.to_device(torch.eye(ways))
    answers = fabric.to_device(torch.arange(ways).repeat_interleave(settings.queries))

    def episodes(epoch: int) -> Iterator[Tensor]:
        sample = EpisodeSampler(data.train, settings.ways, drawings, run.seed * 1_000_003 + epoch)
        for _ in range(settings.episodes):
            yield 255 - sample().flatten(0, 1)[..., None]

    def loss(strokes: Tensor) -> Tensor:
        embedded = model(strokes).float().reshape(ways, drawings, -1)
        return F.cross_entropy(logits(embedded[:, 1:].flatten(0, 1), *prototype_head(embedded[:, 0], labels)), answers)

    run.fit(
        fabric,
        model,
        optimizer,
        episodes,
        loss,
        epochs=settings.epochs,
        settings=settings,
        count=settings.episodes,
        schedule=schedule,
        watch=lambda: validate(PrototypicalNet(net), data),
    )
    return net.cpu().eval().fold_norms(), fabric


def meta_train(
    run: Run, settings: Settings, data: Data, fabric: Fabric, embedding: Embedding, method: FewShotMethod
) -> Maml:
    """Train through the inner loop, from the embedding's weights; either MAML sees the same episodes."""
    net = Maml(copy.deepcopy(embedding), settings.head_rate, settings.inner_rate)
    optimizer = torch.optim.Adam(net.parameters(), settings.meta_learning_rate)
    net = net.to(fabric.device).float()
    state = {"model": net, "optimizer": optimizer}
    ways, drawings = sum(settings.meta_ways), 1 + settings.queries
    labels = torch.eye(ways, device=fabric.device)
    answers = torch.arange(ways, device=fabric.device).repeat_interleave(settings.queries)
    for epoch in run.epochs(fabric, settings.meta_epochs, state, (settings, method)):
        sample = EpisodeSampler(data.train, settings.meta_ways, drawings, run.seed * 1_000_003 + epoch)
        total = 0.0
        for _ in run.track(range(settings.meta_episodes), f"{run.name} {method} {epoch + 1}/{settings.meta_epochs}"):
            strokes = ink(fabric.to_device(255 - sample()[..., None]).flatten(0, 1))
            strokes = strokes.reshape(ways, drawings, *strokes.shape[1:])
            inner = net.start(labels)
            for _ in range(settings.inner_steps):
                inner = net.step(strokes[:, 0], labels, *inner, first_order=method == "first_order_maml")
            loss = F.cross_entropy(net.answer(strokes[:, 1:].flatten(0, 1), inner), answers)
            descend(fabric, optimizer, loss)
            total += float(loss.detach())
        steps = torch.tensor([settings.inner_steps])
        run.log(epoch=epoch + 1, loss=total / settings.meta_episodes, **validate(net, data, steps))
    return net.cpu()


@torch.no_grad()
def validate(model: nn.Module, data: Data, *steps: Tensor) -> dict[str, float]:
    """Accuracy on validation episodes: 5 ways of fonts, 20 of Omniglot."""
    was_training = model.training
    model.eval()
    drawn, written = data.validation
    values = {
        "fonts": accuracy(fixed_episodes(drawn, VALIDATION_EPISODES, WAYS), answerer(model, *steps)),
        "omniglot": accuracy(fixed_episodes(written, VALIDATION_RUNS, OMNIGLOT_WAYS), answerer(model, *steps)),
    }
    model.train(was_training)
    return values


def answerer(model: nn.Module, *steps: Tensor) -> Answer:
    """How torch answers an episode."""
    device = next(model.parameters()).device

    def answer(episode: Episode) -> NDArray[np.int64]:
        support, queries = (
            torch.from_numpy(255 - images)[..., None].to(device) for images in (episode.support, episode.queries)
        )
        labels = F.one_hot(torch.from_numpy(episode.labels)).float().to(device)
        with torch.no_grad():
            predicted: NDArray[np.int64] = model(support, labels, queries, *steps).argmax(1).cpu().numpy()
        return predicted

    return answer


def nearest_pixels(episode: Episode) -> NDArray[np.int64]:
    """The baseline: the example whose pixels correlate most with the query's."""
    queries, support = (
        x / np.linalg.norm(x, axis=1, keepdims=True)
        for x in (
            y.reshape(len(y), -1) - y.reshape(len(y), -1).mean(1, keepdims=True)
            for y in (episode.queries.astype(np.float64), episode.support.astype(np.float64))
        )
    )
    nearest: NDArray[np.int64] = episode.labels[(queries @ support.T).argmax(1)]
    return nearest


def right_answers(episodes: Iterable[Episode], answer: Answer) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How many queries of each episode are answered right, and how many there are."""
    right = [answer(episode) == episode.answers for episode in episodes]
    return np.array([r.sum() for r in right], float), np.array([len(r) for r in right], float)


def accuracy(episodes: Iterable[Episode], answer: Answer) -> float:
    """Share of all queries that are answered right."""
    return measures.ratio(*right_answers(episodes, answer))


def episodes_of(glyphs: Glyphs, runs: Iterable[OneShotRun], count: int) -> dict[str, list[Episode]]:
    """By metric: fixed 5-way 1-shot episodes of held-out characters and fonts; Omniglot's 20-way runs."""
    return {
        "accuracy": list(fixed_episodes(glyphs, count, WAYS)),
        "accuracy_omniglot": [Episode(r.support, np.arange(len(r.support)), r.queries, r.answers) for r in runs],
    }


def measure(method: FewShotMethod, tests: dict[str, list[Episode]], track: Track, answer: Answer) -> list[Metric]:
    """One method's accuracies; the targets are for the best, the prototypes; the slower ones take fewer episodes."""
    best = method == "prototypes"
    metrics = []
    for name, episodes in tests.items():
        episodes = episodes if best else episodes[:MAML_EPISODES]
        counts = right_answers(track(episodes, len(episodes)), answer)
        metrics.append(
            Metric(
                name=name if best else f"{name}_{method}",
                value=measures.ratio(*counts),
                split="test",
                n=sum(len(episode.answers) for episode in episodes),
                target=TARGETS[name] if best else None,
                interval=measures.bootstrap(measures.ratio, *counts),  # of whole episodes: each has its own examples
            )
        )
    return metrics


def graphs_of(models: dict[FewShotMethod, nn.Module], glyphs: Glyphs, steps: int) -> dict[str, Graph]:
    """The graph of each method, with examples of several sizes."""
    drawings = torch.from_numpy(glyphs.images)[..., None]

    def example(support: int, ways: int, queries: int) -> dict[str, Tensor]:
        labels = F.one_hot(torch.arange(support) % ways, ways).float()
        return {"support": drawings[:support], "labels": labels, "queries": drawings[support : support + queries]}

    first, *further = (example(10, 5, 7), example(2, 2, 1), example(60, 20, 30))
    traced_step = None
    graphs: dict[str, Graph] = {}
    for method, model in models.items():
        inner = {}
        if isinstance(model, Maml):
            inner = {"steps": torch.tensor([steps])}
            model.traced_step = traced_step = traced_step or model.trace(first["support"], first["labels"])
        graphs["forward" if method == "prototypes" else method] = Graph(
            model,
            first | inner,
            ("logits",),
            dynamic_axes={"support": (0,), "labels": (0, 1), "queries": (0,)},
            max_batch_size=0,
            further_inputs=tuple(inputs | inner for inputs in further),
        )
    return graphs


def _track(run: Run, method: str, items: Iterable[Any], total: int) -> Iterable[Any]:
    return run.track(items, f"{run.name} test {method}", total)
