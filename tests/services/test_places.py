"""Places that clients share."""

from __future__ import annotations

from contextlib import ExitStack

from hypothesis import given
from hypothesis import strategies as st

from services.places import Places


def held_by(places: Places, stack: ExitStack, client: str, wanted: int) -> int:
    """How many of `wanted` places a client gets."""
    return sum(stack.enter_context(places.take(client)) for _ in range(wanted))


def test_one_client_gets_half_and_the_next_half_of_the_rest() -> None:
    with ExitStack() as stack:
        places = Places(8)
        assert [held_by(places, stack, client, 8) for client in "abcde"] == [4, 2, 1, 1, 0]


def test_the_only_place_is_anyones() -> None:
    places = Places(1)
    with ExitStack() as stack:
        assert held_by(places, stack, "a", 2) == 1
        assert held_by(places, stack, "b", 1) == 0
    with places.take("b") as has_place:
        assert has_place


@given(st.integers(1, 20), st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=60))
def test_places_are_conserved_and_a_newcomer_never_waits_for_a_free_one(
    count: int, events: list[tuple[str, bool]]
) -> None:
    places = Places(count)
    stacks: dict[str, list[ExitStack]] = {client: [] for client in "abcd"}
    for client, takes in events:
        free = count - sum(map(len, stacks.values()))
        if takes:
            stack = ExitStack()
            got = stack.enter_context(places.take(client))
            assert got == (free > len(stacks[client]))
            if got:
                stacks[client].append(stack)
        elif stacks[client]:
            stacks[client].pop().close()
    for stack in (s for of_client in stacks.values() for s in of_client):
        stack.close()
    with places.take("new") as has_place:
        assert has_place
