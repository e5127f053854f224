"""`zk://…` and the flags beside it."""

import argparse
from pathlib import Path

import pytest
from kazoo.security import OPEN_ACL_UNSAFE

from shared.zookeeper.location import Location
from shared.zookeeper.settings import ZooKeeperSettings, add_flags, settings_from


def settings(url: str, *flags: str) -> ZooKeeperSettings:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return settings_from(url, parser.parse_args(flags))


@pytest.mark.parametrize(
    ("url", "hosts", "path", "login"),
    [
        ("zk://a:1/gantry", "a:1", "/gantry", ""),
        ("zk://a,b:2,c/x/y/", "a:2181,b:2,c:2181", "/x/y", ""),
        ("zk://me:p@ss:w/rd@a:1/g", "a:1", "/g", "me:p@ss:w/rd"),
        ("zk://[::1]:99,[fe80::1]/g", "[::1]:99,[fe80::1]:2181", "/g", ""),
    ],
)
def test_locations(url: str, hosts: str, path: str, login: str) -> None:
    assert Location.parse(url) == Location(hosts, path, login)
    assert str(Location.parse(url)) == f"zk://{hosts}{path}"
    assert not login or login not in repr(Location.parse(url)) + repr(settings_from(url))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://a/b", "not a ZooKeeper URL"),
        ("zk://a:1", "not a ZooKeeper URL"),
        ("zk://a:1/", "not a ZooKeeper URL"),
        ("zk:///g", "not a ZooKeeper URL"),
        ("zk://hunter2@a:1/g", "must be user:password"),
        ("zk://me:@a:1/g", "must be user:password"),
        ("zk://me:hunter2@a:x/g", "'a:x' is not host:port"),
        ("zk://a:1,,b:2/g", "'' is not host:port"),
        ("zk://me:hunter2@a:1/g//h", "is not a path"),
        ("zk://a:1/g/../h", "is not a path"),
    ],
)
def test_what_is_no_location(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as info:
        Location.parse(url)
    assert "hunter2" not in str(info.value)


def test_znodes_belong_to_whom_we_say_we_are(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("me:hunter2\n")
    secret.chmod(0o600)
    assert settings("zk://a/g").acl == OPEN_ACL_UNSAFE
    (digest,) = settings("zk://a/g", "--zk-digest-file", str(secret)).acl
    assert (digest.id.scheme, digest.id.id.partition(":")[0]) == ("digest", "me")
    assert [digest] == settings("zk://me:hunter2@a/g").acl
    (sasl,) = settings("zk://a/g", "--zk-sasl-user", "gantry", "--zk-sasl-password-file", str(secret)).acl
    assert (sasl.id.scheme, sasl.id.id) == ("sasl", "gantry")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--zk-digest-file", "FILE"), "there is a login in zk://a:2181/g, too"),
        (("--zk-sasl-user", "x", "--zk-sasl-password-file", "FILE"), "there is a digest login, too"),
        (("--zk-sasl-user", "x"), "belong together"),
        (("--zk-session-timeout", "0"), "must be 1 to 300 seconds"),
        (("--zk-ca-file", "FILE"), "no PEM certificate"),
    ],
)
def test_flags_that_do_not_go_together(tmp_path: Path, flags: tuple[str, ...], message: str) -> None:
    file = tmp_path / "file"
    file.write_text("me:hunter2\n")
    file.chmod(0o600)
    with pytest.raises(ValueError, match=message) as info:
        settings("zk://me:hunter2@a/g", *(str(file) if flag == "FILE" else flag for flag in flags))
    assert "hunter2" not in str(info.value)
