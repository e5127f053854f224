"""AppArmor profiles of pods, as field and as the annotation that came before it.

Rules and wording: Kubernetes `pkg/apis/core/validation/validation.go` (ValidateAppArmorProfileField, …PodAnnotations,
…AnnotationsAndFieldsMatch) and `pkg/registry/core/pod/strategy.go` (applyAppArmorVersionSkew). What a node does with
them is the executor's business.
"""

from __future__ import annotations

from collections.abc import Iterator

from scheduler.registry.errors import FieldError
from scheduler.registry.resource import Object
from shared.models.annotations import APPARMOR

_TYPES = ("Localhost", "RuntimeDefault", "Unconfined")
_ANNOTATION = {"runtime/default": "RuntimeDefault", "unconfined": "Unconfined", "": "Unconfined"}
_LOCALHOST = "localhost/"
_LONGEST_PROFILE = 4095
_MATCH = "in annotation and field must match"


def sync_apparmor(pod: Object) -> None:
    """A new pod's annotations become fields, and its fields annotations, in place; the container's field counts."""
    spec = pod["spec"]
    of_pod = (spec.get("securityContext") or {}).get("appArmorProfile")
    for container in _containers(spec):
        notes = pod["metadata"].get("annotations") or {}
        key = APPARMOR + str(container.get("name", ""))
        own = (container.get("securityContext") or {}).get("appArmorProfile")
        if key not in notes:
            if text := _annotation(own or of_pod):
                pod["metadata"]["annotations"] = {**notes, key: text}
        elif own is None:
            field = _field(notes[key])
            if field is not None and not list(_profile(field, "")) and field != of_pod:
                container["securityContext"] = {
                    **(container.get("securityContext") or {}),
                    "appArmorProfile": field,
                }


def apparmor_warnings(pod: Object) -> list[str]:
    """Annotations of containers without a field that says the same (applyAppArmorVersionSkew)."""
    spec, notes = pod.get("spec") or {}, (pod.get("metadata") or {}).get("annotations") or {}
    of_pod = (spec.get("securityContext") or {}).get("appArmorProfile")
    why = 'deprecated since v1.30; use the "appArmorProfile" field instead'
    return [
        f"metadata.annotations[{key}]: {why}"
        for container in _containers(spec)
        if (key := APPARMOR + str(container.get("name", ""))) in notes
        and (container.get("securityContext") or {}).get("appArmorProfile") is None
        and (of_pod is None or _field(notes[key]) != of_pod)
    ]


def validate_apparmor(spec: Object) -> Iterator[FieldError]:
    """The fields."""
    for path, holder in (("spec", spec), *_with_paths(spec)):
        profile = (holder.get("securityContext") or {}).get("appArmorProfile")
        if profile is not None:
            yield from _profile(profile, f"{path}.securityContext.appArmorProfile")


def validate_apparmor_annotations(pod: Object) -> Iterator[FieldError]:
    """Those of a new pod: of containers it has, well formed, and not against the fields."""
    spec, notes = pod.get("spec") or {}, pod["metadata"].get("annotations") or {}
    there = {str(one.get("name", "")): (path, one) for path, one in _with_paths(spec)}
    for key, value in notes.items():
        if not key.startswith(APPARMOR):
            continue
        at, name = f"metadata.annotations[{key}]", key.removeprefix(APPARMOR)
        if name not in there:
            yield FieldError.invalid(at, name, "container not found")
            continue
        if _field(value) is None:
            yield FieldError.invalid(at, value, f'invalid AppArmor profile name: "{value}"')
            continue
        path, container = there[name]
        field = (container.get("securityContext") or {}).get("appArmorProfile")
        if field is not None and not list(_profile(field, "")):
            yield from _mismatch(value, field, f"{path}.securityContext.appArmorProfile")


def validate_apparmor_update(new: Object, old: Object) -> Iterator[FieldError]:
    """Annotations of profiles stay as they are."""
    notes, before = (one["metadata"].get("annotations") or {} for one in (new, old))
    for key in sorted(before.keys() | notes.keys()):
        if key.startswith(APPARMOR) and notes.get(key) != before.get(key):
            what = "remove or update" if key in before else "add"
            yield FieldError.forbidden(f"metadata.annotations[{key}]", f"may not {what} AppArmor annotations")


def _containers(spec: Object) -> Iterator[Object]:
    for key in ("initContainers", "containers"):
        yield from spec.get(key) or ()


def _with_paths(spec: Object) -> Iterator[tuple[str, Object]]:
    for key in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(key) or ()):
            yield f"spec.{key}[{index}]", container


def _annotation(profile: Object | None) -> str:
    """Of a field; "" for one that is none."""
    kind = (profile or {}).get("type")
    if kind == "Localhost":
        return _LOCALHOST + str((profile or {}).get("localhostProfile") or "")
    return {"RuntimeDefault": "runtime/default", "Unconfined": "unconfined"}.get(str(kind), "")


def _field(annotation: str) -> Object | None:
    if annotation in _ANNOTATION:
        return {"type": _ANNOTATION[annotation]}
    if annotation.startswith(_LOCALHOST):
        return {"type": "Localhost", "localhostProfile": annotation.removeprefix(_LOCALHOST)}
    return None


def _profile(profile: Object, path: str) -> Iterator[FieldError]:
    kind, name = profile.get("type"), profile.get("localhostProfile")
    at = f"{path}.localhostProfile"
    if not kind:
        yield FieldError.required(f"{path}.type", "type is required when appArmorProfile is set")
    elif kind not in _TYPES:
        yield FieldError.not_supported(f"{path}.type", kind, _TYPES)
    elif kind != "Localhost":
        if name is not None:
            yield FieldError.invalid(at, name, "can only be set when AppArmor type is Localhost")
    elif name is None or not name.strip():
        yield FieldError.required(at, "must be set when AppArmor type is Localhost")
    elif name != name.strip():
        yield FieldError.invalid(at, name, "must not be padded with whitespace")
    elif len(name) > _LONGEST_PROFILE:
        yield FieldError.too_long(at, _LONGEST_PROFILE)


def _mismatch(annotation: str, field: Object, path: str) -> Iterator[FieldError]:
    said = _field(annotation) or {}
    if said.get("type") != field["type"]:
        yield FieldError.forbidden(f"{path}.type", f"apparmor type {_MATCH}")
    elif said.get("localhostProfile") != field.get("localhostProfile"):
        yield FieldError.forbidden(f"{path}.localhostProfile", f"apparmor profile {_MATCH}")
