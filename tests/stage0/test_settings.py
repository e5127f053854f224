"""The node's file of settings for images: what it may say, and how a mistake is named."""

from pathlib import Path

import pytest
from yarl import URL

from executor.stage0.settings import Collection, Downloads, Host, Settings, load

FULL = """
docker-config = "{here}/config.json"
[hosts."registry.example.com:5000"]
ca = "{here}/ca.pem"
client-cert = "{here}/ca.pem"
client-key = "{here}/ca.pem"
[hosts."images.example.com"]
plain-http = true
[registries."index.docker.io"]
mirrors = ["https://mirror.example.com/hub", "http://10.0.0.5:5000"]
[downloads]
parallel-layers = 5
connect-timeout = 3
read-timeout = 4.5
[gc]
high-percent = 90
low-percent = 70
minimum-age = 0
maximum-age = 3600
interval = 60
[policy]
default-aci = "none"
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "ca.pem").write_text("")
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def test_a_whole_file(here: Path) -> None:
    (here / "images.toml").write_text(FULL.format(here=here))
    made = load(here / "images.toml")
    pem = here / "ca.pem"
    assert made.docker_config == here / "config.json"
    assert made.hosts == {
        "registry.example.com:5000": Host(pem, pem, pem),
        "images.example.com": Host(plain_http=True),
    }
    assert made.mirrors == {"docker.io": (URL("https://mirror.example.com/hub"), URL("http://10.0.0.5:5000"))}
    assert made.downloads == Downloads(5, 3, 4.5)
    assert made.gc == Collection(90, 70, 0, 3600, 60)


def test_no_file_and_an_empty_one(here: Path) -> None:
    (here / "empty.toml").write_text("")
    for made in (load(None), load(here / "empty.toml")):
        assert (made.hosts, made.mirrors, made.docker_config) == ({}, {}, None)
        assert (made.downloads, made.gc) == (Downloads(), Collection())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1", "x: unknown key"),
        ("docker-config = 1", "docker-config: 1 is not an absolute path"),
        ('docker-config = "config.json"', "is not an absolute path"),
        ('docker-config = "/nope/x"', "docker-config: no such file /nope/x"),
        ("hosts = 1", "hosts: not a table"),
        ('[hosts."https://a"]', 'hosts."https://a": not HOST or HOST:PORT'),
        ('[hosts."a"]\ntls = true', 'hosts."a".tls: unknown key'),
        ('[hosts."a"]\nplain-http = 1', 'hosts."a".plain-http: 1 is neither true nor false'),
        ('[hosts."a"]\nclient-key = "{here}/ca.pem"', "client-cert and client-key belong together"),
        ('[hosts."a"]\nplain-http = true\nskip-verify = true', "plain-http leaves no use for"),
        ('[registries."a/b"]\nmirrors = []', 'registries."a/b": not HOST'),
        ('[registries."a"]\nmirrors = "x"', 'registries."a".mirrors: not a list of strings'),
        ('[registries."a"]\nmirrors = ["mirror.example.com"]', "is not https://HOST"),
        ('[registries."a"]\nmirrors = ["https://u:p@b"]', "is not https://HOST"),
        ('[registries."a"]\nmirrors = ["https://["]', "is not https://HOST"),
        ("[downloads]\nparallel-layers = 0", "downloads.parallel-layers: 0 is out of range"),
        ("[downloads]\nparallel-layers = true", "downloads.parallel-layers: True is out of range"),
        ("[gc]\nhigh-percent = 101", "gc.high-percent: 101 is out of range"),
        ("[gc]\nhigh-percent = 50", "gc.low-percent: is above gc.high-percent"),
        ("[gc]\ninterval = nan", "gc.interval"),
        ("[policy]\nx = 1", "policy"),
        ("[trust]\nx = 1", "trust.x"),
        ("[gc", "Expected"),
    ],
)
def test_mistakes(text: str, words: str, here: Path) -> None:
    path = here / "images.toml"
    path.write_text(text.format(here=here) if "{here}" in text else text)
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        load(path)
    assert str(caught.value).startswith(f"--image-config {path}: ")
    assert words in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No such file"):
        load(tmp_path / "nope.toml")


@pytest.mark.parametrize(
    ("key", "url", "found"),
    [
        ("a.example.com", "https://a.example.com/x", True),
        ("a.example.com:443", "https://a.example.com/x", True),
        ("a.example.com", "https://a.example.com:5000/x", False),
        ("a.example.com:5000", "https://a.example.com:5000/x", True),
        ("a.example.com", "https://b.example.com/x", False),
        ("[::1]:5000", "https://[::1]:5000/x", True),
    ],
)
def test_hosts_are_found_by_their_addresses(key: str, url: str, found: bool) -> None:
    host = Host(skip_verify=True)
    assert (Settings(hosts={key: host}).host(URL(url)) is host) is found
