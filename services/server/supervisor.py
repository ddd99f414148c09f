"""`--workers N`: processes that share the port by SO_REUSEPORT, with one /metrics for all. A worker that dies or hangs
is replaced."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Coroutine
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from prometheus_client.multiprocess import mark_process_dead

from services import metrics
from services.server import logs
from services.server.addresses import addresses, check_free
from services.server.banner import announce
from services.server.http import start_http
from services.server.report import Ready
from services.server.settings import Settings, StartError, cannot_listen

log = logging.getLogger(__name__)

RESTART_PAUSE_SECONDS = 1.0
POLL_SECONDS = 0.5
BEAT_SECONDS = 1.0
START_SECONDS = 60.0  # time limit for the first beat
KILL_SECONDS = 4.0  # after the drain time


class Pulse:
    """Tells whether a process is alive, by a counter that its event loop increments.

    Time in which the supervisor itself was stopped, e.g. because the whole container was paused, counts as one poll.
    """

    def __init__(self) -> None:
        self._beats = 0
        self._silence = 0.0

    def silence(self, beats: int, elapsed: float) -> float:
        """Seconds without a beat.

        Args:
            beats: the current count.
            elapsed: seconds since the previous poll.
        """
        self._silence = self._silence + min(elapsed, 2 * POLL_SECONDS) if beats == self._beats else 0.0
        self._beats = beats
        return self._silence


class _Worker:
    """A serving process, the pipe on which it reports, and its pulse."""

    def __init__(self, settings: Settings) -> None:
        context = multiprocessing.get_context("spawn")
        self.reports, child_end = context.Pipe(duplex=False)
        self._beats = context.RawValue("L", 0)
        self._pulse = Pulse()
        self.process: SpawnProcess = context.Process(target=_serve, args=(settings, child_end, self._beats))
        self.process.start()
        child_end.close()
        self.serving = False
        self.all_answer = False
        self.stopped = False

    def receive(self) -> Ready | None:
        """Take the worker's reports; returns the one that says that it serves, if that has arrived now."""
        announced = None
        try:
            while self.reports.poll():
                report = self.reports.recv()
                if isinstance(report, Ready):
                    self.serving, announced = True, report
                else:
                    self.all_answer = report
        except (EOFError, OSError):  # it has ended
            pass
        return announced

    def stop(self) -> None:
        """SIGTERM, whatever signal the supervisor got: SIGINT would break the imports of a worker that starts."""
        self.stopped = True
        with suppress(ProcessLookupError):
            os.kill(self.process.pid or 0, signal.SIGTERM)

    def hangs(self, elapsed: float, timeout: float) -> bool:
        """Whether its event loop has been stuck for `timeout` seconds, or has not started in time."""
        beats = self._beats.value
        return self._pulse.silence(beats, elapsed) > (timeout if beats else max(timeout, START_SECONDS))


def run(settings: Settings) -> None:
    """Serve with `settings.workers` processes until SIGTERM or SIGINT.

    Raises:
        StartError: no worker could start.
    """
    directory = tempfile.mkdtemp(prefix="lectern-metrics-")
    # The workers' prometheus_client writes its values there, and the supervisor adds them up.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
    with ExitStack() as reserved:
        reserved.callback(shutil.rmtree, directory, ignore_errors=True)
        ports = {name: reserved.enter_context(_reserve(settings, name, port)) for name, port in settings.ports.items()}
        _Supervisor(settings.model_copy(update={name: s.getsockname()[1] for name, s in ports.items()})).run()


class _Supervisor:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._workers: list[_Worker] = []
        self._missing: list[float] = []  # when to start a worker for each that ended, in `time.monotonic()` seconds
        self._stopping_since: float | None = None
        self._announced = False

    def run(self) -> None:
        """Keep `settings.workers` processes serving until a signal stops them and all have ended."""
        settings = self._settings
        self._metrics_port = start_http(
            settings.host,
            settings.metrics_port,
            self._serving,
            self._ready,
            metrics.WorkersCollector(),
            triton_names=settings.triton_metrics,
        )
        self._missing = [0.0] * settings.workers
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        polled = time.monotonic()
        while self._workers or (self._missing and self._stopping_since is None):
            now = time.monotonic()
            self._poll(now, now - polled)
            polled = now
            watched: list[Any] = [w.process.sentinel for w in self._workers]
            wait(watched + [w.reports for w in self._workers if not w.serving], POLL_SECONDS)

    def _poll(self, now: float, elapsed: float) -> None:
        for worker in list(self._workers):
            if (report := worker.receive()) and not self._announced:
                announce(self._settings, report, self._metrics_port)
                self._announced = True
            if not worker.process.is_alive():
                self._bury(worker, now)
            elif worker.hangs(elapsed, self._settings.worker_timeout_seconds):
                log.error("worker %d does not answer any more: killing it", worker.process.pid)
                worker.process.kill()
        if self._stopping_since is None:
            while self._missing and self._missing[0] <= now:
                del self._missing[0]
                self._workers.append(_Worker(self._settings))
        # Checked again: a signal that came while a worker was started has not reached that worker.
        if self._stopping_since is not None:
            self._end(now)

    def _bury(self, worker: _Worker, now: float) -> None:
        self._workers.remove(worker)
        mark_process_dead(worker.process.pid)  # type: ignore[no-untyped-call]
        if self._stopping_since is not None:
            return
        if not self._announced:
            self._stop()
            raise StartError("a worker could not start; its message is above")
        log.error("worker %d ended with code %s: starting another", worker.process.pid, worker.process.exitcode)
        self._missing.append(now + RESTART_PAUSE_SECONDS)

    def _stop(self, *_: object) -> None:
        """Stop the workers; each call counts as a signal for them."""
        self._stopping_since = self._stopping_since or time.monotonic()
        for worker in self._workers:
            worker.stop()

    def _end(self, now: float) -> None:
        """Make sure that every worker stops, if necessary by force."""
        since, settings = self._stopping_since or now, self._settings
        late = now > since + settings.drain_pause_seconds + settings.drain_seconds + KILL_SECONDS
        for worker in self._workers:
            if late:
                log.error("worker %d does not stop: killing it", worker.process.pid)
                worker.process.kill()
            elif not worker.stopped:
                worker.stop()

    def _serving(self) -> bool:
        return self._stopping_since is None and any(w.serving for w in self._workers)

    def _ready(self) -> bool:
        return self._stopping_since is None and any(w.serving and w.all_answer for w in self._workers)


def _reserve(settings: Settings, name: str, port: int) -> socket.socket:
    """Bind the port without listening, so that all workers get the same one even if port 0 was asked for."""
    try:
        check_free(settings.host, port)
        family, address = addresses(settings.host, port)[0]
        reserved = socket.socket(family)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(address)
    except OSError as error:
        raise cannot_listen(settings.host, port, name, error) from error
    return reserved


def _serve(settings: Settings, reports: Connection, beats: Any) -> None:
    import uvloop

    from services.server.app import App

    os.setpgrp()  # Ctrl-C reaches the supervisor alone, which passes it on once
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    logs.configure(settings)
    try:
        app = App(settings)
        uvloop.run(_alive(app.run(reports.send, reports.send), beats))
    except StartError as error:
        log.error("%s", error)
        raise SystemExit(1) from None


async def _alive(serving: Coroutine[None, None, None], beats: Any) -> None:
    """Serve, and increment the counter of beats as long as the event loop runs."""

    async def beat() -> None:
        while True:
            beats.value += 1
            await asyncio.sleep(BEAT_SECONDS)

    beating = asyncio.create_task(beat())
    try:
        await serving
    finally:
        beating.cancel()


def _stop_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
