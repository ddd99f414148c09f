"""Requests with their slots, as SNIPS and the fresh ones write them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from training.data import SLIVERS, fresh, snips
from training.data.snips import Request, Slot

pytestmark = pytest.mark.unit


def test_pieces_are_a_text_and_slots_in_it() -> None:
    pieces = [{"text": "rain in "}, {"text": "Oslo", "entity": "city"}, {"text": "?"}]
    assert snips.request_of("GetWeather", pieces) == Request("rain in Oslo?", "GetWeather", (Slot("city", 8, 12),))


def test_lines_in_latin_1_and_in_utf_8_may_stand_in_one_file(tmp_path: Path) -> None:
    lines = [b'{"data": [{"text": "M\xfasica"}]}', '{"data": [{"text": "Cita Romántica"}]}'.encode()]
    path = tmp_path / "train.json"
    path.write_bytes(b'{"PlayMusic": [' + b", ".join(lines) + b"]}")
    assert [request.text for request in snips.read(path)] == ["Música", "Cita Romántica"]


def test_the_slivers_parts_share_no_request_and_have_every_intent() -> None:
    path = SLIVERS / "slot_tagger.json"
    data = snips.load_sliver(path)
    parts = [{request.text for request in part} for part in (data.train, data.validation, data.test)]
    assert sum(map(len, parts)) == len(set().union(*parts)) == len(json.loads(path.read_text()))
    assert {request.intent for request in data.train} == set(snips.INTENTS)


def test_fresh_requests_name_known_intents_and_slots() -> None:
    requests, known = fresh.requests(), snips.load_sliver(SLIVERS / "slot_tagger.json")
    slots = {(request.intent, slot.label) for request in requests for slot in request.slots}
    assert {request.intent for request in requests} == set(snips.INTENTS)
    assert {label for _, label in slots} <= {*known.slots, "playlist_owner", "poi", "genre", "album"}
    assert all("[" not in request.text for request in requests)
