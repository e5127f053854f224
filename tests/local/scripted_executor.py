"""A Mesos executor for tests, standard library only; each task's data says what it does.

hang: until killed · sleep N: finish after N seconds · fail: TASK_FAILED · exit [N]: end the process with N (7) ·
mute: launch and say nothing · fork: start a child that ignores SIGTERM, then hang · eat N: take N MB of memory

What it sees goes to `wire.jsonl` in its sandbox, one JSON object a line.
"""

import base64
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid

ENV = os.environ
HOST, PORT = ENV["MESOS_AGENT_ENDPOINT"].rsplit(":", 1)
IDS = {
    "framework_id": {"value": ENV["MESOS_FRAMEWORK_ID"]},
    "executor_id": {"value": ENV["MESOS_EXECUTOR_ID"]},
}
HEADERS = {"Content-Type": "application/json", "Accept": "application/json"}
if "MESOS_EXECUTOR_AUTHENTICATION_TOKEN" in ENV:
    HEADERS["Authorization"] = "Bearer " + ENV["MESOS_EXECUTOR_AUTHENTICATION_TOKEN"]
lock = threading.Lock()
calls_lock = threading.Lock()
unacknowledged = {}
unacknowledged_tasks = {}
eaten = []
calls = None


def log(direction, body):
    line = json.dumps({"dir": direction, "body": body}) + "\n"
    with lock, open(os.path.join(ENV["MESOS_SANDBOX"], "wire.jsonl"), "a") as file:
        file.write(line)


def call(kind, body):
    """Twice, since the connection may be one to an agent that is no more; then SUBSCRIBE has to carry it."""
    global calls
    with calls_lock:
        log("call", {"type": kind, kind.lower(): body})
        data = json.dumps({**IDS, "type": kind, kind.lower(): body})
        for _ in range(2):
            calls = calls or http.client.HTTPConnection(HOST, int(PORT))
            try:
                calls.request("POST", "/api/v1/executor", data, HEADERS)
                reply = calls.getresponse()
                log("reply", {"status": reply.status, "text": reply.read().decode()})
                return
            except (OSError, http.client.HTTPException):
                calls = None


def update(task_id, state, **fields):
    status = {
        "task_id": {"value": task_id},
        "state": state,
        "source": "SOURCE_EXECUTOR",
        "uuid": base64.b64encode(uuid.uuid4().bytes).decode(),
        "timestamp": time.time(),
        "executor_id": IDS["executor_id"],
        **fields,
    }
    unacknowledged[status["uuid"]] = status
    call("UPDATE", {"status": status})


def launch(task):
    task_id = task["task_id"]["value"]
    unacknowledged_tasks[task_id] = task
    what, _, argument = base64.b64decode(task.get("data", "")).decode().partition(" ")
    if what == "mute":
        return
    update(task_id, "TASK_STARTING")
    network = {"network_infos": [{"ip_addresses": [{"ip_address": "172.16.28.5"}]}]}
    update(task_id, "TASK_RUNNING", data="aGVsbG8=", healthy=True, container_status=network)
    if what == "sleep":
        timer = threading.Timer(float(argument), update, (task_id, "TASK_FINISHED"), {"message": "done"})
        timer.daemon = True
        timer.start()
    elif what == "fail":
        update(task_id, "TASK_FAILED", message="exit status 3", reason="REASON_COMMAND_EXECUTOR_FAILED")
    elif what == "exit":
        os._exit(int(argument or 7))
    elif what == "fork":
        child = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
        process = subprocess.Popen([sys.executable, "-c", child], start_new_session=True)
        log("child", process.pid)
    elif what == "eat":
        eaten.append(b"x" * (int(argument) << 20))


def handle(event):
    log("event", event)
    kind = event["type"]
    if kind == "LAUNCH":
        launch(event["launch"]["task"])
    elif kind == "LAUNCH_GROUP":
        for task in event["launch_group"]["task_group"]["tasks"]:
            launch(task)
    elif kind == "KILL":
        update(event["kill"]["task_id"]["value"], "TASK_KILLED", message="killed as asked")
    elif kind == "ACKNOWLEDGED":
        unacknowledged.pop(event["acknowledged"]["uuid"], None)
        unacknowledged_tasks.pop(event["acknowledged"]["task_id"]["value"], None)
    elif kind == "MESSAGE":
        call("MESSAGE", {"data": event["message"]["data"]})
    elif kind == "SHUTDOWN" and "DEAF" not in ENV:
        sys.exit(0)


def stream():
    connection = http.client.HTTPConnection(HOST, int(PORT))
    body = {
        "unacknowledged_tasks": list(unacknowledged_tasks.values()),
        "unacknowledged_updates": [{"status": status} for status in unacknowledged.values()],
    }
    subscribe = {**IDS, "type": "SUBSCRIBE", "subscribe": body}
    log("call", subscribe)
    connection.request("POST", "/api/v1/executor", json.dumps(subscribe), HEADERS)
    reply = connection.getresponse()
    if reply.status != 200:
        log("reply", {"status": reply.status, "text": reply.read().decode()})
        return
    while header := reply.readline():
        length = int(header)
        data = b""
        while len(data) < length:
            part = reply.read(length - len(data))
            if not part:
                return
            data += part
        handle(json.loads(data))


def main():
    signal.signal(signal.SIGTERM, signal.SIG_IGN if "DEAF" in ENV else signal.SIG_DFL)
    with open("/proc/self/cgroup") as file:
        log("env", {"env": dict(ENV), "cwd": os.getcwd(), "uid": os.getuid(), "cgroup": file.read()})
    if "SILENT" in ENV:
        time.sleep(600)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            stream()
        except (OSError, http.client.HTTPException) as error:
            log("error", repr(error))
        time.sleep(0.1)


main()
