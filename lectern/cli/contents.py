"""What a file is, by its content."""

from __future__ import annotations

_SPACES = "\t\n\f\r"


def is_text(content: bytes) -> bool:
    """Whether a file holds UTF-8 text: something, and no control characters but spaces."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return False
    return bool(text) and all(character >= " " or character in _SPACES for character in text)


def is_recording(content: bytes) -> bool:
    """Whether it is a WAV, FLAC or OGG file; WebP begins as WAV does."""
    return content[:4] in (b"fLaC", b"OggS") or (content[:4] == b"RIFF" and content[8:12] == b"WAVE")
