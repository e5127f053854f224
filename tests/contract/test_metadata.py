"""The metadata service of pods that a stage1 of somebody else's runs: in the network that it makes for them."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from executor.metadata.doors import PORT, URL_FILE
from executor.metadata.keys import Keys
from executor.metadata.service import Service

pytestmark = pytest.mark.root

ASK = "wget -q -O - --header Metadata-Flavor:AppContainer $AC_METADATA_URL/acMetadata/v1"
UNTIL = f"until {ASK}/pod/uuid; do sleep 0.05; done; echo; {ASK}/apps/a0/image/manifest; echo"


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    made = Service(Keys(tmp_path / "keys" / "key", make=True), lambda image: {"name": image})
    yield made
    await made.shut()


async def run(world: Any, service: Service, pod: Path, flavor: str, *, host: bool = False) -> Any:
    meta = {"name": "p", "namespace": "n", "uid": pod.name}
    service.prepare(pod, {"metadata": meta, "spec": {"hostNetwork": host}}, flavor)
    sandbox = await world.run(pod)
    await service.open(pod, sandbox)
    assert not (pod / URL_FILE).exists()
    return sandbox


@pytest.mark.parametrize("host", [True, False], ids=["host", "own"])
async def test_it_is_where_the_pod_is(world: Any, service: Service, output: Any, host: bool) -> None:
    out = output()
    single = (Path(__file__).parent / "stage1/single/run").read_text()
    own = f'[ "$IN" ] || IN=1 exec unshare --net "$0" "$@"; ip link set lo up\n{single}'
    flavor = world.stage1(run=single if host else own)
    pod = world.pod(
        flavor, f"echo $AC_METADATA_URL; {UNTIL}", environment=[{"name": "AC_METADATA_URL", "value": "no"}]
    )
    sandbox = await run(world, service, pod, flavor, host=host)
    for again in (False, True):
        if again:  # another network, of the same pod
            await sandbox.remove_app("a0")
        await sandbox.start_app("a0", stdin=None, stdout=out.fd, stderr=out.fd)
        await world.exit_of()
        world.exits.clear()
    first, *rest = [line for line in out.text.splitlines() if not line.startswith("wget:")]
    assert (f":{PORT}/" in first) is not host
    assert rest[:2] == [pod.name, rest[1]]
    assert json.loads(rest[1])["name"].startswith("sha256:")
    assert [first, *rest[:2]] == rest[2:]
    service.close(pod.name)


async def test_of_pods_whose_apps_come_later(world: Any, service: Service, output: Any) -> None:
    out = output()
    scripts = Path(__file__).parent / "stage1/mutable"
    own = '[ "$IN" ] || IN=1 exec unshare --net "$0" "$@"; ip link set lo up\n'
    there = '[ "$IN" ] || IN=1 exec nsenter --net --target "$RKT_STAGE1_ENTERPID" "$0" "$@"\n'
    flavor = world.stage1(
        "mutable",
        run=own + (scripts / "run").read_text(),
        app_start=there + (scripts / "app-start").read_text(),
    )
    pod = world.pod(flavor, f"{ASK}/pod/uuid")
    sandbox = await run(world, service, pod, flavor)
    await sandbox.start_app("a0", stdin=None, stdout=out.fd, stderr=out.fd)
    await world.exit_of()
    assert out.text == pod.name


async def test_a_stage1_that_stays_in_the_nodes_network_gets_no_door_there(
    world: Any, service: Service, output: Any, caplog: pytest.LogCaptureFixture
) -> None:
    out = output()
    flavor = world.stage1()
    pod = world.pod(flavor, "echo said")
    sandbox = await run(world, service, pod, flavor)
    await sandbox.start_app("a0", stdin=None, stdout=out.fd, stderr=out.fd)
    await world.exit_of()
    assert out.text == "said\n"
    assert "in the node's network" in caplog.text
