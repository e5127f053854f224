"""References: what is accepted, how it is completed, what is refused and with which words."""

import pytest

from executor.stage0 import names
from executor.stage0.errors import InvalidImageName
from executor.stage0.names import Appc, Archive, Layout, Local, Registry, Stored, Url

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nginx", Registry("docker.io", "library/nginx", "latest")),
        ("josh/caddy", Registry("docker.io", "josh/caddy", "latest")),
        ("index.docker.io/nginx:1", Registry("docker.io", "library/nginx", "1")),
        (f"quay.io/josh_wood/caddy:v1@{DIGEST}", Registry("quay.io", "josh_wood/caddy", "v1", DIGEST)),
        (f"quay.io/a@{DIGEST}", Registry("quay.io", "a", "", DIGEST)),
        ("localhost:5000/a/b:c", Registry("localhost:5000", "a/b", "c")),
        ("[::1]:5000/a", Registry("[::1]:5000", "a", "latest")),
        ("Host/a:B", Registry("Host", "a", "B")),
        ("localhost/hello", Local("hello", "latest")),
        ("localhost/team/hello:v1", Local("team/hello", "v1")),
        (f"localhost/hello@{DIGEST}", Local("hello", "", DIGEST)),
        ("oci:/srv/images/app:v1", Layout("/srv/images/app", "v1")),
        ("oci:///srv/images/app:v1", Layout("/srv/images/app", "v1")),
        ("oci:/srv/app", Layout("/srv/app")),
        ("oci-archive:/x.tar:v1", Archive("oci", "/x.tar", "v1")),
        ("docker-archive:/x.tar:app:v1", Archive("docker", "/x.tar", "app:v1")),
        ("file:///x/y.aci", Archive("auto", "/x/y.aci")),
        ("docker://nginx:1", Registry("docker.io", "library/nginx", "1")),
        ("https://example.com/x/y.aci?v=1", Url("https://example.com/x/y.aci?v=1")),
        ("http://127.0.0.1:8000/y.aci", Url("http://127.0.0.1:8000/y.aci")),
        ("appc://example.com/app", Appc("example.com/app")),
        ("appc:example.com/app", Appc("example.com/app")),
        ("appc://example.com/foo--bar", Appc("example.com/foo--bar")),
        (
            "appc://coreos.com/etcd:v3.1,os=linux,arch=amd64",
            Appc("coreos.com/etcd", (("arch", "amd64"), ("os", "linux"), ("version", "v3.1"))),
        ),
        ("appc://a/b,version=1.0", Appc("a/b", (("version", "1.0"),))),
        (DIGEST, Stored(DIGEST)),
        ("sha512-abcd", Stored("sha512-abcd")),
    ],
)
def test_parse(text: str, expected: names.Reference) -> None:
    assert names.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("Nginx", "repository name must be lowercase"),
        ("a b", "invalid reference format"),
        ("a\nb", "invalid reference format"),
        ("nginx:", "bad tag ''"),
        ("nginx:-x", "bad tag"),
        ("nginx:" + "x" * 129, "bad tag"),
        ("nginx@sha256:abc", "sha256:<64 hex>"),
        ("nginx@md5:" + "a" * 32, "sha256:<64 hex>"),
        ("a//b", "bad repository name"),
        ("../etc", "bad re"),
        ("localhost/../../etc", "bad repository name"),
        ("localhost/a/../b", "bad repository name"),
        ("localhost/", "bad repository name"),
        ("quay.io/" + "a" * 256, "bad repository name"),
        ("ex_ample.com/a", "bad registry host"),
        ("x" * 5000, "too long"),
        ("file:x.aci", "absolute"),
        ("file:///a/../b", "absolute"),
        ("oci:dir:tag", "absolute"),
        ("https://example.com", "https://HOST/PATH"),
        ("https://", "https://HOST/PATH"),
        ("https://u:p@example.com/x.aci", "must not carry a login"),
        ("https://example.com/x.aci#frag", "no '#'"),
        ("https://example.com:x/x.aci", "not an address"),
        ("https://[::1/x.aci", "not an address"),
        ("appc://", "not an AC identifier"),
        ("appc://Example.com/x", "not an AC identifier"),
        ("appc://example.com//x", "not an AC identifier"),
        ("appc://../x", "not an AC identifier"),
        ("appc://a/b:", "bad value of the label version"),
        ("appc://a/b:1/../2", "bad value of the label version"),
        ("appc://a/b:1:2", "bad value of the label version"),
        ("appc://a/b,version", "not label=value"),
        ("appc://a/b:1,version=2", "twice"),
        ("appc://a/b,name=c", "not label=value"),
        ("docker://Nginx", "must be lowercase"),
        ("ftp://example.com/x.aci", "no way to an image"),
        ("cimd://docker/x", "no way to an image"),
    ],
)
def test_refused(text: str, words: str) -> None:
    with pytest.raises(InvalidImageName, match=r"^[^\n]*$") as caught:
        names.parse(text)
    assert words in str(caught.value)
    assert caught.value.reason == "InvalidImageName"


@pytest.mark.parametrize(
    "text", ["nginx", "quay.io/a/b:c", "localhost/x:y", "oci:/a:b", "docker-archive:/a:b:c", DIGEST]
)
def test_completed_names_parse_to_themselves(text: str) -> None:
    once = names.parse(text)
    assert names.parse(str(once)) == once
