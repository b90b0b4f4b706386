"""How does an administrator act on a running Cloud Scheduler? The `cloud_admin` command (contract 8.2).

`ROWS` is the order of evaluation: the first option given acts, the others are ignored.
Each row makes a `Plan`: a request, or the sentence that says which option is missing.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from optparse import OptionGroup, Values
from pathlib import Path

from cloudsched.classic.problem import ClassicConfigError
from cloudsched.classic.server_conf import LOG_LEVELS, LoggingConf, read_server_conf

from .cloud_scheduler_client import (
    DEFAULT_ADMIN_PORT,
    EXIT_FAILED,
    EXIT_NOT_FOUND,
    EXIT_OK,
    EXIT_REFUSED,
    EXIT_USAGE,
    Answer,
    ClientParser,
    Question,
    Server,
    connect,
    failure_lines,
    parse,
    path,
    run_client,
    say,
    say_json,
)

HELP_HINT = "Run cloud_admin -h for help."
COMMENT_NEEDED = ("Admin comments being enforced. Please use -C 'reason for command'"
                  " when performing this option.")

# How the sentences of contract 4 begin when an operation did not do what was asked.
_NOT_FOUND = ("Could not find", "Cloud not find", "Unable to find cluster")
_REFUSED = ("Unable to", "Need to use an integer", "Destroying VM ", "No Limits set", "Failed to load alias")

EXAMPLES = """
Examples:
  cloud_admin -e desk                 switch a cloud on; -d switches it off
  cloud_admin -c desk -v 8            let it run 8 machines
  cloud_admin -k -c desk -n 1001      shut one machine down, jobs or not
  cloud_admin -k -c desk -a           shut all of its machines down
  cloud_admin -o -c desk -b 2         retire two machines once their jobs are done
  cloud_admin -x -c desk -n 1001      undo the retiring of a machine
  cloud_admin -m -c desk -n 1001      forget a machine, but leave it running
  cloud_admin -j; cloud_admin -i      show the user limits; read their file again
  cloud_admin -l debug                more to read in the server's log
  cloud_admin -d desk --json          {"ok": true, "text": "Cloud: desk disabled."}

Several actions at once: the first of -k -m -o -x -e -d -r -i -j -t -y -l -p -q -v acts.
Shutting down and retiring answer when the work is done, which may take minutes.

Port: -P, else admin_server_port of cloud_scheduler.conf (-f, ~/.cloudscheduler,
/etc/cloudscheduler, /usr/local/share/cloud-scheduler), else 8112 + CLOUDSCHED_PORT_OFFSET.
"""


@dataclass(frozen=True)
class Plan:
    """What one action does: print `before`, ask, print the lines `told` makes of the answer.

    With `missing` nothing is asked; that sentence is printed instead. `is_table`: the answer
    is a dictionary literal.
    """

    question: Question | None = None
    before: str = ""
    missing: str = ""
    missing_status: int = EXIT_USAGE
    is_table: bool = False
    told: Callable[[Answer], list[str]] = field(default=lambda answer: [answer.text])


@dataclass(frozen=True)
class Row:
    """One action option. `commented`: `admin_log_comments` makes `-C` mandatory for it."""

    option: str
    plan: Callable[[Values, Server], Plan]
    commented: bool = True


def cloud_admin_main(argv: Sequence[str] | None = None) -> int:
    """The `cloud_admin` command; returns its exit status (contract 8.2). `argv` without the program."""
    return run_client(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    parser = _parser()
    options = parse(parser, argv)
    output = _Output(as_json=options.json)
    try:
        status = _run(parser, options, output)
    except ClassicConfigError as error:
        output.line(str(error))
        output.finish(EXIT_FAILED)
        return EXIT_FAILED
    output.finish(status)
    return status if options.exit_code else EXIT_OK


def _run(parser: ClientParser, options: Values, output: _Output) -> int:
    conf = read_server_conf(options.config_file)
    given = ("global", "admin_server_port") in conf.given
    server = connect(parser, options, default_port=DEFAULT_ADMIN_PORT,
                     file_port=conf.general.admin_server_port if given else None)
    row = next((row for row in ROWS if getattr(options, row.option)), None)
    return _act(row, options, server=server, conf=conf.logging, output=output)


def _parser() -> ClientParser:
    description = "Acts on a running Cloud Scheduler: its clouds, machines and settings."
    parser = ClientParser("cloud_admin", description, EXAMPLES)
    parser.add_option("-P", "--port", type="int", metavar="PORT", help="admin port of the server")
    parser.add_option("-c", "--cloud", metavar="NAME", help="cloud to act on")
    parser.add_option("-n", "--vm-id", metavar="ID", help="machine to act on")
    parser.flag("-a", "--all", help="act on all machines of the cloud")
    parser.add_option("-b", "--number", metavar="NUM", help="act on so many machines of the cloud")
    parser.flag("-k", "--kill-vm", help="shut down; needs -c and -n, -a or -b")
    parser.flag("-m", "--remove", help="forget without shutting down; needs -c and -n or -a")
    parser.flag("-o", "--force-retire",
                help="shut down once the running job is done; needs -c and -n, -a or -b")
    parser.flag("-x", "--reset-vm-state", help="clear the override state; needs -c and -n")
    parser.add_option("-e", "--enable", metavar="NAME", help="switch a cloud on")
    parser.add_option("-d", "--disable", metavar="NAME", help="switch a cloud off; its machines stay")
    parser.flag("-r", "--reconfig", help="refused; restart the service instead")
    parser.flag("-i", "--reload-limits", help="read the user-limit file again")
    parser.flag("-j", "--list-limits", help="show the user limits")
    parser.flag("-t", "--reload-target-alias", help="read the cloud-alias file again")
    parser.flag("-y", "--list-alias", help="show the cloud aliases")
    levels = [form for level in LOG_LEVELS for form in (level, level.lower(), level.capitalize())]
    parser.add_option("-l", "--log-level", type="choice", choices=levels, metavar="LEVEL",
                      help=f"log level of the running server: {', '.join(LOG_LEVELS)}")
    parser.add_option("-p", "--refresh-proxy", type="choice", choices=["vm", "job"], metavar="vm|job",
                      help="renew the proxies of a user's machines or jobs; needs -u")
    parser.add_option("-u", "--user", metavar="USER", help="user for -p")
    parser.flag("-q", "--quick-exit", help="toggle: leave machines running when the service stops")
    parser.add_option("-v", "--vm-allocation", metavar="NUM", help="most machines of a cloud; needs -c")
    parser.add_option("-C", "--comment", metavar="TEXT", help="reason, for the log of this client")
    output = OptionGroup(parser, "Output")
    output.add_option("--json", action="store_true", default=False,
                      help='{"ok": true or false, "text": what would be printed}')
    parser.add_option_group(output)
    parser.add_common_options()
    return parser


class _Output:
    """Prints lines as they come, or collects them into one JSON object."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._lines: list[str] = []
        self.value: object = None

    def line(self, text: str) -> None:
        self._lines.append(text)
        if not self._as_json:
            say(text)

    def finish(self, status: int) -> None:
        if not self._as_json:
            return
        document: dict[str, object] = {"ok": status == EXIT_OK, "text": "\n".join(self._lines)}
        if self.value is not None:
            document["value"] = self.value
        say_json(document)


def _act(row: Row | None, options: Values, *, server: Server, conf: LoggingConf, output: _Output) -> int:
    if row is None:
        output.line(HELP_HINT)
        return EXIT_USAGE
    if row.commented and conf.admin_log_comments and not options.comment:
        output.line(COMMENT_NEEDED)
        output.line(HELP_HINT)
        return EXIT_USAGE
    plan = row.plan(options, server)
    if plan.question is None:
        output.line(plan.missing)
        return plan.missing_status
    if options.comment:
        _log_comment(row, options, conf)
    if plan.before:
        output.line(plan.before)
    return _asked(plan, plan.question, server=server, output=output)


def _asked(plan: Plan, question: Question, *, server: Server, output: _Output) -> int:
    try:
        with closing(server):
            answer = server.ask(question)
    except Exception as error:
        for line in failure_lines(error, server):
            output.line(line)
        return EXIT_FAILED
    lines = plan.told(answer)
    for line in lines:
        output.line(line)
    if plan.is_table and answer.status == 200:
        output.value = _literal(answer.text)
    return _judged(answer, lines)


def _judged(answer: Answer, lines: list[str]) -> int:
    if answer.status != 200:
        return EXIT_NOT_FOUND if answer.status in (404, 405) else EXIT_FAILED
    said = [line for text in lines for line in text.split("\n")]
    if any(line.startswith(_NOT_FOUND) for line in said):
        return EXIT_NOT_FOUND
    return EXIT_REFUSED if any(line.startswith(_REFUSED) for line in said) else EXIT_OK


def _literal(text: str) -> object:
    """Limits and aliases come as Python 2 literals (contract 4.7, K7)."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None


def _log_comment(row: Row, options: Values, conf: LoggingConf) -> None:
    """Writes the reason to `log_location_cloud_admin`. Raises ClassicConfigError if it must and cannot."""
    given = {name: getattr(options, name) for name in (row.option, *_LOGGED_OPTIONS)}
    words = [name if value is True else f"{name}={value!r}" for name, value in given.items() if value]
    reason = " ".join(str(options.comment).split())
    try:
        _append(conf, f"{_login()}: {' '.join(words)}: {reason}")
    except (OSError, ValueError) as error:
        if conf.admin_log_comments:
            sentence = f"Configuration file problem: the comment cannot be written to its log: {error}."
            raise ClassicConfigError(sentence, section="logging", key="log_location_cloud_admin") from error
        sys.stderr.write(f"cloud_admin: the comment is not kept: {error}\n")


def _append(conf: LoggingConf, message: str) -> None:
    import logging

    if conf.log_location_cloud_admin is None:
        raise ValueError("log_location_cloud_admin is not set")
    log = Path(conf.log_location_cloud_admin)
    record = logging.LogRecord("cloud_admin", logging.INFO, __file__, 0, message, None, None)
    line = logging.Formatter(conf.log_format).format(record) + "\n"
    if conf.log_max_size and log.exists() and log.stat().st_size + len(line) > conf.log_max_size:
        log.replace(f"{log}.1")
    with log.open("a", encoding="utf-8", errors="backslashreplace") as stream:
        stream.write(line)


def _login() -> str:
    from getpass import getuser

    try:
        return getuser()
    except (KeyError, OSError, ImportError):
        return "unknown user"


def _kill(options: Values, server: Server) -> Plan:
    if not options.cloud:
        return Plan(missing="Must Provide the cloud name to kill VMs on and the VM ID, count, or all flag.")
    calls = ("shutdown_vm", "shutdown_cluster_all", "shutdown_cluster_count")
    return _on_machines(options, "shutdown", calls=calls) or Plan(
        missing="Must provide a -n [VM ID], -a to kill all VMs, or -b [count] to kill a set number on cloud.")


def _retire(options: Values, server: Server) -> Plan:
    if not options.cloud:
        return Plan(missing="Must Provide the cloud name to force retire VMs on"
                            " and the VM ID, all or count flag.")
    calls = ("force_retire_vm", "force_retire_all_vm", "force_retire_count_vm")
    return _on_machines(options, "force_retire", calls=calls) or Plan(
        missing="Must provide a -n [VM ID], -a (all), or -b [count]"
                " to force retire all or some VMs on this cloud.")


def _remove(options: Values, server: Server) -> Plan:
    if not options.cloud:
        return Plan(missing="Must Provide the cloud name to remove VMs on and the VM ID or all flag.")
    plan = _on_machines(options, "remove", calls=("delete_vm_entry", "delete_all_vm_entry_cloud", None))
    if plan is None or plan.question is None:
        return Plan(missing="Must provide a -n [VM ID] or -a to remove all VMs on this cloud.")
    url_first = not options.vm_id and not options.xml_rpc
    return Plan(plan.question, before=server.url + plan.question.path if url_first else "")


def _reset(options: Values, server: Server) -> Plan:
    if not options.cloud:
        return Plan(missing="Must provide the cloud name and VM ID to reset override state on.")
    if not options.vm_id:
        return Plan(missing="Must provide -n [VM ID] to reset state of VM.")
    return _on_machines(options, "reset_override_state", calls=("reset_override_state", None, None)) or Plan()


def _on_machines(options: Values, action: str, *, calls: tuple[str, str | None, str | None]) -> Plan | None:
    """One machine (-n), all (-a) or so many (-b), in this order; None if none of them was given."""
    one, every, some = calls
    vms = path("clouds", options.cloud, "vms")
    if options.vm_id:
        where, args = path("clouds", options.cloud, "vms", options.vm_id), (options.cloud, options.vm_id)
        return Plan(Question(where, one, args, method="PUT", form={"action": action}))
    if options.all and every:
        form = {"action": action, "count": "all"}
        return Plan(Question(vms, every, (options.cloud,), method="PUT", form=form))
    if options.number and some:
        form = {"action": action, "count": options.number}
        return Plan(Question(vms, some, (options.cloud, options.number), method="PUT", form=form))
    return None


def _switch(option: str) -> Callable[[Values, Server], Plan]:
    def plan(options: Values, server: Server) -> Plan:
        name = getattr(options, option)
        form = {"action": option}
        return Plan(Question(path("clouds", name), f"{option}_cloud", (name,), method="PUT", form=form))

    return plan


def _reconfig(options: Values, server: Server) -> Plan:
    return Plan(missing="Reconfig Disabled - use 'quickrestart'", missing_status=EXIT_REFUSED)


def _reload(where: str, call: str, *, done: str, failed: str) -> Callable[[Values, Server], Plan]:
    def told(answer: Answer) -> list[str]:
        return [done if answer.text == "True" else failed]  # K9; XML-RPC booleans are written alike

    return lambda options, server: Plan(Question(where, call, method="POST"), told=told)


def _table(where: str, call: str) -> Callable[[Values, Server], Plan]:
    return lambda options, server: Plan(Question(where, call), is_table=True)


def _log_level(options: Values, server: Server) -> Plan:
    level = options.log_level.upper()
    return Plan(Question("/", "change_log_level", (level,), method="PUT", form={"log_level": level}))


def _refresh(options: Values, server: Server) -> Plan:
    if not options.user:
        return Plan(missing="Must Specify a user with -u or --user.")
    kind = options.refresh_proxy
    before = f"Refreshing {'VM' if kind == 'vm' else 'Job'} proxies for user {options.user}."
    question = Question(path("users", options.user), f"refresh_{kind}_proxy_user", (options.user,),
                        method="POST", form={"refresh": f"{kind}_proxy"})
    return Plan(question, before=before, told=lambda answer: [])


def _quick_exit(options: Values, server: Server) -> Plan:
    toggled = "Toggled Quick shutdown flag."
    return Plan(Question("/", "perform_quick_shutdown", method="POST", form={"action": "quick_shutdown"}),
                told=lambda answer: [toggled] if options.xml_rpc else [answer.text, toggled])


def _allocation(options: Values, server: Server) -> Plan:
    if not options.cloud:
        return Plan(missing="Change vm slot of cloud need '-c cloudname' for cloud to change allocation of")
    number = options.vm_allocation
    question = Question(path("clouds", options.cloud), "adjust_cloud_allocation", (options.cloud, number),
                        method="PUT", form={"allocations": number})
    return Plan(question, before=f"Adjusting vm_slots on {options.cloud} to {number}")


_LOGGED_OPTIONS = ("cloud", "vm_id", "all", "number", "user")

ROWS: tuple[Row, ...] = (
    Row("kill_vm", _kill),
    Row("remove", _remove),
    Row("force_retire", _retire),
    Row("reset_vm_state", _reset),
    Row("enable", _switch("enable"), commented=False),
    Row("disable", _switch("disable"), commented=False),
    Row("reconfig", _reconfig, commented=False),
    Row("reload_limits", _reload("/user-limits", "user_limit_reload", done="User-Limit file reloaded.",
                                 failed="No Limits set - list empty or problem parsing file.")),
    Row("list_limits", _table("/user-limits", "list_user_limits"), commented=False),
    Row("reload_target_alias", _reload(
        "/cloud-aliases", "cloud_alias_reload", done="Target Cloud Alias file reloaded.",
        failed="Failed to load alias file - check json format, path, or permissions.")),
    Row("list_alias", _table("/cloud-aliases", "list_cloud_alias"), commented=False),
    Row("log_level", _log_level),
    Row("refresh_proxy", _refresh),
    Row("quick_exit", _quick_exit),
    Row("vm_allocation", _allocation),
)
