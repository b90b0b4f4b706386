"""What do Slurm's state words and reasons mean in ours? Tables; the raw word always travels along."""

from __future__ import annotations

QUEUED, RUNNING, SUCCEEDED, FAILED, TIMEOUT, CANCELLED, UNKNOWN = (
    "queued", "running", "succeeded", "failed", "timeout", "cancelled", "unknown")  # fmt: skip

# Slurm's word -> (our word for a job, our word for the machine it is, as in contract 5.1).
_STATES = {
    "PENDING": (QUEUED, "Starting"),
    "CONFIGURING": (QUEUED, "Starting"),
    "REQUEUED": (QUEUED, "Starting"),
    "REQUEUE_FED": (QUEUED, "Starting"),
    "REQUEUE_HOLD": (QUEUED, "Error"),
    "SPECIAL_EXIT": (QUEUED, "Error"),
    "POWER_UP_NODE": (QUEUED, "Starting"),
    "RESV_DEL_HOLD": (QUEUED, "Error"),
    "RUNNING": (RUNNING, "Running"),
    "RESIZING": (RUNNING, "Running"),
    "SIGNALING": (RUNNING, "Running"),
    "STAGE_OUT": (RUNNING, "Shutdown"),
    "COMPLETING": (RUNNING, "Shutdown"),
    "SUSPENDED": (RUNNING, "Error"),
    "STOPPED": (RUNNING, "Error"),
    "COMPLETED": (SUCCEEDED, "Shutdown"),
    "CANCELLED": (CANCELLED, "Shutdown"),
    "REVOKED": (CANCELLED, "Shutdown"),
    "TIMEOUT": (TIMEOUT, "Shutdown"),
    "DEADLINE": (TIMEOUT, "Shutdown"),
    "PREEMPTED": (FAILED, "Error"),
    "FAILED": (FAILED, "Error"),
    "NODE_FAIL": (FAILED, "Error"),
    "BOOT_FAIL": (FAILED, "Error"),
    "LAUNCH_FAILED": (FAILED, "Error"),
    "OUT_OF_MEMORY": (FAILED, "Error"),
}
_SHORT = {
    "PD": "PENDING", "CF": "CONFIGURING", "RQ": "REQUEUED", "RF": "REQUEUE_FED", "RH": "REQUEUE_HOLD", "SE": "SPECIAL_EXIT",
    "RD": "RESV_DEL_HOLD", "R": "RUNNING", "RS": "RESIZING", "SI": "SIGNALING", "SO": "STAGE_OUT", "CG": "COMPLETING",
    "S": "SUSPENDED", "ST": "STOPPED", "CD": "COMPLETED", "CA": "CANCELLED", "RV": "REVOKED", "TO": "TIMEOUT",
    "DL": "DEADLINE", "PR": "PREEMPTED", "F": "FAILED", "NF": "NODE_FAIL", "BF": "BOOT_FAIL", "OOM": "OUT_OF_MEMORY",
}  # fmt: skip

# What ended, in words; the rest is told by its state alone.
_ENDS = {
    "COMPLETED": "the pilot has ended",
    "COMPLETING": "the pilot is being ended",
    "STAGE_OUT": "the pilot is being ended",
    "CANCELLED": "the pilot was cancelled",
    "REVOKED": "the pilot was taken by another cluster",
    "TIMEOUT": "the time limit of the pilot has passed",
    "DEADLINE": "the deadline of the pilot has passed",
    "PREEMPTED": "the pilot was preempted by a job of higher priority",
    "NODE_FAIL": "the host of the pilot failed",
    "BOOT_FAIL": "the host of the pilot did not come up",
    "OUT_OF_MEMORY": "the pilot used more memory than it asked for",
    "FAILED": "the pilot failed",
    "SUSPENDED": "the pilot is suspended",
    "STOPPED": "the pilot is stopped",
    "REQUEUE_HOLD": "the pilot is held after its start failed",
    "SPECIAL_EXIT": "the pilot is held after a special exit",
}

# Waiting for these does not end by itself.
HOPELESS = frozenset({
    "BadConstraints", "DependencyNeverSatisfied", "InvalidAccount", "InvalidQOS", "AccountNotAllowed", "QOSNotAllowed",
    "JobHeldAdmin", "JobHeldUser", "launch_failed_requeued_held", "PartitionInactive",
    "PartitionNodeLimit", "PartitionTimeLimit", "PartitionConfig", "AssociationJobLimit", "AssocMaxWallDurationPerJobLimit",
    "AssocMaxCpuPerJobLimit", "AssocMaxNodePerJobLimit", "QOSMaxWallDurationPerJobLimit", "QOSMaxCpuPerJobLimit",
    "QOSMaxNodePerJobLimit", "ReservationDeleted", "RequeueExitHold",
})  # fmt: skip

_NODE_FLAGS = {"*": "not responding", "~": "powered down", "#": "powering up", "!": "powering down", "%": "powering down",
               "$": "maintenance", "@": "reboot asked", "^": "rebooting", "-": "planned"}  # fmt: skip
_DOWN = {"DOWN", "FAIL", "FAILING", "ERROR", "FUTURE", "NOT_RESPONDING", "INVAL", "INVALID", "INVALID_REG", "POWERED_DOWN",
         "POWER_DOWN", "POWERING_DOWN", "UNK", "MAINT", "REBOOT_ISSUED", "REBOOT"}  # fmt: skip
_BUSY = {"ALLOCATED": "allocated", "ALLOC": "allocated", "COMPLETING": "allocated", "COMP": "allocated", "MIXED": "mixed",
         "MIX": "mixed", "IDLE": "idle", "PLANNED": "idle", "PLND": "idle", "RESERVED": "idle", "RESV": "idle"}  # fmt: skip


def plain(raw: str) -> str:
    """The state word alone: `CANCELLED by 1000` and `CA` are `CANCELLED`."""
    word = raw.strip().partition(" ")[0].rstrip("+").upper()
    return _SHORT.get(word, word)


def joined(words: list[str]) -> str:
    """One word of several (newer REST versions give a list): what is going on outranks what is.

    `COMPLETING` beside a final state means that processes are still ended; `REQUEUED` beside `PENDING` says nothing new.
    """
    known = [plain(word) for word in words]
    if "COMPLETING" in known:
        return "COMPLETING"
    return known[0] if known else "UNKNOWN"


def job_word(raw: str) -> str:
    """Our word for a job's state; `unknown` for one that is not in the table."""
    return _STATES.get(plain(raw), (UNKNOWN, ""))[0]


def is_live(raw: str) -> bool:
    """Is it waiting, running, or being ended? An unknown word counts as live: better looked at again than forgotten."""
    return job_word(raw) in (QUEUED, RUNNING) or plain(raw) not in _STATES


def machine_state(raw: str, reason: str) -> tuple[str, str]:
    """State of the machine that a pilot is, with a reason for people."""
    word = plain(raw)
    state = _STATES.get(word, ("", word.capitalize()))[1]
    cause = "" if reason in ("", "None", "(null)") else reason.strip("()")
    if word == "PENDING" and cause in HOPELESS:
        return "Error", f"waits in the queue for what cannot come: {cause}"
    if state == "Starting":
        return state, f"waits in the queue: {cause}" if cause else "waits in the queue"
    if state == "Running":
        return state, ""
    said = _ENDS.get(word, f"Slurm says {word}")
    return state, f"{said} ({word}{': ' + cause if cause else ''})"


def node_state(raw: str) -> str:
    """Our word for a host: `idle+drain` is `drained`, `mixed+drain` is `draining`, `idle*` is `down`."""
    word = raw.strip().upper()
    silent = word.endswith(("*", "~", "#", "!", "%"))
    parts = set(word.rstrip("".join(_NODE_FLAGS)).split("+"))
    if parts & {"DRAIN", "DRAINED", "DRAINING", "DRNG"}:
        busy = bool(parts & {"ALLOCATED", "ALLOC", "MIXED", "MIX", "COMPLETING", "COMP", "DRAINING", "DRNG"})
        return "draining" if busy else "drained"
    if silent or parts & _DOWN:
        return "down"
    for part in ("ALLOCATED", "ALLOC", "MIXED", "MIX", "COMPLETING", "COMP"):
        if part in parts:
            return _BUSY[part]
    return next((_BUSY[part] for part in sorted(parts) if part in _BUSY), "unknown")
