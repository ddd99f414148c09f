"""Vocabularies that are learned."""

from __future__ import annotations

import pytest

from training.methods.tokens import CHARACTERS, SPECIAL, byte_pair_encoding

pytestmark = pytest.mark.unit


def test_the_same_texts_give_the_same_vocabulary() -> None:
    """Though more characters are equally common than get a token: a training that resumes needs its ids."""
    texts = [chr(0x4E00 + i) for i in range(CHARACTERS + 1000)]
    first, second = (byte_pair_encoding(texts, CHARACTERS + 500, ends=False).get_vocab() for _ in range(2))
    assert len(first) == len(SPECIAL) + CHARACTERS
    assert first == second


def test_tokens_give_their_text_back() -> None:
    texts = ["起初，　神創造天地。", "他在2024年說 hello！"]
    tokenizer = byte_pair_encoding(texts, 60, ends=False)
    for text in texts:
        assert tokenizer.decode(tokenizer.encode(text).ids) == " ".join(text.split())
