"""TLS of the gRPC port: the server's certificate, and the authority that signs clients' certificates (mutual TLS)."""

from __future__ import annotations

import ssl
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from services.server.settings import Settings, StartError
from services.server.watched import Watched, read_file, warn_if_readable_by_all


@dataclass(frozen=True)
class Pem:
    """Certificates and key in the form that a transport takes.

    Args:
        client_ca: certificates of the authority for clients; None = clients need no certificate.
    """

    certificate: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None


def certificates(settings: Settings) -> Watched[Pem] | None:
    """The certificates that the settings name; None = plaintext.

    Raises:
        StartError: a file is missing, unreadable, or does not match the others.
    """
    certificate, key, client_ca = settings.tls_certificate, settings.tls_key, settings.tls_client_ca
    if certificate is None and key is None and client_ca is None:
        return None
    if certificate is None or key is None:
        raise StartError("TLS needs both LECTERN_TLS_CERTIFICATE and LECTERN_TLS_KEY")
    paths = [certificate, key] + ([client_ca] if client_ca else [])
    return Watched(paths, lambda: _read(certificate, key, client_ca))


def _read(certificate: Path, key: Path, client_ca: Path | None) -> Pem:
    pem = Pem(
        read_file(certificate, "LECTERN_TLS_CERTIFICATE"),
        read_file(key, "LECTERN_TLS_KEY"),
        read_file(client_ca, "LECTERN_TLS_CLIENT_CA") if client_ca else None,
    )
    warn_if_readable_by_all(key, "the TLS key")
    try:
        made = _identified(pem)
    except (ssl.SSLError, ValueError) as error:
        if "MISMATCH" in str(error):
            raise StartError(f"{key} is not the key of the certificate {certificate}") from error
        raise StartError(f"{certificate} and {key} must be a PEM certificate and its PEM key, not encrypted") from error
    if pem.client_ca is not None:
        try:
            _ask_clients(made, pem.client_ca)
        except (ssl.SSLError, ValueError) as error:
            raise StartError(f"LECTERN_TLS_CLIENT_CA: {client_ca} has no PEM certificates") from error
    return pem


def context(pem: Pem) -> ssl.SSLContext:
    """A server's TLS context of certificates that `certificates` has read, which are valid."""
    made = _identified(pem)
    if pem.client_ca is not None:
        _ask_clients(made, pem.client_ca)
    return made


def _identified(pem: Pem) -> ssl.SSLContext:
    """A context of what was read, not of the files, which may change meanwhile; `ssl` takes files alone."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    with tempfile.NamedTemporaryFile() as certificate, tempfile.NamedTemporaryFile() as key:
        for file, content in ((certificate, pem.certificate), (key, pem.key)):
            file.write(content)
            file.flush()
        # With the empty password an encrypted key is an error and not a prompt on the terminal.
        made.load_cert_chain(certificate.name, key.name, password="")
    return made


def _ask_clients(made: ssl.SSLContext, client_ca: bytes) -> None:
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_verify_locations(cadata=client_ca.decode("ascii"))
