"""The lab's BMC takes what the rows tell it, and does not take silently what it cannot do."""

from __future__ import annotations

import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from image.lab import bmc

pytestmark = pytest.mark.skipif(shutil.which("ipmi_sim") is None, reason="openipmi is not installed")


def test_it_takes_each_order_and_listens_for_qemu(tmp_path: Path) -> None:
    with bmc.bmc(tmp_path) as one:
        one.set_bit(bmc.PSU2, bmc.FAILURE)
        one.set_only(bmc.REDUNDANCY, bmc.REDUNDANCY_LOST)
        one.set_value(bmc.FAN, 5)
        one.log_memory_error(1)
        socket.create_connection(("127.0.0.1", one.port), 5).close()


def test_an_order_that_it_refuses_is_an_error(tmp_path: Path) -> None:
    with bmc.bmc(tmp_path) as one, pytest.raises(bmc.NoBmc, match="sensor_set_value"):
        one.set_value(replace(bmc.FAN, number=0x77), 5)


def test_an_order_to_a_dead_one_is_an_error(tmp_path: Path) -> None:
    with bmc.bmc(tmp_path) as one:
        one.die()
        with pytest.raises(bmc.NoBmc):
            one.set_value(bmc.FAN, 5)
