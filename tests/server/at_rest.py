"""What a server holds when nobody calls it any more: nothing of any caller."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.conftest import Server
from tests.server.test_server import get
from tests.waiting import wait_until

HELD = ("lectern_queue_depth", "lectern_decode_waiting", "lectern_pool_waiting", "lectern_budget_held_bytes")
STARTED, HANDLED = "grpc_server_started_total", "grpc_server_handled_total"


def held(server: Server) -> dict[str, int]:
    """Places in queues, bytes of budgets and calls under way, by metric and label; without what is 0."""
    counts: Counter[str] = Counter()
    for sample in samples(server):
        if sample.name in HELD:
            counts[f"{sample.name} of {' '.join(sample.labels.values())}"] += int(sample.value)
        elif sample.name in (STARTED, HANDLED):
            counts[f"calls of {sample.labels['grpc_method']}"] += int(
                sample.value if sample.name == STARTED else -sample.value
            )
    return {name: count for name, count in counts.items() if count}


def codes(server: Server) -> Counter[str]:
    """How the calls of all methods have ended."""
    counts: Counter[str] = Counter()
    for sample in samples(server):
        if sample.name == HANDLED:
            counts[sample.labels["grpc_code"]] += int(sample.value)
    return counts


def samples(server: Server) -> list[Sample]:
    families = text_string_to_metric_families(get(f"{server.metrics_url}/metrics"))
    return [sample for family in families for sample in family.samples]


@contextmanager
def nothing_kept(server: Server, *, but: str = "") -> Iterator[None]:
    """Asserts that the server keeps nothing of the calls of this block, no thread and no descriptor either, and that it
    called none of what went wrong a fault of its own. What it makes for its first calls must have been made.

    Args:
        but: what its errors may be about.
    """
    process = psutil.Process(server.pid)
    wait_until(lambda: not held(server))
    threads, files = process.num_threads(), process.num_fds()
    yield
    wait_until(lambda: not held(server))
    wait_until(lambda: process.num_threads() <= threads)
    wait_until(lambda: process.num_fds() <= files)
    errors = [str(record["message"]) for record in server.log_records() if record["level"] == "ERROR"]
    assert not [error for error in errors if not (but and but in error)]
