"""Our models have exactly the fields of Kubernetes 1.32, by the word of the official Python client."""

import inspect
import json
from datetime import datetime
from types import SimpleNamespace

import pytest

from shared.models import config, event, meta, namespace, node, pod, runtime_class
from shared.models.base import patch_schema

kubernetes = pytest.importorskip("kubernetes")
client = kubernetes.client

TOP = {
    "V1Pod": pod.Pod,
    "V1Node": node.Node,
    "V1Namespace": namespace.Namespace,
    "CoreV1Event": event.Event,
    "V1Secret": config.Secret,
    "V1ConfigMap": config.ConfigMap,
    "V1ServiceAccount": config.ServiceAccount,
    "V1RuntimeClass": runtime_class.RuntimeClass,
    "V1Status": meta.Status,
    "V1DeleteOptions": meta.DeleteOptions,
}
MAJOR = int(kubernetes.__version__.partition(".")[0])
NEWEST = 37
if MAJOR < 32:
    pytest.skip("the installed kubernetes client is older than our models (1.32)", allow_module_level=True)
# Fields that the client got after 1.32, up to its version NEWEST; what a newer one has more is not ours to know.
NEWER = {
    "V1ClusterTrustBundleProjection": {"user"},
    "V1ConfigMapVolumeSource": {"defaultUser"},
    "V1Container": {"restartPolicyRules"},
    "V1ContainerStatus": {"stopSignal"},
    "V1DownwardAPIVolumeFile": {"user"},
    "V1DownwardAPIVolumeSource": {"defaultUser"},
    "V1EmptyDirVolumeSource": {"mode"},
    "V1EnvVarSource": {"fileKeyRef"},
    "V1EphemeralContainer": {"restartPolicyRules"},
    "V1GRPCAction": {"mode"},
    "V1HTTPGetAction": {"protocol"},
    "V1KeyToPath": {"user"},
    "V1Lifecycle": {"stopSignal"},
    "V1ListMeta": {"shardInfo"},
    "V1NodeSpec": {"podPreemptionPolicy"},
    "V1NodeStatus": {"declaredFeatures"},
    "V1NodeSystemInfo": {"runningInUserNamespace", "swap"},
    "V1PodCondition": {"observedGeneration"},
    "V1PodSpec": {"evictionResponders", "hostnameOverride", "schedulingGroup"},
    "V1PodStatus": {
        "allocatedResources",
        "extendedResourceClaimStatus",
        "nodeAllocatableResourceClaimStatuses",
        "observedGeneration",
        "resources",
        "volumeHealth",
    },
    "V1ProjectedVolumeSource": {"defaultUser"},
    "V1ResourceHealth": {"message"},
    "V1SecretVolumeSource": {"defaultUser"},
    "V1ServiceAccountTokenProjection": {"user"},
    "V1VolumeMount": {"bindMountOptions"},
    "V1VolumeMountStatus": {"volumeStatus"},
    "V1VolumeProjection": {"podCertificate"},
}


def reachable():
    found = dict(TOP)
    pending = list(TOP.values())
    while pending:
        for shape in patch_schema(pending.pop()).values():
            if shape.model is None or shape.model in found.values():
                continue
            name = shape.model.__name__
            found[f"V1{name}" if hasattr(client, f"V1{name}") else f"CoreV1{name}"] = shape.model
            pending.append(shape.model)
    return found


@pytest.mark.parametrize(("name", "model"), sorted(reachable().items()))
def test_a_model_has_the_clients_fields(name, model):
    ours, theirs = set(patch_schema(model)), set(getattr(client, name).attribute_map.values())
    assert ours <= theirs
    if MAJOR <= NEWEST:
        assert theirs - ours <= NEWER.get(name, set())


def test_all_of_a_pod_is_reached():
    assert {"V1Container", "V1Volume", "V1Probe", "V1SecurityContext", "V1Affinity"} <= set(reachable())
    assert len(reachable()) > 120


def deserialise(api, data, name):
    """It takes a response in some versions, the text and its type in others."""
    text = json.dumps(data)
    if len(inspect.signature(api.deserialize).parameters) == 2:
        return api.deserialize(SimpleNamespace(data=text), name)
    return api.deserialize(text, name, "application/json")


@pytest.mark.parametrize(("name", "model"), sorted(TOP.items()))
def test_the_client_reads_and_writes_a_full_object(name, model, fill):
    whole = fill(model)
    model.model_validate(whole)
    api = client.ApiClient()
    read = deserialise(api, whole, name)
    written = api.sanitize_for_serialization(read)
    assert normal(written) == normal(whole)


def normal(value):
    """The client writes moments in another form of the same standard."""
    if isinstance(value, dict):
        return {key: normal(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [normal(inner) for inner in value]
    if isinstance(value, str) and value.startswith("2024-"):
        return datetime.fromisoformat(value)
    return value


def test_every_field_is_described():
    for model in reachable().values():
        assert (model.__doc__ or "").strip()
        for shape in patch_schema(model).values():
            assert shape.description.endswith((".", "?")), f"{model.__name__}.{shape.name}"
