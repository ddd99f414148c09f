"""Explanations, attacks and defences by name, with parameters: `defence("jpeg", quality=30)`.

A parameter that is None is left out, so that the server's default applies. The protos list every parameter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypeVar

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.message import Message

from lectern.names import meant, unknown
from lectern.v1 import classify_pb2, defend_pb2, explain_pb2, translate_pb2

Script: TypeAlias = Literal["", "hant", "hans"]
Style: TypeAlias = Literal["archaic", "modern"]
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
DefenceMethod: TypeAlias = Literal[
    "gaussian", "median", "jpeg", "bit_depth", "resize_and_pad", "autoencoder", "robust_model"
]
Defence: TypeAlias = DefenceMethod | defend_pb2.Defence
"""By name, or with parameters: `defence("jpeg", quality=30)`."""


def few_shot_method(name: str) -> classify_pb2.FewShotMethod:
    """The value of the enum for `prototypes`, `maml`, `first_order_maml` or an empty name."""
    return classify_pb2.FewShotMethod.Value(f"FEW_SHOT_METHOD_{name.upper() or 'UNSPECIFIED'}")  # type: ignore[return-value]


def script_of(name: str) -> translate_pb2.Script:
    """The value of the enum for `hant`, `hans` or an empty name.

    Raises:
        ValueError: there is no such script.
    """
    return _enum_number("script", translate_pb2.Script.DESCRIPTOR, name)  # type: ignore[return-value]


def style_of(name: str) -> translate_pb2.Style:
    """The value of the enum for `archaic` or `modern`.

    Raises:
        ValueError: there is no such style.
    """
    return _enum_number("style", translate_pb2.Style.DESCRIPTOR, name)  # type: ignore[return-value]


def explanation_method(name: ExplanationMethod, **parameters: Any) -> explain_pb2.ExplanationMethod:
    """An explanation method with its parameters, as in explain.proto.

    Raises:
        ValueError: there is no such method, or it has no such parameter.
    """
    return _one_of(explain_pb2.ExplanationMethod, "method", name, parameters)


def attack_method(name: AttackMethod, **parameters: Any) -> defend_pb2.AttackMethod:
    """An attack with its parameters, as in defend.proto, e.g. `epsilon=4 / 255`; `norm` is `linf` or `l2`.

    Raises:
        ValueError: there is no such attack, or it has no such parameter.
    """
    return _one_of(defend_pb2.AttackMethod, "attack", name, parameters)


def evaluated_attack(
    name: AttackMethod, *, gradient_of: str = "", aware: bool = False, **parameters: Any
) -> defend_pb2.EvaluatedAttack:
    """An attack for `evaluate_robustness`.

    Args:
        gradient_of: the model whose gradients the attack follows; empty = the attacked one.
        aware: whether the attack knows the defences.
        parameters: as of `attack_method`.

    Raises:
        ValueError: there is no such attack, or it has no such parameter.
    """
    method = attack_method(name, **parameters)
    return defend_pb2.EvaluatedAttack(method=method, gradient_of=gradient_of, aware=aware)


def defence(name: DefenceMethod, **parameters: Any) -> defend_pb2.Defence:
    """A defence with its parameters, as in defend.proto.

    Raises:
        ValueError: there is no such defence, or it has no such parameter.
    """
    return _one_of(defend_pb2.Defence, "defence", name, parameters)


def defence_chain(defences: Defence | Sequence[Defence]) -> list[defend_pb2.Defence]:
    """One defence or several, each by name or with parameters, as messages."""
    chain = [defences] if isinstance(defences, (str, defend_pb2.Defence)) else defences
    return [defence(link) if isinstance(link, str) else link for link in chain]


def target_field(target: int | str | None) -> dict[str, Any]:
    """The field of a request that names a class or output, by its name or index; None = no field."""
    if target is None:
        return {}
    return {"target_label": target} if isinstance(target, str) else {"target_index": target}


M = TypeVar("M", bound=Message)


def _one_of(message_type: type[M], kind: str, name: str, parameters: Mapping[str, Any]) -> M:
    """A message of `message_type` whose oneof is the field `name`, with these parameters.

    Raises:
        ValueError: there is no such field, or it has no such parameter.
    """
    names = message_type.DESCRIPTOR.fields_by_name
    if name not in names:
        raise ValueError(unknown(kind, name, names))
    values = {key: value for key, value in parameters.items() if value is not None}
    message = message_type()
    method = getattr(message, name)
    fields = method.DESCRIPTOR.fields_by_name
    if wrong := sorted(values.keys() - fields.keys()):
        has = ", ".join(fields) or "no parameters"
        raise ValueError(f"{name} has no {wrong[0]!r}{meant(wrong[0], fields)}; it has: {has}")
    method.SetInParent()
    for key, value in values.items():
        enum = fields[key].enum_type
        setattr(method, key, _enum_number(key, enum, value) if enum else value)
    return message


def _enum_number(field: str, enum: EnumDescriptor, name: str) -> int:
    """The number of an enum's value by its name without the enum's, e.g. `l2` for NORM_L2; empty = unspecified."""
    numbers = {value.name.partition("_")[2].lower(): value.number for value in enum.values}
    if (name or "unspecified") not in numbers:
        raise ValueError(f"{field} is {name!r}; it may be: {', '.join(list(numbers)[1:])}")
    return numbers[name or "unspecified"]
