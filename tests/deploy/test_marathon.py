"""marathon/gantry.json: fields as Marathon's API documents them, and a `cmd` that works in a sandbox.

The table is what the REST API reference (docs/rest-api of Marathon 1.8, `App`) says of the fields that we use; a field
that is not in it is refused by Marathon, and so it is here.
"""

import base64
import json
import os
import re
import shlex
import signal
import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from gantry import __version__
from scheduler.flags import parser
from tests.ports import free_port

APP = json.loads((Path(__file__).parents[2] / "marathon" / "gantry.json").read_text())


def text(pattern=r".+"):
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value, re.DOTALL) is not None


def number(least=0, most=float("inf"), kinds=(int, float)):
    return lambda value: isinstance(value, kinds) and not isinstance(value, bool) and least <= value <= most


def integer(least=0, most=float("inf")):
    return number(least, most, (int,))


def boolean(value):
    return isinstance(value, bool)


def one_of(*values):
    return lambda value: value in values


def each(check):
    return lambda value: isinstance(value, list) and all(map(check, value))


def mapping(names, check):
    return lambda value: (
        isinstance(value, dict)
        and all(re.fullmatch(names, name) and check(one) for name, one in value.items())
    )


def fields(required=(), **known):
    return lambda value: (
        isinstance(value, dict)
        and set(required) <= value.keys() <= known.keys()
        and all(known[name](one) for name, one in value.items())
    )


NAME = r"[a-z]([a-z0-9-]*[a-z0-9])?"
PORT = integer(0, 65535)
LABELS = mapping(r".+", lambda value: isinstance(value, str))
FIELDS = {
    "id": text(rf"(/{NAME})+"),
    "cmd": text(),
    "instances": integer(),
    "cpus": number(0.001),
    "mem": number(),
    "disk": number(),
    "user": text(),
    "env": mapping(
        r"[a-zA-Z_][a-zA-Z0-9_]*",
        lambda value: isinstance(value, str) or fields(("secret",), secret=text())(value),
    ),
    "fetch": each(
        fields(
            ("uri",),
            uri=text(r".{1,1024}"),
            extract=boolean,
            executable=boolean,
            cache=boolean,
            destPath=text(),
        )
    ),
    "secrets": mapping(NAME, fields(("source",), source=text())),
    "container": fields(
        ("type",),
        type=one_of("MESOS"),
        volumes=each(fields(("containerPath", "secret"), containerPath=text(r"[^/].*"), secret=text(NAME))),
    ),
    "portDefinitions": each(
        fields(
            port=PORT, protocol=one_of("tcp", "udp", "udp,tcp"), name=text(r"[a-z][a-z0-9-]*"), labels=LABELS
        )
    ),
    "requirePorts": boolean,
    "constraints": each(
        lambda value: (
            len(value) in (2, 3)
            and all(isinstance(one, str) for one in value)
            and value[1] in {"UNIQUE", "CLUSTER", "GROUP_BY", "LIKE", "UNLIKE", "MAX_PER", "IS"}
        )
    ),
    "healthChecks": each(
        fields(
            protocol=one_of("HTTP", "HTTPS", "TCP", "COMMAND", "MESOS_TCP", "MESOS_HTTP", "MESOS_HTTPS"),
            path=text(r"/.*"),
            portIndex=integer(),
            gracePeriodSeconds=integer(),
            intervalSeconds=integer(),
            timeoutSeconds=integer(),
            maxConsecutiveFailures=integer(),
        )
    ),
    "readinessChecks": each(
        fields(
            name=text(),
            protocol=one_of("HTTP", "HTTPS"),
            path=text(r"/.*"),
            portName=text(r"[a-z][-a-z0-9]*"),
            intervalSeconds=integer(),
            timeoutSeconds=integer(),
            httpStatusCodesForReady=each(integer(100, 999)),
            preserveLastResponse=boolean,
        )
    ),
    "upgradeStrategy": fields(minimumHealthCapacity=number(0, 1), maximumOverCapacity=number(0, 1)),
    "unreachableStrategy": fields(inactiveAfterSeconds=integer(), expungeAfterSeconds=integer()),
    "backoffSeconds": integer(),
    "backoffFactor": number(1),
    "maxLaunchDelaySeconds": integer(),
    "taskKillGracePeriodSeconds": integer(),
    "labels": LABELS,
}


@pytest.mark.parametrize("name", sorted(APP))
def test_every_field_is_one_of_marathon(name):
    assert FIELDS[name](APP[name]), f"{name}: {APP[name]!r}"


def test_the_parts_fit_together():
    ports = [one["name"] for one in APP["portDefinitions"]]
    assert len(set(ports)) == len(ports)
    assert all(one["portIndex"] < len(ports) for one in APP["healthChecks"])
    assert {one["portName"] for one in APP["readinessChecks"]} <= set(ports)
    assert all(one["timeoutSeconds"] < one["intervalSeconds"] for one in APP["readinessChecks"])
    assert {one["secret"] for one in APP["container"]["volumes"]} == set(APP["secrets"])
    assert (
        APP["unreachableStrategy"]["inactiveAfterSeconds"] < APP["unreachableStrategy"]["expungeAfterSeconds"]
    )
    assert [one["uri"].rpartition("/")[2] for one in APP["fetch"]] == [APP["env"]["BUNDLE"]]
    assert __version__ in APP["env"]["BUNDLE"]
    assert APP["instances"] >= 2
    assert APP["constraints"] == [["hostname", "UNIQUE"]]


def test_the_command_uses_what_is_there():
    """Only variables that we or Marathon set, files that are mounted, and flags that the scheduler has."""
    given = {
        *APP["env"],
        "MESOS_SANDBOX",
        "HOST",
        *(f"PORT{index}" for index in range(len(APP["portDefinitions"]))),
    }
    assert set(re.findall(r"\$\{?([A-Z_0-9]+)", APP["cmd"])) <= given
    mounted = {one["containerPath"] for one in APP["container"]["volumes"]}
    assert set(re.findall(r"secrets/[a-z-]+", APP["cmd"])) == mounted
    argv = shlex.split(APP["cmd"].partition("gantry scheduler")[2])
    known = {option for action in parser()._actions for option in action.option_strings}
    assert {word.partition("=")[0] for word in argv if word.startswith("--")} <= known


class Instance:
    """What Marathon makes of an instance: a sandbox, an environment, `/bin/sh -c cmd`."""

    def __init__(self, directory, bundle, processes, **env):
        self.sandbox, self.processes, self.name = directory, processes, directory.name
        (directory / "secrets").mkdir(parents=True)
        (directory / APP["env"]["BUNDLE"]).hardlink_to(bundle[0])
        secrets = {
            "token": "t0ken\n",
            "zookeeper": "gantry:pass\n",
            "encryption-keys": base64.b64encode(b"k" * 32).decode(),
        }
        for volume in APP["container"]["volumes"]:
            (directory / volume["containerPath"]).write_text(secrets[volume["secret"]])
        self.api, self.bundles = free_port(), free_port()
        self.env = {
            **APP["env"],
            **env,
            "BUNDLE_SHA256": bundle[1],
            "MESOS_SANDBOX": str(directory),
            "HOST": "127.0.0.1",
            "LIBPROCESS_IP": "127.0.0.1",
            "PORT0": str(self.api),
            "PORT1": str(self.bundles),
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        }

    def start(self):
        words = [f"{name}={value}" for name, value in self.env.items()]
        self.process = self.processes.start(self.name, ["env", "-i", *words, "/bin/sh", "-c", APP["cmd"]])

    def get(self, path, token=""):
        """Status and body; (0, "") while nobody listens. As Mesos checks it, without verification."""
        context = ssl._create_unverified_context()
        request = urllib.request.Request(f"https://127.0.0.1:{self.api}{path}")
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=60, context=context) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def healthy(self):
        return all(self.get(one["path"])[0] == 200 for one in [*APP["healthChecks"], *APP["readinessChecks"]])

    def leads(self):
        return "this scheduler leads" in self.get("/readyz?verbose", "t0ken")[1]


@pytest.mark.system
def test_two_instances_run_as_marathon_runs_them(bundle, processes, zookeeper, tools, tmp_path):
    mesos = free_port()
    processes.gantry("master", "master", "--ip", "127.0.0.1", "--port", str(mesos), "--work_dir", "master")
    addresses = {"GANTRY_MASTER": f"127.0.0.1:{mesos}", "GANTRY_STORE": f"zk://{zookeeper}/gantry"}
    both = [Instance(tmp_path / name, bundle, processes, **addresses) for name in ("one", "two")]
    for one in both:
        one.start()
    tools.until(
        "two healthy instances",
        lambda: all(one.healthy() for one in both),
        why=lambda: str([one.get("/readyz?verbose") for one in both]) + processes.logs(),
    )
    leader = tools.until(
        "a leader", lambda: next((one for one in both if one.leads()), None), why=processes.logs
    )
    other = both[1 - both.index(leader)]
    for one in both:
        assert one.get("/api/v1/namespaces")[0] == 401
        status, body = one.get("/api/v1/namespaces", "t0ken")
        assert (status, "default" in body) == (200, True)
        url = f"http://127.0.0.1:{one.bundles}/bundles/sha256-{bundle[1]}.tar.gz"
        with urllib.request.urlopen(url, timeout=60) as answer:
            assert int(answer.headers["Content-Length"]) == bundle[0].stat().st_size
    os.killpg(leader.process.pid, signal.SIGKILL)
    tools.until("the other one to lead", other.leads, why=processes.logs)
    assert other.get("/api/v1/namespaces", "t0ken")[0] == 200
    leader.process.wait()
    os.kill(other.process.pid, signal.SIGTERM)
    assert other.process.wait(90) == 0


def test_another_archive_is_not_run(bundle, processes, tmp_path):
    instance = Instance(tmp_path / "one", bundle, processes)
    instance.env["BUNDLE_SHA256"] = "0" * 64
    done = subprocess.run(
        ["/bin/sh", "-c", APP["cmd"]],
        env=instance.env,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode != 0
    assert "FAILED" in done.stdout
    assert not (instance.sandbox / "gantry").exists()
