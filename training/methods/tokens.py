"""Tokenizers: byte-pair encodings (Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units",
2016) in the library `tokenizers`, which training and services both use."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

PADDING, UNKNOWN, START, END = SPECIAL = ("<pad>", "<unk>", "<s>", "</s>")
PADDING_ID, UNKNOWN_ID, START_ID, END_ID = range(len(SPECIAL))
SPACE = "▁"  # as tokens have it
# After an opening quote or bracket.
_OPENED = r"""(?:(?<=^["'(])|(?<=\s["'(])|(?<=^"')|(?<=\s"'))"""
CHARACTERS = 3400  # Chinese characters that get a token, the commonest first; a rarer one is unknown


def byte_pair_encoding(
    texts: Sequence[str],
    vocabulary: int,
    *,
    lowercase: bool = False,
    spaced: bool = False,
    ends: bool = True,
    whole: Sequence[str] = (),
) -> Tokenizer:
    """Learn a vocabulary of so many tokens at most, and those that are to stay `whole`. `ends` marks each text's end.

    Texts come into Unicode's composed form. Punctuation and digits stay alone; a space belongs to the word after it. Of
    a language that is in lowercase or `spaced`, a text's first word has a space too, and quotes are straight; if
    `spaced`, so has a word after an opening quote or bracket: a word is the same tokens wherever it stands.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    steps: list[normalizers.Normalizer] = [
        normalizers.NFC(),
        normalizers.Replace(Regex(r"\p{Cc}|\p{Cf}"), " "),
        normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Strip(),
    ]
    if lowercase:
        steps.append(normalizers.Lowercase())
    if lowercase or spaced:
        steps += [normalizers.Replace(Regex("[“”]"), '"'), normalizers.Replace(Regex("[‘’]"), "'")]
    if spaced:
        steps.append(normalizers.Replace(Regex(rf"{_OPENED}(?=\w)"), " "))
    scheme: Literal["always", "never"] = "always" if lowercase or spaced else "never"
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme=scheme),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    if spaced:
        closed = decoders.Replace(Regex(f"{_OPENED} "), "")
        tokenizer.decoder = decoders.Sequence([tokenizer.decoder, decoders.Fuse(), closed])
    if whole:
        apart = re.compile("|".join(map(re.escape, whole)))
        texts = [piece for text in texts for piece in apart.split(text)]
    # The trainer would choose at random among characters that are equally common, and ids would differ between runs.
    counts = Counter(c for text in texts for c in tokenizer.normalizer.normalize_str(text).replace(" ", SPACE))
    alphabet = sorted(counts, key=lambda c: (-counts[c], c))[:CHARACTERS]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in whole])
    if ends:
        tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, END_ID)])
    return tokenizer
