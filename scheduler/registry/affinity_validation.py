"""Validation of affinity and topologySpreadConstraints: what kube-apiserver would refuse, in its words.

Rules and wording: `pkg/apis/core/validation/validation.go` (validateAffinity, validateTopologySpreadConstraints) and
apimachinery's `pkg/apis/meta/v1/validation`. Last: the one thing that Gantry does not do, a namespaceSelector that
looks at more than a namespace's name.
"""

from __future__ import annotations

from collections.abc import Iterator

from scheduler.registry import names
from scheduler.registry.errors import FieldError
from scheduler.registry.metadata import validate_labels
from scheduler.registry.resource import Object

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
_NODE_OPERATORS = ("DoesNotExist", "Exists", "Gt", "In", "Lt", "NotIn")
_POLICIES = ("Honor", "Ignore")
_ACTIONS = ("DoNotSchedule", "ScheduleAnyway")
_NAME_LABEL = "kubernetes.io/metadata.name"
_VALUES_NEEDED = "must be specified when `operator` is 'In' or 'NotIn'"
_VALUES_FORBIDDEN = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"


def validate_affinity(affinity: Object | None, path: str = "spec.affinity") -> Iterator[FieldError]:
    """All three kinds."""
    if not affinity:
        return
    yield from _node_affinity(affinity.get("nodeAffinity") or {}, f"{path}.nodeAffinity")
    for kind in ("podAffinity", "podAntiAffinity"):
        rules = affinity.get(kind) or {}
        for index, term in enumerate(rules.get(_REQUIRED) or ()):
            yield from _pod_term(term, f"{path}.{kind}.{_REQUIRED}[{index}]")
        for index, wish in enumerate(rules.get(_PREFERRED) or ()):
            at = f"{path}.{kind}.{_PREFERRED}[{index}]"
            yield from _weight(wish, at)
            yield from _pod_term(wish.get("podAffinityTerm") or {}, f"{at}.podAffinityTerm")


def _weight(wish: Object, path: str) -> Iterator[FieldError]:
    weight = wish.get("weight", 0)
    if not 1 <= weight <= 100:
        yield FieldError.invalid(f"{path}.weight", weight, "must be in the range 1-100")


def _node_affinity(rules: Object, path: str) -> Iterator[FieldError]:
    required = rules.get(_REQUIRED)
    if required is not None:
        at = f"{path}.{_REQUIRED}.nodeSelectorTerms"
        terms = required.get("nodeSelectorTerms")
        if not terms:
            yield FieldError.required(at, "must have at least one node selector term")
        for index, term in enumerate(terms or ()):
            yield from _node_term(term, f"{at}[{index}]")
    for index, wish in enumerate(rules.get(_PREFERRED) or ()):
        at = f"{path}.{_PREFERRED}[{index}]"
        yield from _weight(wish, at)
        yield from _node_term(wish.get("preference") or {}, f"{at}.preference")


def _node_term(term: Object, path: str) -> Iterator[FieldError]:
    for index, one in enumerate(term.get("matchExpressions") or ()):
        yield from _node_requirement(one, f"{path}.matchExpressions[{index}]")
    for index, one in enumerate(term.get("matchFields") or ()):
        yield from _field_requirement(one, f"{path}.matchFields[{index}]")


def _node_requirement(one: Object, path: str) -> Iterator[FieldError]:
    operator, values, key = one.get("operator") or "", one.get("values") or [], one.get("key") or ""
    if operator not in _NODE_OPERATORS:
        yield FieldError.invalid(f"{path}.operator", operator, "not a valid selector operator")
    elif operator in ("In", "NotIn"):
        if not values:
            yield FieldError.required(f"{path}.values", _VALUES_NEEDED)
    elif operator in ("Gt", "Lt"):
        if len(values) != 1:
            why = "must be specified single value when `operator` is 'Lt' or 'Gt'"
            yield FieldError.required(f"{path}.values", why)
    elif values:
        yield FieldError.forbidden(f"{path}.values", _VALUES_FORBIDDEN)
    if complaint := names.qualified_name(key):
        yield FieldError.invalid(f"{path}.key", key, complaint)
    for index, value in enumerate(values):
        if complaint := names.label_value(value):
            yield FieldError.invalid(f"{path}.values[{index}]", value, complaint)


def _field_requirement(one: Object, path: str) -> Iterator[FieldError]:
    operator, values, key = one.get("operator") or "", one.get("values") or [], one.get("key") or ""
    if operator not in ("In", "NotIn"):
        yield FieldError.invalid(f"{path}.operator", operator, "not a valid selector operator")
    elif len(values) != 1:
        why = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"
        yield FieldError.required(f"{path}.values", why)
    if key != "metadata.name":
        yield FieldError.invalid(f"{path}.key", key, "not a valid field selector key")
        return
    for index, value in enumerate(values):
        if complaint := names.dns_subdomain(value):
            yield FieldError.invalid(f"{path}.values[{index}]", value, complaint)


def validate_label_selector(selector: Object | None, path: str) -> Iterator[FieldError]:
    """matchLabels and matchExpressions."""
    if not selector:
        return
    yield from validate_labels(selector.get("matchLabels"), f"{path}.matchLabels")
    for index, one in enumerate(selector.get("matchExpressions") or ()):
        at = f"{path}.matchExpressions[{index}]"
        operator, values, key = one.get("operator") or "", one.get("values") or [], one.get("key") or ""
        if operator in ("In", "NotIn"):
            if not values:
                yield FieldError.required(f"{at}.values", _VALUES_NEEDED)
        elif operator in ("Exists", "DoesNotExist"):
            if values:
                yield FieldError.forbidden(f"{at}.values", _VALUES_FORBIDDEN)
        else:
            yield FieldError.invalid(f"{at}.operator", operator, "not a valid selector operator")
        if complaint := names.qualified_name(key):
            yield FieldError.invalid(f"{at}.key", key, complaint)
        for number, value in enumerate(values):
            if complaint := names.label_value(value):
                yield FieldError.invalid(f"{at}.values[{number}]", value, complaint)


def _pod_term(term: Object, path: str) -> Iterator[FieldError]:
    yield from validate_label_selector(term.get("labelSelector"), f"{path}.labelSelector")
    spaces = term.get("namespaceSelector")
    yield from validate_label_selector(spaces, f"{path}.namespaceSelector")
    for index, name in enumerate(term.get("namespaces") or ()):
        if complaint := names.dns_label(name):
            yield FieldError.invalid(f"{path}.namespaces[{index}]", name, complaint)
    matched = term.get("matchLabelKeys") or ()
    yield from _label_keys(term, "matchLabelKeys", path)
    yield from _label_keys(term, "mismatchLabelKeys", path)
    for index, key in enumerate(term.get("mismatchLabelKeys") or ()):
        if key in matched:
            why = "exists in both matchLabelKeys and mismatchLabelKeys"
            yield FieldError.invalid(f"{path}.mismatchLabelKeys[{index}]", key, why)
    yield from _topology_key(term, path)
    if spaces and _looks_beyond_the_name(spaces):
        why = f"a selector of other labels than {_NAME_LABEL} is not supported by Gantry yet; list the namespaces"
        yield FieldError.forbidden(f"{path}.namespaceSelector", why)


def _looks_beyond_the_name(selector: Object) -> bool:
    keys = {*(selector.get("matchLabels") or ())}
    keys |= {one.get("key") for one in selector.get("matchExpressions") or ()}
    return bool(keys - {_NAME_LABEL})


def _label_keys(holder: Object, field: str, path: str) -> Iterator[FieldError]:
    keys = holder.get(field) or ()
    selector = holder.get("labelSelector")
    if keys and selector is None:
        yield FieldError.forbidden(f"{path}.{field}", "must not be specified when labelSelector is not set")
        return
    for index, key in enumerate(keys):
        if complaint := names.qualified_name(key):
            yield FieldError.invalid(f"{path}.{field}[{index}]", key, complaint)
        elif any(one.get("key") == key for one in (selector or {}).get("matchExpressions") or ()) or key in (
            (selector or {}).get("matchLabels") or ()
        ):
            why = "exists in both matchLabelKeys and labelSelector"
            yield FieldError.invalid(f"{path}.{field}[{index}]", key, why.replace("matchLabelKeys", field))


def _topology_key(holder: Object, path: str) -> Iterator[FieldError]:
    key = holder.get("topologyKey") or ""
    if not key:
        yield FieldError.required(f"{path}.topologyKey", "can not be empty")
    elif complaint := names.qualified_name(key):
        yield FieldError.invalid(f"{path}.topologyKey", key, complaint)


def validate_spread(
    constraints: list[Object] | None, path: str = "spec.topologySpreadConstraints"
) -> Iterator[FieldError]:
    """Every constraint, and that no two are about the same."""
    seen = set()
    for index, one in enumerate(constraints or ()):
        at = f"{path}[{index}]"
        skew, action = one.get("maxSkew", 0), one.get("whenUnsatisfiable") or ""
        if skew <= 0:
            yield FieldError.invalid(f"{at}.maxSkew", skew, "must be greater than zero")
        yield from _topology_key(one, at)
        if action not in _ACTIONS:
            yield FieldError.not_supported(f"{at}.whenUnsatisfiable", action, _ACTIONS)
        pair = (one.get("topologyKey"), action)
        if pair in seen:
            shown = f"{{{pair[0]}, {pair[1]}}}"
            yield FieldError.duplicate(f"{at}.{{topologyKey, whenUnsatisfiable}}", shown)
        seen.add(pair)
        yield from _min_domains(one, at)
        for field in ("nodeAffinityPolicy", "nodeTaintsPolicy"):
            if field in one and one[field] not in _POLICIES:
                yield FieldError.not_supported(f"{at}.{field}", one[field], _POLICIES)
        yield from validate_label_selector(one.get("labelSelector"), f"{at}.labelSelector")
        yield from _label_keys(one, "matchLabelKeys", at)


def _min_domains(one: Object, path: str) -> Iterator[FieldError]:
    least = one.get("minDomains")
    if least is None:
        return
    if least <= 0:
        yield FieldError.invalid(f"{path}.minDomains", least, "must be greater than zero")
    if one.get("whenUnsatisfiable") != "DoNotSchedule":
        why = (
            f"can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {one.get('whenUnsatisfiable')}"
        )
        yield FieldError.invalid(f"{path}.minDomains", least, why)
