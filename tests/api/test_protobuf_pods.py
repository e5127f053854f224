"""Pods in protobuf, as Go's clients send them."""

import base64

from scheduler.api.protobuf import KINDS, Field, parse_protobuf
from scheduler.registry import PODS
from scheduler.registry.decode import decode

TYPES = {
    "string",
    "int",
    "bool",
    "count",
    "message",
    "map",
    "quantity",
    "quantities",
    "intstr",
    "time",
    "skip",
    "bytes map",
}

# What kubectl 1.32 `debug --copy-to` sends for a copy of a pod with a bit of everything.
SENT = """
    azhzAAoJCgJ2MRIDUG9kEq4HChwKBXJpY2gyEgAaB2RlZmF1bHQiACoAMgA4AEIAEvsGChYKAXYSERIPCgZNZW1vcnkSBQoDOE1pCiEKAXASHN
    IBGQoUGhIKBgoEbm9wZRIGCgFhEgFiIAEQgAIS4AIKAWMSDmxvY2FsaG9zdC9iYjoxGgVzbGVlcBoEMTAwMCoAMhAKA3dlYhAAGFAiA1RDUCoA
    OgYKAUESAWI6HwoETkFNRRIAGhUKEwoCdjESDW1ldGFkYXRhLm5hbWU6FgoBQxIAGg8aDQoGCgRub3BlEgFrGAFCQgoNCgNjcHUSBgoENTAwbQ
    oQCgZtZW1vcnkSBgoENjRNaRINCgNjcHUSBgoENTAwbRIQCgZtZW1vcnkSBgoENjRNaUoNCgF2EAAaAi92IgAyAEoNCgFwEAEaAi9wIgAyAFIm
    ChkSFwoCL3gSCQgBEAAaA3dlYhoAIgRIVFRQEOgHGAEgCigBMANaGAoMGgoKBggAEFAaABIAEAAYASAKKAEwA2IGEgQiAggBahQvZGV2L3Rlcm
    1pbmF0aW9uLWxvZ3IMSWZOb3RQcmVzZW50egkKBRIDQUxMKACAAQCIAQCQAQCiAQRGaWxlEkEKA2RiZxIObG9jYWxob3N0L2JiOjEaAnNoKgBC
    AGoAcgB6DgoMCgpTWVNfUFRSQUNFgAEAiAEAkAEAogEERmlsZRoGQWx3YXlzIAUyDENsdXN0ZXJGaXJzdEIHZGVmYXVsdEoHZGVmYXVsdFIAWA
    BgAGgAchoQACAAIAcoBVIQCg5SdW50aW1lRGVmYXVsdIIBAIoBAJIBFAoSEhAIAxIMCgoKAWESAkluGgFimgERZGVmYXVsdC1zY2hlZHVsZXKi
    AWEKAWkSDmxvY2FsaG9zdC9iYjoxGgVzbGVlcBoEMTAwMCoAQgBqFC9kZXYvdGVybWluYXRpb24tbG9ncgxJZk5vdFByZXNlbnSAAQCIAQCQAQ
    CiAQRGaWxlwgEGQWx3YXlzsgEaCgFrEgZFeGlzdHMaACIJTm9FeGVjdXRlKACyATYKHG5vZGUua3ViZXJuZXRlcy5pby9ub3QtcmVhZHkSBkV4
    aXN0cxoAIglOb0V4ZWN1dGUorAKyATgKHm5vZGUua3ViZXJuZXRlcy5pby91bnJlYWNoYWJsZRIGRXhpc3RzGgAiCU5vRXhlY3V0ZSisAsIBAM
    gBANgBAfABAfoBFFByZWVtcHRMb3dlclByaW9yaXR5qAIAGhAKABoAIgAqADIASgBaAHIAGgAiAA==
"""


def test_a_pod_of_kubectl_s_is_what_its_file_said() -> None:
    sent = parse_protobuf(base64.b64decode(SENT))
    pod, warnings = decode(PODS, sent, "Strict")
    assert warnings == []
    spec, main = pod["spec"], pod["spec"]["containers"][0]
    assert (spec["hostUsers"], spec["terminationGracePeriodSeconds"]) == (False, 5)
    assert spec["securityContext"] == {
        "runAsUser": 0, "supplementalGroups": [0, 7], "fsGroup": 5, "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip
    assert spec["tolerations"][0] == {
        "key": "k",
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": 0,
    }
    assert main["resources"]["limits"] == {"cpu": "500m", "memory": "64Mi"}
    assert main["livenessProbe"]["httpGet"] == {"path": "/x", "port": "web", "scheme": "HTTP"}
    assert main["readinessProbe"]["tcpSocket"] == {"port": 80}
    assert "initialDelaySeconds" not in main["readinessProbe"]
    assert main["env"][2]["valueFrom"] == {"configMapKeyRef": {"name": "nope", "key": "k", "optional": True}}
    assert spec["volumes"][0] == {"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}}
    assert spec["volumes"][1]["projected"]["defaultMode"] == 256


def test_the_table_has_every_field_that_there_is() -> None:
    seen: list[object] = []

    def check(message: dict[int, Field]) -> None:
        if any(message is one for one in seen):
            return
        seen.append(message)
        assert len({field.name for field in message.values() if field.name}) == sum(
            bool(f.name) for f in message.values()
        )
        for field in message.values():
            assert field.type in TYPES, field
            assert (field.of is None) == (field.type != "message"), field
            if field.of is not None:
                check(field.of)

    spec = KINDS["v1", "Pod"][2].of
    assert spec is not None
    check(spec)
    container = next(field.of for field in spec.values() if field.name == "containers")
    assert container is not None
    model = PODS.model.model_fields["spec"].annotation
    of_spec = next(one for one in model.__args__ if one is not type(None))
    of_container = of_spec.model_fields["containers"].annotation.__args__[0].__args__[0]
    for message, kind in ((spec, of_spec), (container, of_container)):
        names = {field.alias or name for name, field in kind.model_fields.items()}
        assert names <= {field.name for field in message.values()}
