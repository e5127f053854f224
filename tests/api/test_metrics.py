"""/metrics, read by Prometheus' own parser."""

import aiohttp
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from scheduler.api.app import make_app
from scheduler.framework.core.entities import Node, Task
from scheduler.framework.core.lifecycle import TaskState
from scheduler.framework.core.policy import Policy
from scheduler.framework.core.state import State
from scheduler.metrics import Takeover, registry


@pytest.fixture
def state():
    return State(Policy())


@pytest.fixture
def app(store, nodes, token, state):
    shown = registry(lambda: state, lambda: bool(state.nodes), Takeover(), store)
    return make_app(store, nodes=nodes, version="0.1.0", token=token, registry=shown)


@pytest.fixture
async def scrape(server):
    async def get(**headers):
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{server[1]}/metrics", headers=headers) as answer,
        ):
            return answer.status, await answer.text()

    return get


def values(text):
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_the_engines_state_is_shown(scrape, state):
    status, text = await scrape()
    assert status == 200
    assert values(text)["gantry_mesos_connected",] == 0
    assert values(text)["gantry_leader",] == 1
    state.put_node(Node("n", ready=True))
    state.counters["unwanted tasks killed"] += 2
    state.put_task(Task("u.1", "u", "default", "web", 1, "a", "n", "e", TaskState.RUNNING))
    shown = values((await scrape())[1])
    assert shown["gantry_mesos_connected",] == 1
    assert shown["gantry_nodes", "true"] == 1
    assert shown["gantry_tasks", "running"] == 1
    assert shown["gantry_anomalies_total", "unwanted tasks killed"] == 2
    assert shown["gantry_anomalies_total", "launches that did not fit their offers"] == 0


async def test_a_scheduler_that_does_not_lead_shows_that(store):
    clock = iter((10.0, 12.5))
    takeover = Takeover(lambda: next(clock))
    with takeover.measured():
        takeover.epoch = 7
    text = generate_latest(registry(lambda: None, lambda: False, takeover, store)).decode()
    shown = values(text)
    assert "gantry_pods" not in text
    assert (shown["gantry_leader",], shown["gantry_leader_epoch",]) == (0, 0)
    assert (shown["gantry_takeovers_total",], shown["gantry_takeover_seconds",]) == (1, 2.5)
    assert shown["gantry_store_connected",] == 1


@pytest.mark.parametrize("token", ["secret"])
async def test_it_asks_for_the_token(scrape, token):
    assert (await scrape())[0] == 401
    assert (await scrape(Authorization=f"Bearer {token}"))[0] == 200
