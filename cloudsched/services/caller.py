"""Who is calling, and what may they do?"""

from __future__ import annotations

from dataclasses import dataclass

from cloudsched.errors import Forbidden

ROLES = ("viewer", "submitter", "operator", "admin")


@dataclass(frozen=True, slots=True)
class Caller:
    """The identity a request acts under; `name` goes into events as the actor."""

    name: str = "anonymous"
    role: str = "viewer"
    org: str = ""
    key_id: int | None = None

    def may(self, role: str) -> bool:
        """Is the caller's role at least `role`?"""
        return ROLES.index(self.role) >= ROLES.index(role)

    def require(self, role: str) -> None:
        """Raise Forbidden unless the caller's role is at least `role`."""
        if not self.may(role):
            raise Forbidden(f"this needs the role {role}; the key of {self.name} has the role {self.role}")


LOCAL_ADMIN = Caller("local", "admin")
SYSTEM = Caller("system", "admin")
