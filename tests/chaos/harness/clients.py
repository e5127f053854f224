"""Clients that write, and watchers, each in a thread of its own. They try nothing twice: every request is one record.

A client writes its own pods only, one request after the other, at whichever scheduler the dice say.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from harness.cluster import PORT, Cluster
from harness.history import FAIL, OK, UNKNOWN, History, Op, Seen
from harness.processes import APP

PODS = "/api/v1/namespaces/default/pods"
NUMBER, LABEL = "chaos/number", "chaos/value"
PATIENCE = 8.0
"""Seconds a client waits for an answer."""
MOST = 4
"""Pods that a client has at a time."""
PAUSE, SHORT_PAUSE = 1.0, 0.1
"""Seconds between its requests, at most; and between those of a client that does little else than set labels."""


def pod(name: str, number: int) -> dict[str, Any]:
    requests = {"cpu": "100m", "memory": "16Mi"}
    container = {
        "name": "main",
        "image": "localhost/hello:latest",
        "command": ["/bin/sleep", str(APP + number)],
        "resources": {"requests": requests},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {NUMBER: str(number), LABEL: "0"}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [container]},
    }


class Numbers:
    """Each once."""

    def __init__(self) -> None:
        self._last = 0
        self._lock = threading.Lock()

    def next(self) -> int:
        with self._lock:
            self._last += 1
            return self._last


class Client(threading.Thread):
    """See the module. `stop` ends it after the request at hand."""

    def __init__(
        self,
        name: str,
        cluster: Cluster,
        history: History,
        numbers: Numbers,
        seed: int,
        clock: Callable[[], float],
        *,
        labels_only: bool = False,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._cluster, self._history, self._numbers, self._clock = cluster, history, numbers, clock
        self._dice = random.Random(f"{seed} {name}")
        self._labels_only = labels_only
        self._stopping = threading.Event()
        self._mine: dict[int, tuple[str, str]] = {}
        """Name and uid of pods that are there, as far as it knows."""
        self._free: list[str] = []
        """Names of pods that it deleted: they are taken again."""
        self._value = 0

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        pause = SHORT_PAUSE if self._labels_only else PAUSE
        while not self._stopping.wait(self._dice.uniform(pause / 10, pause)):
            if self._labels_only:
                (self._label if self._mine else self._create)()
                continue
            able = [self._create] * (len(self._mine) < MOST)
            able += [self._label, self._label, self._remove, self._conflict] if self._mine else []
            self._dice.choice(able or [self._create])()

    # ---- what it does

    def _create(self) -> None:
        number = self._numbers.next()
        name = self._free.pop() if self._free and self._dice.random() < 0.5 else f"pod-{number}"
        outcome, answer = self._request("create", number, "POST", PODS, pod(name, number))
        if outcome == OK:
            self._mine[number] = (name, answer["metadata"]["uid"])

    def _conflict(self) -> None:
        """Has to be refused: the name is taken."""
        name, _ = self._mine[self._dice.choice(list(self._mine))]
        number = self._numbers.next()
        self._request("create", number, "POST", PODS, pod(name, number))

    def _label(self) -> None:
        number = self._dice.choice(list(self._mine))
        self._value += 1
        body = {"metadata": {"labels": {LABEL: str(self._value)}}}
        self._request("label", number, "PATCH", f"{PODS}/{self._mine[number][0]}", body, self._value)

    def _remove(self) -> None:
        number = self._dice.choice(list(self._mine))
        name, uid = self._mine.pop(number)
        outcome, _ = self._request(
            "delete", number, "DELETE", f"{PODS}/{name}", {"preconditions": {"uid": uid}}
        )
        if outcome == OK:
            self._free.append(name)

    # ---- requests

    def _request(
        self, kind: str, number: int, method: str, path: str, body: Any, value: int = 0
    ) -> tuple[str, Any]:
        invoked = self._clock()
        outcome, status, answer, detail = self._send(method, path, body)
        version = _version(answer) if outcome == OK and kind != "delete" else 0
        self._history.ops.append(
            Op(self.name, kind, number, invoked, self._clock(), outcome, value, version, status, detail)
        )
        return outcome, answer

    def _send(self, method: str, path: str, body: Any) -> tuple[str, int, Any, str]:
        """Outcome, status, answer, and the message of a refusal."""
        host = self._cluster.ip(self._dice.choice(self._cluster.layout.schedulers))
        connection = http.client.HTTPConnection(host, PORT, timeout=PATIENCE)
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"Authorization": f"Bearer {self._cluster.token}", "Content-Type": kind}
        try:
            try:
                connection.connect()
            except OSError as error:
                return FAIL, 0, None, f"not sent: {error}"
            connection.request(method, path, json.dumps(body), headers)
            answer = connection.getresponse()
            content = json.loads(answer.read())
        except (OSError, ValueError, http.client.HTTPException) as error:
            return UNKNOWN, 0, None, repr(error)
        finally:
            connection.close()
        if answer.status < 300:
            return OK, answer.status, content, ""
        outcome = FAIL if answer.status < 500 else UNKNOWN
        return outcome, answer.status, content, str(content.get("message", ""))


class Watcher(threading.Thread):
    """Lists, and watches from there, at one scheduler after the other. `versions`: by uid, what it has put together."""

    def __init__(
        self, name: str, cluster: Cluster, history: History, seed: int, clock: Callable[[], float]
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._cluster, self._history, self._clock = cluster, history, clock
        self._dice = random.Random(f"{seed} {name}")
        self._stopping = threading.Event()
        self._version = 0
        self.versions: dict[str, int] = {}

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        while not self._stopping.is_set():
            host = self._cluster.ip(self._dice.choice(self._cluster.layout.schedulers))
            connection = http.client.HTTPConnection(host, PORT, timeout=PATIENCE)
            try:
                if not self._version:
                    self._list(connection)
                self._watch(connection)
            except (OSError, ValueError, http.client.HTTPException):
                time.sleep(0.1)
            finally:
                connection.close()

    def _get(self, connection: http.client.HTTPConnection, path: str) -> http.client.HTTPResponse:
        connection.request("GET", path, headers={"Authorization": f"Bearer {self._cluster.token}"})
        answer = connection.getresponse()
        if answer.status != 200:
            if answer.status == 410:
                self._version = 0
            raise ValueError(f"{answer.status}: {answer.read()!r}")
        return answer

    def _see(self, kind: str, version: int, **more: Any) -> None:
        self._version = version
        self._history.seen.append(Seen(self.name, self._clock(), kind, version, **more))

    def _list(self, connection: http.client.HTTPConnection) -> None:
        answer = self._get(connection, PODS)
        listed = json.loads(answer.read())
        self.versions = {_uid(one): _version(one) for one in listed["items"]}
        self._see("list", _version(listed), doubtful=answer.headers["Warning"] is not None)

    def _watch(self, connection: http.client.HTTPConnection) -> None:
        seconds = self._dice.randint(3, 7)
        answer = self._get(
            connection, f"{PODS}?watch=true&resourceVersion={self._version}&timeoutSeconds={seconds}"
        )
        while not self._stopping.is_set() and (line := answer.readline()):
            if not line.endswith(b"\n"):
                return
            event = json.loads(line)
            kind, obj = event["type"], event["object"]
            if kind == "ERROR":
                self._version = 0 if obj.get("code") == 410 else self._version
                return
            labels, gone = obj["metadata"]["labels"], kind == "DELETED"
            self._see("event", _version(obj), number=int(labels[NUMBER]), label=int(labels[LABEL]), gone=gone)
            if gone:
                self.versions.pop(_uid(obj), None)
            else:
                self.versions[_uid(obj)] = _version(obj)


def _uid(obj: dict[str, Any]) -> str:
    return str(obj["metadata"]["uid"])


def _version(obj: dict[str, Any]) -> int:
    return int(obj["metadata"]["resourceVersion"])
