"""A run as it is kept: one frozen record, small enough to be written whole at each change.

What grows (logs, samples, result bodies, events) lies beside it in the store. `runs.py` is the only place that
makes a new record from an old one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from orchestrator.spec import Spec
from stages import STAGES
from vetting_agent.wire import COMPLETED, FAILED_HOLDING, ExpectedDisk, IdentifyOrder, OverrideFlags, WireFinding

CANCELLED = "Cancelled"
ABORTED = "Aborted"
RELEASED = "Released"
OVER = frozenset({CANCELLED, ABORTED, RELEASED})
"""States in which the host no longer belongs to the run."""

INVENTORY = "Inventory"
STAGE_NAMES: tuple[str, ...] = tuple(stage.name for stage in STAGES)
STATE_OF: Mapping[str, str] = {stage.name: stage.state for stage in STAGES}
STAGE_OF: Mapping[str, str] = {stage.state: stage.name for stage in STAGES}

MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5,19}")
WAITING, DONE, REFUSED = "waiting", "done", "refused"
HOLD, CONTINUE = "hold", "continue"


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of what is stored."""


class Intervals(Record, frozen=True, kw_only=True):
    """Seconds between calls of the agent, as the claim names them."""

    heartbeat_s: float = 10.0
    sensor_s: float = 5.0
    log_s: float = 2.0


class StageRecord(Record, frozen=True, kw_only=True):
    """One stage of the run. `valid` is a pass that still counts; `passed` is the last execution's judgement."""

    stage: str
    attempts: int = 0
    valid: bool = False
    passed: bool | None = None
    result_id: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    message: str | None = None
    errors: int = 0
    warnings: int = 0
    """Findings of the last execution."""
    waived: tuple[str, ...] = ()
    """"code component" of the error findings in spite of which it passed."""


class Directive(Record, frozen=True, kw_only=True):
    """An operator's order to the agent. `sent_at` is when a heartbeat first carried it."""

    cmd_id: str
    cmd: str
    created_at: str
    stage: str | None = None
    override_flags: OverrideFlags | None = None
    status: str = WAITING
    sent_at: str | None = None
    acked_at: str | None = None
    identify: IdentifyOrder | None = None
    answer: str | None = None
    """Why the agent refused it, in its words."""

    @property
    def is_open(self) -> bool:
        """Not answered by the agent yet."""
        return self.status == WAITING


class BootClaim(Record, frozen=True, kw_only=True):
    """The boot that a boot token belongs to since its first claim (boot_tokens.py)."""

    token_hash: str
    """Of the token that the boot script carried: good for nothing now but this boot's own further claims."""
    session_hash: str
    """Of the token that the claim was answered with, which no boot script ever carried."""
    mac: str
    boot_id: str
    """The kernel's; the agent's instance where it did not say."""


class Run(Record, frozen=True, kw_only=True):
    """The whole run. `in_flight` names the stage that the agent is believed to be executing."""

    run_id: int
    host: str
    token_hash: str
    created_at: str
    stages: tuple[str, ...]
    state: str = STATE_OF[INVENTORY]
    profile: str = "standard"
    parameters: dict[str, Any] = {}
    non_destructive: bool = True
    expected_disks: list[ExpectedDisk] | None = None
    spec: Spec | None = None
    on_failure: str = HOLD
    shutdown_when_completed: bool = True
    intervals: Intervals = Intervals()
    chosen_intervals: tuple[str, ...] = ()
    """Those of them that the operator named; the others may be told longer to the host (pacing.py)."""
    given_intervals: Intervals | None = None
    """What the last claim was told, where that is something else."""

    hardware: str | None = None
    """The hardware profile that the run's spec and parameters came from, and its version."""
    hardware_version: int = 0
    peers: str = "warning"
    """What a figure far below the siblings' becomes: `warning`, `error` or `off`."""
    macs: tuple[str, ...] = ()
    """The MAC addresses of the host, any of which may claim. Empty: `mac` alone, or whoever claims first."""
    token_expires_at: str | None = None
    """When the run's own token ends that no host has claimed with. None: with the run."""
    boot_generation: int = 0
    """Boot tokens of an earlier generation open nothing: a claim or a rotation came since."""
    boot: BootClaim | None = None

    mac: str | None = None
    instance_id: str | None = None
    older_instances: tuple[str, ...] = ()
    instance_started_s: float | None = None
    """When the instance started, in seconds since its kernel did; None: it does not say."""
    kernel_boot_id: str | None = None
    older_boots: tuple[str, ...] = ()
    """Kernels that the host ran before this one: no claim comes from them any more but a late one."""
    agent_version: str | None = None
    ip: str | None = None

    records: dict[str, StageRecord] = {}
    in_flight: str | None = None
    resumes: int = 0
    """How often another instance has resumed the stage in flight."""
    powered_off: bool = False
    """The agent was told to power off and did: its silence is expected, and so is another boot id."""
    stalled: bool = False
    components: list[str] | None = None
    """Those of the Inventory that counts: what every pass is a pass of."""
    component_changes: int = 0
    """Since the operator last had a hand in the run."""
    inventory_result_id: str | None = None
    findings: list[WireFinding] = []
    spec_diff: list[str] = []
    answers: dict[str, str] = {}
    """The next_state that each result_id was answered with."""
    ignored_results: int = 0
    """Results that the run did not wait for."""
    directives: tuple[Directive, ...] = ()
    hold_ip: str | None = None
    hold_expires_at: str | None = None
    hold_host_key: str | None = None
    """The fingerprint of the key that the host's SSH server shows, by its agent's word."""
    finished_at: str | None = None

    @property
    def is_over(self) -> bool:
        return self.state in OVER

    @property
    def stage(self) -> str | None:
        """The stage that the run's state stands at, or None in a state of another kind."""
        return STAGE_OF.get(self.state)

    def admits(self, mac: str) -> bool:
        """Whether a host with this MAC address may claim the run."""
        return mac in self.macs or self.mac == mac or (self.mac is None and not self.macs)

    @property
    def is_holding(self) -> bool:
        return self.state == FAILED_HOLDING

    @property
    def is_completed(self) -> bool:
        return self.state == COMPLETED

    @property
    def open_directives(self) -> tuple[Directive, ...]:
        return tuple(one for one in self.directives if one.is_open)

    @property
    def is_to_be_told(self) -> bool:
        """Whether a heartbeat changes something: an order is open, or the host was taken for off and is not."""
        return self.powered_off or any(one.is_open for one in self.directives)

    @property
    def pace(self) -> Intervals:
        """How often the host calls."""
        return self.given_intervals or self.intervals

    @property
    def expects_calls(self) -> bool:
        """Whether a host should be calling: silence then means trouble."""
        return self.instance_id is not None and not self.is_over and not self.powered_off

    def record_of(self, stage: str) -> StageRecord:
        return self.records.get(stage) or StageRecord(stage=stage)

    def has_valid_pass(self, stage: str) -> bool:
        return self.record_of(stage).valid

    @property
    def retry_stage(self) -> str | None:
        """In a hold: the stage whose retry was handed to the agent and has no result yet."""
        if not self.is_holding:
            return None
        sent = (one.stage for one in self.open_directives if one.cmd == "retry_stage" and one.sent_at)
        return self.in_flight or next(sent, None)

    @property
    def awaited_stage(self) -> str | None:
        """The stage whose result would count now."""
        return self.retry_stage if self.is_holding else self.stage


def normal_mac(text: str) -> str | None:
    """A MAC address (InfiniBand's long ones too) in lower case with colons; None when it is none."""
    mac = text.lower().replace("-", ":")
    return mac if MAC.fullmatch(mac) else None


def ordered_stages(names: list[str] | None) -> tuple[str, ...]:
    """Inventory first, then the chosen stages in the order of the walk. ValueError names a stranger."""
    if names is None:
        return STAGE_NAMES
    if strangers := [name for name in names if name not in STAGE_NAMES]:
        raise ValueError(f"no such stage: {', '.join(strangers)}; there are: {', '.join(STAGE_NAMES)}")
    return tuple(name for name in STAGE_NAMES if name in names or name == INVENTORY)
