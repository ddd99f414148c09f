"""HW7: a small GPT that writes Tang poems, character by character.

A Transformer decoder (Radford et al., "Improving Language Understanding by Generative Pre-Training", 2018) over
characters. A poem is its form, its title, and its lines; training hides form or title now and then, so that neither
has to be given, and shows some poems after another, so that a prompt may hold examples (Brown et al., "Language Models
are Few-Shot Learners", 2020).

Exported is one graph for prompts and steps alike: it takes new tokens after a cache of the past, and draws the next one
by temperature, top-k and top-p (Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020), with the
uniform noise of the draw as an input, so that a seed gives the same poem everywhere (docs/runtime.md, "Decoding").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor, nn
from torch.nn import functional as F

from artifacts.card import Baseline, GenerationPreprocessing, Limits, Metric, Table
from artifacts.verses import FORMS, MIXED, keeps_form
from lectern.client import Client
from training import measures
from training.data import poems
from training.data.poems import Poem, Poems
from training.export.onnx import round_to_bytes
from training.export.weights import Weights
from training.measures import Evaluation
from training.methods.tokens import END, END_ID, SPECIAL, START_ID, UNKNOWN
from training.methods.transformer import (
    MASKED,
    Layer,
    Past,
    SequenceDropout,
    causal_bias,
    positions,
    stack,
    step_bias,
)
from training.methods.trigrams import Trigrams
from training.optimise import decayed
from training.run import Run, device_name
from training.served import Track
from training.trained import Graph, Trained

NEEDS: dict[str, str] = {}
MEMORY = 4
SHIPPED = True
BODY = "<body>"  # after the title, before the lines
MARKS = (*SPECIAL, *(f"<{form}>" for form in FORMS), BODY)
BODY_ID = MARKS.index(BODY)
CONTEXT = 256  # tokens that the model looks at
RARE = 5  # a character that training has less often is unknown
PERPLEXITY_SHARE, FORM_TARGET = 0.6, 0.9
SAMPLES = 210
MAX_BATCH = 64
# Nats below the likeliest token that the draw looks at, and how often it halves them: to less than a thousandth.
SPAN, HALVINGS = 20.0, 15
CHUNK = 64  # weights that a draw adds up at once
SAMPLING = {"temperature": 1.0, "top_k": 0.0, "top_p": 0.9, "repetition_penalty": 1.0}
LIMITS = Limits(
    intended="Poems in the forms of the Tang dynasty, in Traditional Chinese, for play.",
    failures=(
        "Of 210 poems 0.962 keep the form that was asked for.",
        "It reads no Latin letters, digits or emoji: they are left out, and a notice says so.",
    ),
)


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters.

    Args:
        hidden_share: how often a poem's form, and its title, is left out.
        follow_share: how often a poem is shown after the one before it, mostly by the same poet.
    """

    epochs: int = 8
    batch_tokens: int = 4096
    width: int = 192
    heads: int = 3
    hidden: int = 768
    layers: int = 5
    dropout: float = 0.1
    hidden_share: float = 0.1
    follow_share: float = 0.2
    peak_learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warm_up: float = 0.05


FULL = Settings()
FAST = Settings(epochs=2, batch_tokens=1024, width=32, heads=2, hidden=64, layers=2)


class PoemGenerator(nn.Module):
    """Token ids [N, T] -> features [N, T, width], of which `logits` makes those of what follows each place."""

    places: Tensor
    layers: Sequence[Layer]

    def __init__(self, settings: Settings, vocabulary: int) -> None:
        super().__init__()
        width = settings.width
        self.scale = width**0.5
        self.tokens = nn.Embedding(vocabulary, width)  # and, transposed, the output layer
        self.layers = stack(
            Layer(width, settings.heads, settings.hidden, settings.dropout) for _ in range(settings.layers)
        )
        self.norm = nn.LayerNorm(width)
        self.dropout = SequenceDropout(settings.dropout)
        self.register_buffer("places", positions(CONTEXT, width))
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        nn.init.normal_(self.tokens.weight, std=width**-0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        bias = causal_bias(tokens.shape[1], tokens.device)
        x = self.dropout(self.tokens(tokens) * self.scale + self.places[: tokens.shape[1]])
        for layer in self.layers:
            x = layer(x, bias)
        features: Tensor = self.norm(x)
        return features

    def logits(self, features: Tensor) -> Tensor:
        """Of what follows; marks, the unknown character among them, have no chance, but for the end."""
        banned = torch.zeros(len(self.tokens.weight), device=features.device)
        banned[: len(MARKS)] = MASKED
        banned[END_ID] = 0
        return F.linear(features, self.tokens.weight, banned)


class Step(nn.Module):
    """The token that follows each of N sequences.

    Takes T new tokens int64 [N, T] of each, how many came before them [N, 1], what each draw is made by [N, 1]:
    `temperature`, `top_k` (0 = all), `top_p`, `penalty`, uniform `noise` from 0 to 1, and which tokens count as
    repeated, bool [N, vocabulary]; and the keys and values [N, H, P, D] of each layer's past. Gives the token [N, 1],
    its log-probability before all that [N, 1], and the new keys and values [N, H, T, D].
    """

    def __init__(self, net: PoemGenerator) -> None:
        super().__init__()
        self.net = net

    def forward(
        self,
        tokens: Tensor,
        length: Tensor,
        temperature: Tensor,
        top_k: Tensor,
        top_p: Tensor,
        penalty: Tensor,
        noise: Tensor,
        seen: Tensor,
        *caches: Tensor,
    ) -> tuple[Tensor, ...]:
        net = self.net
        steps = tokens.shape[1]
        bias = step_bias(length, caches[0].shape[2], steps)
        places = length + torch.arange(steps, device=tokens.device)
        x = (net.tokens(tokens) * net.scale + F.embedding(places, net.places)).flatten(0, 1)
        new: list[Tensor] = []
        for i, layer in enumerate(net.layers):
            x, keys, values, _ = layer.step(x, Past(caches[2 * i], caches[2 * i + 1], bias, steps))
            new += (keys, values)
        logits = net.logits(net.norm(x.reshape(-1, steps, x.shape[1])[:, -1]))
        chosen = draw(penalise(logits, seen, penalty) / temperature, top_k, top_p, noise)
        return chosen, logits.log_softmax(1).gather(1, chosen), *new


def penalise(logits: Tensor, seen: Tensor, penalty: Tensor) -> Tensor:
    """Logits [N, vocabulary] of which those of tokens that were `seen` are divided by `penalty` [N, 1], which is at
    least 1, or multiplied if they are negative."""
    divisor = 1 + seen.float() * (penalty - 1)
    # Not by `where`, which takes ONNX Runtime ten times as long as arithmetic.
    return torch.minimum(logits / divisor, logits * divisor)


def draw(logits: Tensor, top_k: Tensor, top_p: Tensor, noise: Tensor) -> Tensor:
    """One id [N, 1] of each row of logits [N, vocabulary]: where `noise` [N, 1] falls among those that are kept; the
    likeliest if it is 0.

    A token is kept if those that are likelier have less than `top_p` of the probability, and are fewer than `top_k`.
    How likely the last one by `top_p` is, is found by halving an interval: sorting took longer than all layers
    together.
    """
    scores = logits.log_softmax(1)
    probabilities = scores.exp()
    likeliest = high = scores.amax(1, keepdim=True)
    low = high - SPAN
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        kept = ((scores > middle).float() * probabilities).sum(1, keepdim=True) < top_p
        low, high = torch.where(kept, low, middle), torch.where(kept, middle, high)
    last = (scores + (scores > high).float() * MASKED).amax(1, keepdim=True)
    last = torch.maximum(last, kth(scores, top_k))
    last = torch.where(noise > 0, last, likeliest)
    return place(probabilities * (scores >= last).float(), noise)


def kth(scores: Tensor, top_k: Tensor) -> Tensor:
    """The score [N, 1] of place `top_k` [N, 1] among scores [N, vocabulary]; MASKED if it is 0 or leaves nothing out.

    Only rows that ask for it are sorted, so that one caller's large `top_k` does not slow a whole batch.
    """
    asks = (top_k > 0) & (top_k < scores.shape[1])
    places = torch.where(asks, top_k, 1).long()
    most = int(places.max())
    torch._check(most >= 1)  # type: ignore[no-untyped-call]  # for the export, which does not know the number
    torch._check(most <= scores.shape[1])  # type: ignore[no-untyped-call]
    first = torch.arange(len(asks), device=asks.device)[:, None] == 0  # sorted always: kernels need not take no rows
    rows = (asks | first)[:, 0].nonzero()
    ranked = scores[rows[:, 0]].topk(most).values.gather(1, places[rows[:, 0]] - 1)
    return torch.where(asks, top_k.scatter(0, rows, ranked), MASKED)


def place(weights: Tensor, noise: Tensor) -> Tensor:
    """Where `noise` [N, 1] falls among weights [N, vocabulary], as an index [N, 1]: first in which chunk, then where
    in it, since a cumulative sum is slow."""
    chunks = F.pad(weights, (0, -weights.shape[1] % CHUNK)).reshape(len(weights), -1, CHUNK)
    sums = chunks.sum(2)
    ends = sums.cumsum(1)
    target = noise * ends[:, -1:]
    chunk = _first_beyond(ends, target)
    start = (ends - sums).gather(1, chunk)
    inside = chunks.gather(1, chunk[:, :, None].expand(-1, -1, CHUNK))[:, 0].cumsum(1)
    return chunk * CHUNK + _first_beyond(start + inside, target)


def _first_beyond(ends: Tensor, target: Tensor) -> Tensor:
    """Index [N, 1] of the first of `ends` [N, M], which never fall, that is above `target`; of the first of the highest
    if rounding left none."""
    return torch.minimum((ends <= target).sum(1, keepdim=True), (ends < ends[:, -1:]).sum(1, keepdim=True))


def train(run: Run) -> Trained:
    """Train, round the weights to 8 bits, and measure exactly that network."""
    settings = FAST if run.fast else FULL
    data = poems.load_sliver(run.sliver.with_suffix(".tsv")) if run.fast else poems.load()
    tokenizer = characters(data.train, 1 if run.fast else RARE)
    net, device = fit(run, settings, data, tokenizer)
    round_to_bytes(net)
    test = [encode(tokenizer, poem) for poem in data.test]
    trigrams = Trigrams([encode(tokenizer, poem) for poem in data.train], tokenizer.get_vocab_size())
    baseline = trigrams.perplexity(test, BODY_ID)
    written = samples(run, net, tokenizer, 14 if run.fast else SAMPLES)
    kept = [keeps_form(text, form) for form, text in written]
    return Trained(
        title="Tang poem generator",
        lecture="HW7",
        capability="generate",
        task="text generation",
        description="A small GPT that writes poems in the manner of the Tang dynasty, by form, title or first line.",
        graphs=graphs(net),
        preprocessing=GenerationPreprocessing(tokenizer="characters.json", max_tokens=CONTEXT),
        assets={"characters.json": tokenizer.to_str().encode()},
        labels=tuple(FORMS),
        decision=SAMPLING,
        limits=LIMITS,
        metrics=(perplexity(net, test, target=PERPLEXITY_SHARE * baseline, at_most=True), form_respected(kept)),
        baselines=(Baseline(name="trigrams (modified Kneser-Ney)", metric="perplexity", value=baseline),),
        tables=(Table(title="Poems it wrote", columns=("form", "poem"), rows=tuple(written[: len(FORMS)])),),
        data=(poems.SOURCE.entry_of(data),),
        device=device,
        parameters=sum(p.numel() for p in net.parameters()),
    )


def evaluate(client: Client, track: Track) -> Evaluation:
    """The share of poems that keep the form asked for, over the same number of each form but the mixed one."""
    forms = [form for form in FORMS if form != MIXED]
    wanted = [(seed, forms[seed % len(forms)]) for seed in range(SAMPLES)]
    kept = [
        keeps_form("".join(r.text for r in client.generate_text(form=form, seed=seed)), form)
        for seed, form in track(wanted, len(wanted))
    ]
    return Evaluation((form_respected(kept),))


def form_respected(kept: Sequence[bool]) -> Metric:
    """The share of poems that keep their form."""
    return measures.share("form_respected", float(np.mean(kept)), len(kept), target=FORM_TARGET)


@torch.no_grad()
def perplexity(net: PoemGenerator, test: Sequence[list[int]], **target: Any) -> Metric:
    """Of a character of the lines, their ends included; characters of one poem hang together, so whole poems are
    resampled."""
    losses = [batch_loss(net, torch.tensor([ids])) for ids in test]
    nats, characters = np.array([float(loss) for loss, _ in losses]), np.array([float(count) for _, count in losses])

    def of(nats: NDArray[np.float64], characters: NDArray[np.float64]) -> float:
        return float(np.exp(measures.ratio(nats, characters)))

    interval = measures.bootstrap(of, nats, characters)
    value, n = of(nats, characters), int(characters.sum())
    return Metric(name="perplexity", value=value, split="test", n=n, interval=interval, **target)


def characters(train: Sequence[Poem], rare: int) -> Tokenizer:
    """A token for each character that occurs `rare` times, and for each mark."""
    counts = Counter(character for poem in train for character in poem.title + poem.text)
    known = sorted(c for c, count in counts.items() if count >= rare)
    vocabulary = {token: i for i, token in enumerate((*MARKS, *known))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.add_special_tokens([*MARKS])
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s|\p{Cc}|\p{Cf}"), "")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return tokenizer


def encode(tokenizer: Tokenizer, poem: Poem) -> list[int]:
    """Start, form, title, the body's mark, the lines, and the end if this is all of the poem."""
    end = END if poem.complete else ""
    ids: list[int] = tokenizer.encode(f"<{poem.form}>{poem.title}{BODY}{poem.text}{end}", add_special_tokens=False).ids
    return [START_ID, *ids]


def fit(run: Run, settings: Settings, data: Poems, tokenizer: Tokenizer) -> tuple[PoemGenerator, str]:
    """Train on the train split; the validation split is only watched. Returns the network and the device's name."""
    fabric = run.fabric("bf16-mixed")
    net = PoemGenerator(settings, tokenizer.get_vocab_size())
    groups, rate = decayed(net, settings.weight_decay), settings.peak_learning_rate
    model, optimizer = fabric.setup(net, torch.optim.AdamW(groups, rate, betas=(0.9, 0.98), fused=True))
    train = [encode(tokenizer, poem) for poem in data.train]
    validation = batches([encode(tokenizer, poem) for poem in data.validation], settings.batch_tokens)

    def varied(epoch: int) -> list[Tensor]:
        random = np.random.default_rng(run.seed + 1000 * epoch)
        shown = follow([hide(ids, settings.hidden_share, random) for ids in train], settings.follow_share, random)
        return batches(shown, settings.batch_tokens, random)

    def loss(batch: Tensor) -> Tensor:
        total, count = batch_loss(model, batch)
        return total / count

    run.fit(
        fabric,
        model,
        optimizer,
        varied,
        loss,
        epochs=settings.epochs,
        settings=settings,
        rate=lambda progress: min(progress / settings.warm_up, 1 - progress),
        largest_gradient=1.0,
        watch=lambda: {"validation_perplexity": float(np.exp(mean_loss(model, validation, fabric.device)))},
    )
    return net.eval().cpu(), device_name(fabric)


def hide(ids: list[int], share: float, random: np.random.Generator) -> list[int]:
    """A poem without its form, or without its title, or neither, by chance."""
    start, form, body = ids[0], ids[1], ids.index(BODY_ID)
    title = [] if random.random() < share else ids[2:body]
    return [start, *([] if random.random() < share else [form]), *title, *ids[body:]]


def follow(sequences: Sequence[list[int]], share: float, random: np.random.Generator) -> list[list[int]]:
    """Each sequence, or by chance the one before it and then it, if the model can look at both."""
    extended = []
    for before, ids in zip((sequences[-1], *sequences), sequences, strict=False):
        joined = random.random() < share and len(before) + len(ids) <= CONTEXT
        extended.append([*before, *ids] if joined else ids)
    return extended


def batches(
    sequences: Sequence[list[int]], batch_tokens: int, random: np.random.Generator | None = None
) -> list[Tensor]:
    """Sequences of similar length, padded with zeros to a multiple of 8 and one; shuffled if there is a generator."""
    order = sorted(
        range(len(sequences)),
        key=lambda i: (-(-len(sequences[i]) // 8), random.random() if random else 0),
    )
    groups: list[list[int]] = [[]]
    for i in order:
        if groups[-1] and len(sequences[i]) * (len(groups[-1]) + 1) > batch_tokens:
            groups.append([])
        groups[-1].append(i)
    tensors = []
    for batch in groups:
        length = -(-(max(len(sequences[i]) for i in batch) - 1) // 8) * 8 + 1
        tensors.append(torch.tensor([sequences[i] + [0] * (length - len(sequences[i])) for i in batch]))
    return [tensors[int(i)] for i in random.permutation(len(tensors))] if random else tensors


def batch_loss(model: nn.Module, batch: Tensor) -> tuple[Tensor, int]:
    """Negative log-likelihood in nats of the lines and their ends, given form and title; and of how many tokens."""
    wanted = batch[:, 1:]
    counted = ((batch[:, :-1] == BODY_ID).cumsum(1) > 0) & (wanted != 0)
    features = model(batch[:, :-1])[counted]
    weight = next(p for name, p in model.named_parameters() if name.endswith("tokens.weight"))
    loss = F.cross_entropy(F.linear(features, weight).float(), wanted[counted], reduction="sum")
    return loss, int(counted.sum())


@torch.no_grad()
def mean_loss(model: nn.Module, part: Sequence[Tensor], device: torch.device) -> float:
    """Nats for each character of the lines, their ends included."""
    model.eval()
    losses = [batch_loss(model, batch.to(device)) for batch in part]
    return sum(float(loss) for loss, _ in losses) / sum(count for _, count in losses)


@torch.no_grad()
def samples(run: Run, net: PoemGenerator, tokenizer: Tokenizer, count: int) -> list[tuple[str, str]]:
    """Forms with poems drawn as the server draws them, each form as often, but the mixed one."""
    forms = [form for form in FORMS if form != MIXED]
    random = torch.Generator().manual_seed(run.seed)
    wanted = [forms[i % len(forms)] for i in range(count)]
    tokens = torch.tensor([[START_ID, tokenizer.token_to_id(f"<{form}>"), BODY_ID] for form in wanted])
    top_k, top_p = torch.zeros(count, 1), torch.full((count, 1), SAMPLING["top_p"])
    for _ in run.track(range(CONTEXT - 3), f"{run.name} samples", CONTEXT - 3):
        logits = net.logits(net(tokens)[:, -1]) / SAMPLING["temperature"]
        chosen = draw(logits, top_k, top_p, torch.rand(count, 1, generator=random))
        chosen[(tokens == END_ID).any(1)] = END_ID
        tokens = torch.cat([tokens, chosen], 1)
        if bool((tokens == END_ID).any(1).all()):
            break
    return [(form, tokenizer.decode(row).replace(" ", "")) for form, row in zip(wanted, tokens.tolist(), strict=True)]


@torch.no_grad()
def restore(weights: Weights) -> PoemGenerator:
    """The network with the weights in its exported graph."""
    net = PoemGenerator(FULL, len(weights["tokens.weight"]))
    for name, value in net.state_dict().items():  # sines too, which another CPU rounds otherwise
        value.copy_(torch.from_numpy(weights[name].copy()))
    return net.eval()


def graphs(net: PoemGenerator) -> dict[str, Graph]:
    """Prompt and step in one."""
    n, heads, size = 3, net.layers[0].attention.heads, net.tokens.embedding_dim
    names = [f"{part}_{i}" for i in range(len(net.layers)) for part in ("key", "value")]
    inputs = {
        "tokens": torch.randint(len(MARKS), net.tokens.num_embeddings, (n, 6)),
        "length": torch.tensor([[3], [0], [8]]),
        "temperature": torch.tensor([[1.0], [0.7], [1.3]]),
        "top_k": torch.tensor([[0.0], [5.0], [50.0]]),
        "top_p": torch.tensor([[0.9], [1.0], [0.5]]),
        "penalty": torch.tensor([[1.0], [1.2], [1.1]]),
        "noise": torch.tensor([[0.2], [0.5], [0.7]]),
        "seen": torch.rand(n, net.tokens.num_embeddings) < 0.01,
    } | {name: torch.randn(n, heads, 8, size // heads) for name in names}
    caches: tuple[int, ...] = (2,)
    step = Graph(
        Step(net),
        inputs,
        ("next", "log_probability", *(f"new_{name}" for name in names)),
        dynamic_axes={"tokens": (1,)} | dict.fromkeys(names, caches),
        max_batch_size=MAX_BATCH,
    )
    return {"forward": step}
