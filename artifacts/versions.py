"""Which versions of a model are served: what the version policy of its `config.pbtxt` says, and how it is changed.

Training and servers, Triton among them, read it alike.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from google.protobuf import text_format

from artifacts.card import Card
from inference.model_config_pb2 import ModelConfig, ModelVersionPolicy

CONFIG = "config.pbtxt"
# Triton's name for the threads of one run, a parameter of its ONNX Runtime backend.
INTRA_OP_THREADS = "intra_op_thread_count"
# The field as it is written: braces around one nested message.
_POLICY = re.compile(r"\bversion_policy\s*:?\s*\{(?:[^{}]|\{[^{}]*\})*\}[ \t]*\n?")


class VersionError(ValueError):
    """There is no such model or version, or what describes it cannot be read; the message says which."""


def versions_to_serve(config: ModelConfig, present: Iterable[int]) -> tuple[list[int], int]:
    """Candidates of `present` by the version policy, newest first, and how many of them to serve."""
    newest_first = sorted(present, reverse=True)
    policy = config.version_policy
    match policy.WhichOneof("policy_choice"):
        case "all":
            return newest_first, len(newest_first)
        case "specific":
            chosen = [v for v in newest_first if v in set(policy.specific.versions)]
            return chosen, len(chosen)
        case _:
            return newest_first, policy.latest.num_versions or 1


def present_versions(model: Path) -> list[int]:
    """The versions in a model's directory, newest first."""
    return sorted((int(p.name) for p in model.glob("[1-9]*") if p.name.isdigit()), reverse=True)


def served_versions(model: Path) -> list[int]:
    """The versions of a model that are served, newest first; the first answers a request that names none.

    Raises:
        VersionError: its configuration cannot be read.
    """
    candidates, count = versions_to_serve(read_config(model), present_versions(model))
    return candidates[:count]


def read_card(model: Path, version: int = 0) -> Card:
    """The card of a version of a model; 0 = the one that answers a request that names none.

    Raises:
        VersionError: there is no such version, or its card cannot be read.
    """
    present = present_versions(model)
    if not present:
        raise VersionError(f"{model.parent} has no {model.name}: train it first, `lectern train {model.name}`")
    if not version and not (served := served_versions(model)):
        raise VersionError(f"{model}/{CONFIG} asks for versions of which there is none; there are: {sorted(present)}")
    version = version or served[0]
    if version not in present:
        raise VersionError(f"{model.parent} has no version {version} of {model.name}; it has: {sorted(present)}")
    try:
        return Card.read(model / str(version) / "card.json")
    except (OSError, ValueError) as error:
        raise VersionError(f"the card of {model.name} version {version} cannot be read: {error}") from error


def served_cards(repository: Path) -> list[Card]:
    """The card of each model's served version, in the order of the lectures; a directory without cards is a graph more.

    Raises:
        VersionError: a card or a configuration cannot be read.
    """
    cards = (read_card(model) for model in repository.iterdir() if any(model.glob("*/card.json")))
    return sorted(cards, key=lambda card: (int(re.sub(r"\D", "", card.lecture) or 0), card.name))


def read_config(directory: Path) -> ModelConfig:
    """Triton's configuration of the model in `directory`.

    Raises:
        VersionError: it cannot be read.
    """
    try:
        content = (directory / CONFIG).read_bytes()
    except OSError as error:
        raise VersionError(f"{CONFIG} cannot be read: {error}") from error
    return parse_config(content)


def parse_config(content: bytes) -> ModelConfig:
    """Triton's configuration of a model, from the bytes of its `config.pbtxt`.

    Raises:
        VersionError: it cannot be read.
    """
    try:
        return text_format.Parse(content.decode(), ModelConfig())
    except (UnicodeDecodeError, text_format.ParseError) as error:
        raise VersionError(f"{CONFIG} cannot be read: {error}") from error


def promote(repository: Path, name: str, versions: Collection[int] = ()) -> list[int]:
    """Serve these versions of a model, or the newest, as many as are served now; returns them, newest first.

    Raises:
        VersionError: one of them is not there, or cannot be read.
    """
    model = repository / name
    served = served_versions(model) if present_versions(model) else []
    chosen = sorted(set(versions), reverse=True) or present_versions(model)[: len(served) or 1]
    graphs = own_graphs(read_card(model, chosen[0] if chosen else 0))
    for version in chosen[1:]:
        read_card(model, version)
    if versions:
        serve_only(repository, graphs, chosen)
    else:
        serve_newest(repository, graphs, len(chosen))
    return chosen


def own_graphs(card: Card) -> list[str]:
    """Names of a card's graphs that are no other model's, the one with the card last."""
    names = {card.name if role == "forward" else f"{card.name}_{role}" for role in card.graphs}
    return sorted(names & set(card.graphs.values()), key=lambda name: (name == card.name, name))


def serve_only(repository: Path, graphs: Sequence[str], versions: Collection[int]) -> None:
    """Have servers answer with these versions of a model's graphs, whatever newer ones there will be."""
    for model in (repository / graph for graph in graphs):
        if chosen := [v for v in present_versions(model) if v in versions]:
            _configure(model, chosen[0], ModelVersionPolicy(specific={"versions": sorted(chosen)}))


def serve_newest(repository: Path, graphs: Sequence[str], count: int) -> None:
    """Have servers answer with at least the newest `count` versions of a model's graphs."""
    for model in (repository / graph for graph in graphs):
        policy = read_config(model).version_policy
        choice = policy.WhichOneof("policy_choice")
        if choice == "specific" or (choice != "all" and max(1, policy.latest.num_versions) < count):
            policy = ModelVersionPolicy(latest={"num_versions": count} if count > 1 else None)
        _configure(model, present_versions(model)[0], policy)


def place(staged: Path, model: Path, version: int) -> None:
    """Rename a graph's directory into place as a version, and its configuration too if the model has none.

    A model keeps the one that it has, with what an operator wrote there. One that tells of other inputs or outputs
    stays beside its graph until that version is promoted.

    Raises:
        OSError: the version is there already. VersionError: a configuration cannot be read.
    """
    model.mkdir(exist_ok=True)
    if not (model / CONFIG).exists():
        (staged / CONFIG).replace(model / CONFIG)
    elif same_tensors(read_config(staged), read_config(model)):
        (staged / CONFIG).unlink()
    # mkdtemp's directories are private; a served repository is readable.
    staged.chmod(0o755)
    staged.rename(model / str(version))


def same_tensors(first: ModelConfig, second: ModelConfig) -> bool:
    """Whether both describe graphs with the same inputs and outputs."""
    batched = [bool(config.max_batch_size) for config in (first, second)]
    return first.input == second.input and first.output == second.output and batched[0] == batched[1]


def _configure(model: Path, version: int, policy: ModelVersionPolicy) -> None:
    """Set the policy and keep the rest as it is written, unless `version` has other inputs or outputs: then the
    configuration beside its graph takes the place of the one that was, which goes beside the graphs that it is of."""
    config = read_config(model)
    directory = model / str(version)
    if (directory / CONFIG).is_file() and not same_tensors(own := read_config(directory), config):
        for other in present_versions(model):
            if not (model / str(other) / CONFIG).exists():
                shutil.copy(model / CONFIG, model / str(other))
        own.version_policy.CopyFrom(policy)
        text = text_format.MessageToString(own)
    elif config.version_policy != policy:
        text = _with_policy((model / CONFIG).read_text(), config, policy)
    else:
        return
    (partial := model / f".{CONFIG}").write_text(text)
    partial.replace(model / CONFIG)


def _with_policy(text: str, config: ModelConfig, policy: ModelVersionPolicy) -> str:
    """The `text` of a configuration with another policy; comments stay, unless the old one is too oddly written."""
    config.ClearField("version_policy")
    edited = _POLICY.sub("", text)
    if policy.WhichOneof("policy_choice"):
        config.version_policy.CopyFrom(policy)
        field = text_format.MessageToString(ModelConfig(version_policy=policy))
        edited = f"{edited.rstrip()}\n{field}"
    try:
        kept = text_format.Parse(edited, ModelConfig()) == config
    except text_format.ParseError:
        kept = False
    return edited if kept else text_format.MessageToString(config)
