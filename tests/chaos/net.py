"""Three network namespaces, host, router and server, and what can go wrong between them.

agent 10.198.1.2 ── 10.198.1.1 router 10.198.2.1 ── 10.198.2.2 orchestrator
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field
from types import TracebackType

from tests.support.namespaces import sh

AGENT, OTHER_ADDRESS, ROUTER, FAR_ROUTER, SERVER = "10.198.1.2", "10.198.1.77", "10.198.1.1", "10.198.2.1", "10.198.2.2"
TABLE = "chaos"


@dataclass
class Net:
    """Use as a context manager."""

    name: str = field(default_factory=lambda: f"vc{os.getpid()}")

    @property
    def host(self) -> str:
        return f"{self.name}h"

    @property
    def router(self) -> str:
        return f"{self.name}r"

    @property
    def server(self) -> str:
        return f"{self.name}s"

    @staticmethod
    def within(namespace: str) -> list[str]:
        """What a program is started behind to run there."""
        return ["ip", "netns", "exec", namespace]

    def __enter__(self) -> Net:
        for namespace in (self.host, self.router, self.server):
            sh("ip", "netns", "add", namespace)
            sh("ip", "-n", namespace, "link", "set", "lo", "up")
        self._cable(self.host, AGENT, "h0", ROUTER)
        self._cable(self.server, SERVER, "s0", FAR_ROUTER)
        sh(*self.within(self.router), "sysctl", "-qw", "net.ipv4.ip_forward=1")
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        for namespace in (self.host, self.router, self.server):
            subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)

    def _cable(self, namespace: str, address: str, port: str, gateway: str) -> None:
        peer = ["peer", "name", port, "netns", self.router]
        sh("ip", "-n", namespace, "link", "add", "p0", "type", "veth", *peer)
        for where, what, name in ((namespace, address, "p0"), (self.router, gateway, port)):
            sh("ip", "-n", where, "addr", "add", f"{what}/24", "dev", name)
            sh("ip", "-n", where, "link", "set", name, "up")
        sh("ip", "-n", namespace, "route", "add", "default", "via", gateway)

    def break_(self, *rules: str, hook: str = "forward", namespace: str = "") -> None:
        """Rules of nftables for what passes the router, or for another hook of another namespace."""
        chain = f"chain c {{\n type filter hook {hook} priority 0\n " + "\n ".join(rules) + "\n}"
        argv = [*self.within(namespace or self.router), "nft", "-f", "-"]
        subprocess.run(argv, input=f"table inet {TABLE} {{\n{chain}\n}}\n", text=True, check=True)

    def repair(self, namespace: str = "") -> None:
        sh(*self.within(namespace or self.router), "nft", "delete", "table", "inet", TABLE)

    def readdress(self, old: str, new: str) -> None:
        """The host gets another address, as from a DHCP server that forgot its lease."""
        sh("ip", "-n", self.host, "addr", "del", f"{old}/24", "dev", "p0")
        sh("ip", "-n", self.host, "addr", "add", f"{new}/24", "dev", "p0")
        sh("ip", "-n", self.host, "route", "replace", "default", "via", ROUTER)
