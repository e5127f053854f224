"""docker-compose.yml and the image that it builds: valid, and consistent with the program."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from scheduler.flags import parser

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
SCHEDULERS = [one for name, one in SERVICES.items() if name.startswith("scheduler")]


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="no docker-compose")
def test_docker_compose_takes_it():
    done = subprocess.run(
        ["docker-compose", "config", "-q"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_it_is_a_whole_cluster():
    kinds = {re.sub(r"-\d+$", "", name) for name in SERVICES}
    assert kinds == {"zookeeper", "master", "agent", "scheduler"}
    assert len(SCHEDULERS) == 2
    assert sum(name.startswith("agent") for name in SERVICES) == 2
    assert all(one.get("image") for one in SERVICES.values())


@pytest.mark.parametrize("service", SCHEDULERS, ids=lambda service: service["hostname"])
def test_the_schedulers_are_started_with_flags_that_they_have(service):
    program, *argv = shlex.split(service["command"])
    assert program == "scheduler"
    args = parser().parse_args(argv)
    assert args.advertise == service["hostname"]
    for url in (args.master, args.store):
        assert re.match(r"zk://([a-z]+):2181/", url)[1] in SERVICES
    listened = args.listen.rpartition(":")[2]
    assert [port.rpartition(":")[2] for port in service["ports"]] == [listened]
    assert f"/run/secrets/{service['secrets'][0]}" == args.token_file


def test_nothing_of_one_scheduler_is_the_others():
    for name in ("hostname", "ports"):
        one, other = (str(service[name]) for service in SCHEDULERS)
        assert one != other
    one, other = (service["command"].replace(service["hostname"], "X") for service in SCHEDULERS)
    assert one == other


def test_the_image_is_built_from_what_the_context_has():
    for service in SCHEDULERS:
        assert (ROOT / service["build"]["dockerfile"]).exists()
    let_in = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    packages = re.search(
        r"\[options\.packages\.find\]\ninclude =\n((?:    .*\n)+)", (ROOT / "setup.cfg").read_text()
    )[1]
    assert {one.strip().rstrip("*") for one in packages.splitlines()} <= set(let_in)
    assert {"setup.py", "setup.cfg", "pyproject.toml", "third_party", "README.md", "LICENSE"} <= set(let_in)
    image = (ROOT / "marathon" / "Dockerfile").read_text()
    served = {re.search(r"--executor-bundle (\S+)", service["command"])[1] for service in SCHEDULERS}
    assert served == {"/opt/gantry.tar.gz"}
    assert "/gantry.tar.gz /opt/gantry.tar.gz" in image
