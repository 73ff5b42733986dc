"""All rows, in the order of the table."""

from __future__ import annotations

from image.lab import (
    rows_bmc,
    rows_control,
    rows_cpu,
    rows_disks,
    rows_lies,
    rows_network,
    rows_smart,
    rows_sound,
    rows_wipe,
)
from image.lab.row import Row

ROWS: tuple[Row, ...] = (
    *rows_sound.ROWS,
    *rows_smart.ROWS,
    *rows_disks.ROWS,
    *rows_wipe.ROWS,
    *rows_cpu.ROWS,
    *rows_lies.ROWS,
    *rows_network.ROWS,
    *rows_bmc.ROWS,
    *rows_control.ROWS,
)
