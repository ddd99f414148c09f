"""The batch of a decoder: its rows, and the arrays from which the graph reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from services.errors import Internal, InvalidArgument, OutOfMemory, ServiceError
from services.runtime.config import GraphConfig
from services.runtime.device_memory import NEW
from services.runtime.graph import HOST, Array, Memory, Tensor, run_failure
from services.runtime.search import Rows, Search

LENGTH = "length"
BLOCK = 16  # arrays grow by this many places
SPARE = 32  # empty places in every row from which on arrays shrink

Run = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
T = TypeVar("T")
R = TypeVar("R")


@dataclass(slots=True, eq=False, kw_only=True)
class Member:
    """A search with its rows of the batch, and the rows that it wants in the next step."""

    search: Search
    rows: list[int] = field(default_factory=list)
    wanted: Rows | None = None


class DecodeBatch:
    """Rows that share the steps of one graph.

    The past keys and values of all rows lie in shared arrays, which the graph reads in place: a step adds one place to
    each row and copies nothing else.

    Args:
        memory: in which the arrays with an axis of variable length lie; the others are small.
    """

    def __init__(self, config: GraphConfig, memory: Memory) -> None:
        self._config, self._memory = config, memory
        self._most_rows = config.max_batch_size
        self._caches = {o.name.removeprefix(NEW) for o in config.outputs if o.name.startswith(NEW)}
        self._specs = {spec.name: spec for spec in config.inputs}
        self._varying = {spec.name: spec.shape.index(-1) for spec in config.inputs if -1 in spec.shape}
        self._buffers: dict[str, Tensor] = {}
        self._owners: list[Member] = []  # the member of each row
        self.members: list[Member] = []

    def __len__(self) -> int:
        """Rows in use."""
        return len(self._owners)

    def enter(self, member: Member) -> ServiceError | None:
        """Give a search its first row; returns the error if it cannot have one."""
        search = member.search
        self.members.append(member)
        try:
            row = self._take_row(member)
            self._buffer(LENGTH, (1,))[row] = search.length
            for name, value in (*search.past.items(), *search.constants.items()):
                place: tuple[int | slice, ...] = (row, *(slice(0, size) for size in value.shape))
                self._buffer(name, value.shape)[place] = value
        except Exception as error:  # one search's values must not fail the others
            return run_failure(self._config, error)
        member.wanted = search.first
        return None

    def leave(self, members: Sequence[Member]) -> None:
        """Free the rows of these members, and the space that only they needed."""
        for member in members:
            self.members.remove(member)
            while member.rows:
                self._free(member)
        if members and self.members:
            self._trim()

    def step(self, run: Run) -> dict[Member, ServiceError]:
        """Run the graph for all rows, and let each search choose its tokens.

        A search that has ended wants no rows. A failure does not fail other searches: if a run fails, each half of the
        searches runs again, until only the search at fault fails.

        Returns:
            The searches that failed, each with its error.

        Raises:
            ServiceError: the graph cannot run at all, e.g. because it was unloaded.
        """
        count = len(self._owners)
        failed: dict[Member, ServiceError] = {}
        inputs = self._inputs(count, failed)
        outputs = self._outputs(run, inputs, count, failed)
        if outputs:
            self._append(outputs, count)
        self._buffers[LENGTH][:count] += 1
        chosen = {name: value for name, value in outputs.items() if not name.startswith(NEW)}
        for member in self.members:
            if member in failed:
                continue
            rows = _indices(member.rows)
            try:
                member.wanted = member.search.advance({name: value[rows] for name, value in chosen.items()})
                if member.wanted is not None:
                    self._follow(member, member.wanted.parents)
            except Exception as error:  # as above
                failed[member] = run_failure(self._config, error)
        return failed

    def _inputs(self, count: int, failed: dict[Member, ServiceError]) -> dict[str, Tensor]:
        needed = int(self._buffer(LENGTH, (1,))[:count].max()) + 1
        for name in self._caches:
            if name not in self._buffers or self._buffers[name].shape[2] < needed:
                self._buffer(name, tuple(needed if d < 0 else d for d in self._specs[name].shape))
        inputs = {name: buffer[:count] for name, buffer in self._buffers.items()}
        for name in self._specs.keys() - inputs.keys():
            inputs[name] = self._gathered(name, count, failed)
        return inputs

    def _outputs(
        self, run: Run, inputs: Mapping[str, Tensor], count: int, failed: dict[Member, ServiceError]
    ) -> dict[str, Tensor]:
        """The graph's outputs for each row; members whose rows it cannot take are added to `failed`."""
        outputs: dict[str, Tensor] = {}

        def run_group(group: list[Member]) -> dict[str, Tensor]:
            if len(group) == len(self.members):
                return run(inputs)
            rows = [row for member in group for row in member.rows]
            return run({name: value[rows].copy() for name, value in inputs.items()})

        for group, answers in isolated(self.members, run_group):
            if isinstance(answers, ServiceError):
                failed.setdefault(group[0], answers)
            elif len(group) == len(self.members):
                return answers
            else:
                rows = [row for member in group for row in member.rows]
                for name, value in answers.items():
                    if name not in outputs:
                        outputs[name] = np.zeros((count, *value.shape[1:]), value.dtype)
                    outputs[name][rows] = value
        return outputs

    def _append(self, outputs: Mapping[str, Tensor], count: int) -> None:
        """Write the new keys and values behind those of the past; rows of members that failed are never read."""
        lengths, rows = self._buffers[LENGTH][:count], np.arange(count)[:, None]
        shape, places = (0, 0), np.empty(0, np.int64)
        for name in self._caches:
            buffer, new = self._buffers[name], outputs[NEW + name]
            heads, room, size = buffer.shape[1:]
            if shape != (heads, room):  # the place of each row's and head's new item, as numpy assigns them fastest
                shape, places = (heads, room), (((rows * heads) + np.arange(heads)) * room + lengths).ravel()
            buffer.reshape(-1, size)[places] = new.reshape(-1, size)

    def _gathered(self, name: str, count: int, failed: dict[Member, ServiceError]) -> Array:
        """An input that the searches provide for this step, in the order of rows."""
        spec = self._specs[name]
        array = np.zeros((count, *(1 if d < 0 else d for d in spec.shape)), spec.dtype)
        for member in self.members:
            if member.wanted is not None:
                try:
                    array[_indices(member.rows)] = member.wanted.inputs[name]
                except Exception as error:  # as above
                    failed[member] = run_failure(self._config, error)
        return array

    def _follow(self, member: Member, parents: Sequence[int]) -> None:
        """Give a member a row for each of `parents`, with the content of that parent's row."""
        if len(parents) > member.search.width:
            raise ValueError(f"the search wants {len(parents)} rows; its width is {member.search.width}")
        before = list(member.rows)
        while len(member.rows) < len(parents):
            self._take_row(member)
        sources = [before[parent] for parent in parents]
        moved = [i for i, source in enumerate(sources) if member.rows[i] != source]
        if moved:
            to, of = [member.rows[i] for i in moved], [sources[i] for i in moved]
            filled = int(self._buffers[LENGTH][before[0], 0])
            for name, buffer in self._buffers.items():
                if name in self._caches:
                    buffer[to, :, :filled] = buffer[of, :, :filled]
                elif len(before) < len(parents):  # constants differ only where a row is new
                    buffer[to] = buffer[of]
        while len(member.rows) > len(parents):
            self._free(member)

    def _take_row(self, member: Member) -> int:
        row = len(self._owners)
        self._owners.append(member)
        member.rows.append(row)
        for name, buffer in self._buffers.items():
            if row == len(buffer):
                self._buffer(name, buffer.shape[1:])
        return row

    def _free(self, member: Member) -> None:
        """Free a member's last row; the batch's last row moves into its place."""
        row, last = member.rows.pop(), len(self._owners) - 1
        mover = self._owners.pop()
        if row != last:
            for buffer in self._buffers.values():
                buffer[row] = buffer[last]
            mover.rows[mover.rows.index(last)] = row
            self._owners[row] = mover

    def _buffer(self, name: str, shape: Sequence[int]) -> Tensor:
        """The array of an input, enlarged if it cannot hold all rows or items of `shape`; rows grow by doubling."""
        spec = self._specs[name]
        rows = min(1 << max(0, len(self._owners) - 1).bit_length(), self._most_rows)
        room = tuple(_blocks(size) if d < 0 else d for d, size in zip(spec.shape, shape, strict=True))
        present = self._buffers.get(name)
        if present is not None:
            rows = max(rows, len(present))
            room = tuple(max(a, b) for a, b in zip(room, present.shape[1:], strict=True))
            if present.shape == (rows, *room):
                return present
        memory, axes = (self._memory, 2 + self._varying[name]) if name in self._varying else (HOST, 1)
        buffer = memory.zeros((rows, *room), spec.dtype, axes)
        if present is not None:
            buffer[tuple(slice(0, size) for size in present.shape)] = present
        self._buffers[name] = buffer
        return buffer

    def _trim(self) -> None:
        """Shrink the arrays to what the remaining members need: attention costs time for empty places too."""
        filled = int(self._buffers[LENGTH][: len(self._owners)].max()) + 1
        for name, buffer in self._buffers.items():
            if name not in self._varying:
                continue
            axis = self._varying[name]
            if buffer.shape[1 + axis] < SPARE + BLOCK:  # as mostly, and what is needed takes long to ask
                continue
            needed = filled if name in self._caches else max(m.search.constants[name].shape[axis] for m in self.members)
            if buffer.shape[1 + axis] - _blocks(needed) >= SPARE:
                kept = (*(slice(None) for _ in range(1 + axis)), slice(_blocks(needed)))
                self._buffers[name] = buffer[kept].copy()


def isolated(items: list[T], run: Callable[[list[T]], R]) -> Iterator[tuple[list[T], R | ServiceError]]:
    """What `run` gives for all items; if it fails, for each half of them, until only the item at fault has an error.

    Raises:
        ServiceError: one that is not about these items, e.g. because the graph was unloaded.
    """
    groups = [items]
    while groups:
        group = groups.pop()
        try:
            answer = run(group)
        except (InvalidArgument, OutOfMemory, Internal) as error:
            if len(group) == 1:
                yield group, error
            else:
                groups += [group[len(group) // 2 :], group[: len(group) // 2]]
            continue
        yield group, answer


def _indices(rows: list[int]) -> list[int] | slice:
    """A slice for a single row, since a view is several times as fast as numpy's gathering."""
    return slice(rows[0], rows[0] + 1) if len(rows) == 1 else rows


def _blocks(size: int) -> int:
    """Room for `size` places."""
    return max(1, -(-size // BLOCK)) * BLOCK
