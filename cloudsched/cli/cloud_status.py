"""What is the Cloud Scheduler doing? The `cloud_status` command (contract 8.1).

`ROWS` is the contract's table: the first row whose condition holds acts. Everything the
original did not have (`--watch`, `--exit-code`, JSON for further rows) stays out of the
way of what it printed.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from optparse import OptionGroup, Values

from cloudsched import __version__
from cloudsched.classic.problem import ClassicConfigError
from cloudsched.classic.server_conf import STATUS_FILE, read_server_conf, read_status_conf

from .cloud_scheduler_client import (
    DEFAULT_INFO_PORT,
    EXIT_FAILED,
    EXIT_NOT_FOUND,
    EXIT_OK,
    EXIT_USAGE,
    Answer,
    ClientParser,
    Question,
    Server,
    connect,
    failure_lines,
    parse,
    path,
    port_offset,
    run_client,
    say,
)

# Argument of -q -> (title, XML-RPC method, jobs of J5 that belong to it).
LISTS: dict[str, tuple[str, str, Callable[[str, dict[str, object]], bool]]] = {
    "sched": ("Jobs in Scheduled Queue", "get_schedjobs", lambda queue, job: queue == "sched_jobs"),
    "new": ("Jobs in New Queue", "get_newjobs", lambda queue, job: queue == "new_jobs"),
    "high": ("Jobs in High Priority Queue", "get_highjobs", lambda queue, job: bool(job["high_priority"])),
    "running": ("Jobs in Running state", "get_runningjobs", lambda queue, job: job["job_status"] == 2),
    "idle": ("Jobs in Idle state", "get_idlejobs", lambda queue, job: job["job_status"] == 1),
    "held": ("Jobs in Held state", "get_heldjobs", lambda queue, job: job["job_status"] == 5),
    "complete": ("Jobs in Complete state", "get_completejobs", lambda queue, job: job["job_status"] == 4),
}
ALL_LISTS = ("sched", "new", "high")
NEEDS_CLUSTER = "Please provide -c cluster_name with vm ID"

_NOT_FOUND = re.compile(r"(?:Cluster named|VM with id:) .* not found\.\Z|Could not find cloud: ")

EXAMPLES = """
Examples:
  cloud_status                       one line per cloud
  cloud_status -a                    all clouds with their free capacity
  cloud_status -c desk               one cloud
  cloud_status -m --watch 5          the machines, refreshed every 5 seconds
  cloud_status -c desk -n 1001       one machine
  cloud_status -q all                the job queues
  cloud_status -q idle --json        idle jobs as JSON objects
  cloud_status -o -c desk            how many machines a cloud runs
  cloud_status -c desk --exit-code   status 4 if there is no such cloud

With -j and -a, -c or -c -n the answer is the server's JSON. With -j and another option it
is one JSON object: {"vms": [...], "text": ...} for -m, {"LIST": [job, ...]} for -q, else
{"text": ...}; without any option the clouds as with -a. Held and complete jobs are not in
the server's JSON, so -q held and -q complete carry the printed list as "text" too.

Port: -p, else info_server_port of cloud_scheduler_status.conf (-f, ~/.cloudscheduler,
/etc/cloudscheduler, /usr/local/share/cloud-scheduler), else 8111 + CLOUDSCHED_PORT_OFFSET.
"""


@dataclass(frozen=True)
class Part:
    """One piece of output: a question, with a line before and after its answer; or a sentence alone."""

    question: Question | None = None
    before: str = ""
    after: str = ""
    sentence: str = ""


@dataclass(frozen=True)
class Row:
    """One row of the contract's table. `as_json` makes the JSON of rows that had none."""

    condition: Callable[[Values], object]
    parts: Callable[[Values], list[Part]]
    as_json: Callable[[Server, Values], tuple[str, int]] | None = None
    is_json: bool = False


def cloud_status_main(argv: Sequence[str] | None = None) -> int:
    """The `cloud_status` command; returns its exit status (contract 8.1). `argv` without the program."""
    return run_client(lambda: _main(list(sys.argv[1:] if argv is None else argv)))


def _main(argv: list[str]) -> int:
    parser = _parser()
    options = parse(parser, _with_watch_interval(argv))
    if options.watch is None and options.count is not None:
        parser.error("option --count: needs --watch")
    if options.watch is not None and not 0.05 <= options.watch < 1e9:
        parser.error("option --watch: at least 0.05 seconds")
    if options.count is not None and options.count < 1:
        parser.error("option --count: at least 1")
    try:
        file_port = _file_port(options, port_offset(parser))
    except ClassicConfigError as error:
        say(str(error))
        return EXIT_FAILED
    server = connect(parser, options, default_port=DEFAULT_INFO_PORT, file_port=file_port)
    if options.watch is None:
        text, status = _shown(server, options)
        say(text)
        return status
    return _watch(server, options)


def _parser() -> ClientParser:
    description = "Shows what a Cloud Scheduler knows: clouds, machines, jobs."
    parser = ClientParser("cloud_status", description, EXAMPLES)
    parser.add_option("-p", "--port", type="int", metavar="PORT", help="info port of the server")
    parser.flag("-a", "--all-cluster", help="all clouds")
    parser.add_option("-c", "--cluster", metavar="NAME", help="one cloud")
    parser.flag("-m", "--virtual-machines", help="all machines")
    parser.add_option("-n", "--vm-info", metavar="ID", help="one machine; needs -c")
    parser.flag("-j", "--json", help="JSON instead of text")
    parser.flag("-d", "--developer-information", help="memory use of the server")
    parser.add_option("-q", "--job-queue", type="choice", metavar="LIST", choices=["all", *LISTS],
                      help="jobs: all, new, sched, high, running, idle, held or complete")
    parser.flag("-i", "--ip-address", help="public addresses of the machines, for Munin")
    parser.flag("-b", "--boot-time", help="boot times of the machines")
    parser.flag("-t", "--diff_type", help="fair-share table")
    parser.flag("-g", "--avg_job_time", help="average job run time on each machine")
    parser.flag("-l", "--cloud-conf", help="the cloud configuration file, without secrets")
    parser.flag("-o", "--total-vms", help="number of machines; with -c of one cloud")
    parser.flag("-u", "--vm-status", help="number of machines by state; with -c of one cloud")
    parser.flag("-r", "--missing-vms", help="machines in the batch system that no cloud knows")
    parser.flag("-x", "--heart-beats", help="how long ago each loop of the server last ran")
    parser.flag("-z", "--boot-failures", help="why jobs did not get a machine")
    parser.flag("-w", "--image-failures", help="images that failed, by cloud")
    parser.flag("-v", "--version", help="versions of server and client")
    watching = OptionGroup(parser, "Watching")
    watching.add_option("--watch", type="float", metavar="[SECONDS]",
                        help="show again every 2 or so many seconds, until Ctrl-C; in a pipe a dated line"
                        " stands between")
    watching.add_option("--count", type="int", metavar="N", help="with --watch: stop after N times")
    parser.add_option_group(watching)
    parser.add_common_options()
    return parser


def _with_watch_interval(argv: list[str]) -> list[str]:
    """Gives a bare `--watch` its 2 seconds; the option parser knows no optional values."""
    filled = []
    for index, word in enumerate(argv):
        following = argv[index + 1] if index + 1 < len(argv) else ""
        bare = word == "--watch" and not re.fullmatch(r"-?[0-9.]+(?:[eE]-?[0-9]+)?", following)
        filled.append("--watch=2" if bare else word)
    return filled


def _file_port(options: Values, offset: int) -> int | None:
    """Port of the configuration file. XML-RPC clients read the server's own file (contract 6.2)."""
    conf = read_status_conf(options.config_file)
    if conf.path is None and options.xml_rpc:
        server_conf = read_server_conf()
        if server_conf.path is not None:
            given = ("global", "info_server_port") in server_conf.given
            return server_conf.general.info_server_port if given else None
    if conf.path is None and options.port is None and not offset:
        sys.stderr.write(f"cloud_status: no {STATUS_FILE} found, using port {DEFAULT_INFO_PORT}.\n")
    return conf.info_server_port


def _watch(server: Server, options: Values) -> int:
    terminal = sys.stdout.isatty()
    shown = 0
    status = EXIT_OK
    try:
        while True:
            text, status = _shown(server, options)
            if terminal:
                sys.stdout.write("\x1b[H\x1b[2J")
            elif shown and not options.json:
                say(time.strftime("--- %Y-%m-%d %H:%M:%S ---"))
            say(text)
            shown += 1
            if shown == options.count:
                return status
            time.sleep(options.watch)
    except KeyboardInterrupt:
        return status


def _shown(server: Server, options: Values) -> tuple[str, int]:
    """The whole output of one run and its exit status."""
    row = next(row for row in ROWS if row.condition(options))
    try:
        with closing(server):
            text, status = _form(row)(server, options) if options.json else _text(server, row.parts(options))
    except Exception as error:
        return "\n".join(failure_lines(error, server)), EXIT_FAILED
    return text, status if options.exit_code else EXIT_OK


def _form(row: Row) -> Callable[[Server, Values], tuple[str, int]]:
    """How the row's answer becomes JSON."""
    if row.is_json:
        return lambda server, options: _text(server, row.parts(options), is_json=True)
    return row.as_json or _wrapped(row)


def _text(server: Server, parts: list[Part], *, is_json: bool = False) -> tuple[str, int]:
    lines: list[str] = []
    status = EXIT_OK
    for part in parts:
        if part.question is None:
            lines.append(part.sentence)
            status = EXIT_USAGE
            continue
        answer = server.ask(part.question)
        lines += [line for line in (part.before,) if line]
        lines.append(answer.text)
        lines += [line for line in (part.after,) if line]
        status = _judged(answer, is_json=is_json) or status
    return "\n".join(lines), status


def _judged(answer: Answer, *, is_json: bool = False) -> int:
    if answer.status != 200:
        return EXIT_NOT_FOUND if answer.status in (404, 405) else EXIT_FAILED
    missing = answer.text.strip() in ("{}", "null") if is_json else _NOT_FOUND.match(_last_line(answer.text))
    return EXIT_NOT_FOUND if missing else EXIT_OK


def _last_line(text: str) -> str:
    return text.rstrip("\n").rpartition("\n")[2]


def _one(name: str, call: str, **query: str) -> Callable[[Values], list[Part]]:
    return lambda options: [Part(Question(name, call, query=query))]


def _of_cluster(call: str, *, tail: str = "", **query: str) -> Callable[[Values], list[Part]]:
    def parts(options: Values) -> list[Part]:
        where = path("clusters", options.cluster, suffix=tail)
        return [Part(Question(where, call, (options.cluster,), query=query))]

    return parts


def _of_vm(call: str, *, suffix: str = "") -> Callable[[Values], list[Part]]:
    def parts(options: Values) -> list[Part]:
        where = path("clusters", options.cluster, "vms", options.vm_info, suffix=suffix)
        return [Part(Question(where, call, (options.cluster, options.vm_info)))]

    return parts


def _queue(options: Values) -> list[Part]:
    wanted = ALL_LISTS if options.job_queue == "all" else (options.job_queue,)
    return [Part(Question("/jobs", LISTS[name][1], query={"state": name}), before=LISTS[name][0])
            for name in wanted]


def _version(options: Values) -> list[Part]:
    return [Part(Question("/", "get_version"), after=f"Cloud Status version: {__version__}")]


def _wrapped(row: Row) -> Callable[[Server, Values], tuple[str, int]]:
    """JSON for a row whose answer is text only."""
    def as_json(server: Server, options: Values) -> tuple[str, int]:
        text, status = _text(server, row.parts(options))
        return json.dumps({"text": text}), status

    return as_json


def _pool_as_json(server: Server, options: Values) -> tuple[str, int]:
    answer = server.ask(POOL_JSON)
    return (answer.text, EXIT_OK) if answer.status == 200 else _no_json(answer)


def _vms_as_json(server: Server, options: Values) -> tuple[str, int]:
    """The machines as objects; retiring machines of removed clouds appear in the text alone."""
    answer = server.ask(POOL_JSON)
    if answer.status != 200:
        return _no_json(answer)
    clouds = json.loads(answer.text)["resources"]
    vms = [{"cloud": cloud["name"], **vm} for cloud in clouds for vm in cloud["vms"]]
    listing = server.ask(Question("/vms", "get_cluster_vm_resources"))
    return json.dumps({"vms": vms, "text": listing.text}), _judged(listing)


def _queue_as_json(server: Server, options: Values) -> tuple[str, int]:
    answer = server.ask(Question("/job-pool.json", "get_json_jobpool"))
    if answer.status != 200:
        return _no_json(answer)
    jobs = [(queue, json.loads(job) if isinstance(job, str) else job)
            for queue, members in json.loads(answer.text).items() for job in members]
    wanted = ALL_LISTS if options.job_queue == "all" else (options.job_queue,)
    value: dict[str, object] = {}
    for name in wanted:
        value[name] = [job for queue, job in jobs if LISTS[name][2](queue, job)]
    if options.job_queue in ("held", "complete"):
        value["text"] = server.ask(Question("/jobs", LISTS[wanted[0]][1], query={"state": wanted[0]})).text
    return json.dumps(value), EXIT_OK


def _no_json(answer: Answer) -> tuple[str, int]:
    return json.dumps({"status": answer.status, "text": answer.text}), _judged(answer)


POOL_JSON = Question("/clusters.json", "get_json_resource")
_STATS, _COUNT = {"metric": "all"}, {"metric": "total"}

ROWS: tuple[Row, ...] = (
    Row(lambda o: o.all_cluster and not o.json, _one("/clusters", "get_cluster_resources")),
    Row(lambda o: o.virtual_machines, _one("/vms", "get_cluster_vm_resources"), _vms_as_json),
    Row(lambda o: o.vm_status and o.cluster, _of_cluster("get_vm_stats", tail="/vms", **_STATS)),
    Row(lambda o: o.vm_status, _one("/vms", "get_vm_stats", **_STATS)),
    Row(lambda o: o.vm_info and o.cluster and not o.json, _of_vm("get_vm_info")),
    Row(lambda o: o.vm_info and not o.cluster, lambda o: [Part(sentence=NEEDS_CLUSTER)]),
    Row(lambda o: o.cluster and not o.json and not o.total_vms, _of_cluster("get_cluster_info")),
    Row(lambda o: o.json and o.all_cluster, lambda o: [Part(POOL_JSON)], is_json=True),
    Row(lambda o: o.json and o.vm_info and o.cluster, _of_vm("get_json_vm", suffix=".json"), is_json=True),
    Row(lambda o: o.json and o.cluster, _of_cluster("get_json_cluster", tail=".json"), is_json=True),
    Row(lambda o: o.developer_information, _one("/developer-info", "get_developer_information")),
    Row(lambda o: o.job_queue, _queue, _queue_as_json),
    Row(lambda o: o.ip_address, _one("/ips", "get_ips_munin")),
    Row(lambda o: o.boot_time, _one("/vms", "get_vm_startup_time", metric="startup_time")),
    Row(lambda o: o.diff_type, _one("/diff-types", "get_diff_types")),
    Row(lambda o: o.avg_job_time, _one("/vms", "get_vm_job_run_times", metric="job_run_times")),
    Row(lambda o: o.cloud_conf, _one("/cloud/config", "get_cloud_config_values")),
    Row(lambda o: o.total_vms and o.cluster, _of_cluster("get_total_vms_cloud", tail="/vms", **_COUNT)),
    Row(lambda o: o.total_vms, _one("/vms", "get_total_vms", **_COUNT)),
    Row(lambda o: o.missing_vms, _one("/vms", "get_missing_vm_list", metric="missing")),
    Row(lambda o: o.heart_beats, _one("/thread-heart-beats", "get_thread_heart_beats")),
    Row(lambda o: o.boot_failures, _one("/failures/boot", "get_job_failure_reasons")),
    Row(lambda o: o.image_failures, _one("/failures/image", "get_image_failures")),
    Row(lambda o: o.version, _version),
    Row(lambda o: True, _one("/cloud", "get_cloud_resources"), _pool_as_json),
)
