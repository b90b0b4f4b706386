"""What do the errors of OpenStack's services mean for the job and the cloud? (contract cloud-scheduler 7.7)

Nova has few words for its errors: a used-up quota and a missing right are both a 403. The sentence tells them apart.
"""

from __future__ import annotations

import re

from cloudsched.drivers import base
from cloudsched.drivers.base import DriverError
from cloudsched.drivers.libcloud import Refused
from cloudsched.drivers.openstack.calls import NO_SERVICE

_DOWN = (base.ENDPOINT, True)
THROTTLED = (base.OTHER, True)
_QUOTA = (base.QUOTA, False)
_SHORT = (base.QUOTA, True)
_WRONG = (base.REQUEST, False)
_NO_IMAGE = (base.OTHER, False)

# Sentences, tried in this order -> (result code, transient).
_TEXTS = (
    (r"quota|limit exceeded|exceeds? (the )?(allowed|maximum)|maximum number of|no more .* (ips|addresses|ports)", _QUOTA),
    (r"no valid host|not enough (available )?(hosts|resources|memory)|insufficient|no available", _SHORT),
    (r"image .*(not|could not be|cannot be|can not be) (be )?found|(could|can) ?not find (requested )?image|"
     r"image .* (is not active|is unacceptable)", _NO_IMAGE),
)
_STATUSES = {400: _WRONG, 401: (base.AUTH, False), 403: (base.DENIED, False), 404: _WRONG, 405: (base.ENDPOINT, False),
             406: (base.ENDPOINT, False), 408: _DOWN, 409: _WRONG, 413: THROTTLED, 429: THROTTLED}
_JUDGED_BY_TEXT = (400, 403, 404, 409, 413, 500)


def meaning(status: int, text: str) -> tuple[int, bool]:
    """(result code, transient) of an error, or of the fault of a server (status 500)."""
    for pattern, found in _TEXTS if status in _JUDGED_BY_TEXT else ():
        if re.search(pattern, text, re.IGNORECASE):
            return found
    return _STATUSES.get(status, _DOWN if status >= 500 else (base.OTHER, False))


def driver_error(what: str, refused: Refused) -> DriverError:
    """The error as the engine wants it, without a secret."""
    code, transient = meaning(refused.status, f"{refused.code} {refused.message}")
    if refused.code == NO_SERVICE:
        code, transient = base.ENDPOINT, False
    return DriverError(f"{what}: {refused.message or refused}", code=code, transient=transient,
                       details={"error": refused.code, "status": refused.status})
