"""What a launch carries besides the pod: taken from the store at that moment, and nothing of it shown."""

from __future__ import annotations

import base64
import json
from typing import Any

from scheduler.framework.supplies import NOTHING, references, supplies_of
from scheduler.store import Key, Store

Json = dict[str, Any]
AUTHS = {"r.example": {"username": "me", "password": "hunter2"}}


async def put(store: Store, resource: str, name: str, namespace: str = "default", **body: Any) -> None:
    obj = {"metadata": {"name": name, "namespace": namespace}, **body}
    await store.commit((Key(resource, namespace, name), lambda _: obj))


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def pod(**spec: Any) -> Json:
    return {
        "metadata": {"name": "p", "namespace": "default"},
        "spec": {"containers": [{"name": "c"}], **spec},
    }


async def test_a_pod_that_uses_nothing(store: Store) -> None:
    assert supplies_of(pod(), store) == NOTHING


async def test_the_handler_of_the_class(store: Store) -> None:
    await put(store, "runtimeclasses.node.k8s.io", "quick", "", handler="fly")
    assert supplies_of(pod(runtimeClassName="quick"), store).runtime_handler == "fly"
    assert supplies_of(pod(runtimeClassName="gone"), store).runtime_handler == ""


async def test_pull_secrets_in_their_order(store: Store) -> None:
    new, old = "kubernetes.io/dockerconfigjson", "kubernetes.io/dockercfg"
    document = b64(json.dumps({"auths": AUTHS, "HttpHeaders": {}}))
    await put(store, "secrets", "new", type=new, data={".dockerconfigjson": document})
    await put(store, "secrets", "old", type=old, data={".dockercfg": b64(json.dumps({"old.example": {}}))})
    await put(store, "secrets", "other", type="Opaque", data={".dockerconfigjson": document})
    await put(store, "secrets", "broken", type=new, data={".dockerconfigjson": b64('{"auths": 1}')})
    await put(store, "secrets", "theirs", "team", type=new, data={".dockerconfigjson": document})
    names = ("old", "none", "new", "other", "broken", "theirs")
    found = supplies_of(pod(imagePullSecrets=[*({"name": one} for one in names), {}]), store)
    assert found.pull_secrets == ({"auths": {"old.example": {}}}, {"auths": AUTHS})
    assert found.missing == ("none", "other", "broken", "theirs")
    assert "hunter2" not in repr(found)


async def test_objects_that_containers_and_volumes_use(store: Store) -> None:
    await put(store, "configmaps", "c", data={"a": "1"}, binaryData={"b": "AA=="})
    await put(store, "configmaps", "unused", data={"a": "1"})
    await put(store, "secrets", "s", type="Opaque", data={"k": b64("hunter2")})
    env = [
        {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        {"name": "B", "value": "x"},
    ]
    found = supplies_of(
        pod(
            containers=[{"name": "c", "env": env, "envFrom": [{"configMapRef": {"name": "no"}}]}],
            initContainers=[{"name": "i", "envFrom": [{"secretRef": {"name": "never"}}]}],
            volumes=[{"name": "v", "projected": {"sources": [{"configMap": {"name": "c"}}]}}],
        ),
        store,
    )
    assert found.objects == {
        "configMaps": {"c": {"data": {"a": "1"}, "binaryData": {"b": "AA=="}}},
        "secrets": {"s": {"data": {"k": b64("hunter2")}}},
    }
    assert b64("hunter2") not in repr(found)


def test_all_that_can_refer_to_an_object() -> None:
    env = [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "1", "key": "k"}}}]
    volumes = [
        {"name": "a", "configMap": {"name": "3"}},
        {"name": "b", "secret": {"secretName": "4"}},
        {"name": "c", "projected": {"sources": [{"secret": {"name": "5"}}, {"downwardAPI": {}}]}},
        {"name": "d", "emptyDir": {}},
    ]
    from_all = [{"configMapRef": {"name": "2"}}]
    found = references(pod(containers=[{"name": "c", "env": env, "envFrom": from_all}], volumes=volumes))
    assert set(found) == {("configMaps", one) for one in "123"} | {("secrets", one) for one in "45"}
