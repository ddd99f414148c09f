"""Names that do not exist."""

from __future__ import annotations

import pytest

from lectern.names import meant, unknown

pytestmark = pytest.mark.unit

MODELS = ["image_classifier", "spam_classifier", "text_encoder"]


@pytest.mark.parametrize(
    ("name", "likely"),
    [
        ("image_clasifier", "image_classifier"),
        ("Image-Classifier", "image_classifier"),
        ("textencoder", "text_encoder"),
        ("spam", "spam_classifier"),
    ],
)
def test_the_name_that_was_meant_is_said(name: str, likely: str) -> None:
    assert meant(name, MODELS) == f" (did you mean {likely!r}?)"


@pytest.mark.parametrize("name", ["", "zebra", "圖"])
def test_nothing_is_guessed(name: str) -> None:
    assert meant(name, MODELS) == ""


def test_the_others_are_listed() -> None:
    assert unknown("model", "zebra", MODELS) == (
        "there is no model 'zebra'; there are: image_classifier, spam_classifier, text_encoder"
    )
    assert unknown("model", "zebra", [], "models for act") == "there is no model 'zebra'; models for act: none"
