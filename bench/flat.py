"""Does a job cost the same whatever waits behind it? Claim and finish 2,000 no-op jobs with 1,000 and 100,000 queued.

The store's hot functions on SQLite, as the server calls them; beside it the first figure as the reference.
Usage: python bench/flat.py [MOST]
"""

from __future__ import annotations

import sys
import tempfile
import time

from common import ROOT, show

sys.path.insert(0, str(ROOT))
from cloudsched.domain.submission import parse
from cloudsched.services import jobs as service
from cloudsched.services import settling
from cloudsched.services.caller import Caller
from cloudsched.store import db, jobs, migrations

RUNS, WORK = 21, 2000
ME = Caller("bench", "operator")


def fill(count: int) -> None:
    requests, _ = parse(b'{"jobs":[' + b",".join([b'{"kind":"noop"}'] * 1000) + b"]}")
    for _ in range(count // 1000):
        service.submit(requests, ME)


def work(count: int) -> float:
    """Microseconds per job to submit, claim and finish, the queue staying as long as it was."""
    requests, _ = parse(b'{"jobs":[' + b",".join([b'{"kind":"noop"}'] * 100) + b"]}")
    began = time.perf_counter()
    for _ in range(count // 100):
        service.submit(requests, ME)
        claimed = db.write(lambda tx: jobs.claim(tx, 1, jobs.queued_shapes(tx), limit=100, at=1.0))
        done = [jobs.Result(job.id, job.attempt, "succeed", "succeeded", 0, ended_at=2.0) for job in claimed]
        refused = db.write(lambda tx, done=done: settling.settle(tx, done, node_id=1, at=2.0))
        if refused:
            raise SystemExit(f"{len(refused)} results were refused")
    return (time.perf_counter() - began) / count * 1e6


def main() -> None:
    most = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as folder:
        migrations.migrate(db.open_database(f"sqlite:///{folder}/cloudsched.db"))
        reference, queued = None, 0
        work(WORK)  # what the first call loads is no job's cost
        for size in (1000, 10_000, most):
            fill(size - queued)
            queued = size
            values = [work(WORK) for _ in range(RUNS)]
            show(f"submit + claim + finish, {size:,} queued", values, unit="us/job", reference=reference)
            reference = reference or sorted(values)[RUNS // 2]
        db.current().close()


if __name__ == "__main__":
    main()
