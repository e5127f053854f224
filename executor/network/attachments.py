"""A pod's networks: made, and taken down again, by plugins.

    plan ─▶ record.save ─▶ attach: ADD, plugin by plugin, each result recorded ─▶ … ─▶ detach: DEL, backwards

What is planned is on disk before the first plugin runs, so whatever is killed, and whenever: `detach` knows from the
pod's directory alone what may be there, in any process, as often as wanted. What it has taken down is forgotten there.
All of this blocks: it is for a thread.
"""

import json
import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from executor.network import config, plugins, record, results, standin
from executor.network.config import at_least, put
from executor.network.errors import CniError
from executor.network.plan import Attachment, Plan, Step
from executor.network.plugins import Call, PluginFailed, Stopper
from executor.network.results import Result

_GONE: Final = re.compile(r"does not exist|No chain/target/match|does a matching rule exist")
"""In the words of iptables: a plugin that was killed has not come so far as to make what it now removes."""


def _nothing(_: str) -> None: ...


def attach(
    pod: Path,
    made: Plan,
    netns: str,
    *,
    stopper: Stopper | None = None,
    say: Callable[[str], None] = _nothing,
) -> tuple[Result, ...]:
    """Make the networks of a plan that is recorded in the pod's directory; netns: the path of its network namespace.

    Raises CniError, OSError; `detach` takes down what is there by then.
    """
    found = []
    for number, one in enumerate(made.attachments):
        say(f"loading network {one.network} with type {one.steps[0].type}")
        call = Call("ADD", made.container, netns, one.interface, one.args, made.places)
        result = results.NOTHING
        one = replace(one, begun=True)
        made = _noted(pod, made, number, one)
        for place, step in enumerate(one.steps):
            try:
                answer = _run(made, call, one, step, result if place else None, stopper)
                result = _merged(result, results.parse(answer)) if answer.strip() else result
            except CniError as error:
                if isinstance(error, PluginFailed) and not place:
                    _noted(pod, made, number, replace(one, refused=True))
                raise CniError(f'error adding network "{one.network}": {error}') from None
            one = replace(one, result=result.raw)
            made = _noted(pod, made, number, one)
        found.append(result)
    record.save_info(pod, made)
    return tuple(found)


def _noted(pod: Path, made: Plan, number: int, one: Attachment) -> Plan:
    made = replace(made, attachments=(*made.attachments[:number], one, *made.attachments[number + 1 :]))
    record.save(pod, made)
    return made


def _merged(before: Result, new: Result) -> Result:
    """What is told on: one that has nothing to say of addresses has not taken them away."""
    return new if new.addresses or not before.addresses else before


def _run(
    made: Plan, call: Call, one: Attachment, step: Step, told: Result | None, stopper: Stopper | None = None
) -> bytes:
    path = plugins.find(step.type, made.places)
    return plugins.run(path, call, _conf(one, step, told), step.version, stopper=stopper)


def _conf(one: Attachment, step: Step, told: Result | None) -> str:
    """What the plugin reads: a file as it is, if nothing has to be put into it."""
    written = config.field(step.conf, "cniVersion") or config.FIRST
    if told is None and step.text and written == step.version:
        return step.text
    more: dict[str, Any] = {"name": one.network, "cniVersion": step.version}
    if told is not None and told.raw:
        same = (told.raw.get("cniVersion") or config.FIRST) == step.version
        more["prevResult"] = told.raw if same else told.told(step.version)
    return json.dumps(put(step.conf, **more))


def detach(pod: Path, netns: str, *, say: Callable[[str], None] = _nothing) -> None:
    """Take down what a pod directory says may be there, the last first, and forget it. Idempotent.

    netns: as of `attach`, when nothing runs in it any more; "" when it is gone. Raises CniError with all that failed,
    OSError; what failed is not forgotten: try again. Only a plugin that has said no once before is not asked again: who
    refuses for good must not keep a pod for ever.
    """
    made = left = record.load(pod)
    if made is None or left is None:
        return
    wrong = []
    for one in reversed(made.attachments):
        try:
            if one.begun:
                _delete(made, one, netns)
        except CniError as error:
            text = f'error deleting network "{one.network}": {error}'
            if not (one.refused and isinstance(error, PluginFailed)):
                if isinstance(error, PluginFailed):
                    left = _noted(pod, left, left.attachments.index(one), replace(one, refused=True))
                wrong.append(text)
                continue
            say(f"{text}; it is not asked again")
        left = record.forget(pod, left, one)
    if wrong:
        raise CniError("; ".join(wrong))
    record.forget(pod, left)


def _delete(made: Plan, one: Attachment, netns: str) -> None:
    """What masquerades is known to plugins by its addresses, which a pod can have changed, and which are gone with its
    namespace: so they see one that stands in. Raises CniError."""
    masquerades = any(config.field(step.conf, "ipMasq") for step in one.steps)
    result = results.parse(one.result) if one.result is not None else None
    addresses = [str(address.ip.ip) for address in result.addresses] if result is not None else []
    if not addresses:
        addresses = standin.leased(made.container, one.network, one.interface, one.steps[0].conf)
    with ExitStack() as stack:
        place = netns
        if addresses and (masquerades or not netns):
            if netns:
                standin.unlink(netns, one.interface)
            place = stack.enter_context(standin.namespace(one.interface, addresses))
        try:
            _delete_in(made, one, result, place)
        except PluginFailed as error:
            if not _GONE.search(str(error)) and (masquerades or place == netns):
                raise
            # It has stumbled over what is gone already. What comes after that: once more, without.
            _delete_in(made, one, result, netns if place == netns else "")


def _delete_in(made: Plan, one: Attachment, result: Result | None, netns: str) -> None:
    call = Call("DEL", made.container, netns, one.interface, one.args, made.places)
    for step in reversed(one.steps):
        _run(made, call, one, step, result if at_least(step.version, config.CACHED) else None)


def check(pod: Path, netns: str) -> None:
    """Ask the plugins whether all is as they have made it (CHECK, from 0.4.0 on). Raises CniError, OSError."""
    made = record.load(pod)
    if made is None:
        return
    for one in made.attachments:
        result = results.parse(one.result or {})
        call = Call("CHECK", made.container, netns, one.interface, one.args, made.places)
        for step in one.steps:
            if at_least(step.version, config.CACHED):
                _run(made, call, one, step, result)
