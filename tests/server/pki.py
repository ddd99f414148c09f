"""Certificates as an operator would have them, and servers and tokens as one would set them up."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme

import lectern
from tests.lectern.test_cli import invoke


@dataclass
class Pki:
    """An authority, and the files of a server and of a client that it signed."""

    directory: Path
    authority: trustme.CA

    @classmethod
    def make(cls, directory: Path) -> Pki:
        directory.mkdir(parents=True, exist_ok=True)
        pki = cls(directory, trustme.CA())
        pki.authority.cert_pem.write_to_path(pki.ca)
        pki.issue("server", "127.0.0.1")
        pki.issue("client", "alice@example.org", common_name="alice")
        return pki

    @property
    def ca(self) -> Path:
        return self.directory / "ca.pem"

    def issue(self, name: str, identity: str, common_name: str | None = None) -> None:
        """Write NAME.pem and NAME.key, each replaced at once."""
        leaf = self.authority.issue_cert(identity, common_name=common_name)
        staged = self.directory / "staged"
        leaf.private_key_pem.write_to_path(staged)
        staged.chmod(0o600)
        staged.rename(self.file(f"{name}.key"))
        staged.write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
        staged.rename(self.file(f"{name}.pem"))

    def file(self, name: str) -> Path:
        return self.directory / name

    def settings(self, mutual: bool = False) -> dict[str, str]:
        """The environment of a server."""
        files = {"LECTERN_TLS_CERTIFICATE": "server.pem", "LECTERN_TLS_KEY": "server.key"}
        files |= {"LECTERN_TLS_CLIENT_CA": "ca.pem"} if mutual else {}
        return {variable: str(self.file(name)) for variable, name in files.items()}

    def client(self, mutual: bool = False) -> lectern.TLS:
        return (
            lectern.TLS(self.ca, self.file("client.pem"), self.file("client.key")) if mutual else lectern.TLS(self.ca)
        )

    def flags(self, mutual: bool = False) -> list[str]:
        """What the command line takes."""
        own = ["--tls-cert", str(self.file("client.pem")), "--tls-key", str(self.file("client.key"))]
        return ["--tls-ca", str(self.ca), *(own if mutual else [])]


def make_token(file: Path, name: str, *options: str) -> str:
    """A token made by `lectern token create`."""
    done = invoke("token", "create", name, "--file", file, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode().strip()
