"""Where pods go on two real agents, and what kubectl's cordon, taint and drain do to it."""

import json

import pytest

pytestmark = [
    pytest.mark.root,
    pytest.mark.system,
    pytest.mark.xdist_group("cluster"),
]

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
HOST = "kubernetes.io/hostname"


@pytest.fixture
def pod(cluster):
    """Creates pods, and deletes them after the test."""
    names = []

    def create(manifest, **labels):
        manifest["metadata"]["labels"] = labels
        names.append(manifest["metadata"]["name"])
        cluster.create(manifest)
        return names[-1]

    yield create
    for name in names:
        cluster.delete(name)


@pytest.fixture
def nodes(cluster):
    """The names of the two nodes; free again after the test."""
    found = [one["metadata"]["name"] for one in cluster.get("nodes")["items"]]
    assert len(found) == 2
    yield found
    for name in found:
        cluster.kubectl("uncordon", name)
        cluster.kubectl("taint", "nodes", name, "mine-", check=False)
        cluster.kubectl("label", "nodes", name, "disk-")


def why(cluster, tools, name):
    def told():
        conditions = cluster.pod(name)["status"].get("conditions", [])
        return next((one["message"] for one in conditions if one.get("reason") == "Unschedulable"), None)

    return tools.wait_for(f"a reason why {name} waits", told)


def apart(app):
    term = {"topologyKey": HOST, "labelSelector": {"matchLabels": {"app": app}}}
    return {"podAntiAffinity": {REQUIRED: [term]}}


def on(name):
    field = {"key": "metadata.name", "operator": "In", "values": [name]}
    return {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [{"matchFields": [field]}]}}}


def test_a_cordoned_node_gets_no_pod_until_it_is_uncordoned(cluster, nodes, pod, tools, marker):
    for name in nodes:
        cluster.kubectl("cordon", name)
    waits = pod(tools.sleeper("cordoned", marker))
    assert why(cluster, tools, waits) == "0/2 nodes are available: 2 node(s) were unschedulable."
    assert "SchedulingDisabled" in cluster.kubectl("get", "nodes")
    cluster.kubectl("uncordon", nodes[1])
    assert cluster.wait_phase(waits, "Running")["spec"]["nodeName"] == nodes[1]


def test_a_taint_keeps_pods_away_that_do_not_tolerate_it(cluster, nodes, pod, tools, marker):
    cluster.kubectl("taint", "nodes", *nodes, "mine=yes:NoSchedule")
    waits = pod(tools.sleeper("tainted", marker))
    assert (
        why(cluster, tools, waits) == "0/2 nodes are available: 2 node(s) had untolerated taint {mine: yes}."
    )
    tolerant = [{"key": "mine", "operator": "Equal", "value": "yes", "effect": "NoSchedule"}]
    brave = pod(tools.sleeper("tolerant", marker, tolerations=tolerant))
    cluster.wait_phase(brave, "Running")
    cluster.kubectl("taint", "nodes", nodes[0], "mine-")
    assert cluster.wait_phase(waits, "Running")["spec"]["nodeName"] == nodes[0]


def test_a_label_opens_the_node_that_a_pod_waits_for(cluster, nodes, pod, tools, marker):
    waits = pod(tools.sleeper("ssd", marker, nodeSelector={"disk": "ssd"}))
    text = "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."
    assert why(cluster, tools, waits) == text
    cluster.kubectl("label", "nodes", nodes[1], "disk=ssd")
    assert cluster.wait_phase(waits, "Running")["spec"]["nodeName"] == nodes[1]


def test_anti_affinity_puts_one_on_each_node_and_says_why_the_third_waits(cluster, nodes, pod, tools, marker):
    names = [pod(tools.sleeper(f"apart-{n}", marker, affinity=apart("apart")), app="apart") for n in range(2)]
    where = {cluster.wait_phase(name, "Running")["spec"]["nodeName"] for name in names}
    assert where == set(nodes)
    third = pod(tools.sleeper("apart-2", marker, affinity=apart("apart")), app="apart")
    assert (
        why(cluster, tools, third)
        == "0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules."
    )
    gone = cluster.pod(names[0])["spec"]["nodeName"]
    cluster.delete(names[0])
    assert cluster.wait_phase(third, "Running")["spec"]["nodeName"] == gone


def test_spreading_levels_the_nodes(cluster, nodes, pod, tools, marker):
    selector = {"matchLabels": {"app": "level"}}
    rule = {
        "maxSkew": 1,
        "topologyKey": HOST,
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": selector,
    }
    names = [
        pod(tools.sleeper(f"level-{n}", marker, topologySpreadConstraints=[rule]), app="level")
        for n in range(4)
    ]
    where = [cluster.wait_phase(name, "Running")["spec"]["nodeName"] for name in names]
    assert sorted(where) == sorted(nodes * 2)


def test_drain_empties_a_node(cluster, nodes, pod, tools, marker):
    stays = pod(tools.sleeper("stays", marker, affinity=on(nodes[0])))
    leaves = pod(tools.sleeper("leaves", marker, affinity=on(nodes[1])))
    assert cluster.wait_phase(leaves, "Running")["spec"]["nodeName"] == nodes[1]
    cluster.wait_phase(stays, "Running")
    cluster.kubectl("drain", nodes[1], "--force", "--ignore-daemonsets", "--grace-period=1", "--timeout=40s")
    names = {one["metadata"]["name"] for one in cluster.get("pods")["items"]}
    assert stays in names
    assert leaves not in names
    described = json.loads(cluster.kubectl("get", "node", nodes[1], "-o", "json"))
    assert described["spec"]["unschedulable"] is True


def test_a_taint_that_evicts_ends_the_pods_that_do_not_tolerate_it(cluster, nodes, pod, tools, marker):
    forever = [{"key": "mine", "operator": "Exists", "effect": "NoExecute"}]
    stays = pod(tools.sleeper("patient", marker, affinity=on(nodes[0]), tolerations=forever))
    leaves = pod(tools.sleeper("evicted", marker, affinity=on(nodes[0])))
    for name in (stays, leaves):
        cluster.wait_phase(name, "Running")
    cluster.kubectl("taint", "nodes", nodes[0], "mine=now:NoExecute")
    tools.wait_for(
        "the eviction", lambda: "not found" in cluster.kubectl("get", "pod", leaves, check=False).lower()
    )
    assert cluster.pod(stays)["status"]["phase"] == "Running"
