"""What shall the fleet do next?  The decisions of the Cloud Scheduler job (contract 7) as pure functions.

A snapshot goes in, a plan comes out; nothing here reads a clock, a file or a database.
"""

from cloudsched.domain.scheduling.model import (
    CloudView,
    Head,
    JobGroup,
    NodeView,
    Policy,
    RunningJob,
    Shape,
    SlotView,
    Snapshot,
)
from cloudsched.domain.scheduling.passes import clean_up, decide, schedule
from cloudsched.domain.scheduling.plan import Plan
from cloudsched.domain.scheduling.shares import Shares, shares
from cloudsched.domain.scheduling.why import why_job, why_node

__all__ = [
    "CloudView",
    "Head",
    "JobGroup",
    "NodeView",
    "Plan",
    "Policy",
    "RunningJob",
    "Shape",
    "Shares",
    "SlotView",
    "Snapshot",
    "clean_up",
    "decide",
    "schedule",
    "shares",
    "why_job",
    "why_node",
]
