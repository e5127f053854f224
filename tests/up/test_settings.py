"""What `gantry up` decides before it starts anything."""

import json
import os
import stat
from pathlib import Path

import pytest

from local.settings import Settings, write_kubeconfig, write_token
from local.up import UpError, lock, parse_listen, parser, settings_of


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


def test_a_taken_port_is_refused_with_what_to_do(unused_listener):
    port = unused_listener.getsockname()[1]
    with pytest.raises(UpError, match=f"127.0.0.1:{port}: Address already in use; choose another port"):
        settings_of(parser().parse_args(["--listen", f"127.0.0.1:{port}"]))


def test_port_0_becomes_a_real_one(tmp_path):
    settings = settings_of(parser().parse_args(["--listen", "127.0.0.1:0", "--data-dir", str(tmp_path)]))
    assert settings.listen[1] > 0
    assert settings.data_dir == tmp_path.resolve()


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
