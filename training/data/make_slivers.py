"""Makes the slivers that `--fast` recipes and tests use: `python -m training.data.make_slivers` (fetches the data)."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from training.data import (
    SLIVERS,
    audio,
    babi,
    cifar10,
    covid,
    drawings,
    entailment,
    faces,
    fashion_mnist,
    festvox_ru,
    fonts,
    mails,
    mnist,
    omniglot,
    parallel,
    poems,
    printed_digits,
    questions,
    sentiments,
    snips,
    styles,
    sword,
    voices,
    web_treebank,
)
from training.data.hashing import bucket
from training.data.labelled_texts import LabelledTexts

ROOT = Path(__file__).parents[2]
PER_CLASS = 20


def image_classifier() -> None:
    """20 training photos of each class, shuffled; and the first 200 photos of the official test split."""
    data = cifar10.load()
    chosen = np.concatenate([np.flatnonzero(data.train.labels == label)[:PER_CLASS] for label in range(10)])
    chosen = np.random.default_rng(0).permutation(chosen)
    for name, split, index in (
        ("image_classifier", data.train, chosen),
        ("image_classifier_test", data.test, np.arange(10 * PER_CLASS)),
    ):
        labels = split.labels[index].astype(np.uint8)
        np.savez_compressed(SLIVERS / f"{name}.npz", images=split.images[index], labels=labels)


def solar_anomaly_detector() -> None:
    """Made-up solar cells, a bright field with two dark bars, and some with a crack. Nothing is real."""
    random = np.random.default_rng(0)
    cells = 160 * random.uniform(0.7, 1, (70, 1, 1)) + random.normal(0, 8, (70, 64, 64))
    cells[:, :, [20, 21, 42, 43]] *= 0.5
    for cell in cells[50:]:
        steps = np.arange(10, 54)
        cell[steps, (steps * random.uniform(0.5, 1)).astype(int)] *= 0.2
    pixels = cells.round().clip(0, 255).astype(np.uint8)
    np.savez_compressed(SLIVERS / "solar_anomaly_detector.npz", good=pixels[:50], defective=pixels[50:])


def covid_regressor(rows: int = 120) -> None:
    """Made-up rows of the survey's schema: smooth random walks, of which the target is the last. Nothing is real; those
    of the example are about as large as real answers."""
    random = np.random.default_rng(0)
    states = random.integers(0, covid.STATES, rows)
    steps = np.cumsum(random.normal(0, 1, (rows, covid.DAYS, covid.DAILY)), axis=1)
    table = covid.load()
    known = table.train
    real = np.column_stack([known.features[:, covid.STATES :], known.targets]).reshape(-1, covid.DAYS, covid.DAILY)
    likely = real.mean((0, 1)) + 0.1 * real.std((0, 1)) * steps
    columns = [re.sub(r"\.\d$", "", name) for name in (*table.names, table.target)]
    for path, walks, count in (
        (SLIVERS / "covid_regressor.csv", 20 + steps, rows),
        (ROOT / "docs/examples/survey.csv", likely, 3),
    ):
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", *columns])
            for i in range(count):
                values = [f"{v:.4f}" for v in walks[i].ravel()]
                writer.writerow([i, *np.eye(covid.STATES, dtype=int)[states[i]], *values])


def translator_en_zh(pairs: int = 300) -> None:
    """Short training pairs of each domain in turn."""
    train = parallel.load().train
    by_domain = [[p for p in train if p.domain == d and len(p.english) < 60] for d in parallel.DOMAINS]
    chosen = [domain[i * (len(domain) // (pairs // 3))] for i in range(pairs // 3) for domain in by_domain]
    with (SLIVERS / "translator_en_zh.tsv").open("w", newline="") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows(
            [p.domain, p.english, p.chinese] for p in chosen
        )


def poem_generator(count: int = 240) -> None:
    """Short poems, all through the training split."""
    chosen = [p for p in poems.load().train if p.complete and p.title and len(p.text) <= 64]
    with (SLIVERS / "poem_generator.tsv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerows([p.title, p.text] for p in chosen[:: len(chosen) // count][:count])


def anomaly_detector() -> None:
    """Clothes with a few digits and kanji: 30 training pictures of each class, in turn; and 20 of the test split."""
    clothes, digits = fashion_mnist.load(), mnist.load()
    test_characters, validation_characters, _ = fonts.split_characters()
    for name, split, numbers, packages, characters, count in (
        ("anomaly_detector", clothes.train, digits.validation, fonts.VALIDATION, validation_characters, 30),
        ("anomaly_detector_test", clothes.test, digits.test, fonts.TEST, test_characters, PER_CLASS),
    ):
        rounds = np.stack([np.flatnonzero(split.labels == label)[:count] for label in range(10)], axis=1)
        kanji = fonts.draw(packages, characters, lambda items, *_: items).images
        np.savez_compressed(
            SLIVERS / f"{name}.npz",
            images=split.images[rounds.ravel()],
            labels=split.labels[rounds.ravel()].astype(np.uint8),
            mnist=numbers.images[:40],
            kanji=kanji[:: len(kanji) // 40][:40],
        )


def face_generator(count: int = 64) -> None:
    """Drawings that are not held out, at random."""
    images = faces.load().train
    chosen = np.random.default_rng(0).permutation(len(images))[:count]
    np.savez_compressed(SLIVERS / "face_generator.npz", images=images[chosen])


def garment_generator(count: int = 200) -> None:
    """The first training pictures."""
    train = fashion_mnist.load().train[:count]
    np.savez_compressed(SLIVERS / "garment_generator.npz", images=train.images, labels=train.labels.astype(np.uint8))


def style_translator(count: int = 80) -> None:
    """Training digits of both styles, at random."""
    arrays: dict[str, Any] = {}
    for style, split in (("handwritten", mnist.load().train), ("printed", printed_digits.load().train)):
        chosen = np.random.default_rng(0).permutation(len(split))[:count]
        arrays |= {f"{style}_images": split.images[chosen], f"{style}_labels": split.labels[chosen].astype(np.uint8)}
    np.savez_compressed(SLIVERS / "style_translator.npz", **arrays)


def drawing_classifier(each: int = 9) -> None:
    """Drawings of each class, shuffled: those of the test split last, a third of all."""
    data = drawings.load()
    random = np.random.default_rng(0)
    chosen = []
    for split, count in ((data.train, each * 2 // 3), (data.test, each // 3)):
        index = np.concatenate([np.flatnonzero(split.labels == label)[:count] for label in range(10)])
        index = random.permutation(index)
        chosen.append((split.images[index], split.labels[index].astype(np.uint8)))
    images, labels = (np.concatenate(parts) for parts in zip(*chosen, strict=True))
    np.savez_compressed(SLIVERS / "drawing_classifier.npz", images=images, labels=labels)


def few_shot_classifier() -> None:
    """60 training characters of the fonts, the same of the test fonts, 20 of Omniglot, and its first official run."""
    drawn, written = fonts.load(lambda files, *_: files), omniglot.load()
    arrays: dict[str, Any] = {}
    for name, glyphs, characters in (
        ("fonts", drawn.train, 60),
        ("test", drawn.test, 60),
        ("omniglot", written.train, 20),
    ):
        few = glyphs.characters < characters
        for part in ("images", "characters", "writers"):
            arrays[f"{name}_{part}"] = getattr(glyphs, part)[few]
    run = written.runs[0]
    arrays |= {"support": run.support, "queries": run.queries, "answers": run.answers}
    np.savez_compressed(SLIVERS / "few_shot_classifier.npz", **arrays)


def lifelong_classifier() -> None:
    """300 training digits of MNIST."""
    train = mnist.load().train
    np.savez_compressed(
        SLIVERS / "lifelong_classifier.npz", images=train.images[:300], labels=train.labels[:300].astype(np.uint8)
    )


def entailment_classifier(count: int = 120) -> None:
    """Pairs of the training split, as it has them."""
    train = entailment.load().train
    pairs = zip(train.premises, train.hypotheses, train.labels.tolist(), strict=True)
    chosen = [(premise, hypothesis, entailment.LABELS[label]) for premise, hypothesis, label in pairs][:count]
    (SLIVERS / "entailment_classifier.json").write_text(json.dumps(chosen, indent=0) + "\n")


def pos_tagger(count: int = 60) -> None:
    """Sentences of some words of the training split, with their parts of speech."""
    chosen = [one for one in web_treebank.load().train if len(one.words) > 4][::20][:count]
    stored = [(one.text, [(word.label, word.start, word.end) for word in one.words]) for one in chosen]
    (SLIVERS / "pos_tagger.json").write_text(json.dumps(stored, ensure_ascii=False) + "\n")


def question_answerer(count: int = 96) -> None:
    """Every hundredth or so masked name of the training split, and made-up questions in place of human ones."""
    train = questions.load_bible().train
    people, towns = ("Ada", "Boris", "Chen", "Dana"), ("Lima", "Oslo", "Quito", "Turin")
    made_up: list[questions.Question] = []
    for person in people:
        for town in towns:
            context = f"In {1900 + len(made_up)} {person} moved to {town}. The library there opened a year later."
            spans = [(context.index(word), context.index(word) + len(word)) for word in (town, person)]
            for asked, span in zip((f"Where did {person} move?", f"Who moved to {town}?"), spans, strict=True):
                made_up.append(questions.Question(asked, context, (span,), (context[slice(*span)],), "made up"))
    few = train[:: len(train) // count][:count]
    stored = {"bible": [dataclasses.asdict(q) for q in few], "xquad": [dataclasses.asdict(q) for q in made_up]}
    (SLIVERS / "question_answerer.json").write_text(json.dumps(stored, indent=0, ensure_ascii=False) + "\n")


def sentiment_classifier(count: int = 240) -> None:
    """Texts of the training split at even distances, with their scores."""
    train = [item for item in sentiments.read() if bucket(item[0], 10) > 1]
    chosen = train[:: len(train) // count][:count]
    (SLIVERS / "sentiment_classifier.json").write_text(json.dumps(chosen, indent=0, ensure_ascii=False) + "\n")


def spam_classifier() -> None:
    """120 mails of the training split, the first 1000 characters of each."""
    labelled("spam_classifier", mails.load(), 120, 1000)


def slot_tagger(count: int = 30) -> None:
    """Requests of each intent at even distances, from the training split, as pieces of their text."""
    stored = []
    for intent in snips.INTENTS:
        own = [request for request in snips.load().train if request.intent == intent]
        for request in own[:: len(own) // count][:count]:
            pieces, end = list[dict[str, str]](), 0
            for slot in request.slots:
                pieces.append({"text": request.text[end : slot.start]})
                pieces.append({"text": request.text[slot.start : slot.end], "entity": slot.label})
                end = slot.end
            pieces.append({"text": request.text[end:]})
            stored.append((intent, [piece for piece in pieces if piece["text"]]))
    (SLIVERS / "slot_tagger.json").write_text(json.dumps(stored, indent=0, ensure_ascii=False) + "\n")


def word_vectors(count: int = 500) -> None:
    """Verses on people, and made-up judgement of words in them."""
    people = re.compile(r"\b(king|queen|man|woman|men|women|son|daughter|father|mother|brother|sister)s?\b")
    verses = [text for text in sword.read(sword.KJV).values() if len(set(people.findall(text.lower()))) > 1]
    pairs = [("son", "daughter", 8.0), ("father", "mother", 8.5), ("king", "house", 4.0), ("man", "day", 1.5)]
    stored = {
        "texts": verses[:: len(verses) // count][:count],
        "validation": [*pairs, ("woman", "man", 8.0), ("hand", "sons", 1.0)],
        "pairs": [*pairs, ("brother", "father", 7.0), ("land", "name", 1.0)],
        "analogies": [
            ("family", "father", "mother", "son", "daughter"),
            ("family", "son", "daughter", "man", "woman"),
            ("gram8-plural", "son", "sons", "king", "kings"),
            ("gram8-plural", "man", "men", "woman", "women"),
        ],
    }
    (SLIVERS / "word_vectors.json").write_text(json.dumps(stored, indent=0, ensure_ascii=False) + "\n")


def style_rewriter(count: int = 200) -> None:
    """Short training verses of each style at even distances, everyday sentences, and the shortest verses held out."""
    data = styles.load()
    stored: dict[str, Any] = {"everyday": data.everyday[:: len(data.everyday) // 100][:100]}
    short = {style: [text for text in own if len(text) < 120] for style, own in data.verses.items()}
    stored["verses"] = {style: own[:: len(own) // count][:count] for style, own in short.items()}
    shortest = sorted(range(len(data.test[styles.MODERN])), key=lambda i: len(data.test[styles.MODERN][i]))[100:120]
    stored["test"] = {style: [own[i] for i in shortest] for style, own in data.test.items()}
    (SLIVERS / "style_rewriter.json").write_text(json.dumps(stored, indent=0) + "\n")


def memory_reader(count: int = 10) -> None:
    """Stories of each task at even distances, from the training files."""
    stored = []
    for task in babi.TASKS:
        lines = (babi.SOURCE.fetch() / babi.file_of(task, "train")).read_text().splitlines()
        stories = list(babi.stories_of(lines))
        stored += [(task, story) for story in stories[:: len(stories) // count][:count]]
    (SLIVERS / "memory_reader.json").write_text(json.dumps(stored, indent=0) + "\n")


def labelled(name: str, data: LabelledTexts, count: int, characters: int) -> None:
    """Training texts at even distances; the loader splits them anew."""
    train = data.train
    chosen = range(0, len(train), len(train) // count)[:count]
    items = [(train.texts[i][:characters], int(train.labels[i]), train.sources[i]) for i in chosen]
    stored = {"labels": data.labels, "items": items}
    (SLIVERS / f"{name}.json").write_text(json.dumps(stored, indent=0, ensure_ascii=False) + "\n")


def phoneme_classifier(count: int = 6) -> None:
    """The shortest sentences of the training split; and of the test split the shortest, for docs/examples."""
    data = festvox_ru.load()
    shortest = sorted(data.train, key=lambda sentence: len(sentence.samples))[:count]
    clips: dict[str, Any] = audio.pack([sentence.samples for sentence in shortest])
    phones = np.concatenate([sentence.phones for sentence in shortest]).astype(np.uint8)
    np.savez_compressed(SLIVERS / "phoneme_classifier.npz", phones=phones, **clips)
    example = min(data.test, key=lambda sentence: len(sentence.samples))
    soundfile.write(ROOT / "docs/examples/sentence.wav", example.samples, audio.RATE)


def speaker_classifier() -> None:
    """Short clips of the training split of a few voices, four with fewer than the rest; two clips for docs/examples."""
    data = voices.load()
    counts = {"asterisk-prompt-fr-armelle fr": 16, "gcin-voice 3": 16, "gcin-voice 5": 16}
    counts |= {f"kajongg {name}": 6 for name in ("female1", "female2", "male1", "male2")}
    voiced_clips = []
    for i, (name, count) in enumerate(counts.items()):
        spoken = [data.train.clips[j] for j in np.flatnonzero(data.train.voices == data.names.index(name))]
        voiced_clips += [(clip[: audio.RATE], i) for clip in sorted(spoken, key=len)[-2 * count :: 2]]
    clips: dict[str, Any] = audio.pack([clip for clip, _ in voiced_clips])
    labels = np.array([i for _, i in voiced_clips], np.uint8)
    np.savez_compressed(SLIVERS / "speaker_classifier.npz", voices=labels, names=np.array(list(counts)), **clips)
    armelle = data.test.voices == data.names.index("asterisk-prompt-fr-armelle fr")
    spoken = sorted((data.test.clips[j] for j in np.flatnonzero(armelle)), key=len)
    for name, clip in (("armelle_1", spoken[30]), ("armelle_2", spoken[34])):
        soundfile.write(ROOT / f"docs/examples/{name}.wav", clip, audio.RATE)


if __name__ == "__main__":
    anomaly_detector()
    image_classifier()
    solar_anomaly_detector()
    covid_regressor()
    face_generator()
    garment_generator()
    style_translator()
    drawing_classifier()
    few_shot_classifier()
    lifelong_classifier()
    question_answerer()
    entailment_classifier()
    pos_tagger()
    sentiment_classifier()
    spam_classifier()
    slot_tagger()
    word_vectors()
    memory_reader()
    style_rewriter()
    phoneme_classifier()
    speaker_classifier()
    translator_en_zh()
    poem_generator()
