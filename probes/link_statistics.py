"""What ethtool knows of a link beyond the kernel's common counters: driver statistics, FEC, and the transceiver.

Drivers name their statistics as they like; those known here are mapped to one name each (kernel documentation
networking/statistics; the drivers mlx5, ice, i40e, ixgbe, igb, bnxt, sfc, cxgb4, qede). Every question may be refused,
which is no fault: copper ports have no module, and many drivers no FEC.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from probes.host import Host
from probes.printable import printable

LIMIT_S = 10.0
_NAMES: dict[str, tuple[str, ...]] = {
    "crc": (
        "rx_crc_errors",
        "rx_crc_errors_phy",
        "rx_fcs_errors",
        "port.rx_crc_errors",
        "rx_crc_errors.nic",
        "rx_fcs_err_frames",
        "rx_bad_fcs",
    ),
    "symbol": ("rx_symbol_err_phy", "rx_pcs_symbol_err_phy", "rx_symbol_errors"),
    "fec_corrected": ("rx_fec_corrected_blocks", "rx_fec_corrected_errors", "rx_corrected_bits_phy"),
    "fec_uncorrectable": ("rx_fec_uncorrectable_blocks", "rx_fec_uncorrected_errors", "rx_fec_uncorrectable_errors"),
    "pause_received": (
        "rx_pause_ctrl_phy",
        "rx_pause_frames",
        "rx_pause",
        "rx_flow_control_xoff",
        "rx_xoff_pause_rcvd",
        "port.link_xoff_rx",
        "link_xoff_rx.nic",
    ),
    "pause_sent": (
        "tx_pause_ctrl_phy",
        "tx_pause_frames",
        "tx_pause",
        "tx_flow_control_xoff",
        "tx_xoff_sent",
        "port.link_xoff_tx",
        "link_xoff_tx.nic",
    ),
    "pause_storm": ("rx_pause_storm_warning_events", "tx_pause_storm_warning_events", "tx_pause_storm_error_events"),
}
_KIND = {name: kind for kind, names in _NAMES.items() for name in names}


@dataclass(frozen=True, slots=True)
class Module:
    """A transceiver. `alarms` and `warnings` are the flags that are on, in ethtool's words."""

    kind: str = ""
    vendor: str = ""
    part: str = ""
    serial: str = ""
    temperature_c: float | None = None
    receive_dbm: float | None = None
    """Of the weakest lane; None also where there is no light at all."""
    alarms: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LinkStatistics:
    """One moment of a link. None or empty: the driver does not tell."""

    counts: dict[str, int] = field(default_factory=dict)
    """By the names of this module: crc, symbol, fec_corrected, fec_uncorrectable, pause_received, pause_sent, …"""
    fec: str | None = None
    """The active encoding: "RS", "BaseR", "Off"."""
    module: Module | None = None


async def read(host: Host, name: str) -> LinkStatistics:
    """Ask ethtool three questions. Raises a ToolError when it is missing, killed or hangs; a refusal is no error."""
    counts = parse_counts(await _ask(host, "-S", name))
    fec, blocks = parse_fec(await _ask(host, "-I", "--show-fec", name))
    module = parse_module(await _ask(host, "-m", name))
    return LinkStatistics({**blocks, **counts}, fec, module)


async def _ask(host: Host, *question: str) -> str:
    result = await host.tools.run("ethtool", *question, timeout_s=LIMIT_S, accept=None)
    return result.stdout if result.exit_code == 0 else ""


def parse_counts(text: str) -> dict[str, int]:
    """The known counters of `ethtool -S NAME`; of several names for one thing the largest, as they overlap."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        name, _, value = line.strip().rpartition(":")
        kind = _KIND.get(name.strip())
        if kind is not None and re.fullmatch(r"\d{1,20}", value.strip()):
            found[kind] = max(found.get(kind, 0), int(value))
    return found


def parse_fec(text: str) -> tuple[str | None, dict[str, int]]:
    """(active encoding, block counters) of `ethtool -I --show-fec NAME`."""
    active = re.search(r"^Active FEC encodings?: *(.*)$", text, re.MULTILINE)
    blocks = {
        kind: int(match[1])
        for kind, name in (("fec_corrected", "corrected_blocks"), ("fec_uncorrectable", "uncorrectable_blocks"))
        if (match := re.search(rf"^\s*{name}: (\d{{1,20}})\b", text, re.MULTILINE))
    }
    return printable(active[1]) or None if active else None, blocks


def parse_module(text: str) -> Module | None:
    """The transceiver that `ethtool -m NAME` shows; None when it shows none."""
    fields = [(name.strip(), value.strip()) for name, _, value in (line.partition(" :") for line in text.splitlines())]
    first = dict(reversed(fields))
    if "Identifier" not in first:
        return None
    flags = [name for name, value in fields if value == "On" and "threshold" not in name]
    received = [_dbm(value) for name, value in fields if re.match(r"Rcvr signal|Receiver signal", name)]
    known = [value for value in received if value is not None]
    return Module(
        kind=printable(first["Identifier"]),
        vendor=printable(first.get("Vendor name", "")),
        part=printable(first.get("Vendor PN", "")),
        serial=printable(first.get("Vendor SN", "")),
        temperature_c=_figure(first.get("Module temperature", ""), "degrees C"),
        receive_dbm=min(known) if known and len(known) == len(received) else None,
        alarms=tuple(printable(name) for name in flags if "alarm" in name),
        warnings=tuple(printable(name) for name in flags if "warning" in name),
    )


def _dbm(value: str) -> float | None:
    return _figure(value.partition("/")[2], "dBm")


def _figure(value: str, unit: str) -> float | None:
    match = re.match(rf"\s*(-?\d{{1,6}}(?:\.\d+)?) {unit}", value)
    number = float(match[1]) if match else math.nan
    return number if math.isfinite(number) else None
