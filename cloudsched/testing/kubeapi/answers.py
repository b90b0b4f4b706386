"""How does an API server say no? Status bodies, word for word what clients look at."""

from __future__ import annotations

from typing import Any

from cloudsched.testing.kubeapi.kinds import Kind


class Refused(Exception):
    """A request that is answered with a Status."""

    def __init__(self, code: int, reason: str, message: str, *, details: dict[str, Any] | None = None,
                 retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = dict(details or {})
        self.retry_after_s = retry_after_s
        if retry_after_s is not None:
            self.details["retryAfterSeconds"] = retry_after_s

    @property
    def status(self) -> dict[str, Any]:
        body: dict[str, Any] = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                                "message": self.message, "reason": self.reason}
        if self.details:
            body["details"] = self.details
        return {**body, "code": self.code}


def success(kind: Kind, name: str, uid: str) -> dict[str, Any]:
    """What a finished deletion answers."""
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
            "details": _details(kind, name) | {"uid": uid}}


def not_found(kind: Kind, name: str) -> Refused:
    return Refused(404, "NotFound", f'{kind.resource} "{name}" not found', details=_details(kind, name))


def already_exists(kind: Kind, name: str) -> Refused:
    return Refused(409, "AlreadyExists", f'{kind.resource} "{name}" already exists', details=_details(kind, name))


def conflict(kind: Kind, name: str, why: str = "") -> Refused:
    why = why or "the object has been modified; please apply your changes to the latest version and try again"
    return Refused(409, "Conflict", f'Operation cannot be fulfilled on {kind.resource} "{name}": {why}',
                   details=_details(kind, name))


def apply_conflict(conflicts: list[tuple[str, str]]) -> Refused:
    """`conflicts`: (manager as it is shown, path)."""
    causes = [{"reason": "FieldManagerConflict", "message": f"conflict with {manager}", "field": path}
              for manager, path in conflicts]
    if len(conflicts) == 1:
        text = f"Apply failed with 1 conflict: conflict with {conflicts[0][0]}: {conflicts[0][1]}"
    else:
        lines = []
        for manager in sorted({one for one, _ in conflicts}):
            lines += [f"conflicts with {manager}:", *(f"- {path}" for one, path in conflicts if one == manager)]
        text = f"Apply failed with {len(conflicts)} conflicts: " + "\n".join(lines)
    return Refused(409, "Conflict", text, details={"causes": causes})


def forbidden(kind: Kind, name: str, why: str, *, causes: list[dict[str, str]] | None = None) -> Refused:
    subject = f'{kind.resource} "{name}"' if name else kind.resource
    details = _details(kind, name) | ({"causes": causes} if causes else {})
    return Refused(403, "Forbidden", f"{subject} is forbidden: {why}", details=details)


def invalid(kind: Kind, name: str, *faults: tuple[str, str]) -> Refused:
    """`faults`: (field, text); the text begins with the sort of fault, as in `Required value: ...`."""
    causes = [{"reason": _SORTS.get(text.split(":")[0], "FieldValueInvalid"), "message": text, "field": field}
              for field, text in faults]
    told = [f"{field}: {text}" for field, text in faults]
    said = told[0] if len(told) == 1 else "[" + ", ".join(told) + "]"
    return Refused(422, "Invalid", f'{kind.kind}{"." + kind.group if kind.group else ""} "{name}" is invalid: {said}',
                   details={"name": name, "kind": kind.kind, "causes": causes} | ({"group": kind.group} if kind.group else {}))


def bad_request(message: str) -> Refused:
    return Refused(400, "BadRequest", message)


def expired(asked: int, oldest: int) -> Refused:
    return Refused(410, "Expired", f"too old resource version: {asked} ({oldest})")


def too_large(asked: int, current: int) -> Refused:
    return Refused(504, "Timeout", f"Timeout: Too large resource version: {asked}, current: {current}",
                   details={"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
                            "retryAfterSeconds": 1})


def unauthorized() -> Refused:
    return Refused(401, "Unauthorized", "Unauthorized")


def throttled(retry_after_s: int = 1) -> Refused:
    return Refused(429, "TooManyRequests", "Too many requests, please try again later.", retry_after_s=retry_after_s)


def budget_refuses(why: str) -> Refused:
    return Refused(429, "TooManyRequests", "Cannot evict pod as it would violate the pod's disruption budget.",
                   details={"causes": [{"reason": "DisruptionBudget", "message": why}]})


_SORTS = {"Required value": "FieldValueRequired", "Invalid value": "FieldValueInvalid",
          "Forbidden": "FieldValueForbidden", "Unsupported value": "FieldValueNotSupported"}


def _details(kind: Kind, name: str) -> dict[str, Any]:
    return {key: value for key, value in (("name", name), ("group", kind.group), ("kind", kind.plural)) if value}
