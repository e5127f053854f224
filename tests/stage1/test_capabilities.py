"""An executor cannot give what it does not have: which capability, and who asked for it, is said."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from executor.stage1 import caps, userns

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv (util-linux)"),
]

SCRIPT = """
import asyncio, json, os, sys
from pathlib import Path
from executor.pods.launcher import Launcher, LaunchError

async def main():
    launcher, said = await Launcher.start(spares=0), []
    for pod in map(Path, sys.argv[1:]):
        ended = asyncio.Queue()
        sandbox = await launcher.run_pod(pod, ended.put_nowait, lambda reason: None)
        try:
            await sandbox.start_app("app", stdin=None, stdout=1, stderr=2)
            said.append((await ended.get()).exit_code)
        except LaunchError as error:
            said.append(str(error))
        await sandbox.stop()
    await launcher.close()
    print(json.dumps(said))

asyncio.run(main())
"""


def run_without(capability: str, *pods: Path) -> list[Any]:
    """What became of the pods' apps, run by an executor that lacks a capability."""
    name = capability.removeprefix("CAP_").lower()
    done = subprocess.run(
        ["setpriv", f"--bounding-set=-{name}", f"--inh-caps=-{name}", sys.executable, "-c", SCRIPT, *map(str, pods)],
        capture_output=True, text=True, timeout=60, check=True, cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip
    found: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def retain(*names: str) -> dict[str, Any]:
    return {"name": "os/linux/capabilities-retain-set", "value": {"set": list(names)}}


def test_what_the_executor_lacks_is_named(pods: Any) -> None:
    def pod(*isolators: dict[str, Any], **more: Any) -> Path:
        app = pods.app("/bin/true", isolators=list(isolators), **more.pop("app", {}))
        made: Path = pods.make(app, **{"user_namespace": "host", **more})
        return made

    why = "start app: isolator os/linux/capabilities-retain-set: the executor itself lacks CAP_AUDIT_CONTROL"
    asked = retain("CAP_KILL", "CAP_AUDIT_CONTROL")
    said = run_without(
        "CAP_AUDIT_CONTROL",
        pod(asked),
        pod(retain("CAP_KILL")),
        pod(),
        pod(asked, app={"user": "1234"}),
        pod(asked, user_namespace=""),
    )
    assert said == [why, 0, 0, 0, why if userns.why_not() else 0]


def test_of_a_mask() -> None:
    assert caps.lacking(0) == ()
    assert caps.lacking(1 << 63) == ()
    assert caps.lacking(caps.mask(["CAP_CHOWN"])) in ((), ("CAP_CHOWN",))
