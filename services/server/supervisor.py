"""`--workers N`: processes that share the port by SO_REUSEPORT, with one /metrics for all; a dead one is replaced."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import mark_process_dead

from services import metrics
from services.server import logs
from services.server.banner import announce
from services.server.http import start_http
from services.server.report import Ready
from services.server.settings import Settings, StartError

log = logging.getLogger(__name__)

RESTART_PAUSE_SECONDS = 1.0
POLL_SECONDS = 0.5


class _Worker:
    """A serving process and the pipe on which it says that it is ready."""

    def __init__(self, settings: Settings) -> None:
        context = multiprocessing.get_context("spawn")
        self.reports, child_end = context.Pipe(duplex=False)
        self.process: SpawnProcess = context.Process(target=_serve, args=(settings, child_end))
        self.process.start()
        child_end.close()
        self.serving = False
        self.all_answer = False

    def receive(self) -> Ready | None:
        """Note what it reported; returned is what it said if it serves since."""
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


def run(settings: Settings) -> None:
    """Serve with `settings.workers` processes until SIGTERM or SIGINT.

    Raises:
        StartError: no worker came up.
    """
    directory = tempfile.mkdtemp(prefix="lectern-metrics-")
    # Workers' prometheus_client writes its values there, for the parent to add up.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
    reserved = _reserve(settings)
    settings = settings.model_copy(update={"port": reserved.getsockname()[1]})
    registry = CollectorRegistry()
    registry.register(metrics.WorkersCollector())
    workers: list[_Worker] = []
    stopping = False

    def stop(number: int, _: Any) -> None:
        nonlocal stopping
        stopping = True
        for worker in workers:
            if worker.process.pid:
                os.kill(worker.process.pid, number)

    def serving() -> bool:
        return not stopping and any(w.serving for w in workers)

    def ready() -> bool:
        return not stopping and any(w.serving and w.all_answer for w in workers)

    metrics_port = start_http(settings.host, settings.metrics_port, serving, ready, registry)
    workers += [_Worker(settings) for _ in range(settings.workers)]
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    announced = False
    try:
        while workers:
            wait([w.process.sentinel for w in workers] + [w.reports for w in workers if not w.serving], POLL_SECONDS)
            for worker in list(workers):
                if (report := worker.receive()) and not announced:
                    announce(settings, report, metrics_port)
                    announced = True
                if worker.process.is_alive():
                    continue
                workers.remove(worker)
                mark_process_dead(worker.process.pid)  # type: ignore[no-untyped-call]
                if stopping:
                    continue
                if not announced:
                    stop(signal.SIGTERM, None)
                    raise StartError("a worker could not start; its message is above")
                pid, code = worker.process.pid, worker.process.exitcode
                log.error("worker %d ended with code %s: starting another", pid, code)
                time.sleep(RESTART_PAUSE_SECONDS)
                workers.append(_Worker(settings))
    finally:
        reserved.close()
        shutil.rmtree(directory, ignore_errors=True)


def _reserve(settings: Settings) -> socket.socket:
    """Hold the port without listening on it, so that workers share one even when any was asked for."""
    reserved = socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        reserved.bind((settings.host, settings.port))
    except OSError as error:
        raise StartError(
            f"cannot listen on {settings.host}:{settings.port} ({error.strerror}): choose another with --port"
        ) from error
    return reserved


def _serve(settings: Settings, reports: Connection) -> None:
    import uvloop

    from services.server.app import App

    os.setpgrp()  # Ctrl-C reaches the supervisor alone, which passes it on once
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    logs.configure(settings)
    try:
        uvloop.run(App(settings).run(reports.send, reports.send))
    except StartError as error:
        log.error("%s", error)
        raise SystemExit(1) from None


def _stop_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
