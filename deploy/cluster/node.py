"""A Kubernetes node of one machine: etcd, containerd, the control plane, kubelet, kube-proxy and DNS.

It runs in namespaces of its own, which `__main__.py` makes: its network reaches nothing outside, and its processes and
mounts end with the first process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trustme

from cluster import images
from cluster.names import Names
from cluster.programs import CommandError, run

NAME = "ci"
ADDRESS, PODS, SERVICES, FIRST_SERVICE = "10.244.0.1", "10.244.0.0/24", "10.96.0.0/16", "10.96.0.1"
DOMAIN = "cluster.local"
KUBECTL = str(Path(sys.executable).with_name("kubectl"))
START_SECONDS = 300
# Users that Kubernetes knows by their certificates: name -> common name, organisation.
USERS = {
    "admin": ("admin", "system:masters"),
    "controller-manager": ("system:kube-controller-manager", None),
    "kubelet": (f"system:node:{NAME}", "system:nodes"),
    "proxy": ("system:kube-proxy", None),
    "scheduler": ("system:kube-scheduler", None),
}
ETCD = "http://127.0.0.1:2379"


class Node:
    """A node that is starting; `ready` waits until pods can run.

    Args:
        programs: the directory of Kubernetes' programs.
        state: an empty directory for all that it writes.
        logs: a directory for the logs of its processes and pods.
    """

    def __init__(self, programs: Path, state: Path, logs: Path) -> None:
        self._programs, self._state, self._logs = programs, state, logs
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        (logs / "pods").mkdir(parents=True)
        self._isolate()
        self._make_certificates()

    def _isolate(self) -> None:
        """A network with nothing but this node, a /var and a /run of its own, and the cluster's names."""
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "cni0", "type", "bridge")
        run("ip", "address", "add", f"{ADDRESS}/24", "dev", "cni0")
        run("ip", "link", "set", "cni0", "up")
        run("ip", "route", "add", SERVICES, "dev", "cni0")  # any will do: kube-proxy gives calls another address
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        layers = {"lowerdir": "/var", "upperdir": self._state / "var", "workdir": self._state / "work"}
        for layer in ("var", "work"):
            (self._state / layer).mkdir()
        options = ",".join(f"{name}={directory}" for name, directory in layers.items())
        run("mount", "-t", "overlay", "-o", options, "overlay", "/var")
        run("mount", "-t", "tmpfs", "tmpfs", "/run")
        pods = Path("/var/log/pods")
        pods.mkdir(exist_ok=True)
        run("mount", "--bind", str(self._logs / "pods"), str(pods))
        resolver = self._state / "resolv.conf"
        resolver.write_text(f"nameserver {ADDRESS}\nsearch svc.{DOMAIN}\noptions ndots:5\n")
        run("mount", "--bind", str(resolver), "/etc/resolv.conf")

    def _make_certificates(self) -> None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self._state / "ca.crt")
        server = authority.issue_cert("127.0.0.1", ADDRESS, FIRST_SERVICE, "localhost", "kubernetes.default.svc")
        server.private_key_pem.write_to_path(self._state / "server.key")
        server.cert_chain_pems[0].write_to_path(self._state / "server.crt")
        for user, (common_name, organisation) in USERS.items():
            # With some identity: Go refuses a certificate whose list of names is empty.
            own = authority.issue_cert(user, common_name=common_name, organization_name=organisation)
            own.private_key_and_cert_chain_pem.write_to_path(self._state / f"{user}.pem")
            self._write_config(
                f"{user}.kubeconfig",
                apiVersion="v1",
                kind="Config",
                clusters=[
                    {
                        "name": NAME,
                        "cluster": {
                            "server": "https://127.0.0.1:6443",
                            "certificate-authority": str(self._state / "ca.crt"),
                        },
                    }
                ],
                users=[
                    {
                        "name": user,
                        "user": {
                            "client-certificate": str(self._state / f"{user}.pem"),
                            "client-key": str(self._state / f"{user}.pem"),
                        },
                    }
                ],
                contexts=[{"name": NAME, "context": {"cluster": NAME, "user": user}}],
                **{"current-context": NAME},
            )

    def _write_config(self, name: str, /, **content: Any) -> Path:
        """JSON, which every reader of YAML takes."""
        file = self._state / name
        file.write_text(json.dumps(content))
        return file

    def _start(self, name: str, *command: str | Path) -> None:
        with (self._logs / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, cwd=self._state)

    def start_containers(self, archive: Path) -> None:
        """Start containerd and give it the images, which takes longest."""
        (self._state / "cni").mkdir()
        bridge = {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": PODS, "rangeStart": "10.244.0.10"}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }
        self._write_config("cni/10-node.conflist", cniVersion="0.4.0", name=NAME, plugins=[bridge])
        config = self._state / "containerd.toml"
        config.write_text(CONTAINERD.format(state=self._state, pause=images.PAUSE))
        self._start("containerd", "containerd", "--config", config)
        ctr = ["ctr", "--address", str(self._state / "containerd.sock")]
        self.until("containerd answers", lambda: succeeds(*ctr, "version"))
        self._start("images", *ctr, "--namespace", "k8s.io", "images", "import", archive)

    def start_control_plane(self) -> None:
        """Start etcd, the API server and what acts on its objects."""
        state = self._state
        peers = "http://127.0.0.1:2380"
        urls = [f"--listen-client-urls={ETCD}", f"--advertise-client-urls={ETCD}", f"--listen-peer-urls={peers}"]
        urls += [f"--initial-advertise-peer-urls={peers}", f"--initial-cluster={NAME}={peers}"]
        self._start("etcd", "etcd", f"--name={NAME}", f"--data-dir={state / 'etcd'}", *urls)
        self._start(
            "kube-apiserver",
            self._programs / "kube-apiserver",
            f"--etcd-servers={ETCD}",
            f"--advertise-address={ADDRESS}",
            f"--service-cluster-ip-range={SERVICES}",
            f"--client-ca-file={state / 'ca.crt'}",
            f"--tls-cert-file={state / 'server.crt'}",
            f"--tls-private-key-file={state / 'server.key'}",
            f"--service-account-key-file={state / 'server.key'}",
            f"--service-account-signing-key-file={state / 'server.key'}",
            f"--service-account-issuer=https://kubernetes.default.svc.{DOMAIN}",
            f"--kubelet-client-certificate={state / 'admin.pem'}",
            f"--kubelet-client-key={state / 'admin.pem'}",
            "--kubelet-preferred-address-types=InternalIP",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            f"--cert-dir={state / 'apiserver'}",
        )
        self.until("the API server is ready", lambda: self.kubectl("get", "--raw=/readyz") == "ok")
        for program, user in (("kube-controller-manager", "controller-manager"), ("kube-scheduler", "scheduler")):
            config = f"{state / user}.kubeconfig"
            same = [
                f"--{option}={config}"
                for option in ("kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig")
            ]
            more = [
                f"--service-account-private-key-file={state / 'server.key'}",
                f"--root-ca-file={state / 'ca.crt'}",
                "--use-service-account-credentials",
            ]
            self._start(
                program,
                self._programs / program,
                *same,
                "--bind-address=127.0.0.1",
                "--leader-elect=false",
                *(more if user == "controller-manager" else []),
            )

    def start_kubelet(self) -> None:
        """Start what runs pods, and what gives Services their addresses and names."""
        state = self._state
        kubelet = self._write_config(
            "kubelet.json",
            kind="KubeletConfiguration",
            apiVersion="kubelet.config.k8s.io/v1beta1",
            address=ADDRESS,
            authentication={
                "anonymous": {"enabled": False},
                "webhook": {"enabled": False},
                "x509": {"clientCAFile": str(state / "ca.crt")},
            },
            authorization={"mode": "AlwaysAllow"},
            cgroupDriver="cgroupfs",
            clusterDNS=[ADDRESS],
            clusterDomain=DOMAIN,
            failSwapOn=False,
            # A machine of its own would lower it, which a container may not.
            oomScoreAdj=0,
            # How often pods get what has changed in a ConfigMap.
            syncFrequency="10s",
            # The disk is not this node's alone.
            evictionHard={"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            imageGCHighThresholdPercent=100,
        )
        self._start(
            "kubelet",
            self._programs / "kubelet",
            f"--config={kubelet}",
            f"--kubeconfig={state / 'kubelet.kubeconfig'}",
            f"--hostname-override={NAME}",
            f"--node-ip={ADDRESS}",
            "--container-runtime=remote",
            f"--container-runtime-endpoint=unix://{state / 'containerd.sock'}",
            f"--root-dir={state / 'kubelet'}",
            f"--cert-dir={state / 'kubelet-certificates'}",
            f"--volume-plugin-dir={state / 'volume-plugins'}",
        )
        unlimited = {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"}
        proxy = self._write_config(
            "proxy.json",
            kind="KubeProxyConfiguration",
            apiVersion="kubeproxy.config.k8s.io/v1alpha1",
            mode="iptables",
            clusterCIDR=PODS,
            bindAddress="127.0.0.1",
            clientConnection={"kubeconfig": str(state / "proxy.kubeconfig")},
            hostnameOverride=NAME,
            oomScoreAdj=0,
            conntrack=unlimited,
        )
        self._start("kube-proxy", self._programs / "kube-proxy", f"--config={proxy}")
        names = Names(state / "names", ADDRESS, DOMAIN)
        self._start("dnsmasq", *names.server)
        names.follow(self._processes["dnsmasq"], [*self.kubectl_command, *names.watch], self._logs / "names.log")

    def ready(self) -> None:
        """Wait until the node takes pods and has its images."""
        condition = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
        self.until("the node is ready", lambda: self.kubectl("get", "node", NAME, "-o", condition) == "True")
        if self._processes.pop("images").wait() != 0:
            raise CommandError(f"containerd does not take the images: see {self._logs / 'images.log'}")

    @property
    def administrator(self) -> Path:
        """The kubeconfig of this cluster's administrator."""
        return self._state / "admin.kubeconfig"

    @property
    def kubectl_command(self) -> list[str]:
        """kubectl as this cluster's administrator."""
        return [KUBECTL, f"--kubeconfig={self.administrator}", f"--cache-dir={self._state / 'discovery'}"]

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout: float | None = None) -> str:
        """What kubectl prints.

        Raises:
            CommandError: it failed.
        """
        return run(*self.kubectl_command, *arguments, stdin=stdin, timeout=timeout)

    def until(self, what: str, holds: Callable[[], bool], seconds: float = START_SECONDS) -> None:
        """Wait for it; a command that fails meanwhile is tried again.

        Raises:
            CommandError: it does not hold in time, or a process of the node has ended.
        """
        end = time.monotonic() + seconds
        reason = ""
        while time.monotonic() < end:
            for name, process in self._processes.items():
                if process.poll():
                    log = (self._logs / f"{name}.log").read_text()
                    raise CommandError(f"{name} ended with code {process.returncode}: {log[-2000:]}")
            try:
                if holds():
                    return
            except CommandError as error:
                reason = f": {error}"
            time.sleep(0.3)
        raise CommandError(f"not so after {seconds:g} s: {what}{reason}")


def succeeds(*command: str) -> bool:
    """Whether the command does."""
    return subprocess.run(command, capture_output=True).returncode == 0


CONTAINERD = """\
version = 2
root = "{state}/containerd"
state = "{state}/containerd-run"
oom_score = 0
[grpc]
address = "{state}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{state}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"""
