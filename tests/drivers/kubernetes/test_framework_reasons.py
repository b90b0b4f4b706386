"""Does the reason of a cluster in Kubernetes quote no job's words?"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cloudsched.drivers.kubernetes.frameworks import KubernetesFramework

WORDS = "java.lang.IllegalStateException: the secret of a tenant"
ENDED = {"terminated": {"exitCode": 1, "reason": "Error", "message": WORDS}}


@pytest.mark.parametrize(("kind", "said"), [("flink", "Error: exit status 1"), ("spark", f"Error: {WORDS}")])
@pytest.mark.parametrize("state", [{"state": ENDED}, {"state": {}, "lastState": ENDED}])
def test_the_log_of_a_flink_process_is_not_quoted(kind: str, said: str, state: dict[str, Any]) -> None:
    pod = {"metadata": {"name": "w-0"}, "status": {"phase": "Failed", "containerStatuses": [state]}}
    one: Any = SimpleNamespace(kind=kind)
    assert KubernetesFramework._why(one, [pod]) == f"w-0: {said}"
    assert ENDED["terminated"]["message"] == WORDS, "what was read stays as it is"
