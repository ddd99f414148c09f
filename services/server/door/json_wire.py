"""Messages as proto3 JSON, as Envoy's transcoder writes them: https://protobuf.dev/programming-guides/json/."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any, NoReturn

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message import Message

from services.errors import InvalidArgument, ServiceError
from services.excerpt import excerpt

INLINE_BYTES = 4096  # Python's JSON of messages is slow
MOST_TO_ONE = 1.5  # bytes of JSON to one of its message: base64 takes a third more
# To the end of the text if it does not end: a search that fails at each quote would take quadratic time.
STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
# Of json_format's errors: the fields around the fault, from the outside, and its place, which repeats them.
AROUND = re.compile(r"Failed to parse (\w+) field: ")
PLACE = re.compile(r'"?[\w.\[\]]+"?')
UNKNOWN = re.compile(r'Message type "[\w.]+" has no field named "(?P<name>.*)"', re.DOTALL)
FAULT_BYTES = 8000  # of json_format's errors: values of any length are in them
KNOWN = re.compile(r"Available Fields\(except extensions\): \"\[(?P<names>.*)\]\"")

WRONG_TYPE = re.compile(r"object of type '\w+' has no len|'\w+' object is not|expected string or bytes-like object")


class JsonWire:
    """One message as one JSON object."""

    inline_bytes = INLINE_BYTES

    def parse(self, request: bytes, message: type[Message], fields: int) -> Message:
        """The message of a JSON object; an empty body is an empty message.

        Raises:
            InvalidArgument: it is not JSON, not such a message, or has too many values.
        """
        document = load(request, fields) if request.strip() else {}
        if not isinstance(document, dict):
            raise InvalidArgument(f"the body is not a JSON object: send a {message.DESCRIPTOR.full_name} as one")
        return to_message(document, message)

    def serialize(self, response: Message) -> bytes:
        return dump(MessageToDict(response))


JSON = JsonWire()


def load(text: bytes, values: int) -> Any:
    """The value of a JSON text, in which no name occurs twice in an object, and each is valid Unicode.

    Args:
        values: the most that it may have.

    Raises:
        InvalidArgument: it is not JSON, too deep, or has more values.
    """
    if _separators(text) > values and _separators_outside_strings(text, values) > values:
        raise InvalidArgument(f"the body has more than {values:,} values; send less in one request")
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except RecursionError:
        raise InvalidArgument("the body is not valid JSON for a message: it is nested too deeply") from None
    except ValueError as error:  # of UTF-8 too
        raise InvalidArgument(f"the body is not valid JSON: {error}") from None


def to_message(document: dict[str, Any], message: type[Message]) -> Message:
    """The message of a JSON object.

    Raises:
        InvalidArgument: it is no such message; names the field.
    """
    try:
        return ParseDict(document, message())
    except ParseError as error:
        raise _fault(str(error)) from None


def _fault(text: str) -> ServiceError:
    """An error of json_format as ours."""
    text = excerpt(text, FAULT_BYTES)
    fields = AROUND.findall(text)
    problem = AROUND.sub("", text).partition("\n")[0].rstrip(".")
    before, _, place = problem.rpartition(" at ")
    if before and PLACE.fullmatch(place):
        problem = before.rstrip(".")
    if unknown := UNKNOWN.match(problem):
        fields.append(unknown["name"])
        known = KNOWN.search(text)
        problem = f"is not a field; there are: {known['names'] if known else ''}".replace("'", "")
    elif WRONG_TYPE.search(problem):
        problem = "has a value of the wrong JSON type"
    problem = problem.replace("invalid literal for int() with base 10", "not an integer")
    return InvalidArgument.field(".".join(fields) or "body", problem)


def dump(document: object) -> bytes:
    """Compact JSON in UTF-8."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode(
        errors="surrogatepass"
    )


def _separators(text: bytes) -> int:
    """At least as many as the text has values."""
    return 1 + text.count(b",") + text.count(b"[") + text.count(b"{")


def _separators_outside_strings(text: bytes, values: int) -> int:
    """The same, of what is not in a string; stops at more than `values`."""
    count, end = 0, 0
    for string in STRING.finditer(text):
        count += _separators(text[end : string.start()]) - 1
        end = string.end()
        if count > values:
            break
    return count + _separators(text[end:]) if count <= values else count


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        repeated = next(name for name, count in counts.items() if count > 1)
        raise ValueError(f"{repeated!r} occurs twice in an object")
    try:
        "".join(document).encode()  # protobuf's maps of names fail at what is no Unicode
    except UnicodeEncodeError:
        raise ValueError("a name has half of a surrogate pair, which is no character") from None
    return document


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f'{name} is not a JSON number; proto JSON has it as a string, "{name}"')
