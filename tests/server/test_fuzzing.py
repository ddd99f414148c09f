"""Whatever bytes and messages come, the answer is a code that blames the right side, and the server goes on.

`make fuzz` asks for more than fits into a test run, and for others each time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import grpc
import hypothesis.strategies as st
import numpy as np
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given
from tritonclient.grpc import service_pb2

from artifacts.card import ImagePreprocessing
from lectern.v1 import model_pb2
from services.codecs import audio, images
from services.errors import InvalidArgument
from services.limits import Limits
from services.server.capabilities import CAPABILITIES
from tests.conftest import EXPORTED, Server, encode, record
from tests.server.fuzzing import CASES, OURS, Door, door, fuzzing

LONGEST_SECONDS = 5.0  # of CPU time
METHODS = [
    method
    for service in (
        *(capability.service for capability in CAPABILITIES.values()),
        model_pb2.DESCRIPTOR.services_by_name["ModelService"],
        service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"],
    )
    for method in service.methods
]
PHOTO = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
EXIF = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
PICTURES = (
    *(encode(PHOTO, kind) for kind in ("PNG", "JPEG", "WEBP", "GIF")),
    *(encode(PHOTO, kind, exif=EXIF) for kind in ("PNG", "JPEG", "WEBP")),
    encode(PHOTO, "JPEG", progressive=True)[:-2],
)
NOISE = np.random.default_rng(0).integers(-9999, 9999, 4000, np.int16)
RECORDINGS = tuple(record(NOISE, kind) for kind in ("WAV", "FLAC", "OGG", "AIFF", "MP3", "RF64"))
FILES = PICTURES + RECORDINGS
# Words that lead past the first check.
WORDS = (
    *sorted(p.name for p in EXPORTED.iterdir() if p.is_dir()),
    "images",
    "features",
    "UINT8",
    "FP32",
    "logits",
    "1",
    "classification",
    "priority",
    "sequence_id",
    "shared_memory_region",
)
INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


def mutate(file: bytes, random: np.random.Generator) -> bytes:
    """A file with bytes changed, cut out, repeated or swapped with another file's."""
    content = bytearray(file)
    for _ in range(random.integers(1, 8)):
        place = int(random.integers(len(content) + 1))
        length = int(random.integers(1, 64))
        match random.integers(5):
            case 0:
                content[place : place + 1] = random.bytes(1)
            case 1:
                del content[place : place + length]
            case 2:
                content[place:place] = content[place : place + length] * int(random.integers(1, 20))
            case 3:
                other = FILES[random.integers(len(FILES))]
                content[place : place + length] = other[place : place + length]
            case _:
                content[place : place + 4] = b"\xff\xff\xff\xff"
    return bytes(content)


@pytest.mark.unit
def test_mutated_images_are_decoded_or_refused_quickly() -> None:
    random = np.random.default_rng(1)
    preprocessing = ImagePreprocessing(height=32, width=32, channels=3, resample="box")
    limits = Limits(image_pixels=1_000_000)
    slowest = 0.0

    async def decode_all() -> None:
        nonlocal slowest
        for case in range(CASES):
            file = mutate(PICTURES[case % len(PICTURES)], random)
            started = time.process_time()
            fields = []
            try:
                array = await images.decode_images([file], preprocessing, limits)
                assert array.shape == (1, 32, 32, 3)
            except InvalidArgument as error:
                fields = [field for field, _ in error.violations]
            assert fields in ([], ["images[0]"])
            slowest = max(slowest, time.process_time() - started)

    asyncio.run(decode_all())
    assert slowest < LONGEST_SECONDS


@pytest.mark.unit
def test_mutated_recordings_are_decoded_or_refused_quickly() -> None:
    random = np.random.default_rng(3)
    limits = Limits(audio_seconds=10)
    slowest = 0.0
    for case in range(CASES):
        clip = audio.Clip(mutate(RECORDINGS[case % len(RECORDINGS)], random))
        started = time.process_time()
        fields = []
        try:
            samples = audio.decode(clip, 16_000, limits.audio_seconds, limits, "clip")
            assert samples.dtype == np.int16
            assert 0 < len(samples) <= 160_000
        except InvalidArgument as error:
            fields = [field for field, _ in error.violations]
        assert fields in ([], ["clip"])
        slowest = max(slowest, time.process_time() - started)
    assert slowest < LONGEST_SECONDS


def values(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    """Values of one field, plausible ones among them."""
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.sampled_from(FILES) | st.binary(max_size=200)
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            return st.sampled_from(WORDS) | st.text(max_size=20)
        case FieldDescriptor.CPPTYPE_MESSAGE:
            return messages(field.message_type, depth - 1)
        case FieldDescriptor.CPPTYPE_BOOL:
            return st.booleans()
        case FieldDescriptor.CPPTYPE_ENUM:
            return st.sampled_from([v.number for v in field.enum_type.values] + [99])
        case FieldDescriptor.CPPTYPE_FLOAT:
            return st.floats(width=32)
        case FieldDescriptor.CPPTYPE_DOUBLE:
            return st.floats()
    low, high = INTEGERS[field.cpp_type]
    return st.integers(0, 33) | st.integers(low, high)


@st.composite
def messages(draw: st.DrawFn, descriptor: Descriptor, depth: int = 3) -> Message:
    """Messages of a type with any of its fields set."""
    message = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if not draw(st.booleans()) or (field.message_type and depth == 0):
            continue
        if field.message_type and field.message_type.GetOptions().map_entry:
            entries = draw(st.lists(values(field, depth), max_size=4))
            message.MergeFrom(type(message)(**{field.name: {entry.key: entry.value for entry in entries}}))
        elif field.is_repeated:
            items = draw(st.lists(values(field, depth), max_size=4))
            getattr(message, field.name).extend(items)
        elif field.message_type:
            getattr(message, field.name).CopyFrom(draw(values(field, depth)))
        else:
            setattr(message, field.name, draw(values(field, depth)))
    return message


@pytest.fixture(scope="module")
def fuzzed(server: Server) -> Iterator[Door]:
    with door(server, FILES[0]) as opened:
        yield opened


def code_of(fuzzed: Door, method: MethodDescriptor, request: bytes) -> grpc.StatusCode:
    """How the server ends an RPC that gets these bytes, once or, if it takes a stream, twice."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    count = 2 if method.client_streaming else 1
    return fuzzed.knock(path, [request] * count, stream=method.client_streaming)[0]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m.containing_service.name}.{m.name}")
def test_any_message_gets_a_code_that_blames_the_caller(fuzzed: Door, method: MethodDescriptor) -> None:
    @fuzzing(100)
    @given(messages(method.input_type))
    def check(message: Message) -> None:
        assert code_of(fuzzed, method, message.SerializeToString()) not in OURS

    check()


@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m.containing_service.name}.{m.name}")
def test_any_bytes_get_a_code_that_blames_the_caller(fuzzed: Door, method: MethodDescriptor) -> None:
    random = np.random.default_rng(2)
    for _ in range(max(20, CASES // 100)):
        assert code_of(fuzzed, method, random.bytes(int(random.integers(1, 300)))) not in OURS
