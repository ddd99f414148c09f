"""The simulator agrees with queueing theory, and with what autoscalers and zones do."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "deploy" / "simulate"))

import scenarios
from model import Cluster, Service, Simulation

pytestmark = pytest.mark.unit
PICTURES = Service(batch=0.02, request=0.03)


def test_a_queue_without_batches_is_that_of_pollaczek_and_khinchine() -> None:
    service = Service(batch=0.0, request=0.01, max_batch=1)
    simulation = Simulation(service, Cluster(least=1, scaler="none"), lambda _: 70.0)
    simulation.run(600)
    load = 0.7
    waits = load * 0.01 / (2 * (1 - load))
    assert np.mean(simulation.latencies) == pytest.approx(0.01 + waits, rel=0.05)


def test_times_that_vary_make_others_wait_longer() -> None:
    service = Service(batch=0.0, request=0.01, max_batch=1, alone=((0.005, 0.008), (0.015, 0.018)))
    simulation = Simulation(service, Cluster(least=1, scaler="none"), lambda _: 70.0)
    simulation.run(600)
    waits = 70.0 * 0.01**2 * (0.5**2 + 1.5**2) / 2 / (2 * (1 - 0.7))
    assert np.mean(simulation.latencies) == pytest.approx(0.01 + 0.003 + waits, rel=0.05)


def test_a_quota_is_what_a_pod_computes_in() -> None:
    service = Service(batch=0.0, request=0.01, max_batch=1, cpus=0.25, queue=10**6)
    simulation = Simulation(service, Cluster(least=1, scaler="none"), lambda _: 100.0)
    simulation.run(60)
    assert len(simulation.latencies) / 60 == pytest.approx(25, rel=0.02)


def test_what_a_pod_does_by_itself_comes_off_its_quota() -> None:
    service = Service(batch=0.0, request=0.005, max_batch=1, cpus=0.25, idle=0.02, queue=10**6)
    simulation = Simulation(service, Cluster(least=1, scaler="none"), lambda _: 100.0)
    simulation.run(60)
    assert len(simulation.latencies) / 60 == pytest.approx((0.25 - 0.02) / 0.005, rel=0.02)


def test_a_prediction_waits_for_every_answer() -> None:
    values = scenarios.predicted(Service(batch=0.0, request=0.01, max_batch=1), 1, 0.5, 100.0, seconds=10.0, seed=0)
    assert values["answered"] == pytest.approx(50, rel=0.02)
    assert values["mean"] == pytest.approx(5, rel=0.1)


@pytest.mark.parametrize("scaler", ["keda", "hpa"])
def test_pods_come_for_a_crowd(scaler: str) -> None:
    outcome, simulation = scenarios.simulate_crowd(PICTURES, Cluster(scaler=scaler), 16.0)
    before = [s.ready for s in simulation.samples if s.time < scenarios.CROWD_AT]
    assert max(before) < outcome.pods
    assert outcome.nodes * Cluster().pods_per_node >= outcome.pods


def test_a_lost_zone_costs_what_was_in_it_and_is_made_up_for() -> None:
    outcome, simulation = scenarios.simulate_zone_loss(PICTURES, Cluster(scaler="keda", least=6), 90.0)
    assert simulation.lost > 0
    assert outcome.failed < 0.01
    least = min(s.ready for s in simulation.samples if s.time > scenarios.LOST_AT)
    assert least < 6 <= simulation.samples[-1].ready


def test_the_law_goes_through_what_events_say() -> None:
    rates = [40.0, 80.0, 160.0]
    a, b, pods = scenarios.law(PICTURES, rates)
    assert [a * rate + b * rate**0.5 for rate in rates] == pytest.approx(pods, abs=1)
