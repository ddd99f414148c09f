"""What the loader makes of the treebank's format."""

from __future__ import annotations

from artifacts.tagging import BEGIN, INSIDE
from training.data.tags import Slot, tags_of
from training.data.web_treebank import PART_TAGS, PARTS_OF_SPEECH, sentence_of
from training.methods.text_encoder import SPECIAL, tokenizer_of

ROWS = """# sent_id = 1
# text = They don't pay $5.
1\tThey\tthey\tPRON\tPRP\t_\t4\tnsubj\t_\t_
2-3\tdon't\t_\t_\t_\t_\t_\t_\t_\t_
2\tdo\tdo\tAUX\tVBP\t_\t4\taux\t_\t_
3\tn't\tnot\tPART\tRB\t_\t4\tadvmod\t_\t_
4\tpay\tpay\tVERB\tVB\t_\t0\troot\t_\t_
5\t$\t$\tSYM\t$\t_\t4\tobj\t_\tSpaceAfter=No
6\t5\t5\tNUM\tCD\t_\t5\tnummod\t_\tSpaceAfter=No
7\t.\t.\tPUNCT\t.\t_\t4\tpunct\t_\t_""".splitlines()


def test_words_stand_where_the_text_has_them() -> None:
    sentence = sentence_of(ROWS)
    assert sentence.text == "They don't pay $5."
    words = [(sentence.text[word.start : word.end], word.label) for word in sentence.words]
    assert words[1:3] == [("do", "AUX"), ("n't", "PART")]
    assert words[4:] == [("$", "SYM"), ("5", "NUM"), (".", "PUNCT")]


def test_the_first_piece_of_each_word_has_its_tag() -> None:
    sentence = sentence_of(ROWS)
    pieces = [*SPECIAL, "they", "don", "'", "t", "pa", "##y", "$", "5", "."]
    encoding = tokenizer_of(pieces).encode(sentence.text)
    tags = dict(zip(encoding.tokens, tags_of(sentence.words, encoding), strict=True))
    assert tags["don"] == f"{BEGIN}AUX"
    assert (tags["'"], tags["t"]) == (f"{BEGIN}PART", f"{INSIDE}PART")
    assert (tags["pa"], tags["##y"]) == (f"{BEGIN}VERB", "")
    assert {tag for tag in tags.values() if tag} <= set(PART_TAGS)


def test_each_part_of_speech_has_two_tags() -> None:
    assert len(PART_TAGS) == 2 * len(PARTS_OF_SPEECH)
    assert Slot("NOUN", 0, 1).label in PARTS_OF_SPEECH
