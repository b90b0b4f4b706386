"""Which jobs run too long, and who is told? Each of them once: an event, mail to those that the job names, webhooks by the event.

The limit of a job is that of its module, else `[dcluster] alert_after_s`. Alerts of a client can be switched off in the
configuration (`unmonitored_clients`) or, over it, while the server runs.
"""

from __future__ import annotations

from cloudsched import clock
from cloudsched.errors import Invalid
from cloudsched.services.caller import Caller
from cloudsched.services.frameworks import framework_jobs
from cloudsched.services.frameworks.framework_jobs import Overdue
from cloudsched.services.notices import mail
from cloudsched.settings import Settings
from cloudsched.store import events, system
from cloudsched.store.db import Tx, write

_SWITCH = "alerts.client:"


def check(settings: Settings, *, actor: str) -> int:
    """Tell of all jobs that run longer than their limit and were not told of; how many these are (contract "Jobs")."""
    told = 0
    for job in framework_jobs.overdue(default_after_s=settings.dcluster.alert_after_s):
        if is_monitored(job.client, settings):
            told += write(lambda tx, one=job: _tell(tx, one, settings, actor))  # type: ignore[misc]
    return told


def sentence(count: int) -> str:
    """What `/job/monitor/alert` answers."""
    return f"{count} long-running {'job was' if count == 1 else 'jobs were'} told of"


def is_monitored(client: str, settings: Settings) -> bool:
    """Are long-running jobs of this client told of?"""
    kept = system.setting(_SWITCH + client)
    return kept == "on" if kept else client not in settings.dcluster.unmonitored_clients


def switch(client: str, on: bool, caller: Caller) -> None:
    """Tell of the client's jobs, or do not, whatever the configuration says. Raises Invalid, Forbidden."""
    caller.require("operator")
    if not client.strip() or not client.isprintable() or len(client) > 253:
        raise Invalid.at("client", f"{client[:100]!r} is no name", "1 to 253 printable characters")

    def keep(tx: Tx) -> None:
        system.put_setting(tx, _SWITCH + client, "on" if on else "off")
        events.append(tx, "system.monitor", ("system", 0), at=clock.now(), actor=caller.name, client=client, on=on)

    write(keep)


def _tell(tx: Tx, job: Overdue, settings: Settings, actor: str) -> bool:
    """In one transaction: the job is marked, the event and the letter are written. False when another process was faster."""
    if not framework_jobs.note_alert(job, actor=actor, tx=tx):
        return False
    title = f"Job {job.job_id} of {job.client} runs for {_span(job.running_s)}: {job.module}"
    mail.queue(tx, _recipients(job.emails), title, _letter(job), subject=("job", job.job_id), at=clock.now(), settings=settings)
    return True


def _recipients(text: str) -> tuple[str, ...]:
    """They were checked when the job was submitted; whatever is kept, an alert does not fail for it."""
    try:
        return mail.recipients(text)
    except Invalid:
        return ()


def _letter(job: Overdue) -> str:
    rows = [("job", job.job_id), ("client", job.client), ("module", job.module), ("cluster", job.cluster_name or "-"),
            ("started", clock.rfc3339(job.started_at)), ("running for", _span(job.running_s)), ("limit", _span(job.limit_s))]
    lines = "\n".join(f"{name + ':':<13}{value}" for name, value in rows)
    return (f"This job runs longer than its limit. It goes on; this is said once.\n\n{lines}\n\n"
            f"To end it: cloudsched {job.kind} kill {job.job_id}\n")


def _span(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
