"""What is to be done for a pod's networks, as data: pure, but for `describe`, which looks for the programs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from executor.network import plugins, ports
from executor.network.config import Network, put
from executor.network.errors import CniError
from executor.network.ports import Forward

PORTMAP: Final = "portmap"
_PORTMAP_VERSION: Final = "0.3.1"
"""The oldest that it knows, of any age."""


@dataclass(frozen=True)
class Step:
    """A plugin of a network, and all that it is told but the result of the one before. text: as it is in its file."""

    type: str
    version: str
    conf: Mapping[str, Any]
    text: str = ""


@dataclass(frozen=True)
class Attachment:
    """One interface of a pod. result: what is known of the answers; None while no plugin has answered.

    begun: a plugin may have run. refused: one has, and has said no: the first one to ADD, or any to DEL.
    """

    network: str
    file: str
    source: str
    interface: str
    args: str
    steps: tuple[Step, ...]
    text: str
    result: Mapping[str, Any] | None = None
    begun: bool = False
    refused: bool = False


@dataclass(frozen=True)
class Plan:
    """All networks of a pod. container: its id for plugins. places: where plugins are looked for."""

    container: str
    places: tuple[str, ...]
    attachments: tuple[Attachment, ...]
    forwards: tuple[Forward, ...] = ()

    def check(self) -> None:
        """Raises CniError when a program is not there."""
        for one in self.attachments:
            for step in one.steps:
                try:
                    plugins.find(step.type, self.places)
                except CniError as error:
                    raise CniError(f'error adding network "{one.network}": {error}') from None

    def describe(self) -> list[str]:
        """What would be run, in order. Raises CniError when a program is not there."""
        lines = []
        for one in self.attachments:
            for step in one.steps:
                path = plugins.find(step.type, self.places)
                args = f", args {one.args}" if one.args else ""
                told = (step.conf.get("runtimeConfig") or {}).get(ports.CAPABILITY) or ()
                shown = "".join(f", {port} to {port.pod_port}" for port in ports.read(told))
                lines.append(
                    f"run {path} ADD {one.interface}, network {one.network} of {one.source}{args}{shown}"
                )
        return lines


def plan(
    container: str,
    wanted: Sequence[tuple[Network, str]],
    places: Sequence[str],
    forwards: Sequence[Forward] = (),
) -> Plan:
    """wanted: networks with their arguments (CNI_ARGS), in order: eth0, eth1, … Raises CniError.

    Ports are forwarded to the first network that masquerades, else the last one (rkt networking/portfwd.go): by a
    plugin of its own list that can, or by one more.
    """
    target = -1
    if forwards:
        if not wanted:
            raise CniError("ports can be forwarded to a network only, and the pod has none")
        masquerading = [number for number, (network, _) in enumerate(wanted) if network.masquerades]
        target = masquerading[0] if masquerading else len(wanted) - 1
    attachments = []
    for number, (network, args) in enumerate(wanted):
        steps = [Step(one.type, network.version, one.conf, one.text) for one in network.plugins]
        if number == target:
            steps = _forwarding(network, steps, forwards)
        attachments.append(
            Attachment(
                network.name, network.file, network.source, f"eth{number}", args, tuple(steps), network.text
            )
        )
    return Plan(container, tuple(places), tuple(attachments), tuple(forwards))


def _forwarding(network: Network, steps: list[Step], forwards: Sequence[Forward]) -> list[Step]:
    told = {"runtimeConfig": {ports.CAPABILITY: [one.told() for one in forwards]}}
    able = [number for number, plugin in enumerate(network.plugins) if plugin.can(ports.CAPABILITY)]
    if not able:
        conf = {"type": PORTMAP, "snat": True, "capabilities": {ports.CAPABILITY: True}, **told}
        return [*steps, Step(PORTMAP, _PORTMAP_VERSION, conf)]
    return [
        replace(step, conf=put(step.conf, **told), text="") if number in able else step
        for number, step in enumerate(steps)
    ]
