"""Whether networks can be made here, found out by making one: between two namespaces of the trial's own, with leases in
a directory that goes again. Nothing of this machine's network is changed."""

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

from executor.network import attachments, record, selection
from executor.network.config import Plugin, put
from executor.network.errors import CniError
from executor.network.namespaces import in_thread
from executor.network.plan import Plan, plan
from executor.network.ports import Forward
from executor.stage1 import syscalls

_PORT: Final = Forward("tcp", 80, 80)


def why_not() -> str:
    """What the built-in network with a forwarded port fails of; "" when it does not. Takes a part of a second."""
    with tempfile.TemporaryDirectory() as directory:
        made = _plan(directory)
        try:
            made.check()
            in_thread(lambda: _try(Path(directory), made))
        except (CniError, OSError) as error:
            return str(error)
    return ""


def _plan(directory: str) -> Plan:
    """Of the built-in network, with leases elsewhere."""
    (network,) = (one for one in selection.BUILT_IN if one.name == selection.DEFAULT)
    (plugin,) = network.plugins
    conf = put(plugin.conf, ipam=put(plugin.conf["ipam"], dataDir=f"{directory}/leases"))
    network = replace(network, plugins=(Plugin(plugin.type, conf),))
    return plan(f"gantry-trial-{os.getpid()}", [(network, "")], selection.places([]), [_PORT])


def _try(directory: Path, made: Plan) -> None:
    def pod() -> int:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    syscalls.unshare(syscalls.CLONE_NEWNET)  # this thread's, and what it starts: the machine's
    netns = in_thread(pod)
    try:
        record.save(directory, made)
        place = f"/proc/{os.getpid()}/fd/{netns}"
        attachments.attach(directory, made, place)
        attachments.detach(directory, place)
    finally:
        os.close(netns)
