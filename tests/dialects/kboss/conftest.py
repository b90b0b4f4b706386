"""A kboss API over a fresh SQLite database, called through WSGI; what centres do is played by an executor that only notes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import Client

from cloudsched import clock
from cloudsched import settings as settings_module
from cloudsched.clock import ManualClock
from cloudsched.dialects.kboss import make_app
from cloudsched.domain.fitting import NodeFree
from cloudsched.drivers.base import DriverError
from cloudsched.drivers.installing.access import Access
from cloudsched.errors import CloudschedError
from cloudsched.services import operations
from cloudsched.services.centre import centre_calls, centre_clusters, centre_work
from cloudsched.services.centre.centre_calls import Progress, Where
from cloudsched.store import db

CENTRE, HOST, CLUSTER, LABEL, WORKER = (
    "/dev/cpcc/cpclist", "/dev/cpcc/cpcnode", "/dev/cpcc/cpccluster", "/dev/cpcc/cpclabel", "/dev/cpcc/cpcworker")
PCAPI = "/pcapi/api/v1/cluster/common"
ORG = "mIWUHBeeDM8mwAFPIQ8pS"
CENTRE_FACTS = {"name": "首都算力中心1", "pcapi_url": "local", "api_user": "apiuser", "api_pwd": "Pa55-w0rd-centre",
                "contactname": "ops", "contactphone": "13800000000", "enable_date": "2025-05-16", "expire_date": "2036-06-17",
                "orgid": ORG}
HOST_FACTS = {"ip": "192.168.0.8", "name": "gpu设备1", "devicetype": "1", "sshport": "22",
              "adminuser": "apiuser", "adminpwd": "Pa55-w0rd-host", "node_status": "0", "external_ip": "未设置",
              "cpu_model": "STANDARD", "cpu_stock": "16",
              "memory_model": "STANDARD", "memory_stock": "64", "sysdisk_stock": "100", "datadisk_stock": "500",
              "gpu_model": "RTX4090-24G", "gpu_stock": "2", "role": "", "enable_date": "2025-05-16", "export_date": "2036-06-17"}


class Api:
    """Calls of one application. `language` and `key` are sent when set."""

    def __init__(self, app: Any, settings: Any) -> None:
        self.app, self.settings = app, settings
        self.client = Client(app)
        self.language, self.key = "", ""

    def __call__(self, path: str, *, method: str = "POST", address: str = "127.0.0.1", headers: dict[str, str] | None = None,
                 **kw: Any) -> Any:
        found = dict(headers or {})
        if self.language:
            found.setdefault("Accept-Language", self.language)
        if self.key:
            found.setdefault("X-API-Key", self.key)
        return self.client.open(path, method=method, headers=found, environ_base={"REMOTE_ADDR": address}, **kw)

    def do(self, path: str, **params: Any) -> dict[str, Any]:
        """The body of a call by form, whatever it decided."""
        answer = self(path, data={name: value for name, value in params.items() if value is not None})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json
        return found

    def ok(self, path: str, **params: Any) -> Any:
        """The `data` of a call that must say yes."""
        found = self.do(path, **params)
        assert found["status"] is True, found
        return found["data"]

    def no(self, path: str, **params: Any) -> str:
        """The text of a call that must say no."""
        found = self.do(path, **params)
        assert found["status"] is False, found
        return str(found.get("msg", found.get("info")))

    # things

    def centre(self, **changes: Any) -> str:
        """A centre; its id."""
        return str(self.ok(f"{CENTRE}/add_cpclist.dspy", **{**CENTRE_FACTS, **changes})["id"])

    def host(self, centre: str, **changes: Any) -> str:
        """A host of a centre; its id."""
        return str(self.ok(f"{HOST}/add_cpcnode.dspy", **{**HOST_FACTS, "cpcid": centre, **changes})["id"])

    def hosts(self, centre: str) -> dict[str, dict[str, Any]]:
        """id -> row of the hosts of a centre."""
        return {row["id"]: row for row in self.ok(f"{HOST}/get_cpcnode.dspy", cpcid=centre)["rows"]}


@pytest.fixture
def make_api(tmp_state: Path, migrated_file: Path) -> Iterator[Callable[..., Api]]:
    made: list[Api] = []

    def make(**flags: Any) -> Api:
        settings = settings_module.load({"state": str(tmp_state), "cloud_scheduler.config_file": "none", **flags}, environ={})
        if not made:
            shutil.copy(migrated_file, settings.database.url.removeprefix("sqlite:///"))
            db.open_database(settings.database.url, synchronous="OFF")
        made.append(Api(make_app(settings), settings))
        return made[-1]

    yield make
    if made:
        db.current().close()


@pytest.fixture
def api(make_api: Callable[..., Api]) -> Api:
    return make_api()


JOIN = "kubeadm join 192.168.0.3:6443 --token abcdef.0123456789abcdef --discovery-token-ca-cert-hash sha256:0f1e"
KUBECONFIG = "apiVersion: v1\nkind: Config\nusers:\n- name: kubernetes-admin\n  user: {client-key-data: c2VjcmV0LWtleQ==}\n"


class PlayedExecutor:
    """A centre that does what it is asked when it is told to. `begun`: what it was asked for; `away`: it does not answer."""

    def __init__(self) -> None:
        self.begun: list[dict[str, Any]] = []
        self.asked: list[tuple[Any, ...]] = []
        self.ends: dict[int, Progress] = {}
        self.away = False
        self.refuses: dict[str, CloudschedError] = {}
        self.given: dict[str, Any] = {"join_command": JOIN, "kubeconfig": KUBECONFIG}

    def _begin(self, verb: str, access: Access, reference: str, **facts: Any) -> int:
        self._check(verb)
        for number, known in enumerate(self.begun, 1):
            if known["reference"] == reference:
                return number
        self.begun.append({"verb": verb, "host": access.host, "password": access.password, "reference": reference, **facts})
        return len(self.begun)

    def new_cluster(self, access: Access, *, reference: str, **facts: Any) -> int:
        return self._begin("new_cluster", access, reference, **facts)

    def new_worker(self, access: Access, *, reference: str, **facts: Any) -> int:
        return self._begin("new_worker", access, reference, **facts)

    def take_apart(self, access: Access, *, reference: str, **facts: Any) -> int:
        return self._begin("take_apart", access, reference, **facts)

    def progress(self, operation: int) -> Progress:
        self._check("progress")
        return self.ends.get(operation, Progress(True, True, "done"))

    def result(self, operation: int) -> dict[str, Any]:
        return dict(self.given)

    def nodes(self, where: Where) -> list[dict[str, Any]]:
        return self._look("nodes", where)

    def pods(self, where: Where) -> list[dict[str, Any]]:
        return self._look("pods", where)

    def free_nodes(self, where: Where) -> list[NodeFree]:
        return self._look("free_nodes", where)

    def switch(self, where: Where, node: str, *, state: str, drain: bool) -> dict[str, Any]:
        return self._look("switch", where, node, state, drain) or {}  # type: ignore[return-value]

    def delete_node(self, where: Where, node: str, *, force: bool) -> dict[str, Any]:
        return self._look("delete_node", where, node, force) or {}  # type: ignore[return-value]

    def label(self, where: Where, node: str, label: str, action: str) -> dict[str, Any]:
        return self._look("label", where, node, label, action) or {}  # type: ignore[return-value]

    def call(self, verb: str, params: Mapping[str, Any], *, limit_s: float | None = None) -> Any:
        return self._look(verb, params)

    def _look(self, verb: str, *facts: Any) -> list[Any]:
        self._check(verb)
        self.asked.append((verb, *facts))
        return []

    def _check(self, verb: str) -> None:
        if self.away:
            raise DriverError("the pcapi at http://centre.example.com cannot be reached: connection refused", transient=True)
        if verb in self.refuses:
            raise self.refuses[verb]


@pytest.fixture
def time_passes(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    """The clock that everything here looks at; it only moves when told to."""
    manual = ManualClock(1_767_341_084.0)
    monkeypatch.setattr(clock, "now", manual.now)
    return manual


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch, time_passes: ManualClock) -> PlayedExecutor:
    """The executor of every centre."""
    found = PlayedExecutor()
    for module in (centre_calls, centre_clusters, centre_work):
        monkeypatch.setattr(module, "executor_for", lambda *_, **__: found)
    return found


@pytest.fixture
def work(time_passes: ManualClock) -> Callable[..., None]:
    """Let the engine do what is due, for `seconds`."""

    def go(seconds: float = 30.0) -> None:
        for _ in range(int(seconds)):
            operations.work("engine")
            time_passes.advance(1.0)

    return go
