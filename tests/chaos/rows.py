"""All rows of the matrix, in the order of the page."""

from __future__ import annotations

from tests.chaos import rows_host, rows_network, rows_server, rows_terminal
from tests.chaos.row import Row

ROWS: tuple[Row, ...] = (*rows_network.ROWS, *rows_server.ROWS, *rows_host.ROWS, *rows_terminal.ROWS)
