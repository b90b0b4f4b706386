"""How does work get in? `cloudsched submit`: a command, an HTCondor submit file, or JSON."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cloudsched.cli import values
from cloudsched.cli.commands import EXIT_OK, EXIT_USAGE, add_common
from cloudsched.cli.job_words import cut_text
from cloudsched.cli.problems import fail
from cloudsched.cli.session import Session, open_session
from cloudsched.cli.submission import Submission, from_submit_file, input_file, names_cluster, send

EPILOG = """\
examples:
  cloudsched submit -- wc -l /etc/services
  cloudsched submit --cores 2 --memory 2G --time-limit 1h30m --env LANG=C -- ./simulate --fast
  cloudsched submit --input texts.txt:in.txt --output-file 'out*' --wait -- sh -c 'sort in.txt > out.txt'
  cloudsched submit --array 1-100 -- sh -c 'echo $CLOUDSCHED_ARRAY_INDEX'
  cloudsched submit --after-ok 12 --retries 3 --backoff 10s -- make report
  cloudsched submit job.sub --wait
  cloudsched submit --json jobs.jsonl
"""

Reader = Callable[[str], Any]

# Options that are one field of a job each: option, field, reader, placeholder, help.
_FIELDS: tuple[tuple[str, str, Reader, str, str], ...] = (
    ("--name", "name", str, "NAME", "a name for people"),
    ("--user", "user", str, "USER", "whose job (default: the key's, or yours)"),
    ("--kind", "kind", str, "KIND", "command (default) or noop"),
    ("--cores", "cores", values.positive, "N", "processor cores (default 1)"),
    ("--memory", "memory_mb", values.memory_mb, "SIZE", "memory, e.g. 512M, 2G (default 512M)"),
    ("--storage", "storage_gb", values.storage_gb, "SIZE", "scratch space, e.g. 10G (default 0)"),
    ("--gpus", "gpus", values.whole, "N", "graphics processors (default 0)"),
    ("--network", "network", str, "NAME", "network the machine must be in"),
    ("--time-limit", "time_limit_s", values.duration_s, "TIME", "longest run, e.g. 1h30m"),
    ("--priority", "priority", values.signed, "N", "higher goes first (default 0)"),
    ("--vm-type", "vm_type", str, "TYPE", "type of machine (default: default)"),
    ("--image", "image", str, "IMAGE", "image to boot the machine from"),
    ("--instance-type", "instance_type", str, "TYPE", "the cloud's name for a size of machine"),
    ("--keep-alive", "keep_alive_s", values.duration_s, "TIME", "how long the machine stays when idle"),
    ("--retries", "max_retries", values.whole, "N", "runs after a failure, 0 to 100 (default 0)"),
    ("--backoff", "backoff_s", values.duration_s, "TIME", "pause before the first retry; doubles"),
    ("--vmtype-limit", "vmtype_limit", values.whole, "N", "at most N machines of this type"),
    ("--maximum-price", "maximum_price", values.number, "PRICE", "highest price of the machine"),
    ("--batch", "batch", str, "BATCH", "a label for jobs that belong together"),
)  # fmt: skip
_LISTS = (
    ("--output-file", "output_files", "NAME", "a file (or pattern) to keep; repeatable"),
    ("--target", "targets", "CLOUD", "a cloud (or alias) it may run on; repeatable"),
    ("--security-group", "security_groups", "NAME", "a security group of the machine; repeatable"),
)
_FLAGS = (
    ("--hold", "hold", "submit it held; `cloudsched jobs release ID` lets it go"),
    ("--job-per-core", "job_per_core", "one job on each core of the machine"),
)


def configure(parser: argparse.ArgumentParser, _: str) -> None:
    parser.usage = (
        "cloudsched submit [options] -- COMMAND [ARGS...]\n       cloudsched submit [options] FILE.sub\n"
        "       cloudsched submit [options] --json FILE|-"
    )
    parser.epilog = EPILOG
    parser.set_defaults(run=run_submit, job_command=None)
    parser.add_argument("file", nargs="*", metavar="FILE.sub", help="an HTCondor submit description file")
    job = parser.add_argument_group("the job")
    for option, field, reader, placeholder, text in _FIELDS:
        choices = ("command", "noop") if field == "kind" else None
        job.add_argument(option, dest=field, type=reader, metavar=placeholder, help=text, choices=choices)
    for option, field, placeholder, text in _LISTS:
        job.add_argument(option, dest=field, action="append", metavar=placeholder, help=text)
    for option, field, text in _FLAGS:
        job.add_argument(option, dest=field, action="store_true", default=None, help=text)
    _add_special(job)
    how = parser.add_argument_group("how")
    how.add_argument(
        "--wait", action="store_true", help="until the jobs have ended; fetches a submit file's outputs"
    )
    how.add_argument("--follow", "-f", action="store_true", help="show the output while the job runs")
    add_common(parser, json=False)
    parser.add_argument(
        "--json", nargs="?", const=True, dest="json_input", metavar="FILE|-",
        help="with FILE: jobs from a JSON object, list or lines; always: answer in JSON",
    )  # fmt: skip


def run_submit(args: argparse.Namespace) -> int:
    args.as_json = args.as_json or args.json_input is not None
    problem = _wrong(args)
    if problem:
        return fail(problem, EXIT_USAGE)
    session = open_session(args)
    work = _read(args, session)
    sent = send(session.client, work, must_name_batch=args.wait)
    if args.follow:
        return _follow(session, sent)
    if not args.wait:
        _tell(session, sent)
        return EXIT_OK
    return _wait(session, sent)


def fields(args: argparse.Namespace) -> dict[str, Any]:
    """The job's fields named by options; what was not named is left to the server's defaults."""
    names: list[str] = [field for _, field, *_ in _FIELDS] + [field for _, field, *_ in (*_LISTS, *_FLAGS)]
    names += ["high_priority", "after_ok", "after_any", "depends_fail", "array"]
    job = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    for name in ("after_ok", "after_any"):
        if name in job:
            job[name] = [ref for refs in job[name] for ref in refs]
    if args.env:
        job["env"] = dict(map(_variable, args.env))
    if args.attribute:
        job["attributes"] = {key: _literal(value) for key, value in args.attribute}
    if args.stdin:
        job["stdin"] = _text_of(args.stdin)
    return job


def _add_special(job: Any) -> None:
    job.add_argument(
        "--env", action="append", metavar="K=V", help="environment; K alone takes yours; repeatable"
    )
    job.add_argument("--stdin", metavar="FILE", help="text for the standard input (- for this command's own)")
    job.add_argument(
        "--input", action="append", metavar="FILE[:NAME]", help="a file to take along, under NAME; repeatable"
    )
    job.add_argument(
        "--array", type=values.array, metavar="N|A-B", help="a job per index: 100, 1-100, 1-99:2, 1,4,9"
    )
    job.add_argument("--count", type=values.positive, metavar="N", help="N jobs of this kind")
    for kind, text in (("ok", "have succeeded"), ("any", "have ended")):
        job.add_argument(
            f"--after-{kind}",
            action="append",
            type=values.job_refs,
            metavar="ID",
            help=f"not before these {text}",
        )
    job.add_argument(
        "--high-priority", nargs="?", const=1, type=values.whole, metavar="N",
        help="before the jobs of everybody else; among such, higher goes first (default 1)",
    )  # fmt: skip
    job.add_argument(
        "--depends-fail", choices=("cancel", "hold"), help="when one of --after-ok fails (default: cancel)"
    )
    job.add_argument(
        "--attribute",
        action="append",
        type=values.pair,
        metavar="K=V",
        help="an attribute of your own; repeatable",
    )


def _wrong(args: argparse.Namespace) -> str | None:
    """What is wrong with how the work is named; None when exactly one way is used."""
    from_json = isinstance(args.json_input, str)
    command = args.job_command or []
    if args.file and not command and not from_json and len(args.file) > 1:
        return f"put -- before a command: cloudsched submit -- {' '.join(args.file)}"
    named = bool(command) + bool(args.file) + from_json + (args.kind == "noop" and not command)
    if named == 0 and args.job_command is not None:
        return "there is no command behind --"
    if named == 0:
        return (
            "nothing to submit: give -- COMMAND, a submit FILE, or --json FILE (see cloudsched submit --help)"
        )
    if named > 1:
        return "give one of: -- COMMAND, a submit FILE, --json FILE"
    if args.count and args.array:
        return "--count and --array exclude each other"
    return None


def _read(args: argparse.Namespace, session: Session) -> Submission:
    if isinstance(args.json_input, str):
        work = Submission([{**job, **fields(args)} for job in read_jobs(args.json_input)])
    elif args.file:
        cluster = int(session.client.create("/batches", {})["batch_id"]) if names_cluster(args.file[0]) else None
        work = from_submit_file(args.file[0], fields(args), cluster=cluster)
    else:
        work = Submission(
            [{"command": args.job_command, **fields(args)} if args.job_command else fields(args)]
        )
    for job in work.jobs:
        for one in args.input or []:
            job["input_files"] = [*job.get("input_files", []), input_file(*_source(one))]
    if args.count:
        work.repeat(args.count)
    return work


def read_jobs(path: str) -> list[dict[str, Any]]:
    """Jobs from a JSON object, list, `{"jobs": [...]}`, or one object per line; `-` is the standard input.

    ArgumentTypeError: not JSON, with the line.
    """
    text = _text_of(path)
    try:
        found = json.loads(text)
    except ValueError as error:
        found = _json_lines(text, path, error)
    if isinstance(found, dict):
        found = found["jobs"] if set(found) == {"jobs"} else [found]
    if not isinstance(found, list) or not found or not all(isinstance(job, dict) for job in found):
        raise argparse.ArgumentTypeError(
            f"{path}: no jobs in it (allowed: an object, a list of objects, or JSON lines)"
        )
    return found


def _json_lines(text: str, path: str, whole_error: ValueError) -> list[Any]:
    lines = [(at, line) for at, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines or not lines[0][1].lstrip().startswith("{") or not lines[0][1].rstrip().endswith("}"):
        raise argparse.ArgumentTypeError(
            f"{path}: not JSON ({whole_error}); a submit file is given without --json, or before it"
        )
    jobs = []
    for at, line in lines:
        try:
            jobs.append(json.loads(line))
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{path}, line {at}: not JSON ({error})") from None
    return jobs


def _source(text: str) -> tuple[Path, str]:
    """The file and the name it gets; a file that is really called `a:b` is taken as it is."""
    if ":" in text and not Path(text).exists():
        path, _, name = text.rpartition(":")
        return Path(path), name or Path(path).name
    return Path(text), Path(text).name


def _variable(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if sign and key:
        return key, value
    if key and key in os.environ:
        return key, os.environ[key]
    raise argparse.ArgumentTypeError(f"--env {text}: no such variable here (allowed: K=V, or K that is set)")


def _literal(text: str) -> Any:
    """Numbers and true/false as such, all else as text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, (int, float, bool)) else text


def _text_of(path: str) -> str:
    try:
        raw = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise argparse.ArgumentTypeError(
            f"{path}: not UTF-8 text (allowed for binary data: --input FILE)"
        ) from None


def _tell(session: Session, sent: Submission) -> None:
    screen = session.screen
    if screen.as_json:
        screen.json(sent.answer)
        return
    if not screen.terminal:
        for number in sent.ids:
            screen.line(str(number))
        return
    if len(sent.ids) == 1:
        screen.line(f"job {sent.ids[0]}")
        what = str(sent.ids[0])
    else:
        what = sent.batch or f"{sent.ids[0]} ..."
        screen.line(
            f"{len(sent.ids)} jobs, {sent.ids[0]} to {sent.ids[-1]}"
            + (f", batch {what}" if sent.batch else "")
        )
    if sent.has_results:
        screen.line(screen.paint(f"fetch the results with: cloudsched jobs fetch {what}", "dim"))


def _wait(session: Session, sent: Submission) -> int:
    from cloudsched.cli.fetch import write_results
    from cloudsched.cli.wait import exit_status, wait_for

    if not session.screen.as_json:
        for number in sent.ids:
            session.screen.line(str(number))
    jobs = wait_for(session, sent.ids, batch=sent.batch)
    failed = write_results(session, jobs) if sent.has_local_paths else 0
    if session.screen.as_json:
        session.screen.json(jobs)
    return exit_status(jobs) or (1 if failed else 0)


def _follow(session: Session, sent: Submission) -> int:
    from cloudsched.cli.wait import exit_status, follow, wait_for

    for number in sent.ids:
        follow(session.client, number, titled=len(sent.ids) > 1)
    jobs = wait_for(session, sent.ids, batch=sent.batch, quiet=True)
    for job in jobs:
        for cut in (cut_text(job, "stdout"), cut_text(job, "stderr")):
            if cut:
                fail(f"job {job['id']}: {cut}")
    return exit_status(jobs)
