"""A name server whose answers a test changes."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

A, IN = 1, 1


class NameServer:
    """Answers every question for an IPv4 address with `addresses`, and every other with nothing."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                query, client = self._socket.recvfrom(512)
                self._socket.sendto(self._answer(query), client)
            except OSError:  # closed
                return

    def _answer(self, query: bytes) -> bytes:
        end = query.index(b"\0", 12) + 5
        question = query[12:end]
        (kind,) = struct.unpack(">H", question[-4:-2])
        addresses = self.addresses if kind == A else []
        records = [b"\xc0\x0c" + struct.pack(">HHIH", A, IN, 0, 4) + socket.inet_aton(address) for address in addresses]
        return query[:2] + struct.pack(">HHHHH", 0x8180, 1, len(records), 0, 0) + question + b"".join(records)


@contextmanager
def name_server(*addresses: str) -> Iterator[NameServer]:
    server = NameServer(*addresses)
    try:
        yield server
    finally:
        server.close()
