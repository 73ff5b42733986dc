"""The agent's own connection for one terminal: to where all its calls go, with the same trust, and with the one-time
token in a header, so that it stands in no URL, log or argument list."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from urllib.parse import urlsplit

from vetting_agent import wire
from vetting_agent.client import Client
from vetting_agent.errors import Trouble
from vetting_agent.printable import printable
from vetting_agent.web_socket import SocketFailed, UpgradeRefused, WebSocket

RETRY_S = 1.0


async def open_stream(client: Client, order: wire.TerminalOrder) -> WebSocket:
    """The stream, tried again until the caller's time is over. Raises Trouble for what no repetition can change."""
    told = ""
    while True:
        try:
            return await _attempt(client, order)
        except UpgradeRefused as refusal:
            if refusal.status < 500:
                raise Trouble("terminal", printable(str(refusal))) from None
            problem: Exception = refusal
        except ssl.SSLError as mismatch:
            problem = mismatch
            with contextlib.suppress(OSError):
                await client.way.renew()
        except (SocketFailed, OSError) as trouble:
            problem = trouble
        if (text := printable(str(problem) or type(problem).__name__)) != told:
            client.note("terminal", text)
            told = text
        await asyncio.sleep(RETRY_S)


async def _attempt(client: Client, order: wire.TerminalOrder) -> WebSocket:
    url = urlsplit(f"{client.base}/terminal/{order.session}")
    assert url.hostname is not None
    context = await client.way.context()
    port = url.port or (443 if context else 80)
    reader, writer = await asyncio.open_connection(url.hostname, port, ssl=context)
    try:
        headers = client.credentials() | {wire.TERMINAL_TOKEN_HEADER: order.token}
        return await WebSocket.upgrade(reader, writer, url.netloc, url.path, headers)
    except BaseException:
        writer.transport.abort()
        raise
