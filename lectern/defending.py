"""The methods of `lectern.Client` for DefendService."""

# protoc generates service stubs without types:
# mypy: disable-error-code="no-any-return, no-untyped-call"

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from lectern import requests
from lectern.calls import Calls
from lectern.requests import AttackMethod, Defence, Files
from lectern.v1 import defend_pb2, defend_pb2_grpc


class DefendCalls(Calls):
    """Attacks on image classifiers, defences, and how well these hold."""

    @cached_property
    def _defend(self) -> defend_pb2_grpc.DefendServiceStub:
        return defend_pb2_grpc.DefendServiceStub(self._channel)

    def attack(
        self,
        images: Files,
        method: AttackMethod | defend_pb2.AttackMethod = "pgd",
        *,
        labels: str | Sequence[str] = (),
        target: int | str | None = None,
        gradient_of: str = "",
        defences: Sequence[Defence] = (),
        draws: int | None = None,
        seed: int = 0,
        include_values: bool = False,
        include_picture: bool = False,
        model: str = "",
        version: int = 0,
        timeout: float | None = None,
        **parameters: Any,
    ) -> defend_pb2.AttackResponse:
        """Change encoded images a little so that a model errs; `results` has one per image. Servers refuse unless told
        to allow it.

        Args:
            labels: the true class of each image; empty = what the model says of it.
            target: the class that every image shall be taken for, by name or index.
            gradient_of: another model whose gradients are followed, e.g. `proxy_ensemble`.
            defences: what the attack has to pass, by name or as `lectern.requests.defence(name, ...)`.
            draws: of random defences, for each gradient.
            include_values: whether results carry float32 values before rounding.
            parameters: of the method, as in defend.proto, e.g. `epsilon=4 / 255`; `norm` is `linf` or `l2`.
        """
        request = requests.attack(
            images,
            method,
            labels,
            target,
            gradient_of,
            defences,
            parameters,
            draws=draws,
            seed=seed,
            include_values=include_values,
            include_picture=include_picture,
            model=model,
            version=version,
        )
        return self._call(self._defend.Attack, request, timeout)

    def defend(
        self,
        images: Files,
        defences: Sequence[Defence] = (),
        *,
        smoothing: Mapping[str, Any] | None = None,
        false_positive_rate: float | None = None,
        seed: int = 0,
        model: str = "",
        version: int = 0,
        timeout: float | None = None,
    ) -> defend_pb2.DefendResponse:
        """Clean encoded images before a model sees them, and say whether they look attacked; `results` has one per
        image.

        Args:
            defences: in their order, by name or as `lectern.requests.defence(name, ...)`.
            smoothing: certify the answer too; fields of `RandomisedSmoothing` in defend.proto, `{}` = its defaults.
            false_positive_rate: share of clean images that may be called attacked, up to 0.5; None = 0.05.
        """
        request = requests.defend(
            images,
            defences,
            smoothing,
            false_positive_rate=false_positive_rate,
            seed=seed,
            model=model,
            version=version,
        )
        return self._call(self._defend.Defend, request, timeout)

    def evaluate_robustness(
        self,
        images: Mapping[str, Files],
        attacks: Sequence[AttackMethod | defend_pb2.EvaluatedAttack] = (),
        defences: Sequence[Defence | Sequence[Defence]] = (),
        models: str | Sequence[str] = (),
        *,
        seed: int = 0,
        timeout: float | None = None,
    ) -> Iterator[defend_pb2.EvaluateRobustnessResponse]:
        """Measure the accuracy of models on images, given by label, under attacks and behind defences; yields each cell
        of the table as it is measured, the last with a picture.

        Args:
            attacks: beside none, by name or as `lectern.requests.evaluated_attack(name, ...)`; empty = FGSM and PGD.
            defences: beside none; a list of defences is used together.
            models: names; empty = image_classifier.
        """
        request = requests.evaluate_robustness(images, attacks, defences, models, seed)
        return self._stream(self._defend.EvaluateRobustness, request, timeout)
