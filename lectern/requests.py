"""Request messages from Python values: one pure function per RPC, shared by the sync and the asyncio client.

Each raises `TypeError` or `ValueError` for values of the wrong kind and `OSError` for a file that cannot be read.
What a value must be beyond its type (a readable image, the right number of features) is the server's to say.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.message import Message
from numpy.typing import ArrayLike

from lectern.channel import MAX_CONTENT_BYTES
from lectern.v1 import (
    act_pb2,
    answer_pb2,
    classify_pb2,
    defend_pb2,
    detect_anomaly_pb2,
    explain_pb2,
    generate_pb2,
    model_pb2,
    predict_pb2,
    translate_pb2,
)

File: TypeAlias = bytes | str | os.PathLike[str]
"""The bytes of a file, or its path."""

Files: TypeAlias = File | Sequence[File]

Samples: TypeAlias = tuple[ArrayLike, int]
"""Mono int16 samples `[T]` and their rate in Hz, as `soundfile.read(path, dtype="int16")` returns them."""

Clip: TypeAlias = File | Samples
Clips: TypeAlias = Clip | Sequence[Clip]

Piece: TypeAlias = ArrayLike | bytes
"""Mono int16 samples `[T]`, or their little-endian bytes, that follow those of the piece before."""

DEFAULT_STEPS = 8
"""How many images lie on the path between two seeds."""
FewShotMethod: TypeAlias = Literal["", "prototypes", "maml", "first_order_maml"]
ExplanationMethod: TypeAlias = Literal[
    "saliency",
    "gradient_times_input",
    "smooth_grad",
    "integrated_gradients",
    "grad_cam",
    "occlusion",
    "lime",
    "rise",
    "kernel_shap",
    "attention",
]
AttackMethod: TypeAlias = Literal["fgsm", "i_fgsm", "mi_fgsm", "di_mi_fgsm", "pgd", "square"]
DefenceKind: TypeAlias = Literal[
    "gaussian", "median", "jpeg", "bit_depth", "resize_and_pad", "autoencoder", "robust_model"
]
Defence: TypeAlias = DefenceKind | defend_pb2.Defence
"""By name, or with parameters: `defence("jpeg", quality=30)`."""
Baseline: TypeAlias = Literal["", "black", "white", "mean", "blur"]


def read_files(files: Files) -> list[bytes]:
    """The contents of one file or several, whose sizes are looked at before they are read.

    Raises:
        ValueError: together they are larger than a request can be.
    """
    left, contents = MAX_CONTENT_BYTES, []
    for file in _listed(files):
        size = len(file) if isinstance(file, bytes) else Path(file).stat().st_size
        if size > left:
            name = "the bytes" if isinstance(file, bytes) else os.fspath(file)
            raise ValueError(
                f"{name}: {size:,} bytes are too many; the files of one request may have {MAX_CONTENT_BYTES:,}"
            )
        contents.append(file if isinstance(file, bytes) else Path(file).read_bytes())
        left -= len(contents[-1])
    return contents


def classify_image(images: Files, model: str, version: int, top_k: int) -> classify_pb2.ClassifyImageRequest:
    return classify_pb2.ClassifyImageRequest(model=model, version=version, images=read_files(images), top_k=top_k)


def stream_classify_image(
    images: Files, model: str, version: int, top_k: int
) -> classify_pb2.StreamClassifyImageRequest:
    return classify_pb2.StreamClassifyImageRequest(model=model, version=version, images=read_files(images), top_k=top_k)


def classify_text(texts: str | Sequence[str], model: str, version: int, top_k: int) -> classify_pb2.ClassifyTextRequest:
    texts = [texts] if isinstance(texts, str) else texts
    return classify_pb2.ClassifyTextRequest(model=model, version=version, texts=texts, top_k=top_k)


def answer(
    questions: str | Sequence[str],
    context: str,
    model: str,
    version: int,
    top_k: int,
    no_answer_threshold: float | None,
) -> answer_pb2.AnswerRequest:
    return answer_pb2.AnswerRequest(
        model=model,
        version=version,
        context=context,
        questions=[questions] if isinstance(questions, str) else questions,
        top_k=top_k,
        no_answer_threshold=no_answer_threshold,
    )


def classify_audio(clips: Clips, **fields: Any) -> classify_pb2.ClassifyAudioRequest:
    listed: Sequence[Any] = [clips] if isinstance(clips, (bytes, str, os.PathLike, tuple)) else clips
    return classify_pb2.ClassifyAudioRequest(clips=[_clip(clip) for clip in listed], **fields)


class StreamClassifyAudio:
    """Makes the messages of one stream from pieces of audio; the first says what is asked for.

    Args:
        sample_rate: Hz.
    """

    def __init__(self, sample_rate: int, model: str, version: int) -> None:
        self._settings: dict[str, Any] = {"sample_rate": sample_rate, "model": model, "version": version}

    def __call__(self, piece: Piece) -> classify_pb2.StreamClassifyAudioRequest:
        settings, self._settings = self._settings, {}
        return classify_pb2.StreamClassifyAudioRequest(
            samples=piece if isinstance(piece, bytes) else _pcm16(piece), **settings
        )


def verify_speaker(
    first: Clip, second: Clip, model: str, version: int, threshold: float | None
) -> classify_pb2.VerifySpeakerRequest:
    return classify_pb2.VerifySpeakerRequest(
        model=model, version=version, first=_clip(first), second=_clip(second), threshold=threshold
    )


def classify_few_shot(
    support: Mapping[str, Files],
    queries: Files,
    model: str,
    version: int,
    top_k: int,
    method: FewShotMethod,
    steps: int,
) -> classify_pb2.ClassifyFewShotRequest:
    examples = [
        classify_pb2.LabelledImage(label=label, image=image)
        for label, images in support.items()
        for image in read_files(images)
    ]
    return classify_pb2.ClassifyFewShotRequest(
        model=model,
        version=version,
        support=examples,
        queries=read_files(queries),
        top_k=top_k,
        method=few_shot_method(method),
        steps=steps,
    )


def few_shot_method(name: str) -> classify_pb2.FewShotMethod:
    """The enum's value for `prototypes`, `maml`, `first_order_maml`, or nothing."""
    return classify_pb2.FewShotMethod.Value(f"FEW_SHOT_METHOD_{name.upper() or 'UNSPECIFIED'}")  # type: ignore[return-value]


def predict(rows: ArrayLike, model: str, version: int) -> predict_pb2.PredictRequest:
    return predict_pb2.PredictRequest(
        model=model, version=version, rows=[predict_pb2.FeatureRow(features=row) for row in _rows(rows, "rows")]
    )


def detect_anomaly(images: Files, **fields: Any) -> detect_anomaly_pb2.DetectAnomalyRequest:
    return detect_anomaly_pb2.DetectAnomalyRequest(images=read_files(images), **fields)


def stream_detect_anomaly(images: Files, **fields: Any) -> detect_anomaly_pb2.StreamDetectAnomalyRequest:
    return detect_anomaly_pb2.StreamDetectAnomalyRequest(images=read_files(images), **fields)


def act(observations: ArrayLike, model: str, version: int, sample: bool, seed: int) -> act_pb2.ActRequest:
    rows = _rows(observations, "observations")
    return act_pb2.ActRequest(
        model=model,
        version=version,
        observations=[act_pb2.Observation(features=row) for row in rows],
        sample=sample,
        seed=seed,
    )


def run_episode(
    seed: int, model: str, version: int, max_steps: int, sample: bool, frame_every: int, frame_width: int
) -> act_pb2.RunEpisodeRequest:
    return act_pb2.RunEpisodeRequest(
        model=model,
        version=version,
        seed=seed,
        max_steps=max_steps,
        sample=sample,
        frame_every=frame_every,
        frame_width=frame_width,
    )


def generate_images(
    seed: int | None,
    count: int | None,
    to_seed: int | None,
    steps: int | None,
    truncation: float | None,
    label: str,
    contact_sheet: bool,
    model: str,
    version: int,
) -> generate_pb2.GenerateImagesRequest:
    layout = generate_pb2.IMAGE_LAYOUT_CONTACT_SHEET if contact_sheet else generate_pb2.IMAGE_LAYOUT_SINGLE
    request = generate_pb2.GenerateImagesRequest(
        model=model, version=version, seed=seed, truncation=truncation, label=label, layout=layout
    )
    if to_seed is not None:
        if count is not None:
            raise ValueError("count is of independent images, to_seed of a path between two: give one of them")
        steps = DEFAULT_STEPS if steps is None else steps
        request.interpolation.CopyFrom(generate_pb2.Interpolation(to_seed=to_seed, steps=steps))
    elif steps is not None:
        raise ValueError("steps is how many images lie on a path: give to_seed, where it ends")
    elif count is not None:
        request.count = count
    return request


def transform_image(image: File, style: str, model: str, version: int) -> generate_pb2.TransformImageRequest:
    (content,) = read_files(image)
    return generate_pb2.TransformImageRequest(model=model, version=version, image=content, style=style)


def explained_input(
    image: File | None = None,
    row: ArrayLike | None = None,
    text: str | None = None,
    question: str = "",
    audio: Clip | None = None,
    span: tuple[float, float] = (0, 0),
) -> explain_pb2.ExplainedInput:
    if sum(given is not None for given in (image, row, text, audio)) != 1:
        raise ValueError("give an image, a row, a text or audio, and one of them")
    if question and text is None:
        raise ValueError("a question is asked of a text")
    if any(span) and audio is None:
        raise ValueError("a span is of audio")
    if audio is not None:
        explained = explain_pb2.ExplainedAudio(clip=_clip(audio), start_seconds=span[0], end_seconds=span[1])
        return explain_pb2.ExplainedInput(audio=explained)
    if text is not None:
        return explain_pb2.ExplainedInput(text=explain_pb2.ExplainedText(text=text, question=question))
    if image is not None:
        return explain_pb2.ExplainedInput(image=read_files(image)[0])
    (features,) = _rows(row, "row")  # type: ignore[arg-type]
    return explain_pb2.ExplainedInput(row=explain_pb2.ExplainedRow(features=features))


def explain(
    given: explain_pb2.ExplainedInput,
    method: ExplanationMethod,
    target: int | str | None = None,
    seed: int = 0,
    model: str = "",
    version: int = 0,
    **parameters: Any,
) -> explain_pb2.ExplainRequest:
    return explain_pb2.ExplainRequest(
        model=model,
        version=version,
        input=given,
        method=explanation_method(method, **parameters),
        seed=seed,
        **_chosen_target(target),
    )


def compare(
    given: explain_pb2.ExplainedInput,
    methods: Sequence[ExplanationMethod | explain_pb2.ExplanationMethod],
    target: int | str | None,
    seed: int,
    model: str,
    version: int,
) -> explain_pb2.CompareRequest:
    chosen = [explanation_method(method) if isinstance(method, str) else method for method in methods]
    return explain_pb2.CompareRequest(
        model=model, version=version, input=given, methods=chosen, seed=seed, **_chosen_target(target)
    )


def explain_model(
    classes: Sequence[str] | None,
    layer: str,
    units: Sequence[int],
    steps: int | None,
    generator: str,
    seed: int,
    model: str,
    version: int,
) -> explain_pb2.ExplainModelRequest:
    request = explain_pb2.ExplainModelRequest(model=model, version=version, seed=seed)
    if layer:
        if classes is not None or generator:
            raise ValueError("a generator goes with classes, units go with a layer: give one or the other")
        request.filter_visualisation.CopyFrom(explain_pb2.FilterVisualisation(layer=layer, units=units, steps=steps))
    elif classes is not None or generator:
        request.activation_maximisation.CopyFrom(
            explain_pb2.ActivationMaximisation(labels=classes or (), steps=steps, generator=generator)
        )
    else:
        request.probes.SetInParent()
    return request


def explanation_method(name: ExplanationMethod, **parameters: Any) -> explain_pb2.ExplanationMethod:
    """A method with its parameters; those that are None are left to the server.

    Raises:
        ValueError: there is no such method, or it has no such parameter.
    """
    return _one_of(explain_pb2.ExplanationMethod, "method", name, parameters)


def attack_method(name: AttackMethod, **parameters: Any) -> defend_pb2.AttackMethod:
    """An attack with its parameters, as in defend.proto, e.g. `epsilon=4 / 255`; `norm` is `linf` or `l2`. Those that
    are None are left to the server.

    Raises:
        ValueError: there is no such attack, or it has no such parameter.
    """
    return _one_of(defend_pb2.AttackMethod, "attack", name, parameters)


def defence(name: DefenceKind, **parameters: Any) -> defend_pb2.Defence:
    """A defence with its parameters, as in defend.proto; those that are None are left to the server.

    Raises:
        ValueError: there is no such defence, or it has no such parameter.
    """
    return _one_of(defend_pb2.Defence, "defence", name, parameters)


def attack(
    images: Files,
    method: AttackMethod | defend_pb2.AttackMethod,
    labels: str | Sequence[str],
    target: int | str | None,
    gradient_of: str,
    defences: Sequence[Defence],
    parameters: Mapping[str, Any],
    **fields: Any,
) -> defend_pb2.AttackRequest:
    return defend_pb2.AttackRequest(
        images=read_files(images),
        labels=[labels] if isinstance(labels, str) else labels,
        method=attack_method(method, **parameters) if isinstance(method, str) else method,
        gradient_of=gradient_of,
        defences=_defences(defences),
        **_chosen_target(target),
        **fields,
    )


def defend(
    images: Files, defences: Sequence[Defence], smoothing: Mapping[str, Any] | None, **fields: Any
) -> defend_pb2.DefendRequest:
    return defend_pb2.DefendRequest(
        images=read_files(images),
        defences=_defences(defences),
        smoothing=None if smoothing is None else defend_pb2.RandomisedSmoothing(**smoothing),
        **fields,
    )


def evaluated_attack(
    name: AttackMethod, *, gradient_of: str = "", aware: bool = False, **parameters: Any
) -> defend_pb2.EvaluatedAttack:
    """An attack of a table of robustness; see `attack_method` and defend.proto.

    Raises:
        ValueError: there is no such attack, or it has no such parameter.
    """
    method = attack_method(name, **parameters)
    return defend_pb2.EvaluatedAttack(method=method, gradient_of=gradient_of, aware=aware)


def evaluate_robustness(
    images: Mapping[str, Files],
    attacks: Sequence[AttackMethod | defend_pb2.EvaluatedAttack],
    defences: Sequence[Defence | Sequence[Defence]],
    models: str | Sequence[str],
    seed: int,
) -> defend_pb2.EvaluateRobustnessRequest:
    chains = [[chain] if isinstance(chain, (str, defend_pb2.Defence)) else chain for chain in defences]
    return defend_pb2.EvaluateRobustnessRequest(
        models=[defend_pb2.EvaluatedModel(model=name) for name in ([models] if isinstance(models, str) else models)],
        images=[
            defend_pb2.TestImage(image=image, label=label)
            for label, files in images.items()
            for image in read_files(files)
        ],
        attacks=[evaluated_attack(chosen) if isinstance(chosen, str) else chosen for chosen in attacks],
        defences=[defend_pb2.EvaluatedDefence(chain=_defences(chain)) for chain in chains],
        seed=seed,
    )


def generate_text(**fields: Any) -> generate_pb2.GenerateTextRequest:
    return generate_pb2.GenerateTextRequest(**fields)


def translate(
    texts: str | Sequence[str],
    model: str,
    version: int,
    beam_size: int,
    length_penalty: float | None,
    count: int,
    alignment: bool,
) -> translate_pb2.TranslateRequest:
    return translate_pb2.TranslateRequest(
        model=model,
        version=version,
        texts=[texts] if isinstance(texts, str) else texts,
        beam_size=beam_size,
        length_penalty=length_penalty,
        count=count,
        alignment=alignment,
    )


def stream_translate(
    text: str, model: str, version: int, beam_size: int, length_penalty: float | None
) -> translate_pb2.StreamTranslateRequest:
    return translate_pb2.StreamTranslateRequest(
        model=model, version=version, text=text, beam_size=beam_size, length_penalty=length_penalty
    )


def list_models(include_cards: bool) -> model_pb2.ListModelsRequest:
    return model_pb2.ListModelsRequest(include_cards=include_cards)


def get_model(model: str, version: int) -> model_pb2.GetModelRequest:
    return model_pb2.GetModelRequest(model=model, version=version)


def _chosen_target(target: int | str | None) -> dict[str, Any]:
    if target is None:
        return {}
    return {"target_label": target} if isinstance(target, str) else {"target_index": target}


M = TypeVar("M", bound=Message)


def _one_of(message: type[M], thing: str, name: str, parameters: Mapping[str, Any]) -> M:
    """A message whose field `name`, one of its kinds, has these parameters.

    Raises:
        ValueError: there is no such kind, or it has no such parameter.
    """
    kinds = message.DESCRIPTOR.fields_by_name
    if name not in kinds:
        raise ValueError(f"there is no {thing} {name!r}; there are: {', '.join(kinds)}")
    given = {key: value for key, value in parameters.items() if value is not None}
    made = message()
    chosen = getattr(made, name)
    known = chosen.DESCRIPTOR.fields_by_name
    if unknown := sorted(given.keys() - known.keys()):
        raise ValueError(f"{name} has no {unknown[0]!r}; it has: {', '.join(known) or 'no parameters'}")
    chosen.SetInParent()
    for key, value in given.items():
        enum = known[key].enum_type
        setattr(chosen, key, _enum_value(key, enum, value) if enum else value)
    return made


def _enum_value(field: str, enum: EnumDescriptor, name: str) -> int:
    """The number of an enum's value from its name without the enum's, e.g. `l2` of NORM_L2; empty = unspecified."""
    values = {v.name.partition("_")[2].lower(): v.number for v in enum.values}
    if (name or "unspecified") not in values:
        raise ValueError(f"{field} is {name!r}; it may be: {', '.join(list(values)[1:])}")
    return values[name or "unspecified"]


def _defences(given: Sequence[Defence]) -> list[defend_pb2.Defence]:
    return [defence(one) if isinstance(one, str) else one for one in given]


def _rows(values: ArrayLike, name: str) -> list[list[float]]:
    """One row `[F]` or rows `[N, F]` as lists."""
    table = np.asarray(values, dtype=np.float32)
    if table.ndim not in (1, 2):
        raise ValueError(f"{name} must be one row [F] or rows [N, F], not an array of {table.ndim} dimensions")
    if table.ndim == 1:
        table = table.reshape(-1, len(table)) if len(table) else table.reshape(0, 0)  # `[]` is no rows
    rows: list[list[float]] = table.tolist()
    return rows


def _listed(files: Files) -> Sequence[File]:
    return [files] if isinstance(files, (bytes, str, os.PathLike)) else files


def _clip(clip: Clip) -> classify_pb2.AudioClip:
    if not isinstance(clip, tuple):
        return classify_pb2.AudioClip(encoded=read_files(clip)[0])
    samples, sample_rate = clip
    pcm16 = classify_pb2.Pcm16Audio(samples=_pcm16(samples), sample_rate=sample_rate)
    return classify_pb2.AudioClip(pcm16=pcm16)


def _pcm16(values: ArrayLike) -> bytes:
    samples = np.asarray(values)
    if samples.dtype != np.int16 or samples.ndim != 1:
        raise ValueError(f"samples must be int16 [T], not {samples.dtype} {list(samples.shape)}")
    return samples.astype("<i2").tobytes()
