"""Which names the door is called by, and which web pages may call it.

Against DNS rebinding, in which a page's own name comes to mean this machine, and against pages that send what needs no
leave (https://fetch.spec.whatwg.org/#cors-safelisted-request-header).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from services.errors import PermissionDenied
from services.server.addresses import LOOPBACK
from services.server.settings import Settings

OF_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


class Guard:
    """Refuses requests by the headers Host and Origin."""

    def __init__(self, settings: Settings) -> None:
        own = OF_LOOPBACK if settings.host in LOOPBACK else ()
        self._hosts = {host.lower() for host in (*own, *settings.http_hosts)}
        self._own_names = {*OF_LOOPBACK, *map(str.lower, settings.http_hosts)}
        self._origins = set(settings.http_origins)

    def check(self, headers: Mapping[str, str], scheme: str) -> None:
        """Check a request's headers.

        Raises:
            PermissionDenied: it was called by another name, or by a page of another origin.
        """
        host = headers.get("host", "")
        if self._hosts and _without_port(host) not in self._hosts:
            raise PermissionDenied(
                f"this server is not called {host!r}: use {' or '.join(sorted(self._hosts))}, or let the operator add "
                "the name to LECTERN_HTTP_HOSTS"
            )
        origin = headers.get("origin")
        if origin is not None and origin != f"{scheme}://{host}" and origin not in self._origins:
            raise PermissionDenied(
                f"pages of {origin} may not call this server; the operator may add the origin to LECTERN_HTTP_ORIGINS"
            )

    def check_name(self, headers: Mapping[str, str], scheme: str) -> None:
        """Check that no page of a stranger makes the call, whose name has come to mean this server (DNS rebinding).

        An address is nobody's to give, and a name has no certificate but its owner's.

        Raises:
            PermissionDenied: the name may be anybody's.
        """
        name = _without_port(headers.get("host", ""))
        if scheme != "https" and name not in self._own_names and not _is_address(name):
            raise PermissionDenied(
                f"the page at {name!r} gets no token, since the name may be anybody's: the operator may add it to "
                "LECTERN_HTTP_HOSTS"
            )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _without_port(host: str) -> str:
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdigit() else host.lower()
