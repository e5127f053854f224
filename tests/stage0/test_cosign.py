"""cosign's signatures in a real registry: made here as its specification says, checked before any layer is fetched."""

import base64
import hashlib
import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from executor.stage0 import ImageError, ImageStore, ImageUntrusted, StoreError
from executor.stage0.manifest import host_platform
from executor.stage0.trust import Gate, Keystore, Policy, cosign

pytestmark = pytest.mark.root

Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


def sign(key: Key, payload: bytes) -> bytes:
    match key:
        case ec.EllipticCurvePrivateKey():
            return key.sign(payload, ec.ECDSA(hashes.SHA256() if key.key_size == 256 else hashes.SHA384()))
        case ed25519.Ed25519PrivateKey():
            return key.sign(payload)
        case _:
            return key.sign(payload, padding.PKCS1v15(), hashes.SHA256())


def simple_signing(digest: str, reference: str) -> dict[str, Any]:
    return {
        "critical": {
            "identity": {"docker-reference": reference},
            "image": {"docker-manifest-digest": digest},
            "type": "cosign container image signature",
        },
        "optional": None,
    }


class Remote:
    """One repository `team/app` of a real registry, written to with plain PUTs as cosign does."""

    def __init__(self, host: str) -> None:
        self.host, self.name = host, f"{host}/team/app"

    def _send(self, method: str, url: str, data: bytes = b"", kind: str = "application/octet-stream") -> Any:
        request = urllib.request.Request(url, data, {"Content-Type": kind}, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.headers

    def blob(self, data: bytes, kind: str) -> dict[str, Any]:
        where = self._send("POST", f"http://{self.host}/v2/team/app/blobs/uploads/")["Location"]
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self._send("PUT", f"{where}{'&' if '?' in where else '?'}digest={digest}", data)
        return {"mediaType": kind, "digest": digest, "size": len(data)}

    def put(self, tag: str, layers: list[dict[str, Any]]) -> None:
        kind = "application/vnd.oci.image.manifest.v1+json"
        config = self.blob(b"{}", "application/vnd.oci.image.config.v1+json")
        document = {"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers}
        self._send(
            "PUT", f"http://{self.host}/v2/team/app/manifests/{tag}", json.dumps(document).encode(), kind
        )

    def sign(
        self, digest: str, *signed: tuple[Key, dict[str, Any]], edit: Callable[[Any], object] | None = None
    ) -> None:
        """The signature image of a manifest: one layer for each (key, payload)."""
        layers = []
        for key, payload in signed:
            data = json.dumps(payload).encode()
            layer = self.blob(data, cosign.PAYLOAD)
            layer["annotations"] = {cosign.ANNOTATION: base64.b64encode(sign(key, data)).decode()}
            layers.append(layer)
        if edit is not None:
            edit(layers)
        self.put(cosign.tag(digest), layers)


@pytest.fixture
def remote(registry: Callable[..., SimpleNamespace]) -> Remote:
    return Remote(registry().host)


@pytest.fixture
def pushed(remote: Remote, layout: Any, tar: Any, run: Callable[..., str]) -> str:
    """`team/app:v1` in the registry; its digest."""
    entry = layout.image("v1", tar().add("a").bytes())
    run("skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout.path}:v1", f"docker://{remote.name}:v1")
    return str(entry["digest"])


@pytest.fixture
def key(tmp_path: Path) -> Callable[..., tuple[Key, str]]:
    """key(private) → (private, the path of its public half)."""

    def call(private: Key | None = None, name: str = "key") -> tuple[Key, str]:
        made = private or ec.generate_private_key(ec.SECP256R1())
        path = tmp_path / f"{name}.pub"
        path.write_bytes(made.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))  # fmt: skip
        return made, str(path)

    return call


@pytest.fixture
def guarded(state: Path, remote: Remote, tmp_path: Path) -> Callable[..., ImageStore]:
    """guarded(KEY PATH…, identity=…) → a store that wants images of the registry signed."""

    def call(*paths: str, **more: str) -> ImageStore:
        table = {"prefixes": {remote.host: {"signed-by": list(paths), **more}}}
        return ImageStore(state, trust=Gate(Policy.from_table(table), Keystore((tmp_path / "none",))))

    return call


@pytest.mark.parametrize("kind", ["p256", "p384", "ed25519", "rsa"])
async def test_a_signed_image(
    kind: str, remote: Remote, pushed: str, key: Any, guarded: Callable[..., ImageStore]
) -> None:
    private, path = key({
        "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "ed25519": ed25519.Ed25519PrivateKey.generate, "rsa": lambda: rsa.generate_private_key(65537, 2048),
    }[kind]())  # fmt: skip
    stranger, _ = key(name="stranger")
    remote.sign(
        pushed,
        (stranger, simple_signing(pushed, "x")),
        (private, simple_signing(pushed, f"{remote.name}:v1")),
    )
    image = await guarded(path).pull(f"{remote.name}:v1", "Always")
    assert image.verification.how == "signature"
    (fact,) = image.verification.facts
    assert (fact.subject, fact.digest, fact.signers) == (remote.name, pushed, (cosign.load_key(path).id,))


Case = tuple[str, Callable[[dict[str, Any]], object], Callable[[Any, Remote, Key], object]]


def _same(*_: object) -> None:
    """Nothing is wrong here."""


def _annotated(layer: dict[str, Any], signature: bytes) -> dict[str, Any]:
    return {**layer, "annotations": {cosign.ANNOTATION: base64.b64encode(signature).decode()}}


# what is said; what is wrong with the critical part of the payload; what is wrong with the list of layers
CASES: dict[str, Case] = {
    "unsigned": ("no signature by .*key.pub; it is not signed", _same, _same),
    "stranger": ("no signature by .*key.pub among the 1 that the registry has", _same, _same),
    "another-image": (
        "for another image, sha256:000",
        lambda critical: critical["image"].update({"docker-manifest-digest": "sha256:" + "0" * 64}),
        _same,
    ),
    "another-name": (
        "as 'example.com/other', where 127.0.0.1:.*/team/app is wanted",
        lambda critical: critical["identity"].update({"docker-reference": "example.com/other"}),
        _same,
    ),
    "another-type": ("payload is of type 'x'", lambda critical: critical.update(type="x"), _same),
    "no-identity": ("payload has no 'identity'", lambda critical: critical.pop("identity"), _same),
    "huge": ("a payload of .* bytes", lambda critical: critical.update(x="x" * cosign.MAX_PAYLOAD), _same),
    "flipped": (
        "no signature by", _same,
        lambda layers, _, key: layers.append(_annotated(layers.pop(), sign(key, b"something else"))),
    ),
    "not-json": (
        "payload: not JSON", _same,
        lambda layers, remote, key: layers.append(
            _annotated(remote.blob(b"{nope", layers.pop()["mediaType"]), sign(key, b"{nope"))
        ),
    ),
    "not-base64": (
        "is not base64", _same, lambda layers, *_: layers[0]["annotations"].update({cosign.ANNOTATION: "*"})
    ),
    "wrong-media-type": ("it is not signed", _same, lambda layers, *_: layers[0].update(mediaType="application/x")),
    "many": ("not a list of at most 50 layers", _same, lambda layers, *_: layers.extend(layers * 50)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
async def test_refused(
    case: str, remote: Remote, pushed: str, key: Any, guarded: Callable[..., ImageStore],
    left_behind: Callable[[], list[str]],
) -> None:  # fmt: skip
    words, in_payload, in_layers = CASES[case]
    private, path = key()
    stranger, _ = key(name="stranger")
    payload = simple_signing(pushed, remote.name)
    in_payload(payload["critical"])
    signer = stranger if case == "stranger" else private
    if case != "unsigned":
        remote.sign(pushed, (signer, payload), edit=lambda layers: in_layers(layers, remote, private))
    with pytest.raises(ImageError, match=words) as caught:
        await guarded(path).pull(f"{remote.name}:v1", "Always")
    assert str(caught.value).startswith(f"{remote.name}:v1: ")
    assert "\n" not in str(caught.value)
    assert left_behind() == []


async def test_identities(remote: Remote, pushed: str, key: Any, guarded: Callable[..., ImageStore]) -> None:
    """A mirror or a promoted image carries the name it was signed as."""
    private, path = key()
    remote.sign(pushed, (private, simple_signing(pushed, "registry.example/origin/app:v7")))
    ref = f"{remote.name}:v1"
    with pytest.raises(ImageUntrusted, match=r"as 'registry.example/origin/app:v7'"):
        await guarded(path).pull(ref, "Always")
    assert (await guarded(path, identity="registry.example/origin/app").pull(ref, "Always")).id
    assert (await guarded(path, identity="any").pull(ref, "Never")).id
    with pytest.raises(ImageUntrusted, match=r"policy asks for repository now"):
        await guarded(path).pull(ref, "Never")
    with pytest.raises(ImageUntrusted, match=r"as 'registry.example/origin/app:v7'"):
        await guarded(path).pull(ref, "IfNotPresent")


async def test_the_index_or_the_manifest_is_signed(
    remote: Remote, pushed: str, key: Any, guarded: Callable[..., ImageStore], layout: Any
) -> None:
    private, path = key()
    entry = {
        **layout.manifests[0],
        "platform": dict(zip(("os", "architecture"), host_platform(), strict=True)),
    }
    entry.pop("annotations")
    kind = "application/vnd.oci.image.index.v1+json"
    index = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": [entry]}).encode()
    remote._send("PUT", f"http://{remote.host}/v2/team/app/manifests/multi", index, kind)
    top = "sha256:" + hashlib.sha256(index).hexdigest()
    ref = f"{remote.name}:multi"
    with pytest.raises(ImageUntrusted, match="not signed"):
        await guarded(path).pull(ref, "Always")
    remote.sign(pushed, (private, simple_signing(pushed, remote.name)))
    assert (await guarded(path).pull(ref, "Always")).verification.facts[0].digest == pushed
    remote.sign(top, (private, simple_signing(top, remote.name)))
    assert (await guarded(path).pull(f"{remote.name}@{top}", "Always")).verification.facts[0].digest == top


async def test_keys_and_policies_of_today(
    remote: Remote, pushed: str, key: Any, guarded: Callable[..., ImageStore], state: Path
) -> None:
    private, path = key()
    ref = f"{remote.name}:v1"
    image = await ImageStore(state).pull(ref, "Always")
    assert image.verification.how == "none"
    with pytest.raises(ImageUntrusted, match="without a signature"):
        await guarded(path).pull(ref, "Never")
    with pytest.raises(ImageUntrusted, match="not signed"):
        await guarded(path).pull(ref, "IfNotPresent")
    remote.sign(pushed, (private, simple_signing(pushed, ref)))
    store = guarded(path)
    assert (await store.pull(ref, "IfNotPresent")).verification.how == "signature"
    key()  # another key in the same file
    with pytest.raises(ImageUntrusted, match="does not take any more"):
        await store.pull(ref, "Never")
    with pytest.raises(ImageUntrusted, match="does not take any more"):
        await store.pull(image.id, "Never")
    with pytest.raises(ImageUntrusted, match="no signature by"):
        await store.pull(ref, "IfNotPresent")


@pytest.mark.parametrize("content", ["x", "weak", "p521", "missing"])
def test_keys_that_are_not_taken(content: str, key: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "key.pub")
    match content:
        case "x":
            Path(path).write_text("x")
        case "weak":
            key(rsa.generate_private_key(65537, 1024))
        case "p521":
            key(ec.generate_private_key(ec.SECP521R1()))
    with pytest.raises(StoreError, match=f"key {path}: "):
        cosign.load_key(path)
