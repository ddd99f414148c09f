"""What a style rewriter learns with: words that mark a style, noise, and a network that copies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from training.data import SLIVERS, styles
from training.data.styles import STYLES
from training.methods import style_rules
from training.methods.back_translation import Lessons, Noise
from training.methods.pointer import Encoder, PointerGenerator, Shape, Step, rewrite
from training.methods.style_words import style_words
from training.methods.tokens import END_ID, PADDING_ID, UNKNOWN_ID, byte_pair_encoding

pytestmark = pytest.mark.unit
SHAPE = Shape(width=32, heads=2, hidden=64, layers=2, vocabulary=60, longest=40, dropout=0.0)


def net_of(**changes: bool) -> PointerGenerator:
    torch.manual_seed(0)
    return PointerGenerator(replace(SHAPE, **changes)).eval()


@pytest.mark.parametrize("copies", [True, False])
def test_steps_say_what_the_whole_says(copies: bool) -> None:
    net = net_of(copies=copies)
    tokens, lengths = torch.randint(6, 60, (3, 12)), torch.tensor([[12], [9], [5]])
    target = torch.randint(6, 60, (3, 7))
    with torch.no_grad():
        whole = net.log_likelihood(tokens, lengths, target)
        memory, step = Encoder(net)(tokens, lengths), Step(net)
        past = [torch.zeros(3, 2, 0, 16) for _ in range(4)]
        compared = 0
        for place in range(6):
            count = torch.full((3, 1), place)
            scores, ids, shares, attention, *new = step(target[:, place : place + 1], count, lengths, *past, *memory)
            past = [torch.cat(pair, dim=2) for pair in zip(past, new, strict=True)]
            assert ((shares >= 0) & (shares <= 1.0001)).all()
            assert attention.sum(1).tolist() == pytest.approx([1.0] * 3, abs=1e-5)
            for row, at in (ids == target[:, place + 1, None]).nonzero().tolist():
                assert float(scores[row, at]) == pytest.approx(float(whole[row, place]), abs=1e-4)
                compared += 1
    assert compared


def test_what_is_not_in_the_vocabulary_of_the_source_is_never_copied() -> None:
    net = net_of()
    tokens = torch.tensor([[7, UNKNOWN_ID, 9, END_ID, PADDING_ID, PADDING_ID]])
    with torch.no_grad():
        _, attention, _ = net(tokens, torch.tensor([[4]]), torch.tensor([[4, 10]]))
    assert attention[0, :, [1, 4, 5]].abs().max() < 1e-6
    without = net_of(copies=False)
    with torch.no_grad():
        memory = Encoder(without)(tokens, torch.tensor([[4]]))
        past = [torch.zeros(1, 2, 0, 16) for _ in range(4)]
        _, _, shares, *_ = Step(without)(torch.tensor([[4]]), torch.tensor([[0]]), torch.tensor([[4]]), *past, *memory)
    assert not shares.any()


def test_rewriting_many_at_once_is_rewriting_each() -> None:
    net = net_of()
    tokens, lengths = torch.randint(6, 60, (3, 12)), torch.tensor([[12], [7], [3]])
    for row, length in enumerate(lengths[:, 0].tolist()):
        tokens[row, length:] = PADDING_ID
    start, longest = torch.tensor([4, 5, 4]), [5, 9, 12]
    together = rewrite(net, tokens, lengths, start, longest)
    for i, written in enumerate(together):
        own = tokens[i : i + 1, : int(lengths[i])]
        assert rewrite(net, own, lengths[i : i + 1], start[i : i + 1], longest[i : i + 1]) == [written]
        assert len(written) <= longest[i]


def test_counterparts_are_found_without_pairs() -> None:
    random = np.random.default_rng(0)
    people, things = ("John", "Mary", "Ruth", "Saul"), ("bread", "house", "king", "sea")
    verbs = ("saw", "met", "heard")

    def texts(you: str, to: str, says: str) -> list[str]:
        one = [f"{random.choice(people)} {says} {to} the {random.choice(things)}, go." for _ in range(300)]
        return one + [f"I {random.choice(verbs)} {you} by the {random.choice(things)}, and went." for _ in range(300)]

    archaic, modern = style_words([texts("thee", "unto", "saith"), texts("you", "to", "says")])
    for word, other in (("thee", "you"), ("unto", "to"), ("saith", "says")):
        assert archaic.counterparts[word][0][0] == other
        assert modern.counterparts[other][0][0] == word
    swapped = archaic.swap("John saith unto the king, go.", random)
    assert "".join(swapped) == "John says to the king, go."
    assert archaic.marks("John saith unto the king") > archaic.marks("John says to the king")


def test_words_that_always_stand_together_are_one() -> None:
    verbs = ("saw", "met", "heard")
    random, people = np.random.default_rng(0), [f"{first}ohn" for first in "BDFGHKLMNPRSTVWZ"]

    def texts(lord: str, did: str) -> list[str]:
        names = random.choice(people, (300, 2)).tolist()
        return [
            f"In the days of the king, {one} {random.choice(verbs)} {lord} by the sea, and he {did} go to {other}."
            for one, other in names
        ]

    archaic, modern = style_words([texts("the LORD", "did not"), texts("Yahweh", "didn't")])
    assert archaic.pieces("and the LORD did not") == ["and", " the LORD", " did not"]
    assert (
        "".join(archaic.swap("John saw the LORD, and he did not go.", random)) == "John saw Yahweh, and he didn't go."
    )
    assert "".join(modern.swap("O Yahweh, he didn't go.", random)) == "O the LORD, he did not go."
    assert "".join(archaic.swap("O LORD!", random)) == "O Yahweh!"


def test_a_word_after_a_quote_is_the_word_that_it_is_elsewhere() -> None:
    texts = ["Let us go there.", 'He said, "Let us go." (So it isn\'t.)'] * 20
    tokenizer = byte_pair_encoding(texts, 100, spaced=True)
    whole = tokenizer.encode("Let us go").ids[:-1]
    for text in ('"Let us go"', "He said, \"Let us go.\" 'Let us go' (Let us go)", "\"'Let us go' she said"):
        ids = tokenizer.encode(text).ids
        assert any(ids[i : i + len(whole)] == whole for i in range(len(ids)))
        assert tokenizer.decode(ids) == text


def test_lessons_write_the_text_itself_from_what_noise_or_the_network_makes_of_it() -> None:
    data = styles.load_sliver(SLIVERS / "style_rewriter.json")
    texts = [data.verses[style][:40] for style in STYLES]
    tokenizer = byte_pair_encoding([t for own in texts for t in own], 300, spaced=True, whole=("<a>", "<m>"))
    shape = replace(SHAPE, vocabulary=tokenizer.get_vocab_size(), longest=160)
    net = PointerGenerator(shape)
    starts = [tokenizer.get_vocab()[token] for token in ("<a>", "<m>")]
    noise = Noise(parts=0.0, denoised=0.0)
    lessons = Lessons(net, tokenizer, texts, starts, style_words(texts), noise, 1024)
    for back in (False, True):
        batches = list(lessons.batches([0, 0], back))
        assert len(batches) == lessons.count([0, 0])
        rows = [row for batch in batches for row in batch.target.tolist()]
        assert {row[0] for row in rows} == set(starts)
        written = [tokenizer.decode([i for i in row[1:] if i != PADDING_ID]) for row in rows]
        assert sorted(written) == sorted(text for own in texts for text in own)
    assert net.training


@pytest.mark.parametrize(
    ("modern", "archaic"),
    [("You are here.", "Thou are here."), ("I said to you, go.", "I said unto thee, go.")],
)
def test_rules_know_thee_and_thou(modern: str, archaic: str) -> None:
    assert style_rules.rewrite(modern, "archaic") == archaic
    assert style_rules.rewrite("And he saith unto thee, Thou hast spoken: he knoweth.", "modern") == (
        "And he says to you, You have spoken: he knows."
    )
