"""Logins: which one belongs to an image, what Docker's config.json says, challenges."""

import base64
from pathlib import Path
from typing import Any

import pytest

from executor.stage0 import StoreError
from executor.stage0.access import allowed, opened
from executor.stage0.login import IDENTITY, Login, challenge, find, parse_docker_config, read_docker_config


@pytest.mark.parametrize(
    ("keys", "host", "repository", "expected"),
    [
        (["quay.io"], "quay.io", "a/b", "quay.io"),
        (["quay.io", "quay.io/a"], "quay.io", "a/b", "quay.io/a"),
        (["quay.io/a", "quay.io/a/b"], "quay.io", "a/b", "quay.io/a/b"),
        (["quay.io/a"], "quay.io", "ab/c", None),
        (["quay.io"], "evilquay.io", "a", None),
        (["quay.io"], "quay.io:5000", "a", None),
        (["r:5000"], "r:5000", "a", "r:5000"),
        (["https://index.docker.io/v1/"], "docker.io", "library/nginx", "https://index.docker.io/v1/"),
        (["https://r.example.com/v2/team/"], "r.example.com", "team/x", "https://r.example.com/v2/team/"),
        (["*.example.com"], "r.example.com", "a", "*.example.com"),
        (["*.example.com"], "a.b.example.com", "a", None),
        (["*.example.com"], "example.com", "a", None),
        (["*.example.com", "r.example.com"], "r.example.com", "a", "r.example.com"),
        (["*.example.com/a", "r.example.com"], "r.example.com", "a", "*.example.com/a"),
        (["*"], "localhost", "a", "*"),
        ([], "quay.io", "a", None),
    ],
)
def test_the_longest_match(keys: list[str], host: str, repository: str, expected: str | None) -> None:
    login = find({key: (key, "secret") for key in keys}, host, repository)
    assert (login.username if login else None) == expected


def test_docker_config() -> None:
    auth = base64.b64encode(b"u:p:w\0").decode()
    entries = {
        "a": {"auth": auth},
        "b": {"username": "u", "password": "p", "auth": "ignored"},
        "c": {"auth": auth, "identitytoken": "t"},
    }
    assert parse_docker_config({"auths": entries, "credHelpers": {}}) == {
        "a": ("u", "p:w"),
        "b": ("u", "p"),
        "c": (IDENTITY, "t"),
    }
    assert parse_docker_config({}) == {}


@pytest.mark.parametrize(
    "document", [[], {"auths": []}, {"auths": {"a": 1}}, {"auths": {"a": {}}}, {"auths": {"a": {"auth": "s3cret"}}},
                 {"auths": {"a": {"auth": base64.b64encode(b"nocolon").decode()}}}]
)  # fmt: skip
def test_broken_docker_configs(document: Any) -> None:
    with pytest.raises(ValueError, match=r"auths|object") as caught:
        parse_docker_config(document)
    assert "s3cret" not in str(caught.value)


def test_files(tmp_path: Path) -> None:
    assert read_docker_config(None) == {}
    path = tmp_path / "config.json"
    with pytest.raises(StoreError, match="No such file"):
        read_docker_config(path)
    path.write_text("{")
    with pytest.raises(StoreError, match="docker-config"):
        read_docker_config(path)


def test_a_login_does_not_show_its_password() -> None:
    login = Login("user", "s3cret")
    assert "s3cret" not in repr(login)
    assert "s3cret" not in login.mark(b"salt")
    assert login.mark(b"salt") != login.mark(b"other")
    assert Login("a", "bc").mark(b"s") != Login("ab", "c").mark(b"s")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('Bearer realm="https://a/t",service="s",scope="repository:a:pull,push"',
         ("bearer", {"realm": "https://a/t", "service": "s", "scope": "repository:a:pull,push"})),
        ("Basic realm=x", ("basic", {"realm": "x"})),
        ('BEARER Realm = "a\\"b"', ("bearer", {"realm": 'a"b'})),
        ("Negotiate", ("negotiate", {})),
        ("", ("", {})),
    ],
)  # fmt: skip
def test_challenges(text: str, expected: tuple[str, dict[str, str]]) -> None:
    assert challenge(text) == expected


def test_who_may_use_an_image() -> None:
    mine, other = Login("me", "1"), Login("you", "2")
    assert allowed(None, [])
    secret = opened(None, mine, new=True)
    assert allowed(secret, [other, mine])
    assert not allowed(secret, [other])
    assert not allowed(secret, [])
    both = opened(secret, other, new=False)
    assert allowed(both, [other])
    assert allowed(both, [mine])
    assert opened(both, None, new=False) is None  # everybody's from now on
    assert opened(None, mine, new=False) is None  # and it stays so
