"""Placement in the engine: each rule as a short story, and turns that take several frames."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from scheduler.framework.core import effects as fx
from scheduler.framework.core import events as ev
from scheduler.framework.core.claims import Held
from scheduler.framework.core.entities import AgentInfo, Needs, Node, Offer, Taint
from scheduler.framework.core.placement import Candidate, Planner, Topology, Want, place
from scheduler.framework.core.placement_topology import Kind, Residents
from scheduler.framework.core.pods import pod_from_object
from scheduler.framework.core.policy import Policy
from scheduler.framework.core.vectors import Vector
from tests.engine.desk import Desk, MakeOffer, only

HOST = "kubernetes.io/hostname"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def launched(effects: list[fx.Effect]) -> dict[str, str]:
    return {one.task.uid: one.task.node for accept in only(effects, fx.Accept) for one in accept.launches}


def labelled(desk: Desk, uid: str, app: str, **spec: Any) -> None:
    desk.create(uid, **spec)
    desk.pods[uid]["metadata"]["labels"] = {"app": app}
    desk.echoes[-1] = ev.PodChanged(pod_from_object(desk.pods[uid]))


def apart(app: str, key: str = HOST) -> dict[str, Any]:
    term = {"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}}
    return {"podAntiAffinity": {REQUIRED: [term]}}


def near(app: str, key: str = HOST) -> dict[str, Any]:
    term = {"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}}
    return {"podAffinity": {REQUIRED: [term]}}


# ---- rules about pods that run


def test_a_running_pods_anti_affinity_binds_newcomers(desk: Desk, offer: MakeOffer) -> None:
    desk.subscribe()
    labelled(desk, "a", "db", affinity=apart("web"))
    desk.watch()
    assert launched(desk.offer(offer("O1", "A1"))) == {"a": "host-a1"}
    labelled(desk, "b", "web")
    desk.watch()
    assert launched(desk.offer(offer("O2", "A1"))) == {}
    desk.later(1.5)
    (message,) = {one.message for one in only(desk.said, fx.Publish) if one.reason == "FailedScheduling"}
    assert message == "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules."
    assert launched(desk.offer(offer("O3", "A2"))) == {"b": "host-a2"}


def test_a_pod_that_ended_binds_nobody(desk: Desk, offer: MakeOffer) -> None:
    desk.subscribe()
    labelled(desk, "a", "db", affinity=apart("web"), restartPolicy="Never")
    desk.watch()
    desk.offer(offer("O1", "A1"))
    desk.tell("a.1", "RUNNING")
    desk.tell("a.1", "FINISHED")
    labelled(desk, "b", "web")
    desk.watch()
    assert launched(desk.offer(offer("O2", "A1"))) == {"b": "host-a1"}


def test_affinity_finds_the_pod_that_runs_and_survives_a_restart(desk: Desk, offer: MakeOffer) -> None:
    desk.subscribe()
    labelled(desk, "a", "cache")
    desk.watch()
    desk.offer(offer("O1", "A1"))
    desk.tell("a.1", "RUNNING")
    desk.start()
    desk.subscribe()
    labelled(desk, "b", "web", affinity=near("cache"))
    desk.watch()
    assert launched(desk.offer(offer("O2", "A2"), offer("O3", "A1"))) == {"b": "host-a1"}


def test_a_pod_that_gets_another_label_counts_as_what_it_is_now(desk: Desk, offer: MakeOffer) -> None:
    desk.subscribe()
    labelled(desk, "a", "web")
    desk.watch()
    desk.offer(offer("O1", "A1"))
    desk.watch()
    desk.pods["a"]["metadata"]["labels"] = {"app": "other"}
    desk.frame(ev.PodChanged(pod_from_object(desk.pods["a"])))
    labelled(desk, "b", "web", affinity=apart("web"))
    desk.watch()
    assert launched(desk.offer(offer("O2", "A1"))) == {"b": "host-a1"}


def with_claim(name: str) -> dict[str, Any]:
    return {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": name}}]}


def test_pods_with_claims_count_for_the_rules_of_the_same_frame(desk: Desk, offer: MakeOffer) -> None:
    desk.subscribe()
    for uid in ("a", "b"):
        desk.create_claim(f"data-{uid}")
        labelled(desk, uid, "db", affinity=apart("db"), **with_claim(f"data-{uid}"))
    labelled(desk, "c", "web", affinity=apart("db"))
    desk.watch()
    placed = launched(desk.offer(*(offer(f"O{number}", f"A{number}") for number in range(3))))
    assert sorted(placed) == ["a", "b", "c"]
    assert len(set(placed.values())) == 3


# ---- named nodes


def test_a_named_node_is_had_past_cordon_and_no_schedule(desk: Desk, offer: MakeOffer) -> None:
    desk.subscribe()
    desk.offer(offer("O1", "A1"))
    node = replace(desk.state.nodes["host-a1"], unschedulable=True, taints=(Taint("mine", "", "NoSchedule"),))
    desk.frame(ev.NodeChanged(node))
    desk.create("a", nodeName="host-a1")
    desk.create("b")
    desk.watch()
    assert launched(desk.offer(offer("O2", "A1"))) == {"a": "host-a1"}


# ---- preference


def candidate(name: str, cpus: int = 4000, **more: Any) -> Candidate:
    labels = tuple(sorted(more.pop("labels", {}).items()))
    node = Node(name, labels=labels, taints=more.pop("taints", ()), info=more.pop("info", None))
    return Candidate(name, node, Vector(cpus, 8_000_000, 0, more.pop("gpus", 0)), room=10, **more)


def want(uid: str, cpus: int = 100, gpus: int = 0, **needs: Any) -> Want:
    return Want(uid, Needs(Vector(cpus, 32_000, 0, gpus), **needs))


def chosen(wants: list[Want], candidates: list[Candidate], strategy: str = "binpack") -> dict[str, str]:
    place(wants, candidates, strategy=strategy)
    return {uid: one.node.name for one in candidates for uid in one.uids}


def test_bin_packing_fills_and_spreading_levels() -> None:
    wants = [want(str(number)) for number in range(4)]
    assert set(chosen(wants, [candidate("n1"), candidate("n2", 3000)]).values()) == {"n2"}
    placed = chosen(wants, [candidate("n1"), candidate("n2")], "spread")
    assert sorted(placed.values()) == ["n1", "n1", "n2", "n2"]


def test_a_pod_chooses_for_itself() -> None:
    objects = [
        {
            "metadata": {
                "uid": str(n),
                "namespace": "d",
                "name": str(n),
                "annotations": {"gantry.io/placement": "spread"},
            },
            "spec": {"containers": [{}]},
        }
        for n in range(2)
    ]
    wants = [Want(one.uid, one.needs) for one in map(pod_from_object, objects)]
    assert sorted(chosen(wants, [candidate("n1"), candidate("n2")]).values()) == ["n1", "n2"]


def test_gpus_are_kept_for_those_who_ask() -> None:
    gpu, plain = candidate("gpu", 1000, gpus=2000), candidate("plain", 4000)
    placed = chosen(
        [want("a"), want("b", gpus=1000), want("c", cpus=3900), want("d", cpus=500)], [gpu, plain]
    )
    assert placed == {"a": "plain", "b": "gpu", "c": "plain", "d": "gpu"}


def test_taints_that_prefer_not_to_be_had_come_last_and_wishes_first() -> None:
    slow = (Taint("slow", "", "PreferNoSchedule"),)
    nodes = [
        candidate("a", 1000, taints=slow),
        candidate("b", 2000),
        candidate("c", 3000, labels={"disk": "ssd"}),
    ]
    assert chosen([want("p")], nodes) == {"p": "b"}
    wish = {"weight": 1, "preference": {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}}
    obj = {
        "metadata": {"uid": "w", "namespace": "d", "name": "w"},
        "spec": {"containers": [{}], "affinity": {"nodeAffinity": {PREFERRED: [wish]}}},
    }
    pod = pod_from_object(obj)
    assert chosen([Want("w", pod.needs)], [replace(one, uids=[]) for one in nodes]) == {"w": "c"}


def ruled(uid: str, app: str, **spec: Any) -> Want:
    meta = {"uid": uid, "namespace": "d", "name": uid, "labels": {"app": app}}
    pod = pod_from_object({"metadata": meta, "spec": {"containers": [{}], **spec}})
    return Want(uid, pod.needs, pod.namespace, pod.labels)


def hosts(*sizes: int) -> list[Candidate]:
    return [candidate(f"n{i}", size, labels={HOST: f"n{i}"}) for i, size in enumerate(sizes, 1)]


def test_too_few_places_count_as_empty_ones() -> None:
    rule = {
        "maxSkew": 1,
        "topologyKey": HOST,
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "a"}},
    }
    two = [ruled(uid, "a", topologySpreadConstraints=[{**rule, "minDomains": 2}]) for uid in "pq"]
    assert chosen(two, hosts(1000)) == {"p": "n1"}
    two = [ruled(uid, "a", topologySpreadConstraints=[rule]) for uid in "pq"]
    assert chosen(two, hosts(1000)) == {"p": "n1", "q": "n1"}


def test_who_wants_company_waits_for_it_unless_it_is_its_own() -> None:
    assert chosen([ruled("p", "web", affinity=near("cache"))], hosts(1000)) == {}
    assert chosen([ruled("p", "web", affinity=near("web"))], hosts(1000)) == {"p": "n1"}


def test_anti_affinity_placed_in_this_frame_binds_the_rest_of_it() -> None:
    wants = [ruled("w1", "web"), ruled("d", "db", affinity=apart("web")), ruled("w2", "web")]
    assert chosen(wants, hosts(10, 1000)) == {"w1": "n1", "d": "n2"}
    other = ruled("o", "other", affinity=apart("nobody"))
    assert chosen([other, *wants], hosts(20, 1000)) == {"o": "n1", "w1": "n1", "d": "n2"}


def test_counts_made_anew_between_two_frames_are_believed() -> None:
    planner = Planner(hosts(1000, 2000))
    nodes = {one.node.name: one.node for one in planner.candidates}
    wants = [ruled(uid, "web", affinity=apart("db")) for uid in "pq"]
    assert not planner.run(wants[:1], Topology(nodes, Residents())).unplaced
    planner.go_on()
    residents = Residents(dirty={"d"})
    residents.refresh(lambda uid: (Kind("d", (("app", "db"),)), ("n2",)))
    assert planner.run(wants[1:], Topology(nodes, residents)).unplaced == ["q"]


def test_whole_gpus() -> None:
    asked = {"resources": {"limits": {"nvidia.com/gpu": "2"}}}
    meta = {"uid": "u", "namespace": "d", "name": "u"}
    needs = pod_from_object({"metadata": meta, "spec": {"containers": [asked]}}).needs
    assert needs.amounts.gpus == 2000
    assert needs.dedicated, "an agent takes GPUs back from an executor without asking which"
    assert not pod_from_object({"metadata": meta, "spec": {"containers": [{}]}}).needs.dedicated


def test_too_few_gpus_are_told_by_kubernetes_name(desk: Desk, offer: MakeOffer) -> None:
    def with_gpus(offer_id: str, agent_id: str, gpus: int) -> Offer:
        made = offer(offer_id, agent_id)
        return made._replace(amounts=replace(made.amounts, gpus=gpus))

    desk.subscribe()
    limits = {"resources": {"limits": {"nvidia.com/gpu": "2"}}}
    desk.create("p", containers=[{"name": "main", "image": "x", **limits}])
    desk.watch()
    desk.offer(offer("o1", "A1"), with_gpus("o2", "A2", 1000))
    told = only(desk.later(1.5), fx.Publish)
    assert [one.message for one in told] == ["0/2 nodes are available: 2 Insufficient nvidia.com/gpu."]
    [accept] = only(desk.offer(with_gpus("o3", "A3", 2000)), fx.Accept)
    assert (accept.offer_ids, accept.launches[0].amounts.gpus) == (("o3",), 2000)


# ---- long turns


def crowd(desk: Desk, count: int, **policy: Any) -> None:
    desk.policy = replace(desk.policy, **policy)
    desk.start()
    desk.subscribe()
    for number in range(count):
        desk.create(f"p{number:02}")
    desk.watch()


def test_a_long_turn_takes_several_frames_and_loses_no_offer(desk: Desk, offer: MakeOffer) -> None:
    crowd(desk, 10, frame_pods=4)
    first = desk.offer(*(offer(f"O{number}", f"A{number}", cpus=250) for number in range(8)))
    assert len(launched(first)) == 4
    assert not only(first, fx.Decline)
    assert desk.state.next_timer() == desk.now
    second = desk.later(0.0)
    third = desk.later(0.0)
    assert [len(launched(one)) for one in (second, third)] == [4, 0], "8 agents with room for one pod each"
    answered = [one for accept in only([*first, *second, *third], fx.Accept) for one in accept.offer_ids]
    assert sorted(answered) == [f"O{number}" for number in range(8)]
    assert not desk.state.offers


def test_what_is_left_of_a_turn_is_declined(desk: Desk, offer: MakeOffer) -> None:
    crowd(desk, 6, frame_pods=4)
    first = desk.offer(offer("O1", "A1", cpus=500), *(offer(f"S{n}", f"B{n}", cpus=2000) for n in range(3)))
    second = desk.later(0.0)
    assert len(launched(first)) + len(launched(second)) == 6
    (declined,) = only(second, fx.Decline)
    accepted = {one for accept in only([*first, *second], fx.Accept) for one in accept.offer_ids}
    assert set(declined.offer_ids) | accepted == {"O1", "S0", "S1", "S2"}


def test_a_rescinded_offer_is_not_used_by_the_next_frame(desk: Desk, offer: MakeOffer) -> None:
    crowd(desk, 4, frame_pods=2)
    desk.offer(*(offer(f"O{number}", f"A{number}", cpus=250) for number in range(4)))
    (kept, gone) = sorted(desk.state.offers)
    effects = desk.frame(ev.OfferRescinded(gone))
    assert [one.offer_ids for one in only(effects, fx.Accept)] == [(kept,)]


def test_disk_given_back_in_a_turn_is_no_place_for_its_next_frame(desk: Desk, offer: MakeOffer) -> None:
    stray = Held("", "gone", "u-gone", "default/gone")
    crowd(desk, 0, frame_pods=2)
    desk.offer(offer("S0", "A0", held=(stray,)))
    desk.later(desk.policy.stray_grace + 1)
    for number in range(6):
        desk.create(f"p{number}")
    desk.watch()
    effects = desk.offer(
        offer("S1", "A0", cpus=9000, held=(stray,)),
        offer("T1", "C0", cpus=50),
        *(offer(f"O{n}", f"B{n}", cpus=250) for n in range(4)),
    )
    assert any(one.doomed for one in only(effects, fx.Accept))
    effects += desk.later(0.0) + desk.later(0.0)
    answered = [one for accept in only(effects, fx.Accept) for one in accept.offer_ids]
    assert len(answered) == len(set(answered))
    assert not desk.state.offers


def test_a_node_that_changes_in_a_turn_is_judged_anew(desk: Desk, offer: MakeOffer) -> None:
    crowd(desk, 4, frame_pods=2)
    desk.offer(*(offer(f"O{number}", f"A{number}", cpus=250) for number in range(4)))
    left = {one.agent_id for one in desk.state.offers.values()}
    cordoned = desk.state.agents[min(left)].node
    effects = desk.frame(ev.NodeChanged(replace(desk.state.nodes[cordoned], unschedulable=True)))
    assert cordoned not in launched(effects).values()
    assert len(launched(effects)) == 1


def test_a_deleted_pod_is_not_launched_by_the_next_frame(desk: Desk, offer: MakeOffer) -> None:
    crowd(desk, 4, frame_pods=2)
    desk.offer(*(offer(f"O{number}", f"A{number}", cpus=250) for number in range(4)))
    waiting = min(desk.state.pending)
    effects = desk.frame(ev.PodGone(waiting))
    assert waiting not in launched(effects)
    assert len(launched(effects)) == 1


@given(st.integers(1, 6), st.integers(1, 40), st.lists(st.integers(100, 900), min_size=1, max_size=6))
def test_frames_of_any_size_place_the_same_number(pods: int, work: int, sizes: list[int]) -> None:
    def run(**limits: int) -> int:
        nodes = [candidate(f"n{number}", size) for number, size in enumerate(sizes)]
        left, placed = [want(str(number)) for number in range(30)], 0
        while left:
            outcome = place(left, nodes, **limits)
            assert len(outcome.postponed) < len(left), "every frame gets on"
            placed += len(left) - len(outcome.unplaced) - len(outcome.postponed)
            left = [one for one in left if one.uid in outcome.postponed]
        return placed

    assert run(most_pods=pods, most_work=work) == run()


def test_policy_is_binpack_unless_told_otherwise() -> None:
    assert Policy().placement == "binpack"


def test_an_agent_in_a_fault_domain_is_in_a_zone(desk: Desk) -> None:
    desk.subscribe()
    desk.frame(ev.AgentsListed((AgentInfo("A1", "h1", 5051, region="eu", zone="eu-1"),)))
    labels = dict(desk.state.nodes["h1"].labels)
    assert labels["topology.kubernetes.io/region"] == "eu"
    assert labels["topology.kubernetes.io/zone"] == "eu-1"
