"""What schedulers offer to agents, and what agents do with it."""

import hashlib
import json
import os
import subprocess
import tarfile
from dataclasses import replace

import aiohttp
import pytest

from scheduler.api.server import ConfigError
from scheduler.bundles import offered, reachable
from scheduler.config import Listen, UsageError, parse
from shared.bundle import Bundle, cached, contents
from shared.bundle import cache as bundle_cache
from shared.bundle.command import executor_command


def settings_of(*argv):
    return parse(["--master", "127.0.0.1:1", "--store", "sqlite:nowhere.db", *map(str, argv)], {})


@pytest.fixture
def archive(tmp_path):
    """As small as can be: an executor that says its arguments, and what was unpacked beside it."""
    program = tmp_path / "gantry" / "bin" / "gantry-executor"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\necho "$@"; ls\n')
    program.chmod(0o755)
    (tmp_path / "gantry" / "bundle.json").write_text(json.dumps({"machine": os.uname().machine}))
    path = tmp_path / "bundle.tar.gz"
    with tarfile.open(path, "w:gz") as made:
        made.add(tmp_path / "gantry", "gantry")
    return Bundle(path, hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size)


def run(command, sandbox):
    return subprocess.run(
        ["/bin/sh", "-c", command], cwd=sandbox, capture_output=True, text=True, check=False
    )


def test_agents_run_what_was_offered_and_nothing_else(archive, tmp_path):
    sandbox = tmp_path / "sandbox"
    sandbox.mkdir()
    fetched = sandbox / archive.name
    command = executor_command(archive, "--state-dir '/a b' --local-images /c")
    fetched.write_bytes(archive.path.read_bytes() + b"\0")
    done = run(command, sandbox)
    assert done.returncode == 1
    assert "is not the archive that the scheduler offered" in done.stderr
    assert [one.name for one in sandbox.iterdir()] == [archive.name]
    fetched.write_bytes(archive.path.read_bytes())
    done = run(command, sandbox)
    assert done.stdout == "--state-dir /a b --local-images /c\ngantry\n"


async def test_it_is_served_under_its_digest_to_whoever_asks(archive):
    settings = settings_of(
        "--listen", "127.0.0.1:0", "--executor-bundle", archive.path, "--executor-options=--x"
    )
    async with offered(settings) as executor, aiohttp.ClientSession() as http:
        assert executor.command == executor_command(archive, "--x")
        (uri,) = executor.command_info()["uris"]
        assert uri == {"value": executor.bundle_url, "cache": True, "extract": False}
        assert executor.bundle_url.endswith(f"/bundles/sha256-{archive.digest}.tar.gz")
        async with http.get(executor.bundle_url) as answer:
            assert (answer.status, await answer.read()) == (200, archive.path.read_bytes())
        content = archive.path.read_bytes()
        archive.path.unlink()
        async with http.get(executor.bundle_url) as answer:
            assert (answer.status, await answer.read()) == (200, content)
        for path in ("/", "/bundles/other.tar.gz", "/bundles/../../etc/passwd"):
            async with http.get(f"http://{executor.bundle_url.split('/')[2]}{path}") as answer:
                assert answer.status == 404


async def test_who_serves_it_is_no_part_of_an_executors_version(archive):
    settings = settings_of("--executor-bundle", archive.path)
    async with offered(settings) as one, offered(settings) as other:
        assert one.bundle_url != other.bundle_url
        assert one.version("1") == other.version("1") != one.version("2")
        assert replace(one, options="--x").version("1") == one.version("1")  # it is in the command already
        assert replace(one, command=one.command.replace(archive.digest, "0" * 64)).version(
            "1"
        ) != one.version("1")


async def test_a_command_of_ones_own_needs_no_archive():
    async with offered(settings_of("--executor-command", "mine")) as executor:
        assert executor.command == "mine"
        assert "uris" not in executor.command_info()


async def test_refusals(archive, tmp_path):
    with pytest.raises(UsageError, match="--executor-command and --executor-bundle: give one of them"):
        settings_of("--executor-command", "mine", "--executor-bundle", "file")
    with pytest.raises(UsageError, match="--bundle-listen 'nowhere': expected HOST:PORT"):
        settings_of("--bundle-listen", "nowhere")
    with pytest.raises(
        UsageError, match=r"--executor-bundle: .*none.*No such file or directory|--executor-bundle: "
    ):
        async with offered(settings_of("--executor-bundle", tmp_path / "none")):
            pass
    settings = settings_of("--executor-bundle", archive.path)
    async with offered(settings) as executor:
        port = int(executor.bundle_url.split("/")[2].rpartition(":")[2])
        again = replace(settings, bundle_listen=Listen("127.0.0.1", port))
        with pytest.raises(ConfigError, match=f"--bundle-listen 127.0.0.1:{port}: .*choose another port"):
            async with offered(again):
                pass


def test_agents_are_told_an_address_that_they_can_reach():
    open_to_all = ("--bundle-listen", "0.0.0.0:0", "--hostname", "name")
    assert (
        reachable(settings_of("--bundle-listen", "10.0.0.1:80"), {"LIBPROCESS_IP": "10.0.0.2"}) == "10.0.0.1"
    )
    assert reachable(settings_of(*open_to_all), {"LIBPROCESS_IP": "10.0.0.2"}) == "10.0.0.2"
    assert reachable(settings_of(*open_to_all), {"LIBPROCESS_IP": "0.0.0.0"}) == "name"
    assert (
        reachable(settings_of(*open_to_all, "--advertise", "public:443"), {"LIBPROCESS_IP": "1.2.3.4"})
        == "public"
    )


def test_an_archive_that_was_made_is_kept_until_something_changes(tmp_path):
    environ = {"XDG_CACHE_HOME": str(tmp_path)}
    items = contents("1")
    path = bundle_cache._directory(environ) / f"bundle-{bundle_cache._key(items)}.tar.gz"
    path.write_bytes(b"made before")
    assert cached("1", environ).digest == hashlib.sha256(b"made before").hexdigest()
    assert (tmp_path / "gantry").stat().st_mode & 0o777 == 0o700
    path.touch()
    os.utime(path, (1, 1))
    bundle_cache._forget(path.parent)
    assert not path.exists()
    changed = [*items[:-1], replace(items[-1], source=b"other")]
    assert len({bundle_cache._key(items), bundle_cache._key(items[:-1]), bundle_cache._key(changed)}) == 3
