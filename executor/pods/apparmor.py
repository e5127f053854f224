"""The node's own AppArmor profile, `gantry-default`: what `appArmorProfile.type: RuntimeDefault` means here.

Nobody else loads it, so it is loaded when it is first asked for and not there: whoever runs a node may load another one
of that name before, which is then taken. It leaves to programs what containers usually do and keeps from them
what is the kernel's (apparmor.d(5)); under flavor `linux` most of it is out of reach anyway.
"""

import asyncio
import logging
import shutil
from pathlib import Path
from typing import Final

from executor.stage1.lsm import DEFAULT_PROFILE

log = logging.getLogger(__name__)

LOADED: Final = Path("/sys/kernel/security/apparmor/profiles")
OWN: Final = Path("/proc/self/attr/current")
PARSER: Final = "apparmor_parser"
PACKAGE: Final = "apparmor"
PROFILE: Final = f"""\
#include <tunables/global>

profile {DEFAULT_PROFILE} flags=(attach_disconnected,mediate_deleted) {{
  #include <abstractions/base>

  network,
  capability,
  file,
  umount,

  signal (receive) peer=unconfined,
  signal (send, receive) peer={DEFAULT_PROFILE},
  ptrace (trace, read, tracedby, readby) peer={DEFAULT_PROFILE},

  deny mount,
  deny @{{PROC}}/kcore rwklx,
  deny @{{PROC}}/sysrq-trigger rwklx,
  deny @{{PROC}}/sys/kernel/{{core_pattern,modprobe,hotplug,kexec_load_disabled,modules_disabled}} w,
  deny @{{PROC}}/sys/vm/** w,
  deny @{{PROC}}/{{acpi,bus,irq,fs}}/** w,
  deny /sys/firmware/** rwklx,
  deny /sys/kernel/security/** rwklx,
  deny /sys/kernel/debug/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
}}
"""


class ProfileError(Exception):
    """The profile is not there and cannot be loaded; one line that says what to do."""


async def ensure_default(loaded: Path = LOADED, parser: str = PARSER) -> None:
    """Load the profile unless there is one of its name. Raises ProfileError."""
    if _is_loaded(loaded):
        return
    program = shutil.which(parser)
    if program is None:
        raise ProfileError(_missing(parser))
    process = await asyncio.create_subprocess_exec(
        *(program, "--replace", "--skip-cache"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, words = await process.communicate(PROFILE.encode())
    if process.returncode:
        said = " ".join(words.decode(errors="replace").split())
        raise ProfileError(f"AppArmor profile {DEFAULT_PROFILE}: {parser}: {said or process.returncode}")


async def has_default(loaded: Path = LOADED, parser: str = PARSER, own: Path = OWN) -> bool:
    """Whether containers that say nothing can have it; it is loaded if need be. Why not is the log's."""
    why = why_not(loaded, parser, own)
    if not why:
        try:
            await ensure_default(loaded, parser)
        except ProfileError as error:
            why = str(error)
    if why:
        log.warning("containers that ask for no AppArmor profile run without one: %s", why)
    return not why


def why_not(loaded: Path = LOADED, parser: str = PARSER, own: Path = OWN) -> str:
    """Why containers that say nothing cannot have it, as far as that shows without loading anything; else ""."""
    try:
        if (confined := _confined(own)) != "unconfined":
            return f"the executor itself is confined ({confined})"
    except ProfileError as error:
        return str(error)
    if not _is_loaded(loaded) and shutil.which(parser) is None:
        return _missing(parser)
    return ""


def _missing(parser: str) -> str:
    return f"AppArmor profile {DEFAULT_PROFILE} is not loaded, and there is no {parser} to load it: install {PACKAGE}"


def _confined(own: Path) -> str:
    try:
        return own.read_text(encoding="utf-8", errors="replace").strip("\0\n")
    except OSError as error:
        raise ProfileError(f"{own}: {error.strerror}") from None


def _is_loaded(loaded: Path) -> bool:
    """Lines are `NAME (MODE)`."""
    try:
        lines = loaded.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return False  # loading will say what is wrong
    return any(line.rpartition(" (")[0] == DEFAULT_PROFILE for line in lines)
