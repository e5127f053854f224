"""What scheduler and executor say to one another inside Mesos messages.

Envelopes, each JSON in base64 (Mesos' `bytes data` fields in the v1 JSON encoding):

* `Launch`, in `TaskInfo.data`: the pod to run and what goes with it, the node's name, the token of the node server.
* `Report`, in `TaskStatus.data`: the pod's status, the node server's address, events since the last report.
* `Wanted`, a framework message from an executor: have the objects of a pod changed, or come, since it was launched?
* `Supply`, the framework message that answers if so: its objects as they are now.

All carry a version. A peer of another version is refused, never guessed at: executor ids carry the
program's version, so a refusal means a broken deployment. This is not the Kubernetes API: pods and statuses
are carried as they are and are not validated here.
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import orjson

VERSION: Final = 1

IDLE_TIMEOUT_VARIABLE: Final = "GANTRY_EXECUTOR_IDLE_TIMEOUT"
"""In an executor's environment: seconds without a pod after which it leaves, 0 for never."""

EventType = Literal["Normal", "Warning"]


class WireError(ValueError):
    """An envelope that cannot be read; the message is one line and says why."""


@dataclass(frozen=True, slots=True)
class Launch:
    """`TaskInfo.data`: what an executor needs to run a pod.

    pod: the whole v1 Pod object. node_name: the name of the Node object (downward API `spec.nodeName`).
    node_token: the bearer token that the executor's node server accepts from now on. runtime_handler: of the pod's
    RuntimeClass, "" for a pod without one. pull_secrets: dockerconfigjson documents (`{"auths": …}`) for its images,
    the first that fits counts. objects: what it uses, as far as there is: `{"configMaps": {NAME: {"data": {KEY: TEXT},
    "binaryData": {KEY: BASE64}}}, "secrets": {NAME: {"data": {KEY: BASE64}}}}`.
    """

    pod: Mapping[str, Any]
    node_name: str
    node_token: str = field(repr=False)
    runtime_handler: str = ""
    pull_secrets: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    objects: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def encode(self) -> str:
        """Base64 text for `TaskInfo.data`."""
        body = {"pod": self.pod, "nodeName": self.node_name, "nodeToken": self.node_token}
        more = {
            "runtimeHandler": self.runtime_handler,
            "pullSecrets": self.pull_secrets,
            "objects": self.objects,
        }
        return _encode({**body, **{name: value for name, value in more.items() if value}})

    @classmethod
    def decode(cls, data: str) -> "Launch":
        """Raises WireError for anything that `encode` of this version did not write."""
        body = _decode(data, "TaskInfo.data")
        return cls(
            pod=_field(body, "pod", dict, "TaskInfo.data"),
            node_name=_field(body, "nodeName", str, "TaskInfo.data"),
            node_token=_field(body, "nodeToken", str, "TaskInfo.data"),
            runtime_handler=_optional(body, "runtimeHandler", str, "TaskInfo.data") or "",
            pull_secrets=tuple(_optional(body, "pullSecrets", list, "TaskInfo.data") or ()),
            objects=_optional(body, "objects", dict, "TaskInfo.data") or {},
        )


@dataclass(frozen=True, slots=True)
class PodEvent:
    """One occurrence that becomes a v1 Event about the pod.

    type: Normal or Warning. reason: CamelCase word (Pulled, Started, BackOff). container: name of the
    container it is about, or "" for the pod as a whole. time: RFC 3339, UTC.
    """

    type: EventType
    reason: str
    message: str
    container: str
    time: str


@dataclass(frozen=True, slots=True)
class Report:
    """`TaskStatus.data`: how a pod is.

    status: v1 PodStatus as the executor knows it (the PodScheduled condition belongs to the scheduler).
    server: host:port of the executor's node server. events: those since the previous report of this pod.
    """

    status: Mapping[str, Any]
    server: str
    events: tuple[PodEvent, ...] = ()

    def encode(self) -> str:
        """Base64 text for `TaskStatus.data`."""
        return _encode({"status": self.status, "server": self.server, "events": self.events})

    @classmethod
    def decode(cls, data: str) -> "Report":
        """Raises WireError for anything that `encode` of this version did not write."""
        body = _decode(data, "TaskStatus.data")
        return cls(
            status=_field(body, "status", dict, "TaskStatus.data"),
            server=_field(body, "server", str, "TaskStatus.data"),
            events=tuple(_event(item) for item in _field(body, "events", list, "TaskStatus.data")),
        )


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the objects of a task's pod are now, if they are no longer those of this digest."""

    task_id: str
    digest: str

    def encode(self) -> str:
        """Base64 text for MESSAGE."""
        return _encode({"wanted": self.task_id, "digest": self.digest})

    @classmethod
    def decode(cls, data: str) -> "Wanted":
        """Raises WireError for anything that `encode` of this version did not write."""
        body = _decode(data, "MESSAGE")
        return cls(_field(body, "wanted", str, "MESSAGE"), _field(body, "digest", str, "MESSAGE"))


@dataclass(frozen=True, slots=True)
class Supply:
    """objects: as in `Launch`, of the pod of this task."""

    task_id: str
    objects: Mapping[str, Any] = field(repr=False)

    def encode(self) -> str:
        """Base64 text for MESSAGE."""
        return _encode({"supply": self.task_id, "objects": self.objects})

    @classmethod
    def decode(cls, data: str) -> "Supply":
        """Raises WireError for anything that `encode` of this version did not write."""
        body = _decode(data, "MESSAGE")
        return cls(_field(body, "supply", str, "MESSAGE"), _field(body, "objects", dict, "MESSAGE"))


def digest_of(objects: Mapping[str, Any]) -> str:
    """By which objects, as in `Launch`, are known again."""
    return hashlib.sha256(orjson.dumps(objects, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _event(item: Any) -> PodEvent:
    where = "TaskStatus.data.events[]"
    if not isinstance(item, dict):
        raise WireError(f"{where}: expected an object, got {type(item).__name__}")
    kind = _field(item, "type", str, where)
    if kind not in {"Normal", "Warning"}:
        raise WireError(f"{where}.type: expected Normal or Warning, got {kind!r}")
    texts = {name: _field(item, name, str, where) for name in ("reason", "message", "container", "time")}
    return PodEvent(type="Normal" if kind == "Normal" else "Warning", **texts)


def _encode(body: dict[str, Any]) -> str:
    return base64.b64encode(orjson.dumps({"version": VERSION, **body})).decode("ascii")


def _decode(data: str, what: str) -> dict[str, Any]:
    try:
        body = orjson.loads(base64.b64decode(data, validate=True))
    except (binascii.Error, orjson.JSONDecodeError, ValueError) as error:
        raise WireError(f"{what}: not base64 of JSON: {error}") from None
    if not isinstance(body, dict):
        raise WireError(f"{what}: expected an object, got {type(body).__name__}")
    version = body.get("version")
    if version != VERSION or isinstance(version, bool):
        raise WireError(
            f"{what}: version {version!r} is unknown, {VERSION} was expected: run one Gantry on both sides"
        )
    return body


def _field(body: Mapping[str, Any], name: str, kind: type[Any], what: str) -> Any:
    value = body.get(name)
    if not isinstance(value, kind):
        found = "nothing" if value is None else type(value).__name__
        raise WireError(f"{what}.{name}: expected {kind.__name__}, got {found}")
    return value


def _optional(body: Mapping[str, Any], name: str, kind: type[Any], what: str) -> Any:
    return _field(body, name, kind, what) if name in body else None
