"""Bad values on every route: never a 500, always the envelope (the check is in `Api`)."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudsched.dialects.retire_cluster import routes

ROUTES = [one for one in routes.table(SimpleNamespace(door=None, limits=None))  # type: ignore[arg-type]
          if "event-stream" not in one.media]
TEXT = st.text(max_size=30)
JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8)
NAMES = st.sampled_from(["task_type", "payload", "priority", "device_id", "requirements", "timeout", "metadata", "count", "tasks",
                         "command", "format", "cluster", "server", "logging", "max_retries", "min_cpu_cores", "required_tags",
                         "heartbeat_interval", "port", "level", "max_size"])
SENSIBLE = st.sampled_from(["echo", "high", "android-001", {"message": "x"}, 5, "info", {"min_cpu_cores": 2}, "devices list",
                            {"heartbeat_interval": 60}, [{"task_type": "echo", "payload": {}}]])
BODY = (st.dictionaries(NAMES, SENSIBLE | JSON, max_size=6) | JSON).map(lambda found: json.dumps(found).encode()) | (
    st.binary(max_size=60))
VALUE = TEXT | st.integers().map(str) | st.sampled_from(["all", "online", "1h", "2023-01-01T00:00:00+02:00", "1e9", "true", ""])
KINDS = st.sampled_from(["application/json"] * 3 + ["text/plain", ""])


@settings(max_examples=300, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_no_route_breaks(api: Any, device: Any, data: st.DataObject) -> None:
    route = data.draw(st.sampled_from(ROUTES))
    parts = st.sampled_from(["android-001", "task-0123456789abcdef"]) | TEXT.filter(lambda text: text not in ("", ".", ".."))
    path = re.sub("<[a-z_]+>", lambda _: quote(data.draw(parts), safe=""), route.rule)
    query = {param.name: data.draw(VALUE) for param in route.query if data.draw(st.booleans())}
    more: dict[str, Any] = {"query_string": query}
    if route.method in ("POST", "PUT"):
        kinds = st.sampled_from(["application/json"] * 3 + ["text/plain", ""])
        more |= {"data": data.draw(BODY), "content_type": data.draw(kinds)}
    answer = api(route.method, path, **more)
    assert answer.status_code not in (500, 503), (path, more, answer.text)
