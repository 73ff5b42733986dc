"""What a monitoring system asks this server, in Prometheus' text format; docs/metrics.md lists names and labels.

Every run is counted by its state; only runs that still have a host of theirs are told one by one, so that the number
of series follows the number of hosts and not the years of the server. No token, key or log line is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from orchestrator.outbox import FAILED, PENDING, OutboxTotal
from orchestrator.run_record import Run
from orchestrator.store import Status, Store
from orchestrator.webhook_receivers import name_of
from vetting_agent import __version__

PREFIX = "vetting"
MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class RunsCollector(Collector):
    """The runs as they were last committed, looked at anew for each scrape."""

    def __init__(self, store: Store, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._store = store
        self._now = now

    def collect(self) -> Iterator[Metric]:
        runs = self._store.runs()
        live = [run for run in runs if not (run.is_over or run.is_completed)]
        statuses = {run.run_id: self._store.status(run.run_id) for run in live}
        yield _states(runs)
        yield _gauge("run_stalled", "1 where a host fell silent", live, lambda run: float(run.stalled))
        yield _gauge("run_held", "1 where a run waits for an operator", live, lambda run: float(run.is_holding))
        yield _gauge("run_stages_passed", "Stages with a valid pass", live, _passed)
        yield _gauge("run_stages", "Stages that the run has", live, lambda run: float(len(run.stages)))
        yield _gauge("run_directives_open", "Orders that no agent answered yet", live, _open)
        yield _told("run_heartbeat_age_seconds", "Since the agent last spoke", live, statuses, self._age)
        yield _told("run_stage_progress_ratio", "Of the running stage, 0 to 1", live, statuses, _progress)
        yield _told("run_dropped_log_lines", "Log lines that the agent dropped", live, statuses, _dropped)
        yield InfoMetricFamily(f"{PREFIX}_orchestrator", "This server", value={"version": __version__})

    def _age(self, status: Status) -> float:
        return max(0.0, (self._now() - datetime.fromisoformat(status.last_seen_at)).total_seconds())


class OutboxCollector(Collector):
    """What waits to be told to webhooks, as it was read for this scrape. Receivers by name: a URL may be a secret."""

    def __init__(self, totals: Sequence[OutboxTotal], now: datetime) -> None:
        self._totals = totals
        self._now = now

    def collect(self) -> Iterator[Metric]:
        yield self._family("webhook_pending", "Deliveries that wait", PENDING, lambda one: one.number)
        yield self._family("webhook_failed", "Deliveries given up, of the newest 1000", FAILED, lambda one: one.number)
        yield self._family("webhook_oldest_pending_seconds", "Since the oldest that waits happened", PENDING, self._age)

    def _family(self, name: str, meaning: str, state: str, value: Callable[[OutboxTotal], float]) -> Metric:
        family = GaugeMetricFamily(f"{PREFIX}_{name}", meaning, labels=["receiver"])
        for one in self._totals:
            if one.state == state:
                family.add_metric([name_of(one.receiver)], value(one))
        return family

    def _age(self, one: OutboxTotal) -> float:
        return max(0.0, (self._now - datetime.fromisoformat(one.oldest_at)).total_seconds())


async def text_of(store: Store) -> bytes:
    """The whole page."""
    registry = CollectorRegistry()
    registry.register(RunsCollector(store))
    registry.register(OutboxCollector(await store.outbox.totals(), datetime.now(UTC)))
    for own in (ProcessCollector, PlatformCollector, GCCollector):
        own(registry=registry)
    return generate_latest(registry)


def _states(runs: Sequence[Run]) -> Metric:
    family = GaugeMetricFamily(f"{PREFIX}_runs", "Runs by state", labels=["state"])
    counts: dict[str, int] = {}
    for run in runs:
        counts[run.state] = counts.get(run.state, 0) + 1
    for state, count in sorted(counts.items()):
        family.add_metric([state], count)
    return family


def _family(name: str, meaning: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}_{name}", meaning, labels=["run", "host", "state"])


def _labels(run: Run) -> list[str]:
    return [str(run.run_id), run.host, run.state]


def _gauge(name: str, meaning: str, runs: Iterable[Run], value: Callable[[Run], float]) -> Metric:
    family = _family(name, meaning)
    for run in runs:
        family.add_metric(_labels(run), value(run))
    return family


def _told(
    name: str,
    meaning: str,
    runs: Iterable[Run],
    statuses: dict[int, Status | None],
    value: Callable[[Status], float | None],
) -> Metric:
    """Of what agents say of themselves; a run whose agent said nothing has no line."""
    family = _family(name, meaning)
    for run in runs:
        status = statuses[run.run_id]
        number = None if status is None else value(status)
        if number is not None:
            family.add_metric(_labels(run), number)
    return family


def _passed(run: Run) -> float:
    return float(sum(run.has_valid_pass(name) for name in run.stages))


def _open(run: Run) -> float:
    return float(len(run.open_directives))


def _progress(status: Status) -> float | None:
    return status.progress


def _dropped(status: Status) -> float:
    return float(status.dropped_log_lines)
