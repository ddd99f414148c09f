"""HW7 and self-supervised learning: the BERT that every text model stands on, and vectors to search sentences by.

MiniLM (training/methods/text_encoder.py) learns all tasks at once (multi-task learning: Liu et al., "MT-DNN", 2019),
each through a linear layer: the first and last token of an answer, with [CLS] for "no answer" (Devlin et al., "BERT",
2019), the part of speech of each word, and the classes of a pair of sentences, of an opinion and of a mail, by the mean
of the tokens' vectors. A name that the context has several times is right wherever it is found (Clark and Gardner,
"Simple and Effective Multi-Paragraph Reading Comprehension", 2018). What MiniLM learned of sentences from a billion
pairs is kept by distillation (Hinton et al., "Distilling the Knowledge in a Neural Network", 2015): a linear layer on
the mean vector gives the vector that the untouched MiniLM would, and questions are told the sentences that answer them
from others (training/methods/sentence_search.py). Lower layers, which know words, learn more slowly than upper ones
(Howard and Ruder, "ULMFiT", 2018). The graph is in 8 bits (training/export/int8.py); the linear layers are kept beside
it, for the models that are made of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from numpy.typing import NDArray
from safetensors.torch import save
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from artifacts.card import Baseline, Limits, Metric, Table, TextPreprocessing, known
from artifacts.versions import read_card
from artifacts.windows import padded
from lectern.client import Client
from training import TrainingError, measures
from training.cpu import cpu_name
from training.data import entailment, qamr
from training.data.labelled_texts import LabelledTexts
from training.data.questions import Questions, unanswerable
from training.data.tags import IGNORED
from training.data.text_tasks import MAIL_CHARACTERS, Data, human_validation, load, load_sliver, sources
from training.data.web_treebank import PART_TAGS
from training.export.int8 import to_int8
from training.export.onnx import export_graph, round_to_half, stored_weights
from training.measures import Evaluation
from training.methods import text_encoder
from training.methods.exported_encoder import HEADS, MEAN, PADDING, VECTORS, ExportedEncoder, applied
from training.methods.exported_encoder import SENTENCE as SENTENCE_VECTOR
from training.methods.reading import (
    ENTAILMENT,
    QUESTION,
    SEARCH,
    SENTENCE,
    SENTIMENT,
    SPAM,
    TAGS,
    Batch,
    Drawer,
    Example,
    PairExamples,
    QuestionExamples,
    SearchExamples,
    SentenceExamples,
    Some,
    TagExamples,
    TextExamples,
    batches,
    span_loss,
)
from training.methods.sentence_pairs import mean_vectors as pair_vectors
from training.methods.sentence_search import (
    FOUND,
    Means,
    cosines,
    fit_layer,
    found_by,
    mean_vectors,
    minilm_recall,
    tfidf_recall,
    told_apart,
)
from training.methods.text_encoder import TOKENIZER, WEIGHTS, Shape, TextEncoder, mean_of
from training.optimise import triangle
from training.run import Run, device_name
from training.served import Track
from training.trained import FLOAT32, INT8, Graph, Tolerance, Trained

NEEDS: dict[str, str] = {}
MEMORY = 10
SHIPPED = True
MAX_TOKENS = 256
RECALL, BEFORE = f"recall_at_{FOUND}", "MiniLM as it was"
MINILM, MOST_LOST = 0.6333, 0.02  # its own recall, and how much of it may be lost
TEXTS_PER_REQUEST = 64
LIMITS = Limits(
    intended="Vectors of English texts, for the models that stand on it, and to find sentences of like meaning.",
    failures=(
        "A search by its sentence vectors finds 0.628 of QAMR's sentences among the best ten, as MiniLM does (0.633); "
        "in 32 bits it would find 0.666. A search by words (TF-IDF) finds 0.804, as these questions repeat words of "
        "their sentences.",
        "It was taught English alone, of encyclopedias, posts, reviews, mails and captions.",
        "A text longer than 254 pieces is read in parts, and its vector is their mean.",
    ),
)


@dataclass(frozen=True)
class Shares:
    """How much of each source an epoch draws: masked names say little of what people ask, QAMR asks much of each
    sentence, and posts, reviews and labelled texts are many."""

    bible: float = 1 / 12
    qamr: float = 1 / 6
    encyclopedia: float = 1.0
    posts: float = 0.5
    texts: float = 0.5


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters.

    Args:
        tokens: of a training batch, padding included.
        window, text_window: most tokens of a training question with its context, and of any other training row.
        shares: of each source so much, drawn at random, is learned from in an epoch.
        unanswerable: one training question in so many comes again with a context that does not answer it.
        tagged: how often an epoch sees each sentence with its parts of speech.
        sentences: whose vectors an epoch compares with MiniLM's own.
        likeness: weight of that comparison.
        searched: how often an epoch sees each question with the sentence that answers it.
        layer_rate: how fast a layer learns, as a share of the one above it.
        most_frequent: pieces of the vocabulary that are kept whether or not training texts have them.
        least: how often training texts must have any other piece that is kept.
        shape: of an encoder that is not pretrained; None = the pretrained one.
    """

    epochs: int = 2
    tokens: int = 4096
    window: int = 112
    text_window: int = 96
    shares: Shares = Shares()
    unanswerable: int = 4
    tagged: int = 3
    sentences: int = 8000
    likeness: float = 5.0
    searched: float = 0.5
    layer_rate: float = 0.85
    peak_learning_rate: float = 1.5e-4
    warm_up: float = 0.06
    weight_decay: float = 0.01
    dropout: float = 0.1
    most_frequent: int = 4000
    least: int = 50
    shape: Shape | None = None


FULL = Settings()
# Of what is trained already: on longer rows.
FURTHER = replace(FULL, epochs=1, window=128, tagged=4, sentences=20_000, searched=1.0, peak_learning_rate=1e-4)
FAST = Settings(
    epochs=1,
    window=96,
    text_window=48,
    shares=Shares(1.0, 1.0, 1.0, 1.0, 1.0),
    tagged=1,
    sentences=32,
    most_frequent=200,
    shape=Shape(32, 1, 2, MAX_TOKENS),
)


class SentenceEncoder(nn.Module):
    """Ids and segments int64 [N, T] -> vectors of tokens [N, T, width], their mean [N, width], and the vector of the
    row as a sentence [N, width], of length 1."""

    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.sentence = nn.Linear(encoder.width, encoder.width)
        nn.init.eye_(self.sentence.weight)
        nn.init.zeros_(self.sentence.bias)

    def forward(self, ids: Tensor, segments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.pool(self.encoder(ids, segments), ids)

    def pool(self, vectors: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The tokens' vectors [N, T, width] with what they amount to."""
        mean = mean_of(vectors, ids)
        return vectors, mean, F.normalize(self.sentence(mean), dim=1)


class Tasks(nn.Module):
    """An encoder with the linear layers that teach it."""

    def __init__(self, encoder: SentenceEncoder, sizes: dict[str, int]) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleDict({task: nn.Linear(encoder.encoder.width, size) for task, size in sizes.items()})

    def forward(self, task: str, ids: Tensor, segments: Tensor, answers: Tensor) -> Tensor:
        """The loss of a batch; of sentences, `answers` are the vectors that they should have [N, width]."""
        vectors, mean, sentence = self.encoder(ids, segments)
        if task == SENTENCE:
            unlike: Tensor = 1 - (sentence * answers).sum(1).float().mean()
            return unlike
        if task == SEARCH:
            sentences, questions = sentence.float().chunk(2)
            return told_apart(sentences, questions, answers)
        if task == QUESTION:
            starts, ends = self.heads[task](vectors).unbind(-1)
            return (span_loss(starts, answers[:, 0], segments) + span_loss(ends, answers[:, 1], segments)) / 2
        if task == TAGS:
            scores = self.heads[task](vectors).float()
            return F.cross_entropy(scores.flatten(0, 1), answers.flatten(), ignore_index=IGNORED)
        return F.cross_entropy(self.heads[task](mean).float(), answers)


class Explained(nn.Module):
    """An encoder as it is exported: also gives the last layer's attention [N, T, T]."""

    def __init__(self, encoder: SentenceEncoder) -> None:
        super().__init__()
        self.sentences = encoder

    def forward(self, ids: Tensor, segments: Tensor) -> tuple[Tensor, ...]:
        vectors, attention = self.sentences.encoder.with_attention(ids, segments)
        return *self.sentences.pool(vectors, ids), attention


def train(run: Run) -> Trained:
    """Fine-tune on every task; the card's figures are of the 8-bit graph."""
    settings = FAST if run.fast else FULL
    data = load_sliver(run.sliver) if run.fast else load()
    encoder, tokenizer = beginning(settings, data)
    minilm = deepcopy(encoder).eval().requires_grad_(False)
    sizes = {
        QUESTION: 2,
        TAGS: len(PART_TAGS),
        ENTAILMENT: len(entailment.LABELS),
        SENTIMENT: len(data.sentiments.labels),
        SPAM: len(data.mails.labels),
    }
    return taught(run, settings, data, Tasks(SentenceEncoder(encoder), sizes), minilm, tokenizer)


def train_further(run: Run) -> Trained:
    """The served version's weights, fine-tuned on for another epoch; its seconds count those of that version.

    Raises:
        TrainingError: it has another vocabulary than these texts give.
    """
    settings = FAST if run.fast else FURTHER
    served = ExportedEncoder.of(run.repository)
    run.seconds = known(read_card(run.repository / run.name).training).seconds
    data = load_sliver(run.sliver) if run.fast else load()
    minilm, tokenizer = beginning(settings, data)
    if tokenizer.to_str() != served.tokenizer.to_str():
        raise TrainingError("the served version has another vocabulary: train from the beginning, without --further")
    tasks = restore(served, settings.shape, settings.dropout).train().requires_grad_(True)
    return taught(run, settings, data, tasks, minilm.eval().requires_grad_(False), tokenizer)


def beginning(settings: Settings, data: Data) -> tuple[TextEncoder, Tokenizer]:
    """MiniLM, or an encoder that is not pretrained, with the vocabulary of the training texts."""
    texts = list(data.texts())
    if settings.shape:
        return text_encoder.small(texts, settings.shape, settings.most_frequent)
    return text_encoder.pretrained(texts, settings.most_frequent, settings.least, settings.dropout)


def taught(
    run: Run, settings: Settings, data: Data, tasks: Tasks, minilm: TextEncoder, tokenizer: Tokenizer
) -> Trained:
    """Fine-tune on every task."""
    fabric = run.fabric("bf16-mixed")
    fit(run, fabric, settings, data, tasks, minilm, tokenizer)
    learn_to_search(run, data, tasks.encoder, minilm.cpu(), tokenizer)
    return described(run, data, round_to_half(tasks), tokenizer, device_name(fabric))


def requantize(run: Run) -> Trained:
    """The served version's weights in 8 bits as training/export/int8.py makes them now, measured anew."""
    card, served = read_card(run.repository / run.name), ExportedEncoder.of(run.repository)
    run.seconds = known(card.training).seconds
    data = load_sliver(run.sliver) if run.fast else load()
    tasks = restore(served, FAST.shape if run.fast else Shape())
    return described(run, data, tasks, served.tokenizer, known(card.training).device)


def restore(served: ExportedEncoder, shape: Shape | None, dropout: float = 0.0) -> Tasks:
    """The encoder of an exported file of that shape, its weights as floats, with the layers that learned with it."""
    stored = {name.removeprefix("sentences."): value for name, value in stored_weights(served.content).items()}
    weights = {}
    for name in [name for name in stored if name.endswith((".weight", ".bias"))]:
        scale = stored.get(name.removesuffix("weight") + "scale")
        if scale is not None:
            # Tables have a scale for each row; other weights are kept with the inputs first, a scale for each output.
            weights[name] = stored[name] * scale if scale.ndim == 2 else (stored[name] * scale).T
        else:
            weights[name] = stored[name]
    encoder = SentenceEncoder(TextEncoder(len(weights["encoder.tokens.weight"]), shape or Shape(), dropout))
    encoder.load_state_dict({name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in weights.items()})
    tasks = Tasks(encoder, {})
    tasks.heads.update({task: served.head(task) for task in served.tasks})
    return tasks.eval()


def described(run: Run, data: Data, tasks: Tasks, tokenizer: Tokenizer, device: str) -> Trained:
    """A trained encoder in 8 bits, and what its card says."""
    parameters = sum(p.numel() for p in tasks.parameters())
    preprocessing = TextPreprocessing(tokenizer=TOKENIZER, max_tokens=MAX_TOKENS)
    heads = {name: value.contiguous() for name, value in tasks.heads.state_dict().items()}
    example = example_inputs(tokenizer, data)
    exact = graph_of(deepcopy(tasks.encoder), example)
    graph = graph_of(to_int8(tasks.encoder), example, INT8)
    encoders = {
        name: ExportedEncoder(exported(one), tokenizer, preprocessing, heads)
        for name, one in (("float32", exact), ("int8", graph))
    }
    found = {name: found_by(run, data.retrieval, encoder, name) for name, encoder in encoders.items()}
    return Trained(
        title="Vectors of texts, which text models read and searches compare",
        lecture="HW7",
        capability="embed",
        task="sentence embedding",
        description="MiniLM, fine-tuned on questions, parts of speech, entailment, sentiment and spam at once, in 8 "
        "bits. question_answerer, sentiment_classifier, spam_classifier, pos_tagger and entailment_classifier are "
        "linear layers on its vectors; its sentence vectors are near for texts of like meaning.",
        graphs={"forward": replace(graph, onnx=encoders["int8"].content)},
        preprocessing=preprocessing,
        assets={TOKENIZER: tokenizer.to_str().encode(), HEADS: save(heads)},
        limits=LIMITS,
        metrics=metrics(found["int8"]),
        baselines=(
            *(() if run.fast else (Baseline(name=BEFORE, metric=RECALL, value=minilm_recall(run, data.retrieval)),)),
            Baseline(name="word counts (TF-IDF)", metric=RECALL, value=tfidf_recall(data.retrieval)),
        ),
        tables=(comparison(run, data, encoders, found),),
        data=(WEIGHTS.card_entry(0, 0, 0), *sources(data)),
        device=device,
        parameters=parameters,
    )


def evaluate(client: Client, track: Track) -> Evaluation:
    """The recall of a search by the vectors that a server gives."""
    data = qamr.load_retrieval()
    texts = (*data.sentences, *data.questions)
    starts = range(0, len(texts), TEXTS_PER_REQUEST)
    vectors = [
        result.vector
        for start in track(starts, len(starts))
        for result in client.embed_text(texts[start : start + TEXTS_PER_REQUEST], "text_encoder").results
    ]
    return Evaluation(metrics(data.found(cosines(data, np.array(vectors)), FOUND)))


def fit(
    run: Run,
    fabric: Fabric,
    settings: Settings,
    data: Data,
    tasks: Tasks,
    minilm: TextEncoder,
    tokenizer: Tokenizer,
) -> None:
    """Train on all tasks at once; the validation examples are only watched."""
    teacher = fabric.to_device(minilm)
    tasks.encoder.encoder.tokens.requires_grad_(False)  # most pieces are too rare here to learn anything new about them
    drawers = examples_of(settings, data, tokenizer)
    groups = parameter_groups(tasks, settings.peak_learning_rate, settings.layer_rate)
    optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay, fused=True)
    steps = settings.epochs * len(epoch_of(settings, drawers, run.seed, 0))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: triangle(step / steps, settings.warm_up))
    model, optimizer = fabric.setup(tasks, optimizer)
    losses: dict[str, list[float]] = {}

    def loss_of(batch: Batch) -> Tensor:
        answers = batch.answers
        if batch.task == SENTENCE:
            with torch.no_grad(), fabric.autocast():
                answers = F.normalize(mean_of(teacher(batch.ids, batch.segments), batch.ids).float(), dim=1)
        value: Tensor = model(batch.task, batch.ids, batch.segments, answers)
        return value

    def loss(batch: Batch) -> Tensor:
        value = loss_of(batch)
        losses.setdefault(batch.task, []).append(float(value.detach()))
        return value * settings.likeness if batch.task == SENTENCE else value

    @torch.no_grad()
    def watch() -> dict[str, float]:
        means = {f"{task}_loss": float(np.mean(values)) for task, values in losses.items()}
        losses.clear()
        model.eval()
        random = np.random.default_rng(0)
        ahead: dict[str, list[float]] = {}
        examples = [example for drawer in watched(settings, data, tokenizer) for example in drawer.draw(random)]
        for batch in batches(examples, settings.tokens, random):
            ahead.setdefault(batch.task, []).append(float(loss_of(fabric.to_device(batch))))
        return means | {f"validation_{task}_loss": float(np.mean(values)) for task, values in ahead.items()}

    run.fit(
        fabric,
        model,
        optimizer,
        lambda epoch: epoch_of(settings, drawers, run.seed, epoch),
        loss,
        epochs=settings.epochs,
        settings=settings,
        schedule=schedule,
        largest_gradient=1.0,
        watch=watch,
    )
    tasks.eval().cpu()


def parameter_groups(tasks: Tasks, rate: float, layer_rate: float) -> list[dict[str, Any]]:
    """What learns, with its peak learning rate: layers the more slowly the lower they are."""
    encoder = tasks.encoder.encoder
    parts: list[tuple[nn.Module, int]] = [(tasks.heads, 0), (tasks.encoder.sentence, 0)]
    parts += [(layer, depth) for depth, layer in enumerate(reversed(encoder.layers))]
    parts += [(part, len(encoder.layers)) for part in (encoder.positions, encoder.segments, encoder.norm)]
    return [{"params": list(part.parameters()), "lr": rate * layer_rate**depth} for part, depth in parts]


def learn_to_search(run: Run, data: Data, encoder: SentenceEncoder, minilm: TextEncoder, tokenizer: Tokenizer) -> None:
    """Fit the layer of sentence vectors again to where the encoder's mean vectors came to be."""
    means = [
        Means(*(mean_vectors(run, encoder.encoder, tokenizer, texts, "search") for texts in (s.sentences, s.questions)))
        for s in data.search
    ]
    taught = F.normalize(mean_vectors(run, minilm, tokenizer, data.search[0].sentences, "taught"), dim=1)
    fit_layer(run, encoder.sentence, data.search, (means[0], means[1]), taught)


def examples_of(settings: Settings, data: Data, tokenizer: Tokenizer) -> list[Drawer]:
    """What an epoch draws from."""
    shares, window = settings.shares, settings.text_window

    def asked(share: float, *parts: Questions) -> Some:
        every = [q for part in parts for q in (*part.train, *unanswerable(part.train, settings.unanswerable))]
        return Some(QuestionExamples(tokenizer, every, settings.window), share)

    def labelled(task: str, data: LabelledTexts) -> Some:
        return Some(TextExamples(task, tokenizer, data.train, window, MAIL_CHARACTERS), shares.texts)

    return [
        asked(shares.bible, data.bible),
        asked(shares.qamr, data.qamr),
        asked(shares.encyclopedia, *data.encyclopedia),
        asked(shares.posts, *data.posts),
        labelled(SENTIMENT, data.sentiments),
        labelled(SPAM, data.mails),
        PairExamples(ENTAILMENT, tokenizer, data.entailment.train, window),
        *[TagExamples(tokenizer, data.treebank.train, PART_TAGS, window)] * settings.tagged,
        Some(SentenceExamples(tokenizer, data.sentences(), window), settings.sentences / len(data.sentences())),
        Some(SearchExamples(tokenizer, data.search[0], window), settings.searched),
    ]


def watched(settings: Settings, data: Data, tokenizer: Tokenizer) -> list[Drawer]:
    """Validation examples of the tasks whose training is short."""
    return [
        QuestionExamples(tokenizer, human_validation(data), settings.window),
        PairExamples(ENTAILMENT, tokenizer, data.entailment.validation, settings.text_window),
        SearchExamples(tokenizer, data.search[1], settings.text_window),
        TagExamples(tokenizer, data.treebank.validation, PART_TAGS, settings.text_window),
    ]


def epoch_of(settings: Settings, drawers: Sequence[Drawer], seed: int, epoch: int) -> list[Batch]:
    """The batches of an epoch."""
    random = np.random.default_rng((seed, epoch))
    examples: list[Example] = [example for drawer in drawers for example in drawer.draw(random)]
    return batches(examples, settings.tokens, random)


def graph_of(encoder: SentenceEncoder, inputs: dict[str, Tensor], tolerance: Tolerance = FLOAT32) -> Graph:
    """An encoder as it is exported."""
    axes: dict[str, tuple[int, ...]] = dict.fromkeys(inputs, (1,))
    outputs = (VECTORS, MEAN, SENTENCE_VECTOR, "attention")
    return Graph(
        Explained(encoder.eval()), inputs, outputs, axes, max_batch_size=16, padding=PADDING, tolerance=tolerance
    )


def example_inputs(tokenizer: Tokenizer, data: Data) -> dict[str, Tensor]:
    """Real rows for the graph's inputs."""
    rows = QuestionExamples(tokenizer, data.bible.test[:4], MAX_TOKENS).draw(np.random.default_rng(0))
    pairs = zip(*((row.ids, row.segments) for row in rows), strict=True)
    ids, segments = (torch.from_numpy(padded(list(part))) for part in pairs)
    return {"ids": ids, "segments": segments}


def exported(graph: Graph) -> bytes:
    """The ONNX file of a graph."""
    with TemporaryDirectory() as directory:
        export_graph(graph, path := Path(directory) / "model.onnx")
        return path.read_bytes()


def metrics(found: NDArray[np.bool_]) -> tuple[Metric, ...]:
    """The figures of the card."""
    return (measures.mean(RECALL, found, target=round(MINILM - MOST_LOST, 4)),)


def comparison(
    run: Run, data: Data, encoders: dict[str, ExportedEncoder], found: dict[str, NDArray[np.bool_]]
) -> Table:
    """Both arithmetics side by side."""
    rows = []
    for name, encoder in encoders.items():
        pairs = data.entailment.validation
        said = applied(encoder.head(ENTAILMENT), pair_vectors(run, encoder, pairs, f"pairs, {name}"))
        right = (said.argmax(axis=1) == pairs.labels).mean()
        figures = (found[name].mean(), right)
        size = round(len(encoder.content) / 1e6, 2)
        rows.append(
            (name, size, round(encoder.milliseconds(MAX_TOKENS), 1), *(round(float(one), 4) for one in figures))
        )
    return Table(
        title=f"32 and 8 bits, timed on {cpu_name()}",
        columns=(
            *("arithmetic", "MB", f"ms for {MAX_TOKENS} tokens, one thread"),
            *(f"recall at {FOUND}", "entailment, validation accuracy"),
        ),
        rows=tuple(rows),
    )
