"""Placement against a judge that knows nothing of classes, groups, tiers and counts.

The judge reads the v1 objects themselves and asks every node, for every pod, in order: where placement put a pod every
filter must pass, and where it put none no node may pass. Written from kube-scheduler's documentation.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from scheduler.framework.core.entities import Node, Pod, Taint
from scheduler.framework.core.placement import Candidate, Topology, Want, explain, place
from scheduler.framework.core.placement_topology import Kind, Residents
from scheduler.framework.core.pods import pod_from_object
from scheduler.framework.core.vectors import Vector

Json = dict[str, Any]
HOST = "kubernetes.io/hostname"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"

# ---- what is drawn

ZONES, APPS, SPACES = ("z1", "z2", "z3"), ("a", "b"), ("n1", "n2")
keys = st.sampled_from(("zone", HOST, "disk"))
selectors = st.one_of(
    st.sampled_from(APPS).map(lambda app: {"matchLabels": {"app": app}}),
    st.sampled_from(("In", "NotIn")).map(
        lambda op: {"matchExpressions": [{"key": "app", "operator": op, "values": ["a"]}]}
    ),
    st.just({"matchExpressions": [{"key": "track", "operator": "Exists"}]}),
    st.just({}),
)
expressions = st.one_of(
    st.builds(
        lambda op, values: {"key": "zone", "operator": op, "values": sorted(values)},
        st.sampled_from(("In", "NotIn")),
        st.sets(st.sampled_from(ZONES), min_size=1, max_size=2),
    ),
    st.builds(
        lambda op, value: {"key": "size", "operator": op, "values": [str(value)]},
        st.sampled_from(("Gt", "Lt")),
        st.integers(0, 4),
    ),
    st.builds(
        lambda op, key: {"key": key, "operator": op},
        st.sampled_from(("Exists", "DoesNotExist")),
        st.sampled_from(("disk", "size")),
    ),
)
fields = st.builds(
    lambda op, name: {"key": "metadata.name", "operator": op, "values": [name]},
    st.sampled_from(("In", "NotIn")),
    st.sampled_from(("h0", "h1", "h2")),
)
node_terms = st.fixed_dictionaries(
    {},
    optional={
        "matchExpressions": st.lists(expressions, max_size=2),
        "matchFields": st.lists(fields, max_size=1),
    },
)
pod_terms = st.fixed_dictionaries(
    {"topologyKey": keys, "labelSelector": selectors},
    optional={
        "namespaces": st.lists(st.sampled_from(SPACES), max_size=2, unique=True),
        "namespaceSelector": st.sampled_from(({}, {"matchLabels": {"kubernetes.io/metadata.name": "n2"}})),
        "matchLabelKeys": st.just(["track"]),
    },
)
spreads = st.fixed_dictionaries(
    {
        "topologyKey": keys,
        "maxSkew": st.integers(1, 2),
        "whenUnsatisfiable": st.sampled_from(("DoNotSchedule", "DoNotSchedule", "ScheduleAnyway")),
        "labelSelector": selectors,
    },
    optional={
        "minDomains": st.integers(1, 3),
        "nodeAffinityPolicy": st.sampled_from(("Honor", "Ignore")),
        "nodeTaintsPolicy": st.sampled_from(("Honor", "Ignore")),
        "matchLabelKeys": st.just(["track"]),
    },
).map(lambda one: one if one["whenUnsatisfiable"] == "DoNotSchedule" else {**one, "minDomains": None})


def some(of: st.SearchStrategy[Any], most: int = 2) -> st.SearchStrategy[list[Any]]:
    return st.lists(of, max_size=most)


affinities = st.fixed_dictionaries(
    {},
    optional={
        "nodeAffinity": st.fixed_dictionaries(
            {},
            optional={
                REQUIRED: st.lists(node_terms, min_size=1, max_size=2).map(
                    lambda x: {"nodeSelectorTerms": x}
                ),
                PREFERRED: some(
                    st.builds(lambda w, t: {"weight": w, "preference": t}, st.integers(1, 9), node_terms)
                ),
            },
        ),
        "podAffinity": st.fixed_dictionaries(
            {},
            optional={
                REQUIRED: some(pod_terms),
                PREFERRED: some(st.builds(lambda t: {"weight": 5, "podAffinityTerm": t}, pod_terms), 1),
            },
        ),
        "podAntiAffinity": st.fixed_dictionaries({}, optional={REQUIRED: some(pod_terms)}),
    },
)
tolerations = some(
    st.sampled_from(
        (
            {"key": "t", "operator": "Equal", "value": "x", "effect": "NoSchedule"},
            {"key": "t", "operator": "Exists"},
            {"operator": "Exists", "effect": "NoExecute"},
        )
    )
)
specs = st.fixed_dictionaries(
    {"cpu": st.sampled_from((100, 100, 400))},
    optional={
        "affinity": affinities,
        "topologySpreadConstraints": some(spreads),
        "tolerations": tolerations,
        "nodeSelector": st.sampled_from(({"zone": "z1"}, {"disk": "ssd"}, {HOST: "h1"})),
        "nodeName": st.sampled_from(("h0", "h1")),
        "port": st.sampled_from((80, 81)),
        "strategy": st.sampled_from(("binpack", "spread")),
    },
)
labels = st.builds(
    lambda app, track: {"app": app} | ({"track": track} if track else {}),
    st.sampled_from(APPS),
    st.sampled_from(("", "blue", "green")),
)
shapes = st.tuples(st.sampled_from(SPACES), labels, specs)


def pod_of(uid: str, shape: tuple[str, Json, Json]) -> Json:
    namespace, labelled, drawn = shape
    spec = {name: value for name, value in drawn.items() if name not in {"cpu", "port", "strategy"}}
    for one in spec.get("topologySpreadConstraints", ()):
        if one.get("minDomains", 0) is None:
            del one["minDomains"]
    container: Json = {"name": "c", "resources": {"requests": {"cpu": f"{drawn['cpu']}m"}}}
    if "port" in drawn:
        container["ports"] = [{"hostPort": drawn["port"]}]
    notes = {"gantry.io/placement": drawn["strategy"]} if "strategy" in drawn else {}
    meta = {"uid": uid, "name": uid, "namespace": namespace, "labels": labelled, "annotations": notes}
    return {"metadata": meta, "spec": {**spec, "containers": [container]}}


node_labels = st.fixed_dictionaries(
    {},
    optional={
        "zone": st.sampled_from(ZONES),
        "disk": st.just("ssd"),
        "size": st.sampled_from(("1", "3", "big")),
    },
)
node_taints = some(
    st.sampled_from(
        (Taint("t", "x", "NoSchedule"), Taint("t", "y", "PreferNoSchedule"), Taint("e", "", "NoExecute"))
    ),
    1,
).map(tuple)
machines = st.tuples(
    node_labels, node_taints, st.sampled_from((False, False, False, True)), st.integers(2, 9)
)


# ---- the judge


@dataclass
class Machine:
    name: str
    labels: Json
    taints: tuple[Taint, ...]
    cordoned: bool
    cpus: int
    ports: set[int] = field(default_factory=lambda: {80, 81})
    pods: list[Json] = field(default_factory=list)


def matches(selector: Json, held: Json) -> bool:
    for key, value in (selector.get("matchLabels") or {}).items():
        if held.get(key) != value:
            return False
    return all(expression(one, held) for one in selector.get("matchExpressions") or ())


def expression(one: Json, held: Json) -> bool:
    key, values = one["key"], one.get("values") or []
    match one["operator"]:
        case "In":
            return held.get(key) in values
        case "NotIn":
            return held.get(key) not in values
        case "Exists":
            return key in held
        case "DoesNotExist":
            return key not in held
    if key not in held or not held[key].isdigit():
        return False
    return int(held[key]) > int(values[0]) if one["operator"] == "Gt" else int(held[key]) < int(values[0])


def about(term: Json, owner: Json, other: Json) -> bool:
    """Whether a pod term (or a spread constraint) of `owner` means the pod `other`."""
    meta, its = owner["metadata"], other["metadata"]
    spaces, chosen = term.get("namespaces") or [], term.get("namespaceSelector")
    listed = its["namespace"] in spaces
    if chosen is not None:
        listed = listed or matches(chosen, {"kubernetes.io/metadata.name": its["namespace"]})
    elif not spaces:
        listed = its["namespace"] == meta["namespace"]
    keys_ = [key for key in term.get("matchLabelKeys") or () if key in meta["labels"]]
    same = all(its["labels"].get(key) == meta["labels"][key] for key in keys_)
    return listed and same and matches(term["labelSelector"], its["labels"])


def required(pod: Json, kind: str) -> list[Json]:
    return ((pod["spec"].get("affinity") or {}).get(kind) or {}).get(REQUIRED) or []


def selects(pod: Json, one: Machine) -> bool:
    if not matches({"matchLabels": pod["spec"].get("nodeSelector") or {}}, one.labels):
        return False
    terms = required(pod, "nodeAffinity")
    if not terms:
        return True
    return any(
        (term.get("matchExpressions") or term.get("matchFields"))
        and all(expression(e, one.labels) for e in term.get("matchExpressions") or ())
        and all(expression(e, {"metadata.name": one.name}) for e in term.get("matchFields") or ())
        for term in terms["nodeSelectorTerms"]  # type: ignore[call-overload]
    )


def tolerates(pod: Json, taint: Taint) -> bool:
    return any(
        one.get("effect", taint.effect) == taint.effect
        and one.get("key", taint.key) == taint.key
        and (one["operator"] == "Exists" or one.get("value") == taint.value)
        for one in pod["spec"].get("tolerations") or ()
    )


class Judge:
    def __init__(self, machines: list[Machine]) -> None:
        self.machines = machines

    def allows(self, pod: Json, one: Machine) -> bool:
        return self._alone(pod, one) and self._spread(pod, one) and self._pods(pod, one)

    def _alone(self, pod: Json, one: Machine) -> bool:
        named = pod["spec"].get("nodeName")
        if named and named != one.name:
            return False
        effects = {"NoExecute"} if named else {"NoSchedule", "NoExecute"}
        if any(taint.effect in effects and not tolerates(pod, taint) for taint in one.taints):
            return False
        cordon = Taint("node.kubernetes.io/unschedulable", "", "NoSchedule")
        if one.cordoned and not named and not tolerates(pod, cordon):
            return False
        return selects(pod, one) and one.cpus >= cpus(pod) and ports(pod) <= one.ports and len(one.pods) < 6

    def _spread(self, pod: Json, one: Machine) -> bool:
        rules = [
            rule
            for rule in pod["spec"].get("topologySpreadConstraints") or ()
            if rule["whenUnsatisfiable"] == "DoNotSchedule"
        ]
        needed = [rule["topologyKey"] for rule in rules]
        for rule in rules:
            key, counts = rule["topologyKey"], {}
            if key not in one.labels:
                return False
            for machine in self.machines:
                if any(name not in machine.labels for name in needed):
                    continue
                if rule.get("nodeAffinityPolicy", "Honor") == "Honor" and not selects(pod, machine):
                    continue
                if rule.get("nodeTaintsPolicy") == "Honor" and any(
                    taint.effect != "PreferNoSchedule" and not tolerates(pod, taint)
                    for taint in machine.taints
                ):
                    continue
                place_ = machine.labels[key]
                own = {**rule, "namespaces": None}
                counts[place_] = counts.get(place_, 0) + sum(about(own, pod, other) for other in machine.pods)
            least = min(counts.values()) if len(counts) >= rule.get("minDomains", 1) else 0
            mine = about({**rule, "namespaces": None}, pod, pod)
            if counts.get(one.labels[key], 0) + mine - least > rule["maxSkew"]:
                return False
        return True

    def _pods(self, pod: Json, one: Machine) -> bool:
        near = required(pod, "podAffinity")
        if any(term["topologyKey"] not in one.labels for term in near):
            return False
        friends = [
            (machine, other)
            for machine in self.machines
            for other in machine.pods
            if near and all(about(term, pod, other) for term in near)
        ]
        somewhere = any(term["topologyKey"] in machine.labels for machine, _ in friends for term in near)
        if somewhere or not all(about(term, pod, pod) for term in near):
            for term in near:
                key = term["topologyKey"]
                if not any(machine.labels.get(key) == one.labels[key] for machine, _ in friends):
                    return False
        for machine in self.machines:
            for other in machine.pods:
                mine = [term for term in required(pod, "podAntiAffinity") if about(term, pod, other)]
                theirs = [term for term in required(other, "podAntiAffinity") if about(term, other, pod)]
                for term in mine + theirs:
                    key = term["topologyKey"]
                    if key in one.labels and machine.labels.get(key) == one.labels[key]:
                        return False
        return True


def cpus(pod: Json) -> int:
    return int(pod["spec"]["containers"][0]["resources"]["requests"]["cpu"].removesuffix("m"))


def ports(pod: Json) -> set[int]:
    return {one["hostPort"] for one in pod["spec"]["containers"][0].get("ports", ())}


def settle(one: Machine, pod: Json) -> None:
    one.pods.append(pod)
    one.cpus -= cpus(pod)
    one.ports -= ports(pod)


# ---- the trial


EVENLY = {
    "topologySpreadConstraints": [
        {"topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}}
    ]
}


def want_of(pod: Pod) -> Want:
    return Want(pod.uid, replace(pod.needs, node=pod.node), pod.namespace, pod.labels)


@settings(max_examples=600, deadline=None)
@example(
    drawn=[({"zone": "z1"}, (), False, 2), ({"zone": "z2"}, (), False, 2)],
    running=[],
    kinds=[("n2", {"app": "a"}, {"cpu": 100}), ("n2", {"app": "a"}, {"cpu": 100, **EVENLY})],
    copies=1,
    strategy="binpack",
)
@given(
    st.lists(machines, min_size=1, max_size=5),
    st.lists(st.tuples(shapes, st.integers(0, 4)), max_size=3),
    st.lists(shapes, min_size=1, max_size=3),
    st.integers(1, 4),
    st.sampled_from(("binpack", "spread")),
)
def test_what_is_placed_passes_all_filters_and_what_is_not_passes_nowhere(
    drawn: list[Any], running: list[Any], kinds: list[Any], copies: int, strategy: str
) -> None:
    all_machines = [
        Machine(f"h{i}", {**labelled, HOST: f"h{i}"}, taints, cordoned, cpu * 100)
        for i, (labelled, taints, cordoned, cpu) in enumerate(drawn)
    ]
    judge, residents = Judge(all_machines), Residents()
    for number, (shape, where) in enumerate(running):
        pod, machine = pod_of(f"r{number}", shape), all_machines[where % len(all_machines)]
        machine.pods.append(pod)
        known = pod_from_object(pod)
        kind = Kind(known.namespace, known.labels, known.needs.rules.away)
        residents.dirty.add(known.uid)
        residents.refresh(lambda uid, kind=kind, name=machine.name: (kind, (name,)))  # type: ignore[misc]
    nodes = {
        one.name: Node(
            one.name, labels=tuple(sorted(one.labels.items())), taints=one.taints, unschedulable=one.cordoned
        )
        for one in all_machines
    }
    candidates = [
        Candidate(
            one.name,
            nodes[one.name],
            Vector(one.cpus, 10_000_000, 0),
            ((80, 81),),
            room=6 - len(one.pods),
        )
        for one in all_machines
    ]
    objects = [pod_of(f"p{i}", kinds[i % len(kinds)]) for i in range(copies * len(kinds))]
    wants = [want_of(pod_from_object(one)) for one in objects]
    topology = Topology(nodes, residents)
    outcome = place(wants, candidates, topology, strategy=strategy)
    chosen = {uid: one.node.name for one in candidates for uid in one.uids}
    assert sorted([*chosen, *outcome.unplaced]) == sorted(one.uid for one in wants)
    assert not outcome.postponed
    for pod in objects:
        uid = pod["metadata"]["uid"]
        passing = [one.name for one in all_machines if judge.allows(pod, one)]
        if uid in chosen:
            assert chosen[uid] in passing, f"{uid} went to {chosen[uid]}, only {passing} will do"
            settle(next(one for one in all_machines if one.name == chosen[uid]), pod)
        else:
            assert not passing, f"{uid} was not placed, and {passing} would do"
    for pod, want in zip(objects, wants, strict=True):
        if want.uid in outcome.unplaced:
            fits = [one.name for one in all_machines if judge.allows(pod, one)]
            why = explain(want, candidates, topology)
            assert why.startswith(f"0/{len(all_machines)} nodes are available: ")
            given = [int(part.split()[0]) for part in why.split(": ", 1)[1].split(", ") if part[0].isdigit()]
            assert sum(given) >= len(all_machines) - len(fits), "each node that will not do has a reason"
            assert given or fits
