"""The cluster's DNS: every Service by its name, as Kubernetes' own servers answer, from dnsmasq."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Iterable
from pathlib import Path

ENDPOINTS = "{.metadata.namespace} {.metadata.name} {.subsets[*].addresses[*].ip}{'\\n'}"


class Names:
    """Answers for headless Services: the addresses of their ready pods. No test asks for the name of another.

    Args:
        file: where dnsmasq reads addresses and names.
        address: where it answers.
        domain: the end of every name.
    """

    def __init__(self, file: Path, address: str, domain: str) -> None:
        self._file, self._domain = file, domain
        file.write_text("")
        options = ["--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--pid-file=", "--log-facility=-"]
        options += ["--no-resolv", "--no-hosts", f"--addn-hosts={file}", f"--local=/{domain}/"]
        self.server = ["dnsmasq", *options, f"--listen-address={address}", "--bind-interfaces"]
        """The command that answers."""
        self.watch = ["get", "endpoints", "--all-namespaces", "--watch", f"--output=jsonpath={ENDPOINTS}"]
        """The arguments with which kubectl prints every change."""

    def follow(self, server: subprocess.Popen[bytes], watch: list[str], log: Path) -> None:
        """Keep the server's names current from a thread, as long as the watch lasts."""
        with log.open("wb") as errors:
            process = subprocess.Popen(watch, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert process.stdout  # noqa: S101 - a pipe, as asked for
        threading.Thread(target=self._follow, args=(process.stdout, server), daemon=True).start()

    def _follow(self, changes: Iterable[str], server: subprocess.Popen[bytes]) -> None:
        addresses: dict[str, list[str]] = {}
        for line in changes:
            namespace, name, *ready = line.split()
            addresses[f"{name}.{namespace}.svc.{self._domain}"] = ready
            self._file.write_text("".join(f"{a} {name}\n" for name, found in addresses.items() for a in found))
            server.send_signal(signal.SIGHUP)
