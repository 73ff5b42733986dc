"""All rows, in the order of the table."""

from __future__ import annotations

from image.lab import rows_bmc, rows_disks, rows_sound
from image.lab.row import Row

ROWS: tuple[Row, ...] = (*rows_sound.ROWS, *rows_disks.ROWS, *rows_bmc.ROWS)
