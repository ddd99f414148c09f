"""Methods of `lectern.aio.Client` for DefendService: attacks on image classifiers, and defences against them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from lectern.calls import AsyncCalls
from lectern.inputs import Files, Texts, as_list, read_files, read_labelled
from lectern.methods import AttackMethod, Defence, attack_method, defence_chain, evaluated_attack, target_field
from lectern.v1 import defend_pb2 as pb


class DefendMethods(AsyncCalls):
    """Methods of DefendService."""

    async def attack(
        self,
        images: Files,
        method: AttackMethod | pb.AttackMethod = "pgd",
        *,
        labels: Texts = (),
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
    ) -> pb.AttackResponse:
        """Change encoded images a little so that a model errs; `results` has one per image.

        A server refuses this unless its operator allowed attacks.

        Args:
            labels: the true class of each image; empty = the model's answer to the unchanged image.
            target: the class that the model should take every image for, by name or index; None = any wrong one.
            gradient_of: another model whose gradients the attack follows, e.g. `proxy_ensemble`.
            defences: what the attack has to pass, each by name or as `lectern.methods.defence(name, ...)`.
            draws: draws of random defences for each gradient.
            include_values: whether results have float32 values before rounding.
            include_picture: whether the response has a picture of each image, its change and the result.
            parameters: of the method, as in defend.proto, e.g. `epsilon=4 / 255`; `norm` is `linf` or `l2`.
        """
        request = pb.AttackRequest(
            model=model,
            version=version,
            images=await asyncio.to_thread(read_files, images),
            labels=as_list(labels),
            method=attack_method(method, **parameters) if isinstance(method, str) else method,
            gradient_of=gradient_of,
            defences=defence_chain(defences),
            draws=draws,
            seed=seed,
            include_values=include_values,
            include_picture=include_picture,
            **target_field(target),
        )
        return await self._call(request, pb.AttackResponse, timeout)

    async def defend(
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
    ) -> pb.DefendResponse:
        """Clean encoded images before the model sees them, and detect attacks; `results` has one per image.

        Args:
            defences: applied in this order, each by name or as `lectern.methods.defence(name, ...)`.
            smoothing: also certify each answer, with these fields of `RandomisedSmoothing` in defend.proto; `{}` = its
                defaults, None = no certificate.
            false_positive_rate: share of clean images that may be called attacked, up to 0.5; None = 0.05.
        """
        request = pb.DefendRequest(
            model=model,
            version=version,
            images=await asyncio.to_thread(read_files, images),
            defences=defence_chain(defences),
            smoothing=None if smoothing is None else pb.RandomisedSmoothing(**smoothing),
            false_positive_rate=false_positive_rate,
            seed=seed,
        )
        return await self._call(request, pb.DefendResponse, timeout)

    async def evaluate_robustness(
        self,
        images: Mapping[str, Files],
        attacks: Sequence[AttackMethod | pb.EvaluatedAttack] = (),
        defences: Sequence[Defence | Sequence[Defence]] = (),
        models: Texts = (),
        *,
        seed: int = 0,
        timeout: float | None = None,
    ) -> AsyncIterator[pb.EvaluateRobustnessResponse]:
        """Measure the accuracy of models under attacks and behind defences; yields each cell of the table as it is
        measured, the last one with a picture.

        Args:
            images: by their true label.
            attacks: measured beside no attack, each by name or as `lectern.methods.evaluated_attack(name, ...)`;
                empty = FGSM and PGD.
            defences: measured beside no defence; an item that is a list is one chain of defences.
            models: names; empty = image_classifier.
        """
        labelled = await asyncio.to_thread(read_labelled, images)
        request = pb.EvaluateRobustnessRequest(
            models=[pb.EvaluatedModel(model=name) for name in as_list(models)],
            images=[pb.TestImage(**image) for image in labelled],
            attacks=[evaluated_attack(attack) if isinstance(attack, str) else attack for attack in attacks],
            defences=[pb.EvaluatedDefence(chain=defence_chain(chain)) for chain in defences],
            seed=seed,
        )
        async for response in self._stream(request, pb.EvaluateRobustnessResponse, timeout):
            yield response
