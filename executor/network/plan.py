"""What is to be done for a pod's networks, as data: pure, but for looking for programs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from executor.network import plugins, ports, rates
from executor.network.config import CHAINING, Network, at_least, put
from executor.network.errors import CniError
from executor.network.ports import Forward
from executor.network.rates import Rates

PORTMAP: Final = "portmap"
NO_LIMITS: Final = Rates()
_MORE_VERSION: Final = "0.3.1"
"""Of plugins that are put at the end of a network: the oldest that they know, of any age."""


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
                told = step.conf.get("runtimeConfig") or {}
                forwarded = ports.read(told.get(ports.CAPABILITY) or ())
                shown = "".join(f", {port} to {port.pod_port}" for port in forwarded)
                shown += rates.shown(told.get(rates.CAPABILITY) or {})
                lines.append(
                    f"run {path} ADD {one.interface}, network {one.network} of {one.source}{args}{shown}"
                )
        return lines


def plan(
    container: str,
    wanted: Sequence[tuple[Network, str]],
    places: Sequence[str],
    forwards: Sequence[Forward] = (),
    limits: Rates = NO_LIMITS,
) -> Plan:
    """wanted: networks with their arguments (CNI_ARGS), in order: eth0, eth1, … Raises CniError.

    Ports are forwarded to the first network that masquerades, else the last one (rkt networking/portfwd.go): by a
    plugin of its own list that can, or by one more. limits are each network's, likewise.
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
            told = [one.told() for one in forwards]
            steps = _able(network, steps, ports.CAPABILITY, told, {"type": PORTMAP, "snat": True})
        if limits:
            steps = _able(network, steps, rates.CAPABILITY, limits.told(), {"type": rates.PLUGIN})
        attachments.append(
            Attachment(
                network.name, network.file, network.source, f"eth{number}", args, tuple(steps), network.text
            )
        )
    return Plan(container, tuple(places), tuple(attachments), tuple(forwards))


def newer(network: Network, places: Sequence[str]) -> Network:
    """The same in a version in which plugins tell of interfaces. They are asked whether they know that.

    Raises CniError.
    """
    if at_least(network.version, CHAINING):
        return network
    for plugin in network.plugins:
        path = plugins.find(plugin.type, places)
        if _MORE_VERSION not in plugins.versions(path, places):
            raise CniError(f'network "{network.name}": {path} does not know version {_MORE_VERSION} of CNI')
    return replace(network, version=_MORE_VERSION)


def _able(
    network: Network, steps: list[Step], capability: str, told: object, more: Mapping[str, Any]
) -> list[Step]:
    """Tell the plugins of a network that can, or one more whose configuration is given."""
    able = [number for number, plugin in enumerate(network.plugins) if plugin.can(capability)]
    if not able:
        conf = {**more, "capabilities": {capability: True}, "runtimeConfig": {capability: told}}
        return [*steps, Step(str(more["type"]), _MORE_VERSION, conf)]
    made = list(steps)
    for number in able:
        conf = dict(steps[number].conf)
        heard = {**(conf.get("runtimeConfig") or {}), capability: told}
        made[number] = replace(steps[number], conf=put(conf, runtimeConfig=heard), text="")
    return made
