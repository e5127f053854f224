"""A plan in a pod's directory, with how far it has come.

net/attached.json   the plan with the results so far; gone when nothing of it is left
net/<file>          the networks' configurations, as rkt keeps them, as long
net-info.json       rkt's, for `list` and `status`; it stays with the pod
"""

import json
import os
from pathlib import Path
from typing import Final

from executor.network import plugins, ports, results
from executor.network.errors import CniError
from executor.network.info import INFO, RECORD
from executor.network.plan import Attachment, Plan, Step

VERSION: Final = 1


def save(pod: Path, made: Plan) -> None:
    """Write a plan, or how far it has come. Raises OSError."""
    (pod / "net").mkdir(mode=0o755, exist_ok=True)
    for one in made.attachments:
        if not (pod / "net" / one.file).exists():
            (pod / "net" / one.file).write_text(one.text)
    document = {
        "version": VERSION,
        "container": made.container,
        "places": made.places,
        "forwards": [one.told() for one in made.forwards],
        "attachments": [
            {**vars(one), "steps": [dict(vars(step)) for step in one.steps]} for one in made.attachments
        ],
    }
    new = pod / f"{RECORD}.new"
    new.write_text(json.dumps(document))
    os.replace(new, pod / RECORD)


def load(pod: Path) -> Plan | None:
    """What is, or may be, attached; None when nothing is. Raises CniError, OSError."""
    try:
        document = json.loads((pod / RECORD).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise CniError(f"{pod / RECORD}: {error}") from None
    if document.get("version") != VERSION:
        raise CniError(f"{pod / RECORD}: written by another version of Gantry ({document.get('version')!r})")
    attachments = tuple(
        Attachment(**{**one, "steps": tuple(Step(**step) for step in one["steps"])})
        for one in document["attachments"]
    )
    forwards = ports.read(document["forwards"])
    return Plan(str(document["container"]), tuple(document["places"]), attachments, forwards)


def forget(pod: Path, made: Plan, one: Attachment | None = None) -> Plan:
    """One of them is no more; or none is. What is left. Raises OSError."""
    if one is None:
        (pod / RECORD).unlink(missing_ok=True)
        return made
    left = Plan(
        *(
            made.container,
            made.places,
            tuple(other for other in made.attachments if other != one),
            made.forwards,
        )
    )
    save(pod, left)
    (pod / "net" / one.file).unlink(missing_ok=True)
    return left


def save_info(pod: Path, made: Plan) -> None:
    """rkt's networking/netinfo. Raises OSError."""
    known = [_info(made, one) for one in made.attachments if one.result is not None]
    (pod / INFO).write_text(json.dumps(known))


def _info(made: Plan, one: Attachment) -> dict[str, str]:
    result = results.parse(one.result or {})
    address = result.address(4) or result.address(6)
    return {
        "netName": one.network,
        "netConf": f"net/{one.file}",
        "pluginPath": plugins.find(one.steps[0].type, made.places),
        "ifName": one.interface,
        "ip": str(address.ip.ip) if address else "",
        "args": one.args,
        "mask": str(address.ip.netmask) if address else "",
    }
