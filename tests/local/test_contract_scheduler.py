"""The embedded Mesos says what a real one said: the recorded scheduler calls, replayed scenario by scenario.

Ids, times, ports and pids are masked; everything else of an event must be equal. The order is compared within a task.
"""

import asyncio
import contextlib
import json
import re
import signal
from collections import defaultdict
from pathlib import Path
from typing import Any

Json = dict[str, Any]
RECORDING = Path(__file__).parent / "wire" / "scheduler.jsonl"
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
NUMBER = re.compile(r"-(\d{4}|S\d+|O\d+)\b")
PORT = re.compile(r"127\.0\.0\.1:\d+")
MASKED = frozenset(("timestamp", "uuid", "executor_pid", "port", "nanoseconds"))
# What the recording compares by time only, or where only silence follows.
NOT_COMPARED = frozenset(("OFFERS", "HEARTBEAT"))


def scenarios() -> list[tuple[str, list[Json]]]:
    result: list[tuple[str, list[Json]]] = []
    for line in RECORDING.read_text().splitlines():
        entry = json.loads(line)
        if entry["dir"] == "scenario":
            result.append((entry["text"], []))
        elif entry["dir"] != "measure":
            result[-1][1].append(entry)
    return result


def masked(value: Any, key: str = "") -> Any:
    if key in MASKED:
        return "*"
    if isinstance(value, dict):
        return {k: masked(v, k) for k, v in value.items()}
    if isinstance(value, list):
        items = [masked(item) for item in value]
        return sorted(items, key=lambda r: json.dumps(r, sort_keys=True)) if key == "resources" else items
    if isinstance(value, str):
        used, words, available = value.partition(" is more than available ")
        value = used + words + re.sub(r":[\d.]+", ":*", available)  # depends on which offers are out
        return PORT.sub("127.0.0.1:*", NUMBER.sub("-*", UUID.sub("*", value)))
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def by_subject(events: list[Json]) -> dict[str, list[Json]]:
    """Masked events, apart by the task they are of (in its order of appearance) or their type."""
    result: dict[str, list[Json]] = defaultdict(list)
    for event in events:
        if event["type"] not in NOT_COMPARED:
            task = event.get("update", {}).get("status", {}).get("task_id", {}).get("value")
            result[task or event["type"]].append(masked(event))
    return result


class Replay:
    """One pass over the recording."""

    def __init__(self, cluster: Any) -> None:
        self.cluster = cluster
        self.peers: dict[str, Any] = {}
        self.names: dict[str, str] = {"python3 executor.py": ""}
        self.seen: dict[str, int] = {}
        self.offered = {
            offer["id"]["value"]: {resource["name"] for resource in offer["resources"]}
            for _, entries in scenarios()
            for entry in entries
            if entry.get("body", {}).get("type") == "OFFERS"
            for offer in entry["body"]["offers"]["offers"]
        }

    def ours(self, body: Json) -> Json:
        """A recorded call with our ids."""
        text = json.dumps(body)
        for theirs, mine in sorted(self.names.items(), key=lambda item: -len(item[0])):
            text = text.replace(json.dumps(theirs)[1:-1], json.dumps(mine)[1:-1])
        return json.loads(text)

    async def subscribe(self, name: str, call: Json) -> None:
        peer = self.peers[name] = self.cluster.scheduler()
        body = self.ours(call)["subscribe"]
        extra = {"suppressed_roles": body["suppressed_roles"]} if "suppressed_roles" in body else {}
        await peer.subscribe(**body["framework_info"], **extra)
        assert peer.status == 200
        self.seen[name] = 0

    async def call(self, name: str, call: Json, stream_id: str | None = "own") -> tuple[int, str]:
        peer = self.peers[name]
        body = self.ours(call)
        if body["type"] in ("ACCEPT", "DECLINE"):
            await self.real_offers(peer, call, body)
        return await peer.raw(json.dumps(body).encode(), stream_id)

    async def real_offers(self, peer: Any, recorded: Json, body: Json) -> None:
        """Offers of ours for recorded ones that are used for the first time."""
        kind = body["type"].lower()
        for theirs, mine in zip(recorded[kind]["offer_ids"], body[kind]["offer_ids"], strict=True):
            if theirs["value"] not in self.names:
                offer = await peer.offer(names=self.offered[theirs["value"]])
                mine["value"] = self.names[theirs["value"]] = offer["id"]["value"]

    async def compare(self, scenario: str, entries: list[Json]) -> None:
        """Wait for as many events as were recorded, then compare."""
        for name, peer in self.peers.items():
            recorded = [e["body"] for e in entries if e["dir"] == "event" and e["peer"] == name]
            expected = by_subject([self.ours(event) for event in recorded])
            count = sum(map(len, expected.values()))
            start = self.seen[name]
            with contextlib.suppress(AssertionError):  # the comparison says more
                await self.cluster.until(lambda p=peer, s=start, c=count: self.new(p, s) >= c)
            if any(e["dir"] == "stream-closed" and e["peer"] == name for e in entries):
                await peer.until_closed()
            got = by_subject(peer.events[start:])
            assert got == expected, f"{scenario} ({name})"
            self.seen[name] = len(peer.events)

    @staticmethod
    def new(peer: Any, start: int) -> int:
        return sum(event["type"] not in NOT_COMPARED for event in peer.events[start:])

    async def learn(self, name: str, entries: list[Json]) -> None:
        """Our framework's, agent's and stream's ids for the recorded ones."""
        peer = self.peers[name]
        await peer.next("SUBSCRIBED")
        subscribed = next(e["body"]["subscribed"] for e in entries if e["dir"] == "event")
        theirs = subscribed["framework_id"]["value"]
        self.names[theirs] = peer.framework_id
        for entry in entries:
            if entry.get("body", {}).get("type") == "OFFERS":
                offer = entry["body"]["offers"]["offers"][0]
                mine = await peer.offer()
                self.names[offer["agent_id"]["value"]] = mine["agent_id"]["value"]
                peer.offers.append(mine)


async def run_scenario(replay: Replay, text: str, entries: list[Json]) -> None:
    """The calls of one scenario, in order; each reply is compared with the recorded one."""
    cluster = replay.cluster
    process_actions = {
        "agent restart with a running, checkpointed task": restart,
        "agent stopped for good (SIGSTOP), unreachable": stop,
        "agent comes back": carry_on,
    }
    if text in process_actions:
        await process_actions[text](replay)
    if text.startswith("unsubscribe by closing"):
        await replay.peers["sched2"].close()
        del replay.peers["sched2"]
    replies = [e for e in entries if e["dir"] == "reply"]
    if text == "call that is not JSON":
        status, reply = await replay.peers["sched"].raw(b"")
        assert (status, reply) == (replies[0]["status"], replies[0]["text"])
    if text == "subscribe with a stream id header":
        peer = await cluster.scheduler().subscribe({"Mesos-Stream-Id": "x"})
        assert (peer.status, peer.text) == (replies[0]["status"], replies[0]["text"])
    for entry in entries:
        if entry["dir"] != "call" or entry["body"]["type"] == "ACKNOWLEDGE":
            continue  # each of our schedulers acknowledges what it gets
        if entry["body"]["type"] == "SUBSCRIBE":
            await replay.subscribe(entry["peer"], entry["body"])
            continue
        streams = {"call with a wrong stream id": "nonsense", "call without a stream id": None}
        got = await replay.call(entry["peer"], entry["body"], streams.get(text, "own"))
        index = entries.index(entry)
        reply = next(
            e
            for e in entries[index:]
            if e["dir"] == "reply" and e.get("peer", entry["peer"]) == entry["peer"]
        )
        assert (got[0], masked(got[1])) == (reply["status"], masked(reply["text"])), text


async def restart(replay: Replay) -> None:
    await replay.cluster.agent.kill(signal.SIGTERM)
    peer = replay.peers["sched4"]
    await replay.cluster.until(lambda: not peer.offers)
    await replay.cluster.agent.start()
    peer.offers.append(await peer.offer())


async def stop(replay: Replay) -> None:
    replay.cluster.agent.send_signal(signal.SIGSTOP)


async def carry_on(replay: Replay) -> None:
    replay.cluster.agent.send_signal(signal.SIGCONT)


async def test_scheduler_api(cluster, executor_command):
    await cluster.start(
        master=("--agent_ping_timeout", "4secs", "--max_agent_ping_timeouts", "3"),
        agent=("--attributes", "rack:r1;os:debian;ssd:true"),
    )
    replay = Replay(cluster)
    replay.names["python3 executor.py"] = executor_command
    all_scenarios = scenarios()
    subscribes = all_scenarios[0][1] + all_scenarios[1][1]
    for text, entries in all_scenarios:
        await run_scenario(replay, text, entries)
        if text == "subscribe as a new framework":
            await replay.learn("sched", subscribes)
        await replay.compare(text, entries)


def shape(offer: Json) -> Json:
    """An offer with what was free masked out: fields, resource names and roles are the contract."""
    result = masked(offer)
    result.pop("executor_ids", None)
    result["resources"] = sorted(
        (r["name"], r["type"], r["allocation_info"]["role"]) for r in offer["resources"]
    )
    return result


async def test_offers_have_the_recorded_shape(cluster):
    await cluster.start(agent=("--attributes", "rack:r1;os:debian;ssd:true"))
    scheduler = await cluster.subscribe()
    recorded = next(
        e["body"] for _, entries in scenarios() for e in entries if e.get("body", {}).get("type") == "OFFERS"
    )
    assert shape(await scheduler.offer()) == shape(recorded["offers"]["offers"][0])


async def test_the_calls_of_a_loser_are_refused_while_the_winner_goes_on(cluster):
    await cluster.start()
    loser = await cluster.subscribe()
    winner = await cluster.subscribe(id={"value": loser.framework_id})
    await loser.until_closed()
    assert loser.events[-1] == {"type": "ERROR", "error": {"message": "Framework failed over"}}
    status, text = await loser.call("REVIVE")
    assert status == 400
    assert "didn't match the stream ID" in text
    assert await winner.call("REVIVE") == (202, "")
    await asyncio.wait_for(winner.offer(), 60)
