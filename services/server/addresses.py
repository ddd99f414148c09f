"""Resolves the addresses on which a server listens, and checks that they are free."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import closing

LOOPBACK = ("127.0.0.1", "::1", "localhost")

Address = tuple[socket.AddressFamily, tuple[str, int]]


def authority(host: str, port: int) -> str:
    """`host:port` as in a URL, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def network(host: str) -> str:
    """What one caller has: an IPv4 address, or 64 bits of IPv6, within which a caller may choose its address."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(address.ipv4_mapped or ipaddress.ip_network((address.packed[:8] + bytes(8), 64)))


def addresses(host: str, port: int) -> list[Address]:
    """Every address of a host, without those of a family that this machine lacks.

    `localhost` is both 127.0.0.1 and ::1 (RFC 6761), even if /etc/hosts has only one of them.

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
    """Check that no process listens there, not even one that would share the port (SO_REUSEPORT).

    Raises:
        OSError: a process does, or this is not an address of this machine.
    """
    for family, address in addresses(host, port):
        with closing(bind(family, address)):
            pass


def bind(family: socket.AddressFamily, address: tuple[str, int]) -> socket.socket:
    """A socket that is bound to the address, exclusively.

    Raises:
        OSError: the address is taken, or is not an address of this machine.
    """
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Recently closed connections are no obstacle; a listener still is.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address[0] != "::")
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def listening(family: socket.AddressFamily, address: tuple[str, int], backlog: int, *, shared: bool) -> socket.socket:
    """A socket that listens there; `shared`: beside the other workers of one supervisor.

    Raises:
        OSError: the address is taken, or is not an address of this machine.
    """
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address[0] != "::")
        listener.bind(address)
        listener.listen(backlog)
    except OSError:
        listener.close()
        raise
    return listener


def _is_local(family: socket.AddressFamily, host: str) -> bool:
    try:
        bind(family, (host, 0)).close()
    except OSError:
        return False
    return True
