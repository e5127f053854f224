"""The malicious corpus, what stands in JSON: OCI documents, ACIs and their manifests, archives of images."""

import io
import json
import os
import tarfile
from collections.abc import Iterator
from typing import Any

from tests.stage0.corpus_tars import END, Case, aci, header, pax, record

VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    1.5,
    "",
    "x",
    "../../x",
    "x" * 100_000,
    [],
    [[]],
    {},
    {"a": []},
    2**63,
]


def changed(document: dict[str, Any], path: str, value: Any) -> bytes:
    made: Any = json.loads(json.dumps(document))
    place = made
    *parents, last = [int(p) if p.isdigit() else p for p in path.split("/")]
    for part in parents:
        place = place[part]
    place[last] = value
    return json.dumps(made).encode()


def json_documents(good: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """What no reader of JSON should trip over."""
    text = json.dumps(good).encode()
    deep = [
        ("deep-list", b"[" * 200_000),
        ("deep-object", b'{"a":' * 200_000),
        ("deep-closed", b"[" * 900 + b"]" * 900),
    ]
    yield from deep
    yield "deep-inside", text[:-1] + b',"x":' + b"[" * 1000 + b"]" * 1000 + b"}"
    yield "deeper-inside", text[:-1] + b',"x":' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}"
    yield from (("empty", b""), ("null", b"null"), ("list", b"[]"), ("text", b'"x"'), ("number", b"1e999"))
    yield from (
        ("nan", b'{"a": NaN}'),
        ("cut", text[: len(text) // 2]),
        ("behind", text + text),
        ("bom", b"\xef\xbb\xbf" + text),
    )
    yield from (("not-utf8", b'{"a": "\xff"}'), ("surrogate", b'{"a": "\\ud800"}'), ("nul", text + b"\0"))
    yield "huge", text[:-1] + b',"x":"' + b"x" * (9 << 20) + b'"}'
    yield "many-keys", text[:-1] + b"," + b",".join(b'"k%d":1' % i for i in range(100_000)) + b"}"


CONFIG: dict[str, Any] = {
    "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "0" * 64]},
    "config": {"Cmd": ["x"], "Entrypoint": ["x"], "Env": ["A=b"], "User": "0", "WorkingDir": "/", "StopSignal": "TERM",
               "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/v": {}}, "Labels": {"a": "b"}},
}  # fmt: skip
BLOB = {"mediaType": "application/octet-stream", "digest": "sha256:" + "0" * 64, "size": 1}
MANIFEST: dict[str, Any] = {
    "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
    "config": {**BLOB, "mediaType": "application/vnd.oci.image.config.v1+json"}, "layers": [BLOB],
}  # fmt: skip
INDEX: dict[str, Any] = {
    "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
    "manifests": [{**BLOB, "platform": {"os": "linux", "architecture": "amd64"}, "annotations": {"a": "b"}}],
}  # fmt: skip


def oci_documents() -> Iterator[Case]:
    for kind, good, paths in (
        ("manifest", MANIFEST, ["config", "config/digest", "config/size", "layers", "layers/0", "layers/0/digest",
                                "layers/0/size", "mediaType", "config/mediaType"]),
        ("index", INDEX, ["manifests", "manifests/0", "manifests/0/digest", "manifests/0/size", "manifests/0/platform",
                          "manifests/0/annotations", "manifests/0/mediaType"]),
        ("config", CONFIG, ["rootfs", "rootfs/diff_ids", "rootfs/diff_ids/0", "rootfs/type", "config", "config/Env",
                            "config/Cmd", "config/Entrypoint", "config/User", "config/WorkingDir",
                            "config/ExposedPorts", "config/Volumes", "config/Labels", "os", "architecture"]),
    ):  # fmt: skip
        for path in paths:
            for number, value in enumerate(VALUES):
                yield Case(f"{kind}-{path.replace('/', '.')}-{number}", kind, changed(good, path, value))
        for name, data in json_documents(good):
            yield Case(f"{kind}-json-{name}", kind, data)
    for number, digest in enumerate(
        ["sha256:" + "A" * 64, "sha256:" + "0" * 63, "sha256:../../../../etc/passwd", "md5:" + "0" * 32,
         "sha256-" + "0" * 64,
         "sha256:" + "0" * 64 + "\n", "sha512:" + "0" * 64, "sha256:" + "\u0660" * 64]
    ):  # fmt: skip
        yield Case(f"digest-{number}", "manifest", changed(MANIFEST, "layers/0/digest", digest))
        yield Case(f"diff-id-{number}", "config", changed(CONFIG, "rootfs/diff_ids/0", digest))
    yield Case(
        "many-manifests", "index", json.dumps({**INDEX, "manifests": INDEX["manifests"] * 10_000}).encode()
    )


ACI_MANIFEST: dict[str, Any] = {
    "acKind": "ImageManifest", "acVersion": "0.8.11", "name": "example.com/x",
    "labels": [{"name": "os", "value": "linux"}, {"name": "arch", "value": "amd64"}],
    "app": {
        "exec": ["/x"], "user": "0", "group": "0", "supplementaryGIDs": [1], "workingDirectory": "/",
        "environment": [{"name": "A", "value": "b"}], "eventHandlers": [{"name": "pre-start", "exec": ["/x"]}],
        "mountPoints": [{"name": "m", "path": "/m"}], "ports": [{"name": "p", "protocol": "tcp", "port": 80}],
        "isolators": [{"name": "resource/memory", "value": {"limit": "1G"}}], "userLabels": {"a": "b"},
    },
    "dependencies": [], "pathWhitelist": ["/x"], "annotations": [{"name": "created", "value": "2020-01-01T00:00:00Z"}],
}  # fmt: skip


def acis(victim: bytes) -> Iterator[Case]:
    paths = [
        "acKind", "acVersion", "name", "labels", "labels/0", "labels/0/name", "labels/0/value", "app", "app/exec",
        "app/exec/0", "app/user", "app/group", "app/supplementaryGIDs", "app/supplementaryGIDs/0",
        "app/workingDirectory",
        "app/environment", "app/environment/0", "app/environment/0/name", "app/environment/0/value",
        "app/eventHandlers",
        "app/eventHandlers/0/exec", "app/mountPoints", "app/mountPoints/0/name", "app/mountPoints/0/path", "app/ports",
        "app/ports/0/port", "app/ports/0/protocol", "app/isolators", "app/isolators/0", "app/isolators/0/name",
        "app/isolators/0/value", "app/isolators/0/value/limit", "app/userLabels", "dependencies", "pathWhitelist",
        "pathWhitelist/0", "annotations", "annotations/0/value",
    ]  # fmt: skip
    for path in paths:
        for number, value in enumerate(VALUES):
            yield Case(
                f"aci-{path.replace('/', '.')}-{number}",
                "aci-manifest",
                changed(ACI_MANIFEST, path, value),
                True,
            )
    for name, data in json_documents(ACI_MANIFEST):
        yield Case(
            f"aci-json-{name}", "aci-manifest", data, name in {"deep-inside", "many-keys", "surrogate"}
        )
    for number, name in enumerate([".", "..", "a/../b", "/x", "a//b", "A", "a" * 2000, "a\0b", "-a", "a-"]):
        yield Case(f"aci-bad-name-{number}", "aci-manifest", changed(ACI_MANIFEST, "name", name))
    for number, path in enumerate(["x", "../x", "/../x", "/a/../../x", "", "/" + "a" * 5000, "/a\0b"]):
        yield Case(
            f"aci-bad-whitelist-{number}", "aci-manifest", changed(ACI_MANIFEST, "pathWhitelist", [path])
        )
    good = json.dumps({**ACI_MANIFEST, "pathWhitelist": []}).encode()
    for number, rest in enumerate(
        [header(b"rootfs/../x"), header(b"../x"), header(victim), header(b"x"), header(b"rootfsx/y"),
         header(b"manifest/x"),
         header(b"manifest", content=good), header(b"./manifest", content=good), header(b"rootfs", b"2", link=victim),
         header(b"rootfs/d", b"2", link=os.path.dirname(victim)) + header(b"rootfs/d/x"), header(b"rootfs/n", b"3"),
         header(b"rootfs/h", b"1", link=b"manifest"), header(b"rootfs/h", b"1", link=b"h"),
         header(b"rootfs/h", b"1", link=b"rootfs/../../x"), header(b"rootfs/s", b"2", link=b"../../x"),
         header(b"rootfs/f") * 2, header(b"rootfs/f") + header(b"rootfs/./f"), header(b"rootfs/d/") * 2,
         pax(record(b"SCHILY.xattr.trusted.overlay.opaque", b"y")) + header(b"rootfs/d/", b"5")]
    ):  # fmt: skip
        yield Case(f"aci-entry-{number}", "aci", aci(good, rest + END))
    yield Case("aci-two-roots", "aci", aci(good, header(b"rootfs/", b"5") * 2 + END))
    yield Case("aci-huge-manifest", "aci", aci(b" " * (5 << 20)))
    yield Case("aci-manifest-dir", "aci", header(b"manifest/", b"5") + header(b"rootfs/", b"5") + END)
    yield Case(
        "aci-manifest-link",
        "aci",
        header(b"manifest", b"2", link=b"/etc/passwd") + header(b"rootfs/", b"5") + END,
    )
    yield Case("aci-manifest-fifo", "aci", header(b"manifest", b"6") + header(b"rootfs/", b"5") + END)
    yield Case("aci-empty", "aci", END)
    yield Case("aci-encrypted", "aci", b"-----BEGIN PGP MESSAGE-----\n\nxx\n-----END PGP MESSAGE-----\n")


def archive(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name.replace("__", "/").replace("_json", ".json"))
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def archives(victim: bytes) -> Iterator[Case]:
    entry = {"Config": "c.json", "RepoTags": ["x:y"], "Layers": ["l"]}
    for key in entry:
        for number, value in enumerate(VALUES):
            yield Case(
                f"docker-{key}-{number}",
                "docker",
                archive(manifest_json=json.dumps([{**entry, key: value}]).encode()),
            )
    for name, data in json_documents({"a": 1}):
        yield Case(f"docker-json-{name}", "docker", archive(manifest_json=data))
        yield Case(
            f"oci-json-{name}",
            "oci",
            archive(index_json=data, **{"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}),
        )
        yield Case(
            f"oci-layout-{name}",
            "oci",
            archive(index_json=json.dumps(INDEX).encode(), **{"oci-layout": data}),
        )
    listed = header(b"manifest.json", content=json.dumps([entry]).encode())
    for number, config in enumerate([b"c.json", b"../c.json", b"a", victim, b"/etc/passwd", b"d"]):
        made = (
            listed
            + header(b"c.json", b"2", link=config)
            + header(b"a", b"2", link=b"c.json")
            + header(b"d/", b"5")
            + END
        )
        yield Case(f"docker-config-link-{number}", "docker", made)
    layer = json.dumps(CONFIG).encode()
    for number, target in enumerate([b"l", b"../l", b"m", victim, b"/proc/self/mem", b"..", b""]):
        made = (
            listed
            + header(b"c.json", content=layer)
            + header(b"l", b"2", link=target)
            + header(b"m", b"2", link=b"l")
            + END
        )
        yield Case(f"docker-layer-link-{number}", "docker", made)
    # What docker2aci went round in for ever: images of the first format that name each other as parents.
    loop = archive(
        a__json=b'{"id": "a", "parent": "b"}',
        b__json=b'{"id": "b", "parent": "a"}',
        a__VERSION=b"1.0",
        repositories=b'{"x": {"y": "a"}}',
    )
    yield Case("docker-cyclic-parents", "docker", loop)
    yield Case("docker-twice", "docker", listed * 2 + END)
    yield Case("docker-up", "docker", header(b"../manifest.json", content=b"[]") + END)
    yield Case("docker-many", "docker", b"".join(header(b"%d" % i) for i in range(600)) + END)
    yield Case("docker-device", "docker", header(b"manifest.json", b"3") + END)
