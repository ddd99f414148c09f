"""What is tried on the node: each function is a row of the report, returns what it saw and raises what is wrong."""

from __future__ import annotations

import base64
import json
import os
import signal
import ssl
import time
import urllib.request
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import grpc

from cluster import arrangements, images
from cluster.calls import EXAMPLES
from cluster.deployed import HOST, KNOWN_SECONDS, SECONDS, Deployed, first_process, is_ready, state
from cluster.programs import CommandError
from cluster.releases import Releases
from cluster.watched import ACT, PREDICT, WATCHED_SECONDS, CheckError, loaded, write_version
from services.capability import Capability
from services.server.capabilities import CAPABILITIES

KILLED = 2
"""Calls that may be lost with a server that ends without a word: those that it was just answering."""
HOGS = """
import os, time
for _ in range(16):
    if os.fork() == 0:
        block = b"x" * (40 << 20)
        time.sleep(60)
        os._exit(0)
time.sleep(60)
"""
"""Processes that together need more than the pod may have. The server, the largest, is what the kernel ends."""


@dataclass(frozen=True)
class Outcome:
    """A row of the report."""

    name: str
    passed: bool
    detail: str
    seconds: float


def outcomes(deployed: Deployed, only: Collection[str] = ()) -> Iterator[Outcome]:
    """Every check, one after the other, or only some and what they stand on; none after a rollout that failed."""
    for name in chosen(only):
        begin = time.monotonic()
        try:
            detail, passed = CHECKS[name](deployed), True
        except (CheckError, CommandError, LookupError, OSError) as error:
            detail, passed = f"{type(error).__name__}: {error}", False
        except grpc.RpcError as error:
            detail, passed = f"{error.code().name}: {error.details()}", False
        yield Outcome(name, passed, detail, time.monotonic() - begin)
        if not passed and name == ROLLOUT:
            return


def chosen(only: Collection[str]) -> list[str]:
    """Names of checks in their order: all, or these and what they stand on."""
    if not only:
        return list(CHECKS)
    before = {ROLLOUT, AUTOSCALERS} if set(only) - APART else set()
    before |= {RELEASE} if set(only) & ON_RELEASE else set()
    return [name for name in CHECKS if name in before or name in only]


def roll_out(deployed: Deployed) -> str:
    """Apply the overlay; every Deployment is ready."""
    deployed.apply()
    names = deployed.deployments()
    for name in names:
        deployed.settle(name)
    return f"{len(names)} Deployments ready"


def scale(deployed: Deployed) -> str:
    """Autoscalers give two capabilities the second pod that their least number asks for, and the others one."""
    wanted = {name: 2 if name in (ACT.name, PREDICT.name) else 1 for name in CAPABILITIES}

    def pods() -> dict[str, int]:
        return {name: sum(map(is_ready, deployed.pods(name.replace("_", "-")))) for name in CAPABILITIES}

    deployed.node.until("every capability has as many pods as its autoscaler asks for", lambda: pods() == wanted)
    time.sleep(KNOWN_SECONDS)
    return f"{sum(wanted.values())} pods of capabilities"


def answer(deployed: Deployed, capability: Capability) -> str:
    """The capability answers its example by both doors."""
    return ", ".join(f"{door.name} {door.ask(capability):.0f} ms" for door in (deployed.service(), deployed.edge()))


def call_from_pod(deployed: Deployed) -> str:
    """A pod finds another by its Service's name."""
    command = ["lectern", "models", "--json", "--target", "dns:///lectern-predict:8001"]
    models = json.loads(deployed.kubectl("exec", "deployment/lectern-act", "--", *command))["models"]
    return f"lists {len(models)} model of the other"


def forward(deployed: Deployed) -> str:
    """The call of docs/deploy.md."""
    picture = base64.b64encode((EXAMPLES / "cat.png").read_bytes()).decode()
    request = json.dumps({"images": [picture], "topK": 1}).encode()
    with deployed.forwarded("service/lectern-edge", 443) as port:
        url = f"https://{HOST}:{port}/lectern.v1.ClassifyService/ClassifyImage"
        call = urllib.request.Request(url, request, {"content-type": "application/json"})
        context = ssl.create_default_context(cadata=deployed.authority.cert_pem.bytes().decode())
        with urllib.request.urlopen(call, timeout=SECONDS, context=context) as response:  # noqa: S310
            label = json.load(response)["results"][0]["classes"][0]["label"]
    return f"cat.png is a {label}"


def restart(deployed: Deployed, deployment: str, capability: Capability) -> str:
    """Every pod of a Deployment is replaced, under load."""
    with loaded(deployed, capability) as loads:
        deployed.kubectl("rollout", "restart", f"deployment/{deployment}")
        deployed.settle(deployment)
    return "; ".join(map(str, loads))


def evict(deployed: Deployed) -> str:
    """A node that is drained takes one pod of a capability at a time, without a loss."""
    first, second = deployed.pods("predict")
    with loaded(deployed, PREDICT) as loads:
        deployed.evict(first)
        try:
            deployed.evict(second)
        except CommandError as error:
            if "disruption budget" not in str(error):
                raise
        else:
            raise CheckError("both pods of a capability may be evicted at once")
        deployed.settle("lectern-predict")
    return "the second is refused while the first is away; " + "; ".join(map(str, loads))


def roll_out_model(deployed: Deployed) -> str:
    """A version that is put into the volume answers, under load, as version 2."""
    with loaded(deployed, PREDICT) as loads:
        deployed.node.until("version 1 answers by both doors", lambda: all(load.versions[1] for load in loads))
        begin = time.monotonic()
        # The model's own directory, which has the card, comes last.
        for model in sorted(deployed.volume.iterdir(), key=lambda path: (path.name == "covid_regressor", path)):
            write_version(model, 2)
        deployed.node.until("version 2 answers by both doors", lambda: all(load.versions[2] for load in loads))
        seconds = time.monotonic() - begin
    return f"version 2 answers after {seconds:.1f} s; " + "; ".join(map(str, loads))


def refuse_image(deployed: Deployed) -> str:
    """A release that cannot load its model gets no call, and is rolled back."""
    with loaded(deployed, ACT) as loads:
        deployed.kubectl("set", "image", "deployment/lectern-act", f"lectern={images.BROKEN}")

        def started() -> bool:
            return any(state(pod).get("started") for pod in new())

        def new() -> list[dict[str, object]]:
            return [pod for pod in deployed.pods("act") if pod["spec"]["containers"][0]["image"] == images.BROKEN]

        deployed.node.until("the bad release has started", started)
        time.sleep(WATCHED_SECONDS)
        (pod,) = new()
        calls = deployed.handled(pod, ACT.service.full_name)
        if is_ready(pod) or calls:
            raise CheckError(f"the bad release is ready: {is_ready(pod)}, and answered {calls:g} calls")
        deployed.kubectl("rollout", "undo", "deployment/lectern-act")
        deployed.settle("lectern-act")
    return "never ready, 0 calls; " + "; ".join(map(str, loads))


def kill(deployed: Deployed) -> str:
    """A server that is killed is started anew, and costs hardly a call."""
    pod = deployed.pods("predict")[0]
    with loaded(deployed, PREDICT, KILLED) as loads:
        os.kill(first_process(pod), signal.SIGKILL)
        seconds = deployed.restarted(pod)
    return f"ready again after {seconds:.0f} s; " + "; ".join(map(str, loads))


def exhaust_memory(deployed: Deployed) -> str:
    """A pod that needs more memory than it may have loses its server; no other pod and not the node notice."""
    before, pod = deployed.restarts(), deployed.pods("predict")[-1]
    name = pod["metadata"]["name"]
    with loaded(deployed, PREDICT, KILLED) as loads:
        with suppress(CommandError):  # it ends with the server
            deployed.kubectl("exec", name, "--", "python", "-c", HOGS)
        seconds = deployed.restarted(pod)
    after = deployed.restarts()
    elsewhere = {other for other in after if other != name and after[other] != before.get(other)}
    (now,) = (p for p in deployed.pods("predict") if p["metadata"]["name"] == name)
    reason = state(now)["lastState"]["terminated"]["reason"]
    if reason != "OOMKilled" or elsewhere or after.keys() != before.keys():
        raise CheckError(f"it ended by {reason}, and these were started anew too: {', '.join(elsewhere) or 'none'}")
    return f"ready again after {seconds:.0f} s, no other was restarted; " + "; ".join(map(str, loads))


RELEASES = Releases()
ROLLOUT, AUTOSCALERS, RELEASE = "rollout", "autoscalers", "models from a release"
CHECKS: dict[str, Callable[[Deployed], str]] = {
    ROLLOUT: roll_out,
    AUTOSCALERS: scale,
    **{f"{name} answers": partial(answer, capability=capability) for name, capability in CAPABILITIES.items()},
    "a pod calls another": call_from_pod,
    "JSON by port-forward": forward,
    "rolling restart": partial(restart, deployment="lectern-predict", capability=PREDICT),
    "rolling restart of the edge": partial(restart, deployment="lectern-edge", capability=ACT),
    "eviction": evict,
    "new model in the volume": roll_out_model,
    "bad image": refuse_image,
    "killed server": kill,
    "pod out of memory": exhaust_memory,
    RELEASE: RELEASES.roll_out,
    "damaged release": RELEASES.refuse,
    "canary": RELEASES.weigh,
    "single": arrangements.single,
    "kserve": arrangements.kserve,
    "triton": arrangements.triton,
    "training": arrangements.train,
}
"""By their names in the report, in the order in which they are tried."""
APART = {"single", "kserve", "triton", "training"}
"""Those that have a namespace of their own, and stand on no other check."""
ON_RELEASE = {"damaged release", "canary"}
