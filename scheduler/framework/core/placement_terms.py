"""The placement rules of a v1 Pod: affinity, topologySpreadConstraints and the annotation gantry.io/placement.

Objects were validated by the registry. matchLabelKeys and mismatchLabelKeys become requirements on the pod's own
values (`pkg/registry/core/pod/strategy.go`, applyMatchLabelKeysAndMismatchLabelKeys).
"""

from __future__ import annotations

from collections.abc import Mapping
from sys import intern
from typing import Any, Final

from scheduler.framework.core.placement_rules import (
    NO_RULES,
    NodeTerm,
    NodeWish,
    PodTerm,
    PodWish,
    Rules,
    Spread,
)
from shared.models.annotations import PLACEMENT, STRATEGIES
from shared.models.selectors import LabelRequirement, LabelSelector, Operator

Json = Mapping[str, Any]

_REQUIRED: Final = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED: Final = "preferredDuringSchedulingIgnoredDuringExecution"


def rules_of(meta: Json, spec: Json) -> Rules:
    """`meta` and `spec` of a validated v1 Pod."""
    affinity = spec.get("affinity") or {}
    constraints = spec.get("topologySpreadConstraints") or ()
    strategy = (meta.get("annotations") or {}).get(PLACEMENT, "")
    strategy = strategy if strategy in STRATEGIES else ""
    if not affinity and not constraints:
        return Rules(strategy=strategy) if strategy else NO_RULES
    nodes = affinity.get("nodeAffinity") or {}
    near, away = affinity.get("podAffinity") or {}, affinity.get("podAntiAffinity") or {}
    wishes = [_pod_wish(one, meta, 1) for one in near.get(_PREFERRED) or ()]
    wishes += [_pod_wish(one, meta, -1) for one in away.get(_PREFERRED) or ()]
    required = nodes.get(_REQUIRED)
    rules = Rules(
        node=None if required is None else tuple(map(_node_term, required.get("nodeSelectorTerms") or ())),
        node_wishes=tuple(
            NodeWish(one["weight"], _node_term(one.get("preference") or {}))
            for one in nodes.get(_PREFERRED) or ()
        ),
        near=tuple(_pod_term(one, meta) for one in near.get(_REQUIRED) or ()),
        away=tuple(_pod_term(one, meta) for one in away.get(_REQUIRED) or ()),
        pod_wishes=tuple(wishes),
        spreads=tuple(_spread(one, meta) for one in constraints),
        strategy=strategy,
    )
    return _with_self(rules, meta) if rules.about_pods else rules


def labels_of(meta: Json) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, intern(value)) for name, value in (meta.get("labels") or {}).items()))


def _with_self(rules: Rules, meta: Json) -> Rules:
    own = {"namespace": meta["namespace"], "labels": labels_of(meta)}
    return Rules(**{name: getattr(rules, name) for name in Rules.__slots__} | own)


def _node_term(term: Json) -> NodeTerm:
    return NodeTerm(
        tuple(map(_requirement, term.get("matchExpressions") or ())),
        tuple(map(_requirement, term.get("matchFields") or ())),
    )


def _requirement(one: Json) -> LabelRequirement:
    operator: Operator = one["operator"]
    return LabelRequirement(one["key"], operator, frozenset(one.get("values") or ()))


def _selector(holder: Json, meta: Json) -> LabelSelector | None:
    """The labelSelector, narrowed to (or away from) the pod's own values of some keys."""
    selector = LabelSelector.from_json(holder.get("labelSelector"))
    if selector is None:
        return None
    own = meta.get("labels") or {}
    operators: tuple[tuple[str, Operator], ...] = (("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn"))
    extra = [
        LabelRequirement(key, operator, frozenset([own[key]]))
        for name, operator in operators
        for key in holder.get(name) or ()
        if key in own
    ]
    return LabelSelector((*selector.requirements, *extra))


def _pod_term(term: Json, meta: Json) -> PodTerm:
    """Neither namespaces nor a selector of them: the pod's own; an empty selector: all."""
    listed = frozenset(term.get("namespaces") or ())
    spaces = LabelSelector.from_json(term.get("namespaceSelector"))
    if spaces is None and not listed:
        listed = frozenset([meta["namespace"]])
    everywhere = spaces is not None and not spaces.requirements
    return PodTerm(
        term["topologyKey"],
        _selector(term, meta),
        None if everywhere else listed,
        None if everywhere else spaces,
    )


def _pod_wish(wish: Json, meta: Json, sign: int) -> PodWish:
    return PodWish(sign * wish["weight"], _pod_term(wish["podAffinityTerm"], meta))


def _spread(one: Json, meta: Json) -> Spread:
    return Spread(
        PodTerm(one["topologyKey"], _selector(one, meta), frozenset([meta["namespace"]])),
        skew=one["maxSkew"],
        hard=one["whenUnsatisfiable"] == "DoNotSchedule",
        min_domains=one.get("minDomains") or 1,
        affinity=one.get("nodeAffinityPolicy", "Honor") == "Honor",
        taints=one.get("nodeTaintsPolicy", "Ignore") == "Honor",
    )
