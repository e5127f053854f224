"""What `gantry up` decides before it starts anything."""

import json
import os
import shlex
import socket
import stat
from pathlib import Path

import pytest

from local import zookeeper
from local.cluster import components, executor_command
from local.settings import Settings, free_port, free_ports, write_kubeconfig, write_token
from local.up import UpError, lock, parse_listen, parser, settings_of
from scheduler import flags as scheduler_flags


def test_listen_takes_a_host_and_a_port():
    assert parse_listen("127.0.0.1:8080") == ("127.0.0.1", 8080)
    assert parse_listen("[::1]:0") == ("::1", 0)


@pytest.mark.parametrize("text", ["8080", "localhost", "localhost:http", "localhost:65536"])
def test_listen_refuses_what_is_no_address(text):
    with pytest.raises(UpError, match="not HOST:PORT"):
        parse_listen(text)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--agents", "0"], "--agents 0"),
        (["--agent-resources", "cpus=4"], "--agent-resources 'cpus=4'"),
        (["--agent-attributes", "rack"], "--agent-attributes 'rack'"),
    ],
)
def test_a_wrong_argument_is_named(arguments, named):
    with pytest.raises(UpError) as caught:
        settings_of(parser().parse_args([*arguments, "--listen", "127.0.0.1:0"]))
    assert named in str(caught.value)


def test_without_a_zookeeper_ha_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(zookeeper, "JARS", tmp_path)
    with pytest.raises(UpError, match=r"--ha: there is no ZooKeeper .*apt-get install zookeeper"):
        settings_of(parser().parse_args(["--ha", "--listen", "127.0.0.1:0", "--data-dir", str(tmp_path)]))


@pytest.mark.parametrize(
    ("arguments", "there", "named"), [(["--ha"], "scheduler.db", "without"), ([], "zookeeper", "with")]
)
def test_a_directory_has_one_kind_of_cluster(monkeypatch, tmp_path, arguments, there, named):
    monkeypatch.setattr(zookeeper, "missing", lambda: "")
    (tmp_path / there).touch()
    given = [*arguments, "--listen", "127.0.0.1:0", "--data-dir", str(tmp_path)]
    with pytest.raises(UpError, match=f"has the state of a cluster {named} --ha, in {there}"):
        settings_of(parser().parse_args(given))


def test_with_ha_there_are_several_of_what_may_die(tmp_path):
    ports = free_ports("127.0.0.1", 4)
    settings = Settings(
        tmp_path,
        ("127.0.0.1", ports[0]),
        master="127.0.0.1:5050",
        ha=True,
        zookeeper=f"127.0.0.1:{ports[1]}",
        schedulers=tuple(ports[2:]),
    )
    write_token(settings)
    assert stat.S_IMODE(settings.login_file.stat().st_mode) == 0o600
    parts = {part.name: part.argv for part in components(settings)}
    assert list(parts) == ["master", "agent-1", "zookeeper", "scheduler-1", "scheduler-2", "door"]
    assert f"clientPort={ports[1]}" in (settings.state / "zoo.cfg").read_text()
    for name, port in (("scheduler-1", ports[2]), ("scheduler-2", ports[3])):
        args = scheduler_flags.parser().parse_args(parts[name][4:])
        assert args.listen == f"127.0.0.1:{port}"
        assert args.store == f"zk://127.0.0.1:{ports[1]}/gantry"
        assert str(args.zk_digest_file) == str(settings.login_file)


def test_a_taken_port_is_refused_with_what_to_do(unused_listener):
    port = unused_listener.getsockname()[1]
    with pytest.raises(UpError, match=f"127.0.0.1:{port}: Address already in use; choose another port"):
        settings_of(parser().parse_args(["--listen", f"127.0.0.1:{port}"]))


def test_port_0_becomes_a_real_one(tmp_path):
    settings = settings_of(parser().parse_args(["--listen", "127.0.0.1:0", "--data-dir", str(tmp_path)]))
    assert settings.listen[1] > 0
    assert settings.data_dir == tmp_path.resolve()


def test_a_port_is_kept_for_who_names_it():
    port = free_port("127.0.0.1")
    for _ in range(2):  # whoever listens there may end, and come back
        with socket.create_server(("127.0.0.1", port)):
            pass
    with socket.socket() as other, pytest.raises(OSError, match="Address already in use"):
        other.bind(("127.0.0.1", port))


def test_the_executors_get_their_flags(tmp_path):
    given = ["--listen", "127.0.0.1:0", "--data-dir", str(tmp_path), "--executor-options"]
    settings = settings_of(parser().parse_args([*given, "--unenforceable report --state-dir 'a b'"]))
    words = shlex.split(executor_command(settings))
    assert words[-4:] == ["--unenforceable", "report", "--state-dir", "a b"]
    with pytest.raises(UpError, match='--executor-options "\'": No closing quotation'):
        settings_of(parser().parse_args([*given, "'"]))


def test_two_clusters_share_no_cgroup_names(tmp_path):
    one, other = (Settings(tmp_path / name, ("127.0.0.1", 1)) for name in ("one", "other"))
    assert one.cgroups_prefix != other.cgroups_prefix


def test_the_token_is_private_and_kept(tmp_path):
    settings = Settings(tmp_path, ("127.0.0.1", 8080))
    write_token(settings)
    first = settings.token_file.read_text()
    write_token(settings)
    assert settings.token_file.read_text() == first
    settings.certificates.mkdir()
    settings.authority.write_text("-----BEGIN CERTIFICATE-----")
    write_kubeconfig(settings)
    for path in (settings.token_file, settings.kubeconfig):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    config = json.loads(settings.kubeconfig.read_text())
    assert config["users"][0]["user"]["token"] == first.strip()
    assert config["clusters"][0]["cluster"]["server"] == "https://127.0.0.1:8080"


def test_one_data_directory_runs_one_cluster(tmp_path: Path):
    with lock(tmp_path), pytest.raises(UpError, match=f"process {os.getpid()} runs a cluster there"):
        lock(tmp_path)
    with lock(tmp_path):
        pass
