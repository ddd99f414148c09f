"""Recognises texts that are not English, the language of the text models, by their script and their commonest words."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from services import pools

# Examining more than this would delay other callers, so it runs off the event loop.
INLINE_CHARACTERS = 4_096
LOOKED_AT = 4_000  # characters of a text that are examined
# A text is not English if a larger share of its letters is of another script, or has diacritics.
FOREIGN_LETTERS = 1 / 3
MARKED_LETTERS = 0.05
FEWEST_MARKED = 3

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
# Scripts by the first word of their letters' Unicode names, with their common names.
_SCRIPTS = {
    "CJK": "Chinese characters",
    "HIRAGANA": "Japanese",
    "KATAKANA": "Japanese",
    "HANGUL": "Korean",
    "CYRILLIC": "Cyrillic letters",
    "GREEK": "Greek letters",
    "ARABIC": "Arabic letters",
    "HEBREW": "Hebrew letters",
    "DEVANAGARI": "Devanagari letters",
    "THAI": "Thai letters",
}
_ENGLISH = (
    "the of and to in is it that was for on are as with his they at be this from have or by had not but what all were "
    "when we there can an your which their said if do will each about how up out them then she many some so these "
    "would other into has more her two like him see time could no make than been its who now my over did down only way "
    "may you i he me us our am any very please thank thanks hello where why here does don't i'm it's yes a"
)
# The commonest words of languages with Latin letters; words that are English too do not count.
_OTHERS = {
    "German": "der und das ist nicht ich sie ein eine einen einem zu den dem mit auf für es wir ihr auch wie wird sind "
    "haben hat aber von bei aus nach wenn kann mein dein dich mich guten danke bitte oder sich im vom zum zur des",
    "French": "le la les un une des et est que qui dans pour pas vous nous je il elle ne sur avec ce cette mais son sa "
    "ses au aux du en sont été être bonjour merci oui où très plus c'est j'ai tu mon ma d'un qu'il l'on votre",
    "Spanish": "el la los las un una y es que en por para con no se su lo como pero más está son del al muy yo tú "
    "usted gracias hola qué cómo dónde hay tiene ser este esta mi te nos ya",
    "Italian": "il lo la gli le un una e è che di per con non sono mi si come ma più questo questa del della nel alla "
    "ciao grazie dove perché sei ho hai abbiamo anche io noi loro ti ci",
    "Portuguese": "os as um uma e é que em por para com não se seu sua mas mais está são do da dos das no na ao muito "
    "você eu obrigado olá onde como foi ser isso",
    "Dutch": "het een en van ik te dat die niet zijn op met voor hij er maar om hem dan zou wat mijn aan ook naar bij "
    "jij je wij zij heeft kan goed dank waar deze waar hoe hebben wordt worden dit uit nog geen",
    "Swedish": "och att det som en är jag på för inte med den har de av till var ett om han vi hon så kan du min tack "
    "hej",
    "Polish": "na do nie to się jest że jak ale co tak po za od jego czy być dla już ma dziękuję",
    "Turkish": "ve bir bu da de için ne ben sen çok var mı ile gibi ama daha nasıl teşekkür",
    "Indonesian": "yang dan di ini itu dengan untuk tidak dari dalam akan pada saya kamu adalah ke ada juga",
    "Vietnamese": "là và của có không một người cho được này với trong các bạn tôi",
    "Czech": "je to se na že jsem jste jak ale tak dobrý není pro jako už za by když",
    "Latin": "et est non in ad sed cum ut quod qui esse sunt enim nec atque quam",
}
_READ = frozenset(_ENGLISH.split())
_FOREIGN = {language: frozenset(words.split()) - _READ for language, words in _OTHERS.items()}


async def not_english_each(texts: Sequence[str]) -> list[str | None]:
    """`not_english` of each text."""
    if sum(min(len(text), LOOKED_AT) for text in texts) <= INLINE_CHARACTERS:
        return [not_english(text) for text in texts]
    return await pools.codecs.run(lambda: [not_english(text) for text in texts])


def not_english(text: str) -> str | None:
    """The language or script of a text that is not English, such as "French" or "Chinese characters".

    None if the text may be English, which includes texts without letters and texts too short to tell.
    """
    looked_at = text[:LOOKED_AT]
    letters = [character for character in looked_at if character.isalpha()]
    names = [unicodedata.name(letter, "").partition(" ")[0] for letter in letters if letter > "\x7f"]
    other_scripts = Counter(name for name in names if name not in ("LATIN", "FEMININE", "MASCULINE", "MODIFIER"))
    if other_scripts.total() > FOREIGN_LETTERS * len(letters):
        kana = any(name in other_scripts for name in ("HIRAGANA", "KATAKANA"))
        most = "HIRAGANA" if kana else other_scripts.most_common(1)[0][0]
        return _SCRIPTS.get(most, f"{most.title()} letters")
    words = Counter(word.lower().replace("’", "'") for word in _WORD.findall(looked_at))
    english = _hits(words, _READ)
    language, most_hits = max(((name, _hits(words, known)) for name, known in _FOREIGN.items()), key=lambda hit: hit[1])
    # One foreign word among many may be a name; among two or three it is not.
    if most_hits > english and (most_hits >= 2 or 3 * most_hits >= words.total() >= 2):
        return language
    marked = names.count("LATIN")
    if marked >= FEWEST_MARKED and marked > MARKED_LETTERS * len(letters) and english < words.total() / 5:
        return "a language that is not English"
    return None


def _hits(words: Counter[str], known: frozenset[str]) -> int:
    return sum(count for word, count in words.items() if word in known)
