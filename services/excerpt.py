"""Shortens text from callers to fit an error, a trailer or a line of the log."""

from __future__ import annotations

LONGEST = 1300  # bytes; gRPC repeats an error percent-encoded and in base64, in trailers of 8 KiB at most


def excerpt(text: str, longest: int = LONGEST) -> str:
    """The text, or only its start and end if it has more than `longest` bytes of UTF-8; always valid Unicode."""
    content = text.encode(errors="replace")
    if len(content) <= longest:
        return content.decode()
    head, tail = content[: longest * 6 // 10], content[-longest * 3 // 10 :]
    return f"{head.decode(errors='ignore')} … ({len(content):,} bytes) … {tail.decode(errors='ignore')}"
