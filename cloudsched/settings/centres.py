"""What can be set of compute centres (the kboss dialect)?"""

from __future__ import annotations

from dataclasses import dataclass

from .declare import boolean, integer, seconds, secret, text


@dataclass(frozen=True)
class Centres:
    """Compute centres: their clusters, instances, parts; both halves of the kboss dialect."""

    reveal_secrets: bool = boolean(False, "Show stored passwords and kubeconfigs in the clear to administrators, for old front "
                                          "ends.")
    install_limit_s: float = seconds(600, "How long a call that installs waits for its end before it answers with the "
                                          "operation's number.", low=0, high=86400)
    api_user: str = text("", "User name that managing servers give to the pcapi half of this server (Basic), beside keys.")
    api_password: str = secret("", "Password of centres.api_user. When it is set, the pcapi half answers only with it or with a "
                                   "key, also on loopback.")
    connect_timeout_s: float = seconds(5, "Time limit for reaching the pcapi of a remote centre.", low=0.05, high=300)
    read_timeout_s: float = seconds(60, "Time limit for an answer of the pcapi of a remote centre.", low=0.1, high=3600)
    away_limit_s: float = seconds(600, "How long an installation goes on asking a remote centre that does not answer.", low=0,
                                  high=86400)
    verify_tls: bool = boolean(True, "Check certificates of the pcapi of remote centres.")
    batch_clouds: bool = boolean(True, "Register each cluster that was installed as a cloud for the batch queue.")
    forget_requests_days: int = integer(7, "How long a repeated request of a managing server is known again.", low=1, high=3650)
