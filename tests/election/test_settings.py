"""What the command line says of a scheduler among several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scheduler.config import Settings, UsageError, parse
from scheduler.election.messages import Candidate, decode, encode


def settings(*flags: str, **environ: str) -> Settings:
    base = ["--master", "h:5050", "--store", "zk://h1,h2:2182/gantry", "--hostname", "here.example"]
    return parse([*base, *flags], environ)


@pytest.mark.parametrize(
    ("flags", "url"),
    [
        (("--listen", "10.0.0.1:8080"), "http://10.0.0.1:8081"),
        (("--listen", "0.0.0.0:0"), "http://here.example:8081"),
        (("--listen", "[::]:0"), "http://here.example:8081"),
        (("--listen", "[::1]:0"), "http://[::1]:8081"),
        (("--advertise", "lb.example"), "http://lb.example:8081"),
        (("--advertise", "lb.example:443"), "http://lb.example:443"),
        (("--advertise", "[fe80::1]:443"), "http://[fe80::1]:443"),
    ],
)
def test_where_others_reach_it(flags: tuple[str, ...], url: str) -> None:
    assert settings(*flags).url(8081, tls=False) == url
    assert settings(*flags).url(8081, tls=True) == url.replace("http:", "https:")


@pytest.mark.parametrize("text", ["http://x", "a:b", "a:99999", "a b", "[x]", "user@x", ":80"])
def test_what_is_no_place(text: str) -> None:
    with pytest.raises(UsageError, match=r"--advertise .*: expected HOST or HOST:PORT"):
        settings("--advertise", text)


def test_certificates_name_what_others_call_it() -> None:
    assert settings("--advertise", "lb.example:443").names[0] == "lb.example"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--store", "zk://h1"), "--store: not a ZooKeeper URL: 'zk://h1'"),
        (("--zk-session-timeout", "0.1"), "--zk-session-timeout: must be 1 to 300 seconds"),
        (("--zk-sasl-user", "x"), "--zk-sasl-user and --zk-sasl-password-file belong together"),
        (("--cluster-id", ""), "--cluster-id '': expected a name"),
        (("--encryption-key-file", "/nonexistent"), "--encryption-key-file"),
    ],
)
def test_what_is_wrong_is_named(flags: tuple[str, ...], said: str) -> None:
    with pytest.raises(UsageError) as info:
        settings(*flags)
    assert said in str(info.value)


def test_a_store_of_ones_own_has_no_zookeeper(tmp_path: Path) -> None:
    assert settings("--store", f"sqlite:{tmp_path}/x.db").zookeeper is None
    found = settings("--zk-session-timeout", "5").zookeeper
    assert found is not None
    assert (found.location.hosts, found.location.path, found.session_timeout) == (
        "h1:2181,h2:2182",
        "/gantry",
        5,
    )


def test_candidates_and_messages() -> None:
    one = Candidate("i", "https://x:1", "ab", "0.1", 7)
    assert Candidate.from_bytes(one.to_bytes()) == one
    newer = one.to_bytes().replace(b"{", b'{"since": "2.0", ', 1)
    assert Candidate.from_bytes(newer) == one
    data: Any
    for data in (b"", b"[]", b"{}", b'{"url": 1}', b"\xff"):
        assert Candidate.from_bytes(data) is None
    assert decode(encode("lead", epoch=3)) == {"kind": "lead", "epoch": 3}
