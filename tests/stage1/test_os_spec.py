"""What images for Linux may expect of their root: appc's spec/OS-SPEC.md, line by line, in each flavor."""

from typing import Any

import pytest

from executor.stage1 import nspawn
from executor.stage1.manifest import FLAVORS

pytestmark = pytest.mark.root

FILE_SYSTEMS = {"/proc": "proc", "/sys": "sysfs", "/dev/pts": "devpts", "/dev/shm": "tmpfs"}
DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "ptmx")
SCRIPT = r"""
for path in /proc /sys /dev/pts /dev/shm; do
  awk -v path=$path '$5 == path { type = $0; sub(/.* - /, "", type); sub(/ .*/, "", type) } END { print path, type }' \
    /proc/self/mountinfo
done
for name in null zero full random urandom tty ptmx console; do [ -c /dev/$name ] && echo /dev/$name device; done
echo x > /dev/null; echo null $?
[ "$(head -c 3 /dev/zero | od -An -tx1 | tr -d ' ')" = 000000 ] && echo zero
echo x > /dev/full 2>/dev/null || echo full
[ "$(head -c 9 /dev/urandom | wc -c)" = 9 ] && [ "$(head -c 1 /dev/random | wc -c)" = 1 ] && echo random
[ -e /dev/pts/ptmx ] || [ -c /dev/ptmx ] && echo ptmx
: > /dev/shm/$1 && rm /dev/shm/$1 && echo shm
grep -q '127.0.0.1.*localhost' /etc/hosts && echo hosts
"""


@pytest.mark.parametrize("flavor", FLAVORS)
async def test_devices_and_file_systems(runner: Any, flavor: str) -> None:
    if flavor == "nspawn" and nspawn.why_not():
        pytest.skip(nspawn.why_not())
    name = f"os-spec-{id(runner)}"
    result = await runner.app("/bin/sh", "-c", SCRIPT, "sh", name, flavor=flavor)
    expected = {f"{path} {kind}" for path, kind in FILE_SYSTEMS.items()}
    expected |= {f"/dev/{name} device" for name in DEVICES}
    expected |= {"null 0", "zero", "full", "random", "ptmx", "shm", "hosts"}
    if flavor == "fly":  # all of it is the node's: it may have another /dev/shm, and no console
        expected -= {"/dev/shm tmpfs"}
    else:
        expected |= {"/dev/console device"}
    assert expected - set(result.lines) == set(), result.output
