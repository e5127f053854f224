"""`gantry simulate`: many agents in one process, whose tasks run nowhere. For tests and benchmarks of the scheduler.

They speak to the embedded master over its own link for agents and answer as agents with executors do, at once; with
--fault-rate they also fail, as a seed says. What ran when is written to --record.
"""

import argparse
import asyncio
import gc
import logging
import signal
import sys
from pathlib import Path

import aiohttp
import uvloop

from local.agent.flags import endpoint
from local.flags import duration
from local.simulation.agent import Machine, SimulatedAgent
from local.simulation.connection import AT_ONCE, Connection, misbehave
from local.simulation.faults import schedule
from local.simulation.record import Record
from shared.mesos.resources import Resources, parse_attributes

log = logging.getLogger(__name__)

RESOURCES = "cpus:16;mem:65536;disk:100000;ports:[31000-32000]"
FIRST_PORT = 20000
FLUSH = 0.05
"""Seconds between flushes of the record."""


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 20000:
        raise argparse.ArgumentTypeError(f"{text}: not a number of agents (1 to 20000)")
    return int(text)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not 0 <= rate <= 1000:
        raise argparse.ArgumentTypeError(f"{text}: not a number of faults a second (0 to 1000)")
    return rate


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="gantry simulate",
        description="Simulated agents and executors for an embedded master: tasks are said to run and run nowhere.",
    )
    add = parser.add_argument
    add("--master", type=endpoint, required=True, metavar="HOST:PORT")
    add("--agents", type=_count, default=200, metavar="N", help="how many (default: %(default)s)")
    add("--resources", default=RESOURCES, metavar="R", help="of each (default: %(default)s)")
    add("--attributes", default="", metavar="A", help="of each: 'rack:r1;os:debian'")
    add("--record", type=Path, metavar="FILE", help="append there what ran when, one JSON object a line")
    add("--seed", type=int, default=0, metavar="N", help="of the faults (default: %(default)s)")
    add("--fault-rate", type=_rate, default=0.0, metavar="N", help="faults a second (default: none)")
    add(
        "--fault-time",
        type=duration,
        default=10.0,
        metavar="T",
        help="how long, from the first launch on (default: 10secs)",
    )
    add("--log_level", default="info", choices=("debug", "info", "warning", "error"))
    args = parser.parse_args(argv)
    try:
        args.resources = Resources.parse(args.resources)
        args.attributes = tuple(parse_attributes(args.attributes)) if args.attributes else ()
    except ValueError as error:
        parser.error(str(error))
    return args


async def _flush(record: Record) -> None:
    while True:
        await asyncio.sleep(FLUSH)
        record.flush()


async def _simulate(args: argparse.Namespace, record: Record) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    host, port = args.master
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    machines = [
        Machine(f"agent-{number:04}", FIRST_PORT + number, args.resources, args.attributes)
        for number in range(args.agents)
    ]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        agents = [SimulatedAgent(machine, record, loop.call_later) for machine in machines]
        door = asyncio.Semaphore(AT_ONCE)
        connections = [Connection(agent, session, url, door) for agent in agents]
        faults = schedule(args.seed, args.agents, args.fault_rate, args.fault_time)
        log.info("%d agents for the master at %s, %d faults to come", len(agents), url, len(faults))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one.run()) for one in connections]
            tasks.append(group.create_task(_flush(record)))
            if faults:
                tasks.append(group.create_task(misbehave(connections, faults, record)))
            await stop.wait()
            for task in tasks:
                task.cancel()
        for agent in agents:
            agent.close()


def main(argv: list[str]) -> int:
    """Entry point; 0 after SIGTERM or SIGINT, 1 with one line on stderr when it cannot start."""
    args = _parse(argv)
    logging.basicConfig(
        level=args.log_level.upper(), format="%(asctime)s %(levelname).1s %(name)s: %(message)s"
    )
    try:
        gc.set_threshold(50_000, 10, 20)  # the state is no garbage, and large
        with Record(args.record) as record:
            uvloop.run(_simulate(args, record))
    except OSError as error:
        sys.stderr.write(f"gantry: error: simulate: {error}\n")
        return 1
    return 0
