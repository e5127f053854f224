"""From what a user writes to an image: rkt's spelling of names, and its search of the store.

    coreos.com/etcd:v2.0.0,arch=amd64   an appc name: in the store by what manifests say, else by discovery
    ./x.aci /srv/x.aci file:///x.aci    a file
    https://host/x.aci                  an address
    docker://nginx docker:nginx         a registry
    sha512-… sha256:…                   what is in the store
    cimd:docker:v=0:… (aci-archive, appc)
    oci:DIR:TAG oci-archive:FILE docker-archive:FILE appc:NAME   ours

Sources: rkt `rkt/image/common.go`, `store/imagestore/store.go` GetACI, `Documentation/devel/distribution-point.md`.
"""

import logging
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qsl, unquote

import orjson
from yarl import URL

from executor.rkt import config
from executor.rkt.auth import Logins
from executor.rkt.common import Globals
from executor.rkt.flags import Failure
from executor.stage0 import names, operations, settings
from executor.stage0.acisource import MAX_SIGNATURE
from executor.stage0.cas import Cas
from executor.stage0.errors import ImageError, ImageNeverPull, ImageUntrusted
from executor.stage0.operations import Stored
from executor.stage0.settings import Host, Settings
from executor.stage0.streams import Limits
from executor.stage0.trust import Gate, Policy
from executor.stage0.trust.keystore import Keystore

if TYPE_CHECKING:  # the store brings an HTTP client, which commands that only look have no use for
    from executor.stage0.store import Image, ImageStore

_logs = [logging.getLogger(f"executor.stage0.{name}") for name in ("webaci", "dependencies")]

_SHORTEST = len("sha512-00")
Pull = Literal["new", "update", "never"]
_RKT_SAYS = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (r"is not signed", "error opening signature file"),
        (r"which is not trusted|no key is trusted", "openpgp: signature made by unknown entity"),
        (r"no such image in the store", "no image IDs found"),
        (r"is ambiguous: ", "ambiguous image ID"),
        (r"HTTP (401|403)", r"bad HTTP status code: \1"),
        (r"the image is for (\w+)/", r'bad os "\1"'),
        (r"label (\S+) is None, ", r'requested label "\1" not provided by the image manifest'),
        (
            r"label (\S+) is '(.*)', '(.*)' was asked",
            r'requested value for label "\1": "\3" differs from fetched aci label value: "\2"',
        ),
    )
)
_OURS = ("oci:", "oci-archive:", "docker-archive:", "appc:", "sha512-", "sha256:")
_POLICIES: dict[Pull, Literal["IfNotPresent", "Always", "Never"]] = {
    "new": "IfNotPresent",
    "update": "Always",
    "never": "Never",
}


def pull_policy(text: str) -> Pull:
    """`--pull-policy`. Failure."""
    for policy in _POLICIES:
        if text == policy:
            return policy
    raise Failure(f"pull policy {text!r} is not one of new, update, never")


def reference(text: str) -> str:
    """A user's word for an image, as the store's references are written. Failure."""
    if text.startswith("cimd:"):
        return _cimd(text)
    if text.startswith(_OURS) or text.startswith(("http://", "https://")):
        return text
    if text.startswith("docker:"):
        return "docker://" + text.removeprefix("docker:").removeprefix("//")
    if text.startswith("file:"):
        return text
    if text.startswith(("/", "./", "../", "~")) or text.endswith(".aci"):
        return "file:" + os.path.abspath(os.path.expanduser(text))
    if "://" in text:
        raise Failure(f"{text}: {text.partition('://')[0]}:// is no way to an image")
    return "appc:" + text


def _cimd(text: str) -> str:
    parts = text.split(":", 3)
    if len(parts) != 4 or parts[2] != "v=0":
        raise Failure(f"{text}: not cimd:TYPE:v=0:DATA")
    kind, data = parts[1], parts[3]
    if kind == "docker":
        return "docker://" + unquote(data)
    if kind == "aci-archive":
        return reference(unquote(data.partition("?")[0]))
    if kind == "appc":
        name, _, query = data.partition("?")
        labels = dict(parse_qsl(query))
        version = labels.pop("version", "")
        rest = "".join(f",{key}={value}" for key, value in labels.items())
        return f"appc:{unquote(name)}" + (f":{version}" if version else "") + rest
    raise Failure(f"{text}: {kind!r} is not docker, aci-archive or appc")


@dataclass(frozen=True)
class _Lax(Settings):
    """Settings under --insecure-options: believe any certificate, speak HTTP with what is named so."""

    skip_tls: bool = False
    plain: bool = False

    def host(self, url: URL) -> Host | None:
        known = super().host(url)
        if known is not None:
            return known
        if self.plain and url.scheme == "http":
            return Host(plain_http=True)
        return Host(skip_verify=True) if self.skip_tls and url.scheme == "https" else None


def image_settings(g: Globals, ref: str = "") -> Settings:
    """How to reach the place of an image, and who has to have signed it. Failure.

    Policy and keys are the executor's with --image-config, else rkt's: ACIs are signed by keys in DIR/trustedkeys of
    the configuration's directories.
    """
    try:
        made = settings.load(Path(g.image_config) if g.image_config else None)
    except ValueError as error:
        raise Failure(str(error)) from None
    if not g.image_config:
        keys = Keystore((Path(g.local_config, "trustedkeys"), Path(g.system_config, "trustedkeys")))
        made = replace(made, gate=Gate(Policy(), keys))
    if "image" in g.insecure:
        none = Policy.from_table({"default-aci": "none", "default-oci": "none"})
        made = replace(made, gate=Gate(none, made.gate.keystore))
    found = config.load(g.config_dirs)
    if found.docker:
        made = replace(made, docker_config=_in_memory(found.docker))
    if found.auth:
        made = replace(made, login=Logins(found, plain=ref.startswith("http://")))
    if g.insecure & {"tls", "http"}:
        fields = {name: getattr(made, name) for name in made.__dataclass_fields__}
        # A registry named without a scheme stays with HTTPS: HTTP is for what is asked for by address or name.
        plain = "http" in g.insecure and ref.startswith(("http://", "appc:"))
        made = _Lax(**fields, skip_tls="tls" in g.insecure, plain=plain)
    return made


def _in_memory(logins: dict[str, tuple[str, str]]) -> Path:
    """As a file of `docker login`, which is on no disk; it lives as long as this process."""
    auths = {registry: {"username": user, "password": word} for registry, (user, word) in logins.items()}
    fd = os.memfd_create("logins", os.MFD_CLOEXEC)
    os.write(fd, orjson.dumps({"auths": auths}))
    return Path(f"/proc/self/fd/{fd}")


@dataclass
class Finder:
    """Finds images for one command."""

    g: Globals
    policy: Pull
    say: Callable[[str], None] = field(default=lambda _: None)
    _stores: "list[ImageStore]" = field(default_factory=list)

    async def find(self, text: str, signature: str = "") -> "tuple[Image, ImageStore]":
        """The image, and the store to hold it in. Failure."""
        from executor.stage0.store import ImageStore

        ref = reference(text)
        made = image_settings(self.g, ref)
        store = ImageStore(self.g.data, settings=made, signatures=read_signature(ref, signature))
        self._stores.append(store)
        try:
            return await self._find(store, ref, text), store
        except ImageUntrusted as error:
            raise Failure(f"{as_rkt_says(str(error), ref)} (--insecure-options=image does without)") from None
        except ImageError as error:
            text = as_rkt_says(str(error), ref)
            far = ref.startswith(("http://", "https://", "appc:"))
            if far and "image" not in self.g.insecure and text == str(error):
                text += " [error downloading the signature file]"  # that comes first
            raise Failure(text) from None

    async def _find(self, store: "ImageStore", ref: str, text: str) -> "Image":
        parsed = names.parse(ref)
        if isinstance(parsed, names.Appc):
            if self.policy != "update" and (image := await self._by_name(store, parsed, text)) is not None:
                return image
            self.g.diagnose(f"searching for app image {parsed.name}")
            _tell_of_fetches(self.g)
        elif ref.startswith("file:"):  # whatever the policy says: it is here
            self.g.diagnose(f"using image from file {ref.removeprefix('file:').removeprefix('//')}")
            policy = "IfNotPresent" if self.policy == "never" else _POLICIES[self.policy]
            return await store.pull(ref, policy, progress=self.say)
        elif ref.startswith(("sha512-", "sha256:")):
            self.g.diagnose(f"using image from the store with hash {ref}")
        else:
            if self.policy != "update":
                with suppress(ImageNeverPull):
                    image = await store.pull(ref, "Never")
                    self.g.diagnose(f"using image from local store for url {ref}")
                    return image
            if ref.startswith(("http://", "https://")):
                _tell_of_fetches(self.g)
            elif self.policy != "never":
                self.g.diagnose(f'remote fetching from URL "{ref}"')
        return await store.pull(ref, _POLICIES[self.policy], progress=self.say)

    async def _by_name(self, store: "ImageStore", wanted: names.Appc, text: str) -> "Image | None":
        """The best one of the store that policy lets in; None when there is none and one may be fetched."""
        untrusted = None
        for image_id in stored(self.g.data, wanted):
            try:
                image = await store.pull(image_id, "Never")
            except ImageUntrusted as error:
                untrusted = untrusted or error
            else:
                self.g.diagnose(f"using image from local store for image name {text}")
                return image
        if self.policy == "never":
            raise untrusted or ImageNeverPull(f"{text}: is not in the store")
        return None


def read_signature(ref: str, path: str) -> dict[str, bytes]:
    """`--signature`: a file, for ACIs from wherever they come. Failure."""
    if not path:
        return {}
    if not isinstance(names.parse(ref), names.Appc | names.Url | names.Archive):
        raise Failure(f"--signature {path}: signatures are of ACIs, and {ref} is none")
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_SIGNATURE + 1)
    except OSError as error:
        raise Failure(f"error opening signature file: {path}: {error.strerror}") from None
    if len(data) > MAX_SIGNATURE:
        raise Failure(f"--signature {path}: longer than {MAX_SIGNATURE} bytes, no signature")
    return {ref: data}


def as_rkt_says(text: str, ref: str) -> str:
    """An image's error, and behind it what rkt would have said, which scripts look for."""
    for pattern, words in _RKT_SAYS:
        if found := pattern.search(text):
            if ref.startswith(("http://", "https://", "appc:")):
                words = words.replace("opening signature file", "downloading the signature file")
            return f"{text} [{found.expand(words)}]"
    return text


def _tell_of_fetches(g: Globals) -> None:
    """With --debug: say what is fetched from where."""
    for log in _logs if g.debug else ():
        if not log.handlers:
            log.addHandler(logging.StreamHandler())
            log.handlers[0].setFormatter(logging.Formatter("image: %(message)s"))
            log.setLevel(logging.INFO)


def stored(data: Path, wanted: names.Appc) -> list[str]:
    """Ids of the ACIs of a store whose manifests have this name and these labels, the best first: of several, the one
    that came last."""
    found = []
    for image in everything(data):
        if not image.is_aci:
            continue
        manifest = operations.manifest(image)
        labels = {entry["name"]: entry["value"] for entry in manifest.get("labels") or []}
        if manifest["name"] == wanted.name and all(labels.get(k) == v for k, v in wanted.labels):
            found.append((image.record["verification"]["time"], image.record["id"]))
    return [image_id for _, image_id in sorted(found, reverse=True)]


def everything(data: Path) -> list[Stored]:
    """All images of a store."""
    root = data / "store"
    if not root.is_dir():
        return []
    cas = Cas(root, Limits())
    first = {name["id"]: name["name"] for name in cas.names()}
    return [Stored(cas, first.get(record["id"], record["id"]), record) for record in cas.images()]


def in_store(g: Globals, text: str) -> Stored:
    """An image of the store by anything that names one. Failure."""
    ref = reference(text)
    if text.startswith("sha512-") and len(text) < _SHORTEST:
        raise Failure(f"{text}: image ID too short")
    parsed: Any = names.parse(ref) if not ref.startswith(("sha512-", "sha256:")) else None
    if isinstance(parsed, names.Appc):
        ids: Sequence[str] = stored(g.data, parsed)
        if not ids:
            raise Failure(as_rkt_says(f"{text}: no such image in the store", ref))
        ref = ids[0]
    try:
        with operations.opened(g.data, ref) as image:
            return image
    except ImageError as error:
        raise Failure(as_rkt_says(str(error), ref)) from None


def shown_name(image: Stored) -> str:
    """`name:version`, as lists show it."""
    manifest = operations.appc_manifest(image)
    version = next((e["value"] for e in manifest.get("labels") or [] if e["name"] == "version"), "")
    return f"{manifest['name']}:{version}" if version else str(manifest["name"])
