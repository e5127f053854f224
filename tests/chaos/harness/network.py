"""Hosts: network namespaces on one bridge, and partitions between them. Runs as root in a network namespace of its own.

A partition loses packets, as a broken switch does: nobody is told of anything. `cut` may be in one direction only.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

NAMESPACES = Path("/run/netns")
BRIDGE = "hosts"
NET = "10.99.0"


def run(*command: str) -> None:
    """Raises RuntimeError with what it said."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")


class Network:
    """`addresses`: by host; the harness itself is `.1` on the bridge."""

    def __init__(self, hosts: tuple[str, ...], directory: Path) -> None:
        self.addresses = {host: f"{NET}.{number}" for number, host in enumerate(hosts, 11)}
        os.environ["XTABLES_LOCKFILE"] = str(directory / "xtables.lock")

    def build(self) -> None:
        NAMESPACES.mkdir(exist_ok=True)
        run("mount", "-t", "tmpfs", "tmpfs", str(NAMESPACES))
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", BRIDGE, "type", "bridge")
        run("ip", "address", "add", f"{NET}.1/24", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
        for number, (host, address) in enumerate(self.addresses.items()):
            run("ip", "netns", "add", host)
            outer = f"host{number}"
            run("ip", "link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", host)
            run("ip", "link", "set", outer, "master", BRIDGE, "up")
            for words in (
                ("link", "set", "lo", "up"),
                ("address", "add", f"{address}/24", "dev", "eth0"),
                ("link", "set", "eth0", "up"),
            ):
                run("ip", "-n", host, *words)

    def on(self, host: str) -> list[str]:
        """Put before a command that is to run there."""
        return ["nsenter", f"--net={NAMESPACES / host}", "--"]

    def cut(self, host: str, other: str) -> None:
        """Nothing that `other` sends reaches `host`."""
        self._drop("-I", host, other)

    def mend(self, host: str, other: str) -> None:
        self._drop("-D", host, other)

    def _drop(self, what: str, host: str, other: str) -> None:
        source = self.addresses[other]
        run(*self.on(host), "iptables", "-w", what, "INPUT", "-s", source, "-j", "DROP")
