"""What checks share: calls that go on during a change, and versions of models."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.calls import Load
from cluster.deployed import Deployed
from services.capability import Capability
from services.server.capabilities import CAPABILITIES

ACT, PREDICT = CAPABILITIES["act"], CAPABILITIES["predict"]
WATCHED_SECONDS = 10
"""For which a release that must take no call is watched."""


class CheckError(Exception):
    """Something is not as promised."""


@contextmanager
def loaded(deployed: Deployed, capability: Capability, allowed: int = 0) -> Iterator[list[Load]]:
    """A load through each door.

    Raises:
        CheckError: when it is over, if more calls were lost than allowed.
    """
    with Load(deployed.service(), capability) as direct, Load(deployed.edge(), capability) as edge:
        loads = [direct, edge]
        yield loads
        time.sleep(1)  # after what happened
    if any(load.lost > allowed or not load.codes for load in loads):
        raise CheckError("; ".join(map(str, loads)))


def write_version(model: Path, version: int) -> None:
    """Write a model's version 1 once more, as another version, which appears whole."""
    staged = model / "staged"
    shutil.copytree(model / "1", staged)
    if (card := staged / "card.json").exists():
        document = json.loads(card.read_text().replace("/1/", f"/{version}/"))
        card.write_text(json.dumps(document | {"version": version}))
    staged.rename(model / str(version))
