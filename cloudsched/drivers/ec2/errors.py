"""What do the error codes of the EC2 API mean for the job and the cloud? (contract cloud-scheduler 7.7)"""

from __future__ import annotations

from cloudsched.drivers import base
from cloudsched.drivers.base import DriverError
from cloudsched.drivers.libcloud import Refused

_AUTH, _DENIED, _QUOTA = (base.AUTH, False), (base.DENIED, False), (base.QUOTA, False)
_SHORT = (base.QUOTA, True)  # room may come by itself
_WRONG, _NO_IMAGE = (base.REQUEST, False), (base.OTHER, False)
THROTTLED = (base.OTHER, True)
_DOWN = (base.ENDPOINT, True)

# Code without `Client.`/`Server.` -> (result code, transient). AWS, Eucalyptus and the OpenStack EC2 services.
CODES: dict[str, tuple[int, bool]] = {
    **dict.fromkeys((
        "AuthFailure", "UnauthorizedOperation", "ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId",
        "SignatureDoesNotMatch", "IncompleteSignature", "MissingAuthenticationToken", "InvalidAccessKeyId",
        "RequestExpired", "UnrecognizedClientException", "InvalidSecurity", "Unauthorized", "NotAuthorized"), _AUTH),
    **dict.fromkeys((
        "AccessDenied", "AccessDeniedException", "OptInRequired", "PendingVerification", "Blocked", "Forbidden",
        "OperationNotPermitted", "PolicyNotAuthorized"), _DENIED),
    **dict.fromkeys((
        "InstanceLimitExceeded", "VcpuLimitExceeded", "MaxSpotInstanceCountExceeded", "MaxSpotFleetRequestCountExceeded",
        "VolumeLimitExceeded", "MaxIOPSLimitExceeded", "ResourceLimitExceeded", "AddressLimitExceeded", "QuotaError",
        "QuotaExceeded", "TooManyInstances", "NetworkInterfaceLimitExceeded", "PrivateIpAddressLimitExceeded"), _QUOTA),
    **dict.fromkeys((
        "InsufficientInstanceCapacity", "InsufficientHostCapacity", "InsufficientReservedInstanceCapacity",
        "InsufficientCapacity", "InsufficientVolumeCapacity", "InsufficientAddressCapacity",
        "InsufficientFreeAddressesInSubnet", "InsufficientResources", "SpotMaxPriceTooLow",
        "UnfulfillableCapacity", "ReservationCapacityExceeded"), _SHORT),
    **dict.fromkeys((
        "RequestLimitExceeded", "Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled",
        "EC2ThrottledException", "SlowDown", "TooManyRequestsException", "BandwidthLimitExceeded",
        "ConcurrentTagAccess"), THROTTLED),
    **dict.fromkeys((
        "InvalidAMIID.NotFound", "InvalidAMIID.Malformed", "InvalidAMIID.Unavailable", "InvalidAMIName.Malformed",
        "ImageNotFound", "NoSuchImage"), _NO_IMAGE),
    **dict.fromkeys(("Unavailable", "ServiceUnavailable", "InternalError", "InternalFailure", "InternalServerError"), _DOWN),
    **dict.fromkeys(("Unsupported", "UnsupportedOperation", "IdempotentParameterMismatch", "OperationNotSupported"), _WRONG),
}
_ENDINGS = (("LimitExceeded", _QUOTA), ("QuotaExceeded", _QUOTA), ("NotFound", _WRONG), ("Malformed", _WRONG))
_STARTS = (("Insufficient", _SHORT), ("Throttl", THROTTLED), ("Invalid", _WRONG), ("Missing", _WRONG), ("Unknown", _WRONG),
           ("Unsupported", _WRONG), ("Malformed", _WRONG))
# When there is no code to go by.
_STATUSES = {401: _AUTH, 403: _DENIED, 404: (base.ENDPOINT, False), 405: (base.ENDPOINT, False), 408: _DOWN, 429: THROTTLED}

# A place that lacks an action or a filter says one of these.
NOT_THERE = frozenset({
    "InvalidAction", "UnknownAction", "UnsupportedOperation", "NotImplemented", "Unsupported", "UnknownParameter"})


def meaning(code: str, status: int) -> tuple[int, bool]:
    """(result code, transient) of an error."""
    name = bare(code)
    if name in CODES:
        return CODES[name]
    for ending, found in _ENDINGS:
        if name.endswith(ending):
            return found
    for start, found in _STARTS:
        if name.startswith(start):
            return found
    return _STATUSES.get(status, _DOWN if status >= 500 else (base.OTHER, False))


def bare(code: str) -> str:
    """`Client.InstanceLimitExceeded` is `InstanceLimitExceeded` of old servers."""
    return code.removeprefix("Client.").removeprefix("Server.")


def driver_error(what: str, refused: Refused) -> DriverError:
    """The error as the engine wants it, without a secret."""
    code, transient = meaning(refused.code, refused.status)
    return DriverError(f"{what}: {refused}", code=code, transient=transient,
                       details={"error": refused.code, "status": refused.status})
