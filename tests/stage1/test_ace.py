"""What appc's ACE validator asks of an executor, as far as it is stage1's: both of its apps, one pod, each flavor.

The assertions of spec/ace/validator.go: names, path, directory, variables, the shared volume, one app waiting for the
other. Its handlers and the metadata service are not stage1's.
"""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from executor.stage1 import nspawn

pytestmark = pytest.mark.root

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
COMMON = """
fail() { echo "==> $*" >&2; wrong=1; }
wrong=
wait_for() {
  n=0
  until [ -e "$1" ]; do n=$((n+1)); [ $n -gt 500 ] && { fail "$1 did not come"; return; }; usleep 10000; done
}
"""
MAIN = (
    COMMON
    + f"""
[ ! -e /main ] || fail /main exists; : > /main || fail create /main
[ ! -e /prestart ] || fail /prestart of nobody; [ ! -e /poststop ] || fail /poststop exists
[ "$PATH" = {PATH} ] || fail "PATH is $PATH"
[ "$(pwd)" = /opt/acvalidator ] || fail "it stands in $(pwd)"
[ "$IN_ACE_VALIDATOR" = correct ] || fail "IN_ACE_VALIDATOR is $IN_ACE_VALIDATOR"
[ "$AC_APP_NAME" = ace-validator-main ] || fail "AC_APP_NAME is $AC_APP_NAME"
[ -n "$container" ] || fail "container is not set"
options=$(awk '$5 == "/db" {{ print $6 }}' /proc/self/mountinfo)
case ",$options," in *,rw,*) ;; *) fail "/db is mounted with '$options'";; esac
wait_for /db/sidekick
[ ! -e /db/main ] || fail /db/main exists; : > /db/main || fail create /db/main
[ -z "$wrong" ] && echo main OK || {{ echo main FAIL; exit 1; }}
"""
)
SIDEKICK = (
    COMMON
    + """
[ ! -e /db/sidekick ] || fail /db/sidekick exists; : > /db/sidekick || fail create /db/sidekick
wait_for /db/main
[ -z "$wrong" ] && echo sidekick OK || { echo sidekick FAIL; exit 1; }
"""
)


@pytest.mark.parametrize("flavor", ["linux", "fly", "nspawn"])
async def test_the_validator_s_facts(runner: Any, tmp_path: Path, flavor: str) -> None:
    if flavor == "nspawn" and nspawn.why_not():
        pytest.skip(nspawn.why_not())
    layer = tmp_path / "layer"
    (layer / "opt/acvalidator").mkdir(parents=True)
    points = [{"name": "database", "path": "/db"}]
    limit = [{"name": "resource/memory", "value": {"request": "1G", "limit": "1G"}}]
    main = runner.pods.app(
        *("/bin/sh", "-c", MAIN),
        name="ace-validator-main",
        workingDirectory="/opt/acvalidator",
        environment=[{"name": "IN_ACE_VALIDATOR", "value": "correct"}],
        mountPoints=points,
        isolators=limit,
    )
    sidekick = runner.pods.app("/bin/sh", "-c", SIDEKICK, name="ace-validator-sidekick", mountPoints=points)
    volumes = [{"name": "database", "kind": "empty"}]
    pod = await runner.pod(runner.pods.make(main, sidekick, volumes=volumes, layers=(layer,), flavor=flavor))
    started = await asyncio.gather(*(pod.start(app["name"]) for app in (main, sidekick)))
    said = [await output.text() for _, output in started]
    assert said == ["main OK\n", "sidekick OK\n"]
    assert {(await pod.ended()).exit_code for _ in said} == {0}
    assert sorted(path.name for path in (pod.directory / "sharedVolumes/database").iterdir()) == [
        "main",
        "sidekick",
    ]
