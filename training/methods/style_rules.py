"""Archaic and modern English by a short list of words: what rewriting without learning reaches."""

from __future__ import annotations

import re

_MODERN = {
    "thou": "you",
    "thee": "you",
    "ye": "you",
    "thy": "your",
    "thine": "your",
    "thyself": "yourself",
    "unto": "to",
    "hath": "has",
    "hast": "have",
    "doth": "does",
    "dost": "do",
    "didst": "did",
    "art": "are",
    "wast": "were",
    "shalt": "shall",
    "wilt": "will",
    "canst": "can",
    "saith": "says",
    "spake": "spoke",
    "brethren": "brothers",
    "whither": "where",
    "thither": "there",
    "hither": "here",
    "yea": "yes",
    "nay": "no",
}
_ARCHAIC = {
    "you": "thou",
    "your": "thy",
    "yours": "thine",
    "yourself": "thyself",
    "to": "unto",
    "has": "hath",
    "does": "doth",
    "says": "saith",
    "spoke": "spake",
    "brothers": "brethren",
    "yes": "yea",
    "don't": "do not",
    "won't": "will not",
    "can't": "cannot",
    "didn't": "did not",
}
_OBJECT = re.compile(r"\b(to|unto|for|with|of|from|by|on|upon|in|tell|give|let|see|love) (?:thou|you)\b")
_VERB = re.compile(r"\b([a-z]{3,}[^aeiou])eth\b")
_WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?")


def rewrite(text: str, style: str) -> str:
    """A text with archaic words for modern ones, or the other way about."""
    if style == "modern":
        return _VERB.sub(r"\1s", _swapped(text, _MODERN))
    return _OBJECT.sub(r"\1 thee", _swapped(text, _ARCHAIC))


def _swapped(text: str, words: dict[str, str]) -> str:
    def swap(match: re.Match[str]) -> str:
        word = words.get(match[0].lower(), match[0])
        return word[0].upper() + word[1:] if match[0][0].isupper() else word

    return _WORD.sub(swap, text)
