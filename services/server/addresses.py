"""The addresses of a host that a server listens on."""

from __future__ import annotations

import socket
from contextlib import closing

Address = tuple[socket.AddressFamily, tuple[str, int]]


def authority(host: str, port: int) -> str:
    """`host:port` as in a URL, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def addresses(host: str, port: int) -> list[Address]:
    """Every address of a host; those of a family that this machine lacks are left out.

    `localhost` is both 127.0.0.1 and ::1 (RFC 6761), also where /etc/hosts has one of them alone.

    Raises:
        OSError: there is no such host.
    """
    names = ("127.0.0.1", "::1") if host == "localhost" else (host,)
    known: list[Address] = []
    for name in names:
        for family, _, _, _, address in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM):
            candidate = (family, (str(address[0]), int(address[1])))
            if candidate not in known:
                known.append(candidate)
    return [(family, address) for family, address in known if _is_local(family, address[0])] or known


def check_free(host: str, port: int) -> None:
    """Make sure that nobody listens there, also not one who would share the port (SO_REUSEPORT).

    Raises:
        OSError: somebody does, or this is no address of this machine.
    """
    for family, address in addresses(host, port):
        with closing(bind(family, address)):
            pass


def bind(family: socket.AddressFamily, address: tuple[str, int]) -> socket.socket:
    """A socket of that address, which no other socket has.

    Raises:
        OSError: another has, or this is no address of this machine.
    """
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Connections that ended a moment ago are no obstacle; a listener still is.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address[0] != "::")
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def _is_local(family: socket.AddressFamily, host: str) -> bool:
    try:
        bind(family, (host, 0)).close()
    except OSError:
        return False
    return True
