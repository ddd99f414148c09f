"""Compressed messages, by gRPC's and HTTP's names of compressions."""

from __future__ import annotations

import zlib

from services import pools
from services.errors import InvalidArgument, ResourceExhausted, Unimplemented

INLINE_BYTES = 4096  # inflated, these take well under a millisecond
COMPRESSIONS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


async def inflated(content: bytes, encoding: str, most: int) -> bytes:
    """A message without its compression.

    Args:
        most: bytes that it may have then.

    Raises:
        Unimplemented: the compression is unknown. InvalidArgument: it is damaged. ResourceExhausted: it is too large.
    """
    bits = COMPRESSIONS.get(encoding)
    if bits is None:
        raise Unimplemented(f"the compression {encoding or 'identity'!r} is not served; use gzip or none")
    return await pools.inline_or_codecs(len(content) < INLINE_BYTES, _inflated, content, bits, most)


def _inflated(content: bytes, bits: int, most: int) -> bytes:
    stream = zlib.decompressobj(bits)
    try:
        plain = stream.decompress(content, most + 1)
    except zlib.error as error:
        raise InvalidArgument(f"the message cannot be decompressed: {error}") from None
    if len(plain) > most:
        raise ResourceExhausted(f"the message has more than {most} bytes when decompressed, the most")
    if not stream.eof:
        raise InvalidArgument("the message cannot be decompressed: it is incomplete")
    return plain
