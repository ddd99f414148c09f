"""Where releases come from: a file, or a web server by HTTPS; by HTTP from this machine alone."""

from __future__ import annotations

import http.client
import ipaddress
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from artifacts.release import ReleaseError, Stream

SECONDS = 30.0  # that a server may keep silent
_BROKEN = (OSError, http.client.HTTPException, UnicodeError)  # the last of a host's name


@contextmanager
def opened(source: str, authority: Path | None = None) -> Iterator[Stream]:
    """The content of a file or of an address, from its beginning.

    Args:
        authority: certificates that sign the server's; those of the system if not given.

    Raises:
        ReleaseError: it cannot be fetched, or may not be.
    """
    if "://" not in source:
        try:
            file = open(source, "rb")  # noqa: SIM115
        except OSError as error:
            raise ReleaseError(f"{source} cannot be read: {error.strerror}") from error
        with file:
            yield _Named(file, source)
        return
    _check(source)
    try:
        response = _opener(authority).open(source, timeout=SECONDS)
    except urllib.error.HTTPError as error:
        raise ReleaseError(f"{source} cannot be fetched: status {error.code}") from error
    except _BROKEN as error:
        raise ReleaseError(f"{source} cannot be fetched: {getattr(error, 'reason', error)}") from error
    with response:
        yield _Named(response, source)


class _Named:
    """A stream whose errors say where it comes from."""

    def __init__(self, stream: Any, source: str) -> None:
        self._stream, self._source = stream, source

    def read(self, size: int, /) -> bytes:
        try:
            return bytes(self._stream.read(size))
        except _BROKEN as error:
            raise ReleaseError(f"{self._source} broke off: {error}") from error


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a server only to where it might have been asked itself."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        _check(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def _opener(authority: Path | None) -> urllib.request.OpenerDirector:
    """What fetches by HTTPS, and by HTTP, but by nothing else that urllib knows."""
    try:
        context = ssl.create_default_context(cafile=authority)
    except OSError as error:
        raise ReleaseError(f"{authority} cannot be read as certificates: {error.strerror or error}") from error
    proxies = {scheme: proxy for scheme, proxy in urllib.request.getproxies().items() if scheme == "https"}
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(proxies),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=context),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


def _check(address: str) -> None:
    """See that an address may be fetched.

    Raises:
        ReleaseError: it may not.
    """
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise ReleaseError(f"{address} is no address: {error}") from None
    if parts.username is not None:
        raise ReleaseError("an address with a user or a password would be seen in logs: leave both out")
    if parts.scheme == "https" or (parts.scheme == "http" and _is_this_machine(host)):
        return
    raise ReleaseError(f"{address} is neither a file nor https:// (http:// is for this machine alone)")


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
