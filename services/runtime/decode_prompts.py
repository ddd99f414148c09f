"""Reads the prompts of sequences that enter a decoder's batch: those of one kind in one run, equal ones only once."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from services.errors import Internal, ServiceError
from services.runtime.batches import Batching, Kind
from services.runtime.decode_batch import Member, isolated
from services.runtime.graph import Array, Graph
from services.runtime.search import Prompt

KEPT_BYTES = 8 * 2**20

Outputs = Mapping[str, Array]

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Shared:
    """A prompt, with the members that have it in common."""

    prompt: Prompt
    members: list[Member] = field(default_factory=list)

    @property
    def arrays(self) -> tuple[Array, ...]:
        return tuple(self.prompt.inputs[spec.name] for spec in self.prompt.graph.config.inputs)

    def begin(self, outputs: Outputs) -> dict[Member, ServiceError]:
        """Let each search begin; returns the errors of those that cannot."""
        failed: dict[Member, ServiceError] = {}
        for member in self.members:
            try:
                member.search.begin(outputs)
            except Exception:  # one search must not fail the others
                name = self.prompt.graph.config.name
                log.exception("a search failed on what %s read", name)
                failed[member] = Internal(f"model {name} failed on this input")
        return failed


class PromptReader:
    """Reads prompts on the calling thread.

    Args:
        kept_bytes: most bytes of the latest outputs that are kept, of prompts that have a key.
    """

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self._most_bytes = kept_bytes
        self._bytes = 0
        self._kept: OrderedDict[bytes, Outputs] = OrderedDict()

    def read(self, members: Sequence[Member]) -> dict[Member, ServiceError]:
        """Let the search of each member begin with what its prompt gives.

        A failure does not fail other searches, as in a step.

        Returns:
            The members that failed, each with its error.
        """
        shared: dict[bytes | Member, _Shared] = {}
        for member in members:
            if prompt := member.search.prompt:
                shared.setdefault(prompt.key or member, _Shared(prompt)).members.append(member)
        unread: dict[tuple[Graph, Kind], list[_Shared]] = {}
        failed: dict[Member, ServiceError] = {}
        for one in shared.values():
            if outputs := self._kept.get(one.prompt.key):
                self._kept.move_to_end(one.prompt.key)
                failed |= one.begin(outputs)
            else:
                config = one.prompt.graph.config
                kind = Batching(config, config.max_batch_size).kind(one.arrays)
                unread.setdefault((one.prompt.graph, kind), []).append(one)
        for (graph, kind), group in unread.items():
            for start in range(0, len(group), kind.rows):
                failed |= self._run(graph, group[start : start + kind.rows])
        return failed

    def _run(self, graph: Graph, group: list[_Shared]) -> dict[Member, ServiceError]:
        """Read prompts of one kind in one run."""
        config = graph.config
        batching = Batching(config, config.max_batch_size)

        def run(part: list[_Shared]) -> list[list[Array]]:
            arrays = [one.arrays for one in part]
            inputs = zip((spec.name for spec in config.inputs), batching.joined(arrays), strict=True)
            outputs = graph.run(dict(inputs))
            sizes = [(1, batching.length(own)) for own in arrays]
            return batching.parted([outputs[spec.name] for spec in config.outputs], sizes)

        failed: dict[Member, ServiceError] = {}
        try:
            for part, answer in isolated(group, run):
                if isinstance(answer, ServiceError):
                    failed |= dict.fromkeys(part[0].members, answer)
                    continue
                for one, row in zip(part, answer, strict=True):
                    outputs = {spec.name: value[0] for spec, value in zip(config.outputs, row, strict=True)}
                    self._keep(one.prompt.key, outputs)
                    failed |= one.begin(outputs)
        except ServiceError as error:  # the graph is gone; what is under way may not need it
            failed |= {member: error for one in group for member in one.members}
        return failed

    def _keep(self, key: bytes, outputs: Outputs) -> None:
        if not key:
            return
        self._kept[key] = {name: value.copy() for name, value in outputs.items()}  # not the whole batch
        self._bytes += _size(outputs)
        while self._bytes > self._most_bytes:
            self._bytes -= _size(self._kept.popitem(last=False)[1])


def _size(outputs: Outputs) -> int:
    return sum(value.nbytes for value in outputs.values())
