"""Whether this machine can do a run."""

from __future__ import annotations

import os
import shutil
import subprocess

from local import zookeeper

TOOLS = ("unshare", "setpriv", "nsenter", "ip", "iptables", "mkfs.ext4", "losetup", "mountpoint")

PROBE = """
ip link add probe0 type bridge && ip link add probe1 type veth peer name probe2 &&
iptables -w -A INPUT -s 192.0.2.1 -j DROP && losetup --find
"""


def missing() -> str:
    """What a run lacks; "" for nothing."""
    if os.geteuid() != 0:
        return "namespaces and partitions need root"
    if absent := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"there is no {', '.join(absent)}"
    if why := zookeeper.missing():
        return why
    spaces = ["unshare", "--net", "--mount", "--pid", "--fork"]
    probe = subprocess.run([*spaces, "sh", "-c", PROBE], capture_output=True, text=True, check=False)
    return f"this machine forbids it: {probe.stderr.strip()}" if probe.returncode else ""
