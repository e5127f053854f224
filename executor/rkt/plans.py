"""`run --print-plan` and `run-prepared --print-plan` (rkt has neither): what would be done for the pod, in order.

The pod is prepared as it would be, in a directory that goes again; nothing is started, mounted or limited.
"""

# ruff: noqa: T201  (a command line prints)

import shutil
from collections.abc import Awaitable, Callable

from executor.node import planning
from executor.pods.poddir import Phase
from executor.rkt import prepare
from executor.rkt.common import Globals
from executor.rkt.flags import Failure
from executor.rkt.pods import Seen
from executor.rkt.prepare import Making
from executor.rkt.stage1 import FOREIGN
from executor.stage1.cgroups import CgroupError
from executor.stage1.ops import StageError


def check(flavor: str) -> None:
    """Whether its plan is known. Failure."""
    if flavor == FOREIGN:
        raise Failure("--print-plan: what a stage1 image of others does is known to nobody else")


async def show(
    g: Globals, making: Making, ready: Awaitable[None], settle: Callable[[], list[str]], name: str = ""
) -> int:
    """Print the plan of a pod that is being made, and drop it. ready: it is made; settle: as it is run, and what is
    done for its networks; name: its, if this is a copy. Failure."""
    try:
        await ready
        nets = settle()
        made = making.manifest
        lowers = {
            app["name"]: tuple(
                (making.pod.path / "appsinfo" / app["name"] / "lower").read_text().splitlines()
            )
            for app in made["apps"]
        }
        text = planning.text(planning.plan(made, f"{g.pods}/{Phase.RUN}/{making.pod.name}", lowers, g.data))
        lines = (
            ["networks, when that is done:", *(f"  {n:2} {line}" for n, line in enumerate(nets, 1))]
            if nets
            else []
        )
        text += "".join(f"{line}\n" for line in lines)
        print(text.replace(making.pod.name, name or making.pod.name), end="")
    except (StageError, CgroupError, ValueError) as error:
        raise Failure(str(error)) from None
    finally:
        making.drop()
    return 0


def copy(g: Globals, pod: Seen) -> tuple[Making, Awaitable[None]]:
    """Of a prepared pod, which stays as it is; and what makes the rest of it. Failure."""
    making = prepare.new(g)
    making.manifest = pod.manifest()

    async def rest() -> None:
        shutil.copytree(pod.path / "appsinfo", making.pod.path / "appsinfo")

    return making, rest()
