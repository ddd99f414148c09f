"""The batch that sequences are decoded in: rows, and the arrays that the graph reads them from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from services.errors import Internal, InvalidArgument, ServiceError
from services.runtime.config import GraphConfig
from services.runtime.graph import Array
from services.runtime.search import Rows, Search

NEW = "new_"
LENGTH = "length"
BLOCK = 16  # places that room is made for at once
SPARE = 32  # places that may stay empty in every row

Run = Callable[[Mapping[str, Array]], dict[str, Array]]

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False, kw_only=True)
class Member:
    """A search with its rows of the batch, and what it wants of the next step."""

    search: Search
    rows: list[int] = field(default_factory=list)
    wanted: Rows | None = None


class DecodeBatch:
    """Rows that share the steps of one graph.

    The keys and values of their past lie in arrays that all rows share, and that the graph reads where they are: a step
    adds one place to each row and copies nothing else.
    """

    def __init__(self, config: GraphConfig) -> None:
        self._config = config
        self._most_rows = config.max_batch_size
        self._caches = {o.name.removeprefix(NEW) for o in config.outputs if o.name.startswith(NEW)}
        self._specs = {spec.name: spec for spec in config.inputs}
        self._varying = {spec.name: spec.shape.index(-1) for spec in config.inputs if -1 in spec.shape}
        self._buffers: dict[str, Array] = {}
        self._owners: list[Member] = []  # of each row
        self.members: list[Member] = []

    def __len__(self) -> int:
        """Rows in use."""
        return len(self._owners)

    def enter(self, member: Member) -> ServiceError | None:
        """Give a search its first row; returned is why it cannot have one."""
        search = member.search
        self.members.append(member)
        try:
            row = self._take_row(member)
            self._buffer(LENGTH, (1,))[row] = search.length
            for name, value in (*search.past.items(), *search.constants.items()):
                place: tuple[int | slice, ...] = (row, *(slice(0, size) for size in value.shape))
                self._buffer(name, value.shape)[place] = value
        except Exception as error:  # whatever a search gives, the others go on
            return self._fault(error)
        member.wanted = search.first
        return None

    def leave(self, members: Sequence[Member]) -> None:
        """Free the rows of these, and the room that only they needed."""
        for member in members:
            self.members.remove(member)
            while member.rows:
                self._free(member)
        if members and self.members:
            self._trim()

    def step(self, run: Run) -> dict[Member, ServiceError]:
        """Run the graph for all rows, and let each search choose; returned are those that failed.

        A search that is over wants no rows any more. One that fails does not fail the others: where a run fails, each
        half of the searches runs again, down to the one that is to blame.

        Raises:
            ServiceError: the graph cannot run at all, e.g. as it was unloaded.
        """
        count = len(self._owners)
        failed: dict[Member, ServiceError] = {}
        inputs = self._inputs(count, failed)
        outputs = self._outputs(run, inputs, count, failed)
        lengths, every = self._buffers[LENGTH], np.arange(count)
        if outputs:
            for name in self._caches:
                # Rows that are gone by now are written too: nobody reads them.
                self._buffers[name][every, :, lengths[:count, 0]] = outputs[NEW + name][:, :, 0]
        lengths[:count] += 1
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
                failed[member] = self._fault(error)
        return failed

    def _inputs(self, count: int, failed: dict[Member, ServiceError]) -> dict[str, Array]:
        needed = int(self._buffer(LENGTH, (1,))[:count].max()) + 1
        for name in self._caches:
            if name not in self._buffers or self._buffers[name].shape[2] < needed:
                self._buffer(name, tuple(needed if d < 0 else d for d in self._specs[name].shape))
        inputs = {name: buffer[:count] for name, buffer in self._buffers.items()}
        for name in self._specs.keys() - inputs.keys():
            inputs[name] = self._gathered(name, count, failed)
        return inputs

    def _outputs(
        self, run: Run, inputs: Mapping[str, Array], count: int, failed: dict[Member, ServiceError]
    ) -> dict[str, Array]:
        """The graph's outputs for each row; those whose rows it cannot take join `failed`."""
        outputs: dict[str, Array] = {}
        groups = [self.members]
        while groups:
            group = groups.pop()
            whole = len(group) == len(self.members)
            rows = [row for member in group for row in member.rows]
            try:
                answers = run(inputs if whole else {name: value[rows] for name, value in inputs.items()})
            except (InvalidArgument, Internal) as error:
                if len(group) == 1:
                    failed.setdefault(group[0], error)
                else:
                    groups += [group[len(group) // 2 :], group[: len(group) // 2]]
                continue
            if whole:
                return answers
            for name, value in answers.items():
                if name not in outputs:
                    outputs[name] = np.zeros((count, *value.shape[1:]), value.dtype)
                outputs[name][rows] = value
        return outputs

    def _fault(self, error: Exception) -> ServiceError:
        log.error("a search of %s failed", self._config.name, exc_info=error)
        return Internal(f"model {self._config.name} failed on this input")

    def _gathered(self, name: str, count: int, failed: dict[Member, ServiceError]) -> Array:
        """What the searches give for this step, in the order of rows."""
        spec = self._specs[name]
        array = np.zeros((count, *(1 if d < 0 else d for d in spec.shape)), spec.dtype)
        for member in self.members:
            if member.wanted is not None:
                try:
                    array[_indices(member.rows)] = member.wanted.inputs[name]
                except Exception as error:  # as above
                    failed[member] = self._fault(error)
        return array

    def _follow(self, member: Member, parents: Sequence[int]) -> None:
        """Give a member a row for each of `parents`, with what that parent has."""
        if len(parents) > member.search.width:
            raise ValueError(f"the search wants {len(parents)} rows; it said {member.search.width}")
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
        """Take a member's last row away; the batch's last row moves into its place."""
        row, last = member.rows.pop(), len(self._owners) - 1
        mover = self._owners.pop()
        if row != last:
            for buffer in self._buffers.values():
                buffer[row] = buffer[last]
            mover.rows[mover.rows.index(last)] = row
            self._owners[row] = mover

    def _buffer(self, name: str, shape: Sequence[int]) -> Array:
        """The rows of an input, with room for all rows there are, which doubles, and for items of `shape`."""
        spec = self._specs[name]
        rows = min(1 << max(0, len(self._owners) - 1).bit_length(), self._most_rows)
        room = tuple(_blocks(size) if d < 0 else d for d, size in zip(spec.shape, shape, strict=True))
        present = self._buffers.get(name)
        if present is not None:
            rows = max(rows, len(present))
            room = tuple(max(a, b) for a, b in zip(room, present.shape[1:], strict=True))
            if present.shape == (rows, *room):
                return present
        buffer: Array = np.zeros((rows, *room), spec.dtype)
        if present is not None:
            buffer[tuple(slice(0, size) for size in present.shape)] = present
        self._buffers[name] = buffer
        return buffer

    def _trim(self) -> None:
        """Give up room that the members that ended had needed: attention takes its time for empty places too."""
        filled = int(self._buffers[LENGTH][: len(self._owners)].max()) + 1
        for name, buffer in self._buffers.items():
            if name not in self._varying:
                continue
            axis = self._varying[name]
            needed = filled if name in self._caches else max(m.search.constants[name].shape[axis] for m in self.members)
            if buffer.shape[1 + axis] - _blocks(needed) >= SPARE:
                kept = (*(slice(None) for _ in range(1 + axis)), slice(_blocks(needed)))
                self._buffers[name] = buffer[kept].copy()


def _indices(rows: list[int]) -> list[int] | slice:
    """A view where there is one row, as numpy takes several times as long to gather."""
    return slice(rows[0], rows[0] + 1) if len(rows) == 1 else rows


def _blocks(size: int) -> int:
    """Room for `size` places."""
    return max(1, -(-size // BLOCK)) * BLOCK
