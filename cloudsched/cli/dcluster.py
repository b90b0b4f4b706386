"""How are Spark and Flink clusters and their jobs steered? `cloudsched spark ...`, `cloudsched flink ...`.

They speak the dCluster API, which answers below `/cluster` at the address of every server; lists of clusters, output and the
switch of alerts are the native API's.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from cloudsched.cli.commands import EXIT_FAILED, EXIT_OK, add_action, add_actions
from cloudsched.cli.problems import fail
from cloudsched.cli.session import Listing, Session, add_watch, for_each, open_session, show_list
from cloudsched.cli.table import STATE_COLOURS, Column
from cloudsched.cli.values import duration_s, pair, positive, show_time, whole

COLOURS = {**STATE_COLOURS, "RUNNING": "blue", "SUCCEEDED": "green", "FAILED": "red", "TERMINATED": "dim", "DEGRADED": "yellow"}
CLUSTERS = (Column("ID", right=True), Column("NAME"), Column("STATE", colours=STATE_COLOURS), Column("TENANT"),
            Column("WORKERS", right=True), Column("ADDRESS"), Column("WEB"), Column("CREATED"))
JOBS = (Column("ID", right=True), Column("STATE", colours=COLOURS), Column("CLIENT"), Column("MODULE"), Column("CLUSTER"),
        Column("EXIT", right=True), Column("CREATED"), Column("ENDED"))
LAUNCHED, OVER = ("RUNNING", "DEGRADED"), ("TERMINATED", "FAILED")
ENDED = ("SUCCEEDED", "FAILED", "TERMINATED")
POLL_S = 1.0
_LAUNCH = {"spark": "/v2/launch/spark/cluster", "flink": "/launch/flink/cluster"}
_STATUS = {"spark": "/status/spark/cluster/", "flink": "/status/cluster/"}
_TERMINATE = {"spark": ("DELETE", "/terminate/spark/"), "flink": ("GET", "/terminate/flink/")}


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    parser.epilog = (f"examples:\n  cloudsched {name} launch --workers 2 --wait 5m\n"
                     f"  cloudsched {name} submit {name}-wordcount --config '/data/in.txt /data/out.tsv' --wait\n"
                     f"  cloudsched {name} logs 12 --follow")
    actions = add_actions(parser)
    _add_launch(add_action(actions, "launch", _of(name, run_launch), "launch a cluster; prints its id"))
    shown = add_action(actions, "list", _of(name, run_list), "list clusters, newest first")
    shown.add_argument("--of-state", action="append", metavar="STATE", help="pending, running, ...; repeatable")
    shown.add_argument("--tenant", metavar="NAME", help="of this tenant")
    add_watch(shown)
    status = add_action(actions, "status", _of(name, run_status), "the state of clusters")
    status.add_argument("clusters", nargs="+", metavar="ID|NAME")
    ended = add_action(actions, "terminate", _of(name, run_terminate), "take clusters away, their jobs first")
    ended.add_argument("clusters", nargs="+", metavar="ID|NAME")
    _add_submit(add_action(actions, "submit", _of(name, run_submit), "submit a job; prints its id"))
    jobs = add_action(actions, "jobs", _of(name, run_jobs), "list jobs, newest first")
    jobs.add_argument("--status", metavar="STATE", help="submitted, queued, running, succeeded, failed, terminated, ...")
    jobs.add_argument("--limit", type=positive, default=100, metavar="N", help="the newest N jobs (default 100, at most 1000)")
    add_watch(jobs)
    for verb, run, text in (("info", run_info, "everything about jobs"), ("kill", run_kill, "end jobs")):
        add_action(actions, verb, _of(name, run), text).add_argument("jobs", nargs="+", type=whole, metavar="JOB")
    logs = add_action(actions, "logs", _of(name, run_logs), "the log of a job")
    logs.add_argument("job", type=whole, metavar="JOB")
    logs.add_argument("--follow", "-f", action="store_true", help="until the job has ended")
    add_action(actions, "check", _of(name, run_check), "compare clusters with what really runs, now")
    monitor = add_action(actions, "monitor", _of(name, run_monitor), "whether long-running jobs of a client are told of")
    monitor.add_argument("client", metavar="CLIENT")
    monitor.add_argument("switch", nargs="?", choices=("on", "off"), help="switch it (default: show it)")


class Api:
    """The dCluster API at the address of the session's server."""

    def __init__(self, session: Session) -> None:
        parts = urlsplit(session.client.base_url)
        self._url, self._limit_s = session.client.base_url, session.client.timeout_s
        self._kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._host, self._port = parts.hostname or "", parts.port
        self._prefix = parts.path.rstrip("/") + "/cluster"

    def __call__(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """The answer's value; None for an empty one. Never repeated by itself. Raises ApiError, ServerAway."""
        from cloudsched.client.errors import ServerAway, from_answer

        target = self._prefix + path + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": "application/json"} | ({"Content-Type": "application/json"} if body is not None else {})
        connection = self._kind(self._host, self._port, timeout=self._limit_s)
        try:
            connection.request(method, target, body=None if body is None else json.dumps(body), headers=headers)
            answer = connection.getresponse()
            raw = answer.read()
        except (http.client.HTTPException, OSError) as error:
            raise ServerAway(self._url, getattr(error, "strerror", None) or str(error) or type(error).__name__) from None
        finally:
            connection.close()
        if answer.status >= 400:
            raise from_answer(answer.status, answer.reason, _problem(raw))
        return json.loads(raw) if raw else None


def run_launch(args: argparse.Namespace, kind: str) -> int:
    session = open_session(args)
    api = Api(session)
    flags = {"useOnDemandMaster": args.on_demand_master, "launchNewNode": args.new_node, "launchDynamicDisk": args.dynamic_disk,
             "useExternalNamespace": args.own_namespace}
    body = _given({"tenant": args.tenant or _login(), "workers": args.workers, "workerCpu": args.worker_cpu,
                   "workerMemory": args.worker_memory, "masterCpu": args.master_cpu, "masterMemory": args.master_memory,
                   "type": "spark3" if kind == "spark" else kind, "clusterSuffix": args.suffix, "extraConfigs": _conf(args.conf),
                   **{name: True for name, on in flags.items() if on}, **dict(args.field or ())})
    number = api("POST", _LAUNCH[kind], body)
    state = _until(lambda: api("GET", f"{_STATUS[kind]}{number}"), (*LAUNCHED, *OVER), args.wait) if args.wait else None
    if session.screen.as_json:
        session.screen.json({"id": number, **({"status": state} if state else {})})
    else:
        session.screen.line(f"{number}" + (f" {state}" if state else ""))
    return EXIT_OK if state is None or state in LAUNCHED else _not_yet(session, kind, number, state)


def run_list(args: argparse.Namespace, kind: str) -> int:
    session = open_session(args)
    listing = Listing(CLUSTERS, cluster_row, f"no clusters (launch one with: cloudsched {kind} launch)")
    return show_list(args, session, listing, fetch=lambda: session.client.items(
        "/clusters", kind=kind, state=args.of_state, org=args.tenant))


def run_status(args: argparse.Namespace, kind: str) -> int:
    session = open_session(args)
    api = Api(session)

    def show(one: str) -> int:
        path = _STATUS[kind] + one if one.isdigit() else f"/status/cluster/name/{quote(one, safe='')}"
        return _said(session, one, api("GET", path))

    return for_each(args.clusters, show)


def run_terminate(args: argparse.Namespace, kind: str) -> int:
    session = open_session(args)
    api = Api(session)
    method, path = _TERMINATE[kind]

    def end(one: str) -> int:
        number = one if one.isascii() and one.isdigit() else _number_of(session, one, kind)
        return _said(session, one, api(method, f"{path}{number}"))

    return for_each(args.clusters, end)


def run_submit(args: argparse.Namespace, kind: str) -> int:
    session = open_session(args)
    api = Api(session)
    flags = {"keepAlive": args.keep_alive, "useLongLivingCluster": args.long_living, "useExternalCluster": args.external}
    body = _given({
        "client": args.client or _login(), "module": args.module, "moduleType": kind, "jobType": kind,
        "clusterName": args.cluster, "pipelineConfig": args.config, "pipelineVersion": args.pipeline_version,
        "codeVersion": args.code_version, "numWorkers": args.workers, "workerCpu": args.worker_cpu,
        "workerMemGb": args.worker_memory, "driverMemGb": args.driver_memory, "masterMemory": args.master_memory,
        "emailRecipients": args.email, "extraCmd": _conf(args.conf),
        **{name: True for name, on in flags.items() if on}, **dict(args.field or ())})
    made = api("POST", "/job/submit", body)
    number = made["jobId"]
    if not args.wait:
        session.screen.json(made) if session.screen.as_json else session.screen.line(str(number))
        return EXIT_OK
    _until(lambda: api("GET", f"/job/status/{number}"), ENDED, args.wait)
    found = api("GET", f"/job/info/{number}")
    if session.screen.as_json:
        session.screen.json(found)
    else:
        for line in found.get("log") or ():
            session.screen.line(line)
    state = found["jobStatus"]
    if state not in ENDED:
        how = f"it goes on (cloudsched why {number}, cloudsched {kind} logs {number} -f)"
        return fail(f"job {number}: {state}{_because(found)}; {how}", EXIT_FAILED)
    return EXIT_OK if state == "SUCCEEDED" else fail(f"job {number}: {state}" + _because(found), EXIT_FAILED)


def run_jobs(args: argparse.Namespace, kind: str) -> int:
    session = open_session(args)
    api = Api(session)
    query = {"jobType": kind, "limit": min(args.limit, 1000), **({"status": args.status} if args.status else {})}
    listing = Listing(JOBS, job_row, f"no jobs (submit one with: cloudsched {kind} submit MODULE)")
    return show_list(args, session, listing, fetch=lambda: api("GET", "/job/list", **query))


def run_info(args: argparse.Namespace, _: str) -> int:
    session = open_session(args)
    api = Api(session)

    def show(number: int) -> int:
        found = api("GET", f"/job/info/{number}")
        if session.screen.as_json:
            session.screen.json(found)
            return EXIT_OK
        session.screen.fields((name, value) for name, value in found.items() if name != "log")
        for line in found.get("log") or ():
            session.screen.line(f"  {line}")
        return EXIT_OK

    return for_each(args.jobs, show)


def run_kill(args: argparse.Namespace, _: str) -> int:
    session = open_session(args)
    api = Api(session)
    return for_each(args.jobs, lambda one: _said(session, one, api("POST", f"/job/terminate/{one}")))


def run_logs(args: argparse.Namespace, _: str) -> int:
    session = open_session(args)
    for piece in session.client.output(args.job, follow=args.follow):
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
    return EXIT_OK


def run_check(args: argparse.Namespace, _: str) -> int:
    session = open_session(args)
    found = Api(session)("GET", "/cluster/check")
    session.screen.json(found) if session.screen.as_json else session.screen.line(found)
    return EXIT_OK


def run_monitor(args: argparse.Namespace, _: str) -> int:
    session = open_session(args)
    path = f"/alerts/clients/{quote(args.client, safe='')}"
    if args.switch:
        found = session.client.call("PUT", path, body={"on": args.switch == "on"}).data
    else:
        found = session.client.get(path)
    return _said(session, found["client"], "on" if found["on"] else "off")


def cluster_row(cluster: dict[str, Any]) -> list[str]:
    """A cluster of the native API as the cells of CLUSTERS."""
    workers = f"{cluster.get('workers_ready', 0)}/{cluster.get('workers_wanted', 0)}"
    return [str(cluster["id"]), str(cluster.get("key") or cluster.get("name") or ""), str(cluster.get("state", "")),
            str(cluster.get("org") or ""), workers, str(cluster.get("address") or ""), str(cluster.get("web_url") or ""),
            show_time(cluster.get("created_at"))]


def job_row(job: dict[str, Any]) -> list[str]:
    """A job of the dCluster API as the cells of JOBS."""
    code = job.get("exitCode")
    return [str(job["jobId"]), str(job.get("jobStatus", "")), str(job.get("client", "")), str(job.get("module", "")),
            str(job.get("clusterName") or ""), "" if code is None else str(code), show_time(job.get("created")),
            show_time(job.get("ended"))]


def _add_launch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tenant", metavar="NAME", help="whose cluster it is (default: you)")
    parser.add_argument("--workers", type=positive, metavar="N", help="how many workers (default 1)")
    for name, text in (("worker", "of a worker"), ("master", "of the master")):
        parser.add_argument(f"--{name}-cpu", metavar="CORES", help=f"cores {text}: 2, 500m")
        parser.add_argument(f"--{name}-memory", metavar="SIZE", help=f"memory {text}: 8Gi, 512Mi")
    parser.add_argument("--suffix", metavar="TEXT", help="end of the cluster's name")
    parser.add_argument("--on-demand-master", action="store_true", help="the master on a machine that is not taken back")
    parser.add_argument("--new-node", action="store_true", help="on machines of their own")
    parser.add_argument("--dynamic-disk", action="store_true", help="a disk of its own for each worker")
    parser.add_argument("--own-namespace", action="store_true", help="in the tenant's own namespace")
    _add_more(parser)
    parser.add_argument("--wait", nargs="?", const=600, type=duration_s, metavar="TIME", help="until it runs (at most 10m)")


def _add_submit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("module", metavar="MODULE", help="a module of the catalogue")
    parser.add_argument("--client", metavar="NAME", help="whose job it is (default: you)")
    parser.add_argument("--config", metavar="TEXT", help="its pipelineConfig")
    parser.add_argument("--pipeline-version", metavar="TEXT", help="its pipelineVersion")
    parser.add_argument("--code-version", metavar="VERSION", help="which version of the module")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--cluster", metavar="NAME", help="on this cluster (default: one of its own)")
    where.add_argument("--long-living", action="store_true", help="on the client's long-living cluster")
    where.add_argument("--external", action="store_true", help="on the external cluster of --conf or of the settings")
    parser.add_argument("--keep-alive", action="store_true", help="its own cluster stays when it has ended")
    parser.add_argument("--workers", type=positive, metavar="N", help="how many workers")
    parser.add_argument("--worker-cpu", metavar="CORES", help="cores of a worker")
    parser.add_argument("--worker-memory", metavar="GB", help="memory of a worker in GB")
    parser.add_argument("--driver-memory", metavar="GB", help="memory of the driver in GB")
    parser.add_argument("--master-memory", metavar="SIZE", help="memory of the master: 512Mi")
    parser.add_argument("--email", metavar="ADDRESSES", help="who is told when it runs too long")
    _add_more(parser)
    parser.add_argument("--wait", nargs="?", const=86400, type=duration_s, metavar="TIME",
                        help="until it has ended; prints its log")


def _add_more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--conf", action="append", type=pair, metavar="K=V", help="a setting of Spark or Flink; repeatable")
    parser.add_argument("--field", action="append", type=pair, metavar="K=V", help="any other field of the request; repeatable")


def _of(kind: str, run: Callable[[argparse.Namespace, str], int]) -> Callable[[argparse.Namespace], int]:
    return lambda args: run(args, kind)


def _conf(pairs: list[tuple[str, str]] | None) -> str | None:
    return json.dumps(dict(pairs)) if pairs else None


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _login() -> str:
    from cloudsched.client.where import login_name

    return login_name() or "nobody"


def _until(look: Callable[[], str], states: tuple[str, ...], limit_s: float) -> str:
    until = time.monotonic() + limit_s
    while (state := look()) not in states and time.monotonic() < until:
        time.sleep(POLL_S)
    return state


def _not_yet(session: Session, kind: str, number: int, state: str) -> int:
    reason = session.client.get(f"/clusters/{number}").get("reason")
    more = "" if state in OVER else f" (it goes on; cloudsched clusters show {number}, cloudsched {kind} terminate {number})"
    return fail(f"cluster {number} is {state}{f': {reason}' if reason else ''}{more}")


def _because(job: dict[str, Any]) -> str:
    return f" ({job['reason']})" if job.get("reason") else ""


def _number_of(session: Session, name: str, kind: str) -> int:
    """The id of the cluster of this name: the API takes clusters away by their ids alone. Raises NotFound."""
    from cloudsched.client.errors import NotFoundError

    found = session.client.get(f"/clusters/{quote(name, safe='')}")
    if found["kind"] != kind:
        raise NotFoundError(404, f"it is a {found['kind']} cluster, not one of {kind}")
    return int(found["id"])


def _said(session: Session, what: Any, value: Any) -> int:
    if session.screen.as_json:
        session.screen.json_line({"id": what, "status": value})
    else:
        session.screen.line(f"{what}: {value}")
    return EXIT_OK


def _problem(raw: bytes) -> bytes:
    """The dialect's error as the native API would have said it."""
    try:
        return json.dumps({"title": json.loads(raw)["error"]}).encode()
    except (ValueError, KeyError, TypeError):
        return raw
