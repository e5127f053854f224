"""Whatever passes the decoder, the rest must cope with: an exception there would be a 500."""

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.registry import NODES, PODS
from scheduler.registry.decode import decode
from scheduler.registry.errors import FieldError
from shared.models.base import KubeModel, Shape, patch_schema

TEXT = st.sampled_from(
    ["", "a", "web", "A b", "/x", "Always", "TCP", "Exists", "NoExecute", "..", "x" * 300, "é"]
)
SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "string": TEXT,
    "integer": st.sampled_from([0, 1, -1, 80, 2**31 - 1]),
    "boolean": st.booleans(),
    "object": st.just({}),
}
FORMATS: dict[str, st.SearchStrategy[Any]] = {
    "quantity": st.sampled_from(["0", "1", "-1", "100m", "1.5Gi", 2, 0.5]),
    "date-time": st.just("2024-05-01T12:00:00Z"),
    "int-or-string": st.sampled_from([80, "http"]),
}


@st.composite
def objects(draw, model: type[KubeModel], depth: int = 0):
    shapes = patch_schema(model)
    # Deep types hang off a few fields; the deeper, the fewer of the optional ones.
    names = draw(st.lists(st.sampled_from(sorted(shapes)), max_size=6 if depth < 3 else 2, unique=True))
    if depth < 2:
        names += [name for name in ("metadata", "spec", "containers") if name in shapes and name not in names]
    return {name: draw(values(shapes[name], depth)) for name in names}


def values(shape: Shape, depth: int) -> st.SearchStrategy[Any]:
    held: st.SearchStrategy[Any]
    if shape.model is not None:
        held = objects(shape.model, depth + 1)
    else:
        held = FORMATS.get(shape.format, SCALARS.get(shape.scalar, TEXT))
    if shape.container == "list":
        return st.lists(held, max_size=2)
    if shape.container == "map":
        return st.dictionaries(st.sampled_from(["cpu", "memory", "a/b", "x y", ""]), held, max_size=2)
    return held if depth < 2 and shape.model is not None else st.one_of(st.none(), held)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_pods(now, data):
    first, second = data.draw(objects(PODS.model)), data.draw(objects(PODS.model))
    for one in (first, second):
        one.update(apiVersion="v1", kind="Pod")
    old, _ = decode(PODS, first, "Strict")
    PODS.prepare_create(old, now)
    assert all(isinstance(one, FieldError) for one in PODS.validate_create(old))
    new, _ = decode(PODS, second, "Strict")
    new = PODS.prepare_update(new, old, status=False)
    assert all(isinstance(one, FieldError) for one in PODS.validate_update(new, old))
    with_status = {**old, "status": second.get("status") or {}}
    assert len(PODS.row(with_status, now)) == len(PODS.columns)
    assert all(isinstance(get(with_status), str) for get in PODS.fields.values())


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_nodes(now, data):
    first, second = data.draw(objects(NODES.model)), data.draw(objects(NODES.model))
    for one in (first, second):
        one.update(apiVersion="v1", kind="Node")
    old, _ = decode(NODES, first, "Strict")
    new, _ = decode(NODES, second, "Strict")
    new = NODES.prepare_update(new, old, status=False)
    assert all(isinstance(one, FieldError) for one in NODES.validate_update(new, old))
    assert len(NODES.row(new, now)) == len(NODES.columns)
