"""`card.json`: what services need to serve a model and what people ask about it.

Training writes cards, services read them; this is the one schema of both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

# Names become directories, so they hold nothing that a path could be made of.
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Asset = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*\.json$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
T = TypeVar("T")
Split = Literal["train", "validation", "test"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ImagePreprocessing(_Strict):
    """The graph takes uint8 `[N, height, width, channels]`; other sizes are resized with `resample`."""

    kind: Literal["image"] = "image"
    height: PositiveInt
    width: PositiveInt
    channels: Literal[1, 3] = 3
    resample: Literal["bilinear", "bicubic", "lanczos", "box"] = "bicubic"


class TabularPreprocessing(_Strict):
    """The graph takes float32 `[N, len(features)]` and gives float32 `[N, len(targets)]`.

    Training saw each feature within `bounds`, its least and its greatest value, and of the features from the first to
    before the second of each pair of `one_of` one was 1 and the others 0. A target can be no less and no more than
    `target_bounds` say.
    """

    kind: Literal["tabular"] = "tabular"
    features: tuple[str, ...]
    targets: tuple[str, ...]
    bounds: tuple[tuple[float, float], ...] | None = None
    one_of: tuple[tuple[NonNegativeInt, PositiveInt], ...] = ()
    target_bounds: tuple[tuple[float, float], ...] | None = None

    @model_validator(mode="after")
    def _fits(self) -> TabularPreprocessing:
        for bounds, names in ((self.bounds, self.features), (self.target_bounds, self.targets)):
            if bounds is not None and (len(bounds) != len(names) or any(low > high for low, high in bounds)):
                raise ValueError(f"there must be a least and a greatest value of each of {len(names)} columns")
        if any(not first < end <= len(self.features) for first, end in self.one_of):
            raise ValueError(f"one_of must name ranges of the {len(self.features)} features")
        return self


class ExamplesPreprocessing(_Strict):
    """The graph takes a table: `examples` float32 `[S, F]`, their classes `labels` int64 `[S]`, numbered from 0, and
    `queries` `[Q, F]`, NaN where a cell is missing; it gives `logits` `[Q, max_classes]`, of which the first count.

    S is at most `max_examples` and F at most `max_features`; the table's columns are in any unit.
    """

    kind: Literal["examples"] = "examples"
    max_examples: PositiveInt
    max_features: PositiveInt
    max_classes: PositiveInt


class ObservationPreprocessing(_Strict):
    """The graph takes float32 observations `[N, len(features)]` and noise `[N, len(labels)]`, and gives actions.

    `environment` is gymnasium's name of where they come from.
    """

    kind: Literal["observation"] = "observation"
    features: tuple[str, ...]
    environment: Literal["LunarLander-v3"]


class NoisePreprocessing(_Strict):
    """The graph takes normal `noise` float32 `[N, size]` and, where there are labels, `label` int64 `[N, 1]`."""

    kind: Literal["noise"] = "noise"
    size: PositiveInt


class AudioPreprocessing(_Strict):
    """The graph takes mono `samples` int16 `[N, T]` and int64 `lengths` `[N, 1]`, how many of each row are the clip's.

    What is longer than `window` samples goes in several windows. A graph with a `hop` answers for every `hop` samples,
    which depends on `context` samples around them; one without answers for the whole window. Windows start at multiples
    of `step`.
    """

    kind: Literal["audio"] = "audio"
    sample_rate: PositiveInt
    window: PositiveInt
    step: PositiveInt
    hop: PositiveInt | None = None
    context: NonNegativeInt = 0

    @model_validator(mode="after")
    def _windows_advance(self) -> AudioPreprocessing:
        if self.window % self.step or self.context % self.step or self.window <= 2 * self.context:
            raise ValueError("window and context must be multiples of step, and a window longer than both its contexts")
        return self


class TextPreprocessing(_Strict):
    """The graph takes token ids int64 `[N, T]` with T up to `max_tokens`, as `tokenizer` makes them.

    `tokenizer` is a file of the library `tokenizers`; `files` has its path and checksum.
    """

    kind: Literal["text"] = "text"
    tokenizer: Asset
    max_tokens: PositiveInt


class StoryPreprocessing(_Strict):
    """The graph takes the latest `max_sentences` sentences of a story and a question as word ids, int64 `[N, S, W]` and
    `[N, W]` with W = `max_words`, as `artifacts.stories` makes them of the words of `tokenizer`."""

    kind: Literal["story"] = "story"
    tokenizer: Asset
    max_sentences: PositiveInt
    max_words: PositiveInt


class TranslationPreprocessing(_Strict):
    """The graph takes token ids int64 `[N, S]` with S up to `max_tokens`, as the tokenizer `source` makes them.

    `target` makes text of the ids that decoding gives; both are files of the library `tokenizers`. `names` are those of
    `artifacts.carrying`, with which sentences are read. `script` is that of a model that writes Chinese, by ISO 15924.
    """

    kind: Literal["translation"] = "translation"
    source: Asset
    target: Asset
    names: Asset
    max_tokens: PositiveInt
    script: Literal["Hant"] | None = None


class RewritingPreprocessing(_Strict):
    """The graph takes token ids int64 `[N, S]` with S up to `max_tokens`, as `tokenizer` makes them; it also makes text
    of the ids that decoding gives. `styles` has the token from which a text of each style is written."""

    kind: Literal["rewriting"] = "rewriting"
    tokenizer: Asset
    max_tokens: PositiveInt
    styles: dict[str, str]


class GenerationPreprocessing(_Strict):
    """The graph takes token ids int64 `[N, T]`, as `tokenizer` makes them: with those before, `max_tokens` at most."""

    kind: Literal["generation"] = "generation"
    tokenizer: Asset
    max_tokens: PositiveInt


Preprocessing = Annotated[
    AudioPreprocessing
    | ExamplesPreprocessing
    | GenerationPreprocessing
    | ImagePreprocessing
    | NoisePreprocessing
    | ObservationPreprocessing
    | RewritingPreprocessing
    | StoryPreprocessing
    | TabularPreprocessing
    | TextPreprocessing
    | TranslationPreprocessing,
    Field(discriminator="kind"),
]


class Metric(_Strict):
    """A measured figure; `n` is the number of items it was measured on, `target` what it should reach, or, where less
    is better (`at_most`), what it should not exceed; `interval` is that of 95 % confidence, if there is one."""

    name: str
    value: float
    split: Split
    n: PositiveInt
    target: float | None = None
    at_most: bool = False
    interval: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _interval_is_in_order(self) -> Metric:
        if self.interval is not None and not self.interval[0] <= self.interval[1]:
            raise ValueError(f"the interval of {self.name} must be [low, high]")
        return self

    @property
    def met(self) -> bool:
        """Whether the target is met, or there is none."""
        if self.target is None:
            return True
        return self.value <= self.target if self.at_most else self.value >= self.target

    @property
    def target_text(self) -> str:
        """The target for people, e.g. `≥ 0.93` or `≥ 0.93, missed`; empty if there is none."""
        if self.target is None:
            return ""
        return f"{'≤' if self.at_most else '≥'} {self.target:.4g}{'' if self.met else ', missed'}"

    @property
    def interval_text(self) -> str:
        """The interval for people, e.g. `0.9297 to 0.9394`; empty if there is none."""
        return "" if self.interval is None else f"{self.interval[0]:.4g} to {self.interval[1]:.4g}"


class ClassScores(_Strict):
    """How well the `n` items of one class are told from those of the others."""

    label: str
    n: NonNegativeInt
    precision: float
    recall: float
    f1: float


class CalibrationBin(_Strict):
    """The mean confidence of `n` answers whose confidence is about the same, and the share of them that is right."""

    confidence: float
    accuracy: float
    n: PositiveInt


class Calibration(_Strict):
    """Whether probabilities mean what they say: `error` is the mean gap between confidence and accuracy over the bins,
    each weighted by its answers (Guo et al., "On Calibration of Modern Neural Networks", 2017)."""

    error: float
    bins: tuple[CalibrationBin, ...]


class Limits(_Strict):
    """What a model is for, and where it is known to fail, in sentences for people."""

    intended: str
    failures: Annotated[tuple[str, ...], Field(min_length=1)]


class Robustness(_Strict):
    """What a metric of the test split falls to under a corruption; severity 0 is the input as it is."""

    corruption: str
    severity: NonNegativeInt
    metric: str
    value: float


class Baseline(_Strict):
    """What something simpler reaches on the same split."""

    name: str
    metric: str
    value: float


class Table(_Strict):
    """A comparison: rows of texts and numbers under named columns."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[int | float | str, ...], ...]

    @model_validator(mode="after")
    def _rows_fill_the_columns(self) -> Table:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"every row of {self.title!r} must have {len(self.columns)} cells")
        return self


class Figure(_Strict):
    """A PNG picture that lies beside the card; its checksum is in `files`."""

    title: str
    file: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*\.png$")]


class Layer(_Strict):
    """A layer that can be looked into: its name in the recipe's network, how many units it has, and whether it has a
    map of them: then the graph `gradient` gives Grad-CAM's, in the output `map_I`, I counting the layers."""

    name: str
    units: PositiveInt
    map: bool


class Probe(_Strict):
    """How well a linear classifier tells a property of the input from a layer, on `n` test items; `chance` is the share
    of the most frequent answer. The layer `input` is the input itself."""

    layer: str
    property: str
    accuracy: float
    chance: float
    n: PositiveInt


class Explanation(_Strict):
    """What explaining needs. The graph `gradient` takes the input x as float32, beside `weights` float32 [N, K], and
    gives, beside the output itself, `gradient`, the derivative by x of the sum of weights times output.

    Where there are labels, `log_probability` float32 [N, 1] is 1 if the weights are of log-probabilities and 0 if they
    are of logits. Where there are layers, `units` float32 [N, U] are weights of the mean activations of their units,
    layer after layer, which are added to the sum; the graph gives those means as `activations` [N, U]. The graph
    `random_gradient` is the same for a network with random weights. Texts need neither graph.

    Args:
        output: the explained output of `forward` and of `gradient`, [N, K].
        exponent: of images, x = 255 (v / 255) ^ exponent of the values v that `forward` takes.
        reference, scale: of tables, the mean and the standard deviation of each feature.
    """

    output: str
    exponent: float = 1.0
    layers: tuple[Layer, ...] = ()
    probes: tuple[Probe, ...] = ()
    reference: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()


class DataSource(_Strict):
    """Where training data came from; `train`, `validation` and `test` count the items of each split."""

    source: str
    version: str
    sha256: Sha256
    licence: str
    train: NonNegativeInt
    validation: NonNegativeInt
    test: NonNegativeInt


def known(provenance: T | None) -> T:
    """What a card says of where a model comes from, if it was trained here.

    Raises:
        ValueError: it was taken in by `lectern add`.
    """
    if provenance is None:
        raise ValueError("the model was not trained here: its card does not say where it comes from")
    return provenance


class Training(_Strict):
    """How the weights came about; `commit` is the code's, with `+` when the tree had changes."""

    command: str
    seed: int
    device: str
    seconds: NonNegativeFloat
    parameters: NonNegativeInt
    commit: str


class Parity(_Strict):
    """The largest difference between the framework's outputs and ONNX Runtime's, over these batch sizes.

    Args:
        max_relative_diff: as a share of the output's largest value; None = not measured.
        tolerance, reason: what `max_relative_diff` may be at most, and why it is not 0.
        agreement: share of the compared decisions (the class, the first and last token of an answer) that are equal.
        decisions: how many were compared.
        runs: how ONNX Runtime ran: with graph optimisation or without, and on how many threads.
    """

    max_abs_diff: NonNegativeFloat
    batches: tuple[PositiveInt, ...]
    max_relative_diff: NonNegativeFloat | None = None
    tolerance: NonNegativeFloat | None = None
    reason: str = ""
    agreement: Annotated[float, Field(ge=0, le=1)] | None = None
    decisions: NonNegativeInt = 0
    runs: tuple[str, ...] = ()


class Card(_Strict):
    """A version of a model; `labels` are its classes, and `tags` those of each word, by their index in its outputs.

    What serving needs comes first. Where the model comes from, `metrics` to `parity`, is left out for one that
    `lectern add` took from elsewhere.
    """

    name: Name
    version: PositiveInt
    title: str
    lecture: str = ""
    capability: str
    task: str
    description: str
    graphs: dict[str, Name]
    preprocessing: Preprocessing
    labels: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    decision: dict[str, float] = {}
    limits: Limits | None = None
    explanation: Explanation | None = None
    files: dict[str, Sha256]
    metrics: tuple[Metric, ...] = ()
    baselines: tuple[Baseline, ...] = ()
    per_class: tuple[ClassScores, ...] = ()
    calibration: Calibration | None = None
    robustness: tuple[Robustness, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    data: tuple[DataSource, ...] = ()
    training: Training | None = None
    parity: Parity | None = None

    @model_validator(mode="after")
    def _forward_graph_is_named(self) -> Card:
        if "forward" not in self.graphs:
            raise ValueError("graphs must name the role `forward`")
        return self

    @model_validator(mode="after")
    def _explanation_has_its_graphs(self) -> Card:
        text = isinstance(self.preprocessing, TextPreprocessing)  # explained by taking words away
        if self.explanation and not text and not {"gradient", "random_gradient"} <= self.graphs.keys():
            raise ValueError("a card with an explanation must name the graphs `gradient` and `random_gradient`")
        return self

    @model_validator(mode="after")
    def _figures_have_checksums(self) -> Card:
        for figure in self.figures:
            if f"{self.name}/{self.version}/{figure.file}" not in self.files:
                raise ValueError(f"files must hold the checksum of the figure {figure.file}")
        return self

    @classmethod
    def read(cls, path: Path) -> Card:
        """Parse a card.

        Raises:
            OSError: the file cannot be read.
            pydantic.ValidationError: it is not a card.
        """
        return cls.model_validate_json(path.read_bytes())

    def write(self, path: Path) -> None:
        """Write it as indented JSON, without `tags` where there are none."""
        path.write_text(self.model_dump_json(indent=2, exclude=None if self.tags else {"tags"}) + "\n")

    def metric(self, name: str, split: Split = "test") -> Metric | None:
        """The figure of that name on that split, if it was measured."""
        return next((m for m in self.metrics if m.name == name and m.split == split), None)
