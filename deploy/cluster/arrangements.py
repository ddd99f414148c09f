"""Other overlays than `cpu`, each tried in a namespace of its own: one pod for everything, KServe, Triton, training."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from pathlib import Path
from sysconfig import get_path

import grpc
from checking.manifests import render

from cluster.calls import Door, Load
from cluster.deployed import DEPLOY, EXPORTED, KNOWN_SECONDS, SECONDS, Deployed, Pod, first_process, is_ready, state
from cluster.kserve import served
from cluster.watched import ACT, CheckError
from inference.grpc_service_pb2 import ModelReadyRequest
from inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from lectern.channel import channel_options
from services.server.capabilities import CAPABILITIES
from services.triton_server.launcher import install

NOBODY = 10001
RECIPE = "slot_tagger"
JOB = "lectern-train-slot-tagger"


def single(deployed: Deployed) -> str:
    """One pod answers for every capability, by the names of all."""
    here = deployed.beside("single")
    here.kubectl("apply", f"--kustomize={DEPLOY / 'cluster' / 'single'}")
    here.settle("lectern")
    time.sleep(KNOWN_SECONDS)
    slowest = max(here.service().ask(capability) for capability in CAPABILITIES.values())
    here.clear()
    return f"one pod answers for {len(CAPABILITIES)} capabilities, in at most {slowest:.0f} ms"


def kserve(deployed: Deployed) -> str:
    """What KServe would make answers for every capability by its one port, through a rolling restart too."""
    here = deployed.beside("kserve")
    here.provide("lectern-kserve", EXPORTED, "ReadOnlyMany")
    manifests = served(render(DEPLOY / "cluster" / "kserve"))
    # Kubernetes 1.20 has the autoscaler under its older name.
    listed = [m | {"apiVersion": m["apiVersion"].replace("autoscaling/v2", "autoscaling/v2beta2")} for m in manifests]
    here.kubectl("apply", "--filename=-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": listed}))
    rollout = ("rollout", "status", "deployment/lectern-predictor", f"--timeout={SECONDS}s")
    here.kubectl(*rollout)
    target = f"dns:///lectern-predictor.{here.namespace}:8001"
    door = Door("Service", lambda _: target, channel_options(None))
    time.sleep(KNOWN_SECONDS)
    slowest = max(map(door.ask, CAPABILITIES.values()))
    with grpc.insecure_channel(target) as channel:
        ready = GRPCInferenceServiceStub(channel).ModelReady(ModelReadyRequest(name="lunar_lander"), timeout=SECONDS)
    if not ready.ready:
        raise CheckError("by KServe's own protocol the model is not ready")
    with Load(door, ACT) as load:
        here.kubectl("rollout", "restart", "deployment/lectern-predictor")
        here.kubectl(*rollout)
        time.sleep(KNOWN_SECONDS)
    if load.lost:
        raise CheckError(str(load))
    here.clear()
    return (
        f"two pods answer for {len(CAPABILITIES)} capabilities, in at most {slowest:.0f} ms; a rolling restart: {load}"
    )


def triton(deployed: Deployed) -> str:
    """A front pod is not ready before its Triton, which a pod of the pool is; then it answers by it."""
    here = deployed.beside("triton")
    here.provide("lectern-tritonserver", install(), "ReadOnlyMany")
    others = ",".join(name.replace("_", "-") for name in CAPABILITIES if name != ACT.name)
    selector = f"--selector=app.kubernetes.io/component notin ({others})"
    here.kubectl("apply", f"--kustomize={DEPLOY / 'cluster' / 'triton'}", selector)
    here.kubectl("scale", "deployment/lectern-triton", "--replicas=0")
    here.node.until("the front has started", lambda: any(state(pod).get("started") for pod in here.pods("act")))
    time.sleep(KNOWN_SECONDS)
    (front,) = here.pods("act")
    if is_ready(front):
        raise CheckError("the front is ready without a Triton")
    here.kubectl("scale", "deployment/lectern-triton", "--replicas=1")
    here.settle("lectern-triton")
    here.settle("lectern-act")
    (front,), (pool,) = here.pods("act"), here.pods("triton")
    time.sleep(KNOWN_SECONDS)
    milliseconds = here.service().ask(ACT)
    if not (runs := inferences(pool)):
        raise CheckError("Triton has run nothing")
    if state(front)["restartCount"]:
        raise CheckError("the front was restarted while it waited")
    here.clear()
    return f"the front waits for a Triton, and then answers by it: {milliseconds:.0f} ms, {runs:g} runs of Triton"


def inferences(pod: Pod) -> float:
    """What a Triton says it has run."""
    with urllib.request.urlopen(f"http://{pod['status']['podIP']}:8002/metrics", timeout=SECONDS) as response:
        lines = response.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("nv_inference_count{"))


def train(deployed: Deployed) -> str:
    """A training whose pod is killed goes on in another, from its last epoch, and leaves a model in the volume."""
    here, volume = deployed.beside("training"), deployed.volume.with_name("training")
    for directory in (volume / "cache", volume / "exported"):
        directory.mkdir(parents=True)
        os.chown(directory, NOBODY, NOBODY)
    here.provide("lectern-training", volume, "ReadWriteMany")
    here.provide("lectern-packages", Path(get_path("purelib")), "ReadOnlyMany")
    here.kubectl("apply", f"--kustomize={DEPLOY / 'cluster' / 'training'}")
    checkpoints = volume / "cache" / "checkpoints"
    here.node.until("an epoch is done", lambda: any(checkpoints.glob(f"{RECIPE}-*.pt")), SECONDS)
    (pod,) = trainers(here)
    os.kill(first_process(pod), signal.SIGKILL)
    here.kubectl("wait", "--for=condition=complete", f"job/{JOB}", f"--timeout={SECONDS}s")
    first, second = trainers(here)
    log = here.kubectl("logs", second["metadata"]["name"]).splitlines()
    resumed = next((line for line in log if line.startswith("resuming")), None)
    if first["status"]["phase"] != "Failed" or resumed is None:
        raise CheckError(f"the first pod is {first['status']['phase']}, and the second says {log[-1]}")
    if not (volume / "exported" / RECIPE / "1" / "model.onnx").is_file():
        raise CheckError("no model is in the volume")
    here.clear()
    return f"another pod: {resumed.partition(' (')[0]}; a model is in the volume"


def trainers(here: Deployed) -> list[Pod]:
    """The Job's pods, the oldest first."""
    listed = here.kubectl(
        "get", "pods", f"--selector=job-name={JOB}", "--sort-by=.metadata.creationTimestamp", "-ojson"
    )
    return list(json.loads(listed)["items"])
