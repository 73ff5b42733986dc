"""All rows, in the order of the table."""

from __future__ import annotations

from image.lab import rows_disks, rows_smart, rows_sound, rows_wipe
from image.lab.row import Row

ROWS: tuple[Row, ...] = (*rows_sound.ROWS, *rows_smart.ROWS, *rows_disks.ROWS, *rows_wipe.ROWS)
