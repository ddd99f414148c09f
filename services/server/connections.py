"""Finds the sockets of a server's port, which gRPC does not expose, so that the server stops without losing a call.

gRPC's server sends GOAWAY and refuses calls in one step (`Server::ShutdownAndNotify`), so it cancels the calls that are
on their way at that moment (https://github.com/grpc/grpc/issues/41785). RFC 9113, 6.8 asks for the GOAWAY a round trip
earlier. Only Linux lists a process's sockets; elsewhere these functions find none.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress

# A frame of 8 bytes, type 7, no flags, stream 0: streams up to 2**31 - 1 are answered, NO_ERROR.
GOAWAY = b"\0\0\x08\x07\0" + struct.pack(">III", 0, 2**31 - 1, 0)
SIOCOUTQNSD = 0x894B  # number of bytes that were written and not yet sent


def stop_listening(port: int) -> None:
    """Refuse new connections; existing ones stay open.

    gRPC gets a socket that never listens in place of its own: a socket that was shut down would make it log an error.
    """
    for fd, sock in _sockets(port):
        if _listens(sock):
            with socket.socket(sock.family) as silent:
                os.dup2(silent.fileno(), fd, inheritable=False)


def send_goaway(port: int) -> int:
    """Ask the caller of each plaintext connection to make its next calls elsewhere; returns how many were asked.

    Connections whose caller does not read are skipped.
    """
    sent = 0
    for _, sock in _sockets(port):
        with suppress(OSError):  # it is being closed
            # Never inside one of gRPC's frames: gRPC writes a partial frame only if the kernel's buffer is full.
            if not (_listens(sock) or _unsent(sock)):
                sent += sock.send(GOAWAY, socket.MSG_DONTWAIT) == len(GOAWAY)
    return sent


def _listens(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _unsent(sock: socket.socket) -> int:
    return int.from_bytes(fcntl.ioctl(sock, SIOCOUTQNSD, bytes(4)), sys.byteorder)


def _sockets(port: int) -> Iterator[tuple[int, socket.socket]]:
    """This process's TCP sockets on a local port, each with its file descriptor."""
    if sys.platform != "linux":
        return
    for name in os.listdir("/proc/self/fd"):
        # Some descriptors are closed meanwhile.
        with suppress(OSError), ExitStack() as stack:
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            sock = stack.enter_context(closing(socket.socket(fileno=os.dup(int(name)))))
            if sock.family in (socket.AF_INET, socket.AF_INET6) and sock.getsockname()[1] == port:
                yield int(name), sock
