"""Models by releases, and a canary: what is tried of docs/releases.md, with the model of `act`."""

from __future__ import annotations

import os
import shutil
import ssl
import sys
import threading
import time
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import trustme
import yaml

from cluster.calls import Load
from cluster.deployed import DEPLOY, EXPORTED, Deployed, Pod, is_ready
from cluster.node import ADDRESS
from cluster.programs import run
from cluster.watched import ACT, WATCHED_SECONDS, CheckError, loaded, write_version
from services.server.capabilities import CAPABILITIES

MODEL = "lunar_lander"
PULLED, WEIGHED, DAMAGED = 2, 3, 4
"""Versions: the release that all pods take, the canary's, and one that is damaged on its way."""
WEIGHT, LEAST, MOST = 10, 5, 15
"""Calls in a hundred that the canary is to take, and bounds of what it may of a thousand."""


class Quiet(SimpleHTTPRequestHandler):
    """A handler without a log."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Log nothing."""


class Releases:
    """Releases of one model in three versions, on an HTTPS server of the node, once `roll_out` has published them."""

    def _publish(self, directory: Path) -> None:
        """Make the releases, and serve them; the directory, an absent one, has them, their keys and the overlay."""
        self._store, self._overlay = directory / "store", directory / "my"
        self._keys = directory / "release.key", directory / "release.pub"
        self._directory = directory
        authority = trustme.CA()
        self._store.mkdir(parents=True)
        self._overlay.mkdir()
        secret, public = self._keys
        run("openssl", "genpkey", "-algorithm", "ed25519", "-out", str(secret))
        run("openssl", "pkey", "-in", str(secret), "-pubout", "-out", str(public))
        authority.cert_pem.write_to_path(self._directory / "ca.crt")
        for version in (PULLED, WEIGHED, DAMAGED):
            model = self._directory / str(version) / MODEL
            shutil.copytree(EXPORTED / MODEL, model)
            write_version(model, version)
            release = self._store / f"{version}.tar"
            lectern = [sys.executable, "-m", "lectern"]
            run(*lectern, "publish", str(model), "--output", str(release), "--sign", str(secret))
        content = bytearray(release.read_bytes())
        content[len(content) // 2] ^= 1
        release.write_bytes(content)
        server = ThreadingHTTPServer((ADDRESS, 0), partial(Quiet, directory=str(self._store)))
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert(ADDRESS).configure_cert(context)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self._url = f"https://{ADDRESS}:{server.server_port}"

    def _apply(self, deployed: Deployed, version: int) -> None:
        """Apply the overlay with a release, to `act` and the canary alone."""
        files = [f"--from-file={self._keys[1]}", f"--from-file={self._directory / 'ca.crt'}"]
        settings = [f"--from-literal=RELEASE={self._url}/{version}.tar", *files]
        models = deployed.kubectl("create", "configmap", "lectern-models", *settings, "--dry-run=client", "-o", "yaml")
        (self._overlay / "models.yaml").write_text(models)
        weighed = {"name": "RELEASE", "value": f"{self._url}/{WEIGHED}.tar"}
        path = "/spec/template/spec/initContainers/0/env/0"
        kustomization = {
            "namespace": deployed.namespace,
            "resources": [os.path.relpath(DEPLOY / "cluster" / "releases", self._overlay.resolve())],
            "patches": [
                {"path": "models.yaml"},
                {
                    "target": {"kind": "Deployment", "name": "lectern-canary"},
                    "patch": yaml.safe_dump([{"op": "replace", "path": path, "value": weighed}]),
                },
            ],
        }
        (self._overlay / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        others = ",".join(name.replace("_", "-") for name in CAPABILITIES if name != ACT.name)
        selector = f"--selector=app.kubernetes.io/component notin ({others})"
        deployed.kubectl("apply", f"--kustomize={self._overlay}", selector)

    def roll_out(self, deployed: Deployed) -> str:
        """Pods that pull a release take the place of those with the image's models, under load."""
        self._publish(deployed.volume.with_name("releases"))
        with loaded(deployed, ACT) as loads:
            self._apply(deployed, PULLED)
            deployed.settle("lectern-act")
            deployed.settle("lectern-canary")
        if not all(load.versions[PULLED] for load in loads) or any(load.versions[WEIGHED] for load in loads):
            raise CheckError(f"answered by versions {[dict(load.versions) for load in loads]}")
        return f"version {PULLED} answers; " + "; ".join(map(str, loads))

    def refuse(self, deployed: Deployed) -> str:
        """A pod does not start with a damaged release; one command goes back."""
        before = {pod["metadata"]["name"] for pod in deployed.pods("act")}

        def failed() -> list[Pod]:
            new = [pod for pod in deployed.pods("act") if pod["metadata"]["name"] not in before]
            return [pod for pod in new if any(map(has_failed, pod["status"].get("initContainerStatuses", [])))]

        with loaded(deployed, ACT) as loads:
            self._apply(deployed, DAMAGED)
            deployed.node.until("a pod has refused the release", lambda: bool(failed()))
            time.sleep(WATCHED_SECONDS)
            (pod,) = failed()
            reason = deployed.kubectl("logs", pod["metadata"]["name"], "--container=models").strip().splitlines()[-1]
            if is_ready(pod):
                raise CheckError("a pod is ready with a damaged release")
            deployed.kubectl("rollout", "undo", "deployment/lectern-act")
            deployed.settle("lectern-act")
        if any(load.versions[DAMAGED] for load in loads):
            raise CheckError("the damaged version has answered")
        return f"never ready ({reason}); back by rollout undo; " + "; ".join(map(str, loads))

    def weigh(self, deployed: Deployed) -> str:
        """The canary takes the calls that its weight says, of the edge alone, and none any more when it is 0."""
        with loaded(deployed, ACT) as loads:
            direct, edge = loads
            begin = time.monotonic()
            set_weight(deployed, WEIGHT)
            deployed.node.until("the canary answers", lambda: edge.versions[WEIGHED] > 0)
            seconds = time.monotonic() - begin
            share = canarys(edge)
            set_weight(deployed, 0)
            deployed.node.until("the canary answers no more", lambda: canarys(edge) == 0)
        if not LEAST <= share <= MOST or direct.versions[WEIGHED]:
            raise CheckError(f"the canary took {share:.1f} % of the edge's calls, {direct.versions[WEIGHED]} others")
        return f"{share:.1f} % of calls for a weight of {WEIGHT}, after {seconds:.0f} s; " + "; ".join(map(str, loads))


def has_failed(container: dict[str, Any]) -> bool:
    """Whether the container has ended in an error."""
    states = (container.get("state", {}), container.get("lastState", {}))
    return any(state.get("terminated", {}).get("exitCode", 0) != 0 for state in states)


def set_weight(deployed: Deployed, weight: int) -> None:
    """Give the canary so many calls in a hundred of `act`."""
    patch = f'{{"data":{{"{ACT.name}":"{weight}"}}}}'
    deployed.kubectl("patch", "configmap", "lectern-canary", "--type=merge", "-p", patch)


def canarys(load: Load) -> float:
    """The canary's share, in per cent, of the calls of the next seconds."""
    before = Counter(load.versions)
    time.sleep(WATCHED_SECONDS)
    answered = load.versions - before
    return 100 * answered[WEIGHED] / answered.total()
