"""Is a Chinese answer Chinese and an English one English, whatever goes wrong? Sentences of the code, refusals over HTTP."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

import cloudsched
from cloudsched.dialects.kboss import routes, texts
from cloudsched.dialects.kboss.words import told
from cloudsched.domain import pricing, stock
from tests.services import shop as shops
from tests.unit.test_instances import SEED

from .conftest import ORG, Api

ROOT = Path(cloudsched.__file__).parent
HAN, ENGLISH = re.compile("[\u3400-\u9fff]"), re.compile(r"[A-Za-z']+(?: [A-Za-z']+){2}")
QUOTED = re.compile("「[^「」]*」|“[^“”]*”")
# Where errors come from that an answer of this API can tell.
SOURCES = (
    "services/centre", "services/clusters.py", "services/operations.py", "drivers/installing", "drivers/pcapi.py", "sealed.py",
    "store/db.py", "domain/fitting.py", "domain/labels.py", "domain/stock.py", "domain/pricing.py", "domain/instances.py",
    *(f"drivers/ssh/{name}.py" for name in ("connection", "opening", "targets", "hostkeys", "session", "shell", "facts")),
    *(f"drivers/kubernetes/{name}.py" for name in ("client", "access", "deletion", "kinds", "nodes", "options", "quantities",
                                                   "watch", "workloads")))
ERRORS = {"Invalid", "Conflict", "NotFound", "Unavailable", "Unsupported", "CloudschedError", "DriverError", "StepFailed",
          "RunFailed", "HostKeyRefused", "Forbidden", "SealError", "PcapiError", "PcapiRefused", "FieldError", "Later"}
STEPS = ("centre_growth.py", "centre_removal.py", "centre_work.py", "executor_ops.py")
# Units of the contract, which have one form in all languages.
VALUES = {"元", *pricing.DURATION_S, *(unit for units in stock.UNITS.values() for unit in units)}
# Words of the contract that are English in Chinese answers.
CONTRACT = re.compile("operate success|operate failed|switch node (success|failed)|delete node (success|failed)")


def sample(node: ast.expr) -> str | None:
    """The text of an expression, with something that may stand there for what is put in."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else stand_in(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left = sample(node.left)
        return None if left is None else left + (sample(node.right) or "")
    return None


def stand_in(part: ast.expr) -> str:
    assert isinstance(part, ast.FormattedValue)
    name = ast.unparse(part.value)
    if part.conversion == ord("r"):
        return "'z'"
    number = re.search(r"len\(|_s\b|limit|[Mm]ost|MOST|MAX|LIMIT|count|number|low|least|code|port|NANO|times|>>|[0-9]$|SESSIONS|"
                       "BYTES|left$|total|PLACES|status|instances|CHARS|bytes|lineno|colno|jobs|hops|value$", name)
    return "7" if number and "label" not in name and "named" not in name.lower() else "x1"


def sentences() -> Iterator[tuple[str, str]]:
    """(where, an English sentence) for all that are raised, and all that steps say."""
    for source in SOURCES:
        path = ROOT / source
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            for node in ast.walk(ast.parse(file.read_text())):
                for one in _of(node, file):
                    text = sample(one)
                    if text and not text.isspace():
                        yield f"{file.relative_to(ROOT)}:{one.lineno}", text


def _of(node: ast.AST, file: Path) -> list[ast.expr]:
    if isinstance(node, ast.Call):
        name = ast.unparse(node.func)
        details = next((ast.unparse(one.value) for one in node.keywords if one.arg == "details"), "")
        if name.split(".")[0] in ERRORS and "say" not in details:
            return node.args[1:] if name.endswith(".at") or name in ("FieldError", "Later") else node.args[:1]
        if name in ("self._away", "self._strange"):
            return node.args[:1]
    if isinstance(node, ast.Return) and node.value is not None and file.name in STEPS:
        whole = [node.value.body, node.value.orelse] if isinstance(node.value, ast.IfExp) else [node.value]
        return [one for one in whole if isinstance(one, ast.JoinedStr) or " " in str(getattr(one, "value", ""))]
    return []


def is_chinese(text: str) -> bool:
    return not ENGLISH.search(QUOTED.sub("", CONTRACT.sub("", text)))


ALL = sorted(set(sentences()))


def test_every_sentence_of_the_code_has_a_chinese_one() -> None:
    assert len(ALL) > 200
    missing = [f"{where}: {text!r} -> {told(text, 'zh')!r}" for where, text in ALL
               if ENGLISH.search(text) and not HAN.search(QUOTED.sub("", told(text, "zh")))]
    assert not missing, "\n".join(missing)
    assert [text for _, text in ALL if not is_chinese(told(text, "zh"))] == []


def test_every_sentence_stays_english_in_english() -> None:
    assert [text for _, text in ALL if "元" in text or told(text, "en") != text] == []


def keys() -> Iterator[tuple[str, str]]:
    """(where, key of a text) for all that services, domain and drivers name."""
    for part in ("services", "domain", "drivers", "engine"):
        for file in sorted((ROOT / part).rglob("*.py")):
            source = file.read_text()
            for node in ast.walk(ast.parse(source)) if re.search(r"\bsay\b|refused\(|wrong\(", source) else ():
                for key in _keys_of(node, centre="services/centre" in str(file)):
                    yield f"{file.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}", key


def _keys_of(node: ast.AST, *, centre: bool) -> list[str]:
    found: list[ast.expr | None] = []
    if isinstance(node, ast.Call):
        name = ast.unparse(node.func).rpartition(".")[2]
        place = {"refused": 1, "wrong": 2, "NotDone": 1}.get(name) if centre else None
        found = [node.args[place]] if place is not None and len(node.args) > place else []
        found += [one.value for one in node.keywords if one.arg == "say"]
    elif isinstance(node, ast.Dict):
        found = [value for name, value in zip(node.keys, node.values, strict=True)
                 if isinstance(name, ast.Constant) and name.value == "say"]
    elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "say":
        found = [node.value]
    return [one.value for one in found if isinstance(one, ast.Constant) and isinstance(one.value, str) and one.value]


def test_every_key_that_is_named_is_there(api: Api) -> None:
    found = list(keys())
    assert len(found) > 50 and routes.table()
    assert [one for one in found if not texts.known(one[1])] == []


def test_texts_are_in_their_language() -> None:
    assert routes.table()
    for key, (chinese, english) in texts._TEXTS.items():
        assert not HAN.search(english), key
        assert is_chinese(re.sub(r"\{\w+\}|\(允许: .*\)|\(格式: .*\)", "", chinese)), key
        assert set(re.findall(r"\{(\w+)\}", chinese)) == set(re.findall(r"\{(\w+)\}", english)), key


@pytest.mark.parametrize(("text", "chinese"), [
    ("10.0.0.7: user root is not let in with the password", "10.0.0.7: 用户 root 登录被拒绝 (已尝试: 密码)"),
    ("10.0.0.7:2222: get the packages: apt-get update failed", "10.0.0.7:2222: 获取软件包: apt-get update失败"),
    ("10.0.0.7: E: Unable to locate package slurmd", "10.0.0.7: E: 「Unable to locate package slurmd」"),
    ("node 1 is left as it is: 10.0.0.7: no answer within 10 s; b is left as it is: the host is gone",
     "node 1 未清理: 10.0.0.7: 10 秒内没有回答; b 未清理: 设备已移除"),
    ("duration: -1 is out of range (allowed: 1 to 1000000)", "duration: -1 超出范围 (允许: 1到1000000)"),
    ("the pcapi at http://c:1 cannot be reached: connection refused", "无法连接算力中心服务 http://c:1: 连接被拒绝"),
    ("the pcapi at http://c:1 cannot be reached: no answer within 60 s", "无法连接算力中心服务 http://c:1: 60 秒内没有回答"),
    ("Error: Failed to pull image x", "Error: 「Failed to pull image x」"), ("朝阳区", "朝阳区"), ("", "")])
def test_what_rows_keep_is_told_in_chinese(text: str, chinese: str) -> None:
    assert told(text, "zh") == chinese
    assert told(text, "en") == (text if text != "朝阳区" else "“朝阳区”")


def test_long_texts_are_told_in_no_time() -> None:
    assert told("x " * 100_000, "zh").startswith("「x x") and told("; ".join(["a: b"] * 5000), "zh")


def _texts_of(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from _texts_of(one) if name not in ("script", "yaml") else ()
    elif isinstance(value, list):
        for one in value:
            yield from _texts_of(one)


# Nothing that a caller gives here is Chinese, or has three words: whatever is, is ours.
WRONG = {
    "cpcid": ("", "nothing"), "clusterid": ("", "nothing"), "id": ("", "nothing", "0", "-1", "99"), "orgid": ("",),
    "page": ("0", "x"), "rows": ("-1",), "sort": ("nothing", "a b"), "dry_run": ("perhaps",), "resources": (
        "", "{", "[1]", "[]", '[{"type":"cpu"}]', '[{"type":"tpu","model":"x","amount":1}]',
        '[{"type":"cpu","model":"X","amount":-1}]',
        '[{"productid":"a","resources":[{"type":"cpu","amount":"1_0"}]}]', '[{"productid":[],"resources":[]}]', '{"a":{}}'),
    "kyylabels": ("!!", "=a", "a=!!"), "duration": ("0", "-1", "x", "10000000"), "duration_unit": ("year",),
    "type": ("tpu", "cpu"), "model": ("\u00a0", "x" * 300), "unit_price": ("１", "1_0", "-1", "nan", "1e99", "0.00000000000001"),
    "stock": ("x", "-1", "0.00001", "1e30"), "charge_unit": ("year",), "account_unit": ("usd",), "resource_unit": ("bits",),
    "add_opt": ("perhaps",), "amount": ("x", "-1", "0.00000000001"), "warn": ("0", "x"), "hard": ("0",), "stop": ("1",),
    "month": ("2026-13",), "from": ("yesterday",), "to": ("2000-01-01",), "by": ("year",), "since": ("never",),
    "name": ("", "\t"), "pcapi_url": ("ftp://x", "http://"), "enable_date": ("2026-99-99", "3000-01-01"),
    "expire_date": ("x", "1999-01-01"), "export_date": ("x",), "api_pwd": ("sealed:1:xxx",), "ip": ("1.2.3", "!"),
    "adminuser": ("-x", ""), "adminpwd": ("sealed:1:x",),
    "sshport": ("0", "x"), "devicetype": ("7",), "node_status": ("7",), "cpu_stock": ("-1", "x"), "role": ("king",), "options": (
        "[1]", "{", '{"cpus":1}', '{"prefix":"x"}', '{"prefix":"/"}', '{"packages":"rpm"}', '{"packages":"bundle"}',
        '{"node_name":"A_b"}', '{"slurmd_port":0}', '{"cluster_name":"!"}', '{"pod_network":"x"}', '{"mirror":"x"}'),
    "labeltype": ("7", "0"), "label_key": ("!", "k"), "label_value": ("!!",), "label": ("!", "a", "a=!!"),
    "opt": ("glue", "label"),
    "worker_node": ("", "n"), "worker_nodeid": ("nothing",), "ctl_nodeid": ("nothing",), "cluster_type": ("7", "0", "1"),
    "state": ("fly", "uncordon"), "drain": ("1", "perhaps"), "force": ("perhaps",), "join_command": (
        "x", "kubeadm join a", "slurm join a:1 --token x"), "host": ("", "!", "h:99999"), "user": ("", "-x"), "port": ("0", "x"),
    "password": ("",), "key": ("x",), "host_key": ("x",), "kubeconfig": ("x", "- a", "{", "clusters: []"), "what": ("x",),
    "node_name": ("-", "n"), "action": ("fly", "apply", "delete"), "limit_s": ("0", "x"), "userid": ("a b", "x" * 99),
    "source_cpurate": ("x", "0"), "source_memrate": ("x",), "source_podengine": ("Engine",), "source_portmode": ("Port",),
    "source_outsideport": ("1",), "source_selflabel": ("!",), "source_mountpath": ("/etc",), "source_schedule": ("x",),
    "source_replicasetnum": ("0",), "kind": ("zzz",), "labelnothing": ("",), "cluster_name": ("", "\t"), "clusterjoin": ("x",),
    "controllerid": ("nothing",), "budget": ("x",), "result": ("perhaps",), "async": ("perhaps",),
}


class _Asked(dict[str, Any]):
    """Parameters that note which of them were looked at."""

    names: ClassVar[set[str]] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.names.add(key)
        return super().get(key, default)


def test_no_refusal_speaks_another_language(api: Api, centre_things: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every route, with each parameter that it looks at wrong in every way; with nothing, and with everything plausible."""
    params = routes.params
    monkeypatch.setattr(routes, "params", lambda *given: _Asked(params(*given)))
    told_no = 0
    with shops.opened(api.settings) as shop:
        bought = {**SEED, "clusterid": shop.cluster, "kubeconfig": shop.kube.kubeconfig(), "id": shop.add().key, "userid": "kyy",
                  "source_authpasswd": "x", "source_outsideport": "", "cpu_model": "", "orgid": shops.ORG, "what": "pods",
                  "worker_node": "node-0", "node_name": "node-0"}
        told_no += sum(_refusals(api, path, centre_things) for path in routes.table())
        told_no += sum(_refusals(api, path, {**centre_things, **bought, "cpcid": shop.centre.key}) for path in routes.table()
                       if not path.rpartition("/")[2].startswith(("get_", "free_")))
    assert told_no > 1500


def _refusals(api: Api, path: str, good: dict[str, str]) -> int:
    """How many refusals a route told."""
    told_no = 0
    _Asked.names.clear()
    for given in _givens(good):
        for language in ("zh", "en"):
            answer = api(path, data=given, headers={"Accept-Language": language})
            assert answer.status_code < 500, (path, given, answer.text)
            if not answer.headers["Content-Type"].startswith("application/json") or not isinstance(answer.json, dict):
                continue
            no = answer.json["status"] is False
            told_no += no
            for text in _texts_of(answer.json if no else answer.json.get("msg", answer.json.get("info", ""))):
                if text in given.values() or text in VALUES:
                    continue
                if language == "en":
                    assert not HAN.search(QUOTED.sub("", text.replace("朝阳区", ""))), (path, given, text)
                else:
                    assert is_chinese(text), (path, given, text)
    return told_no


def _givens(good: dict[str, str]) -> Iterator[dict[str, str]]:
    yield {}
    yield {"dry_run": "1", **good}
    for name in sorted(_Asked.names & WRONG.keys()):
        for value in WRONG[name]:
            yield {"dry_run": "1", **good, name: value}


@pytest.fixture
def centre_things(api: Api) -> dict[str, str]:
    centre = api.centre(name="east")
    host = api.host(centre, name="node-1", options='{"prefix": "/srv/x"}')
    api.ok("/dev/cpcc/cpcwidget/add_cpcwidget.dspy", cpcid=centre, type="cpu", model="X", unit_price="1", stock="4")
    return {"cpcid": centre, "ctl_nodeid": host, "worker_nodeid": host, "cluster_type": "1", "cluster_name": "c", "type": "cpu",
            "model": "X", "unit_price": "1", "host": "127.0.0.1", "port": "1", "user": "root", "password": "x", "labeltype": "0",
            "label_key": "k",
            "duration": "1", "duration_unit": "小时", "resources": '[{"type":"cpu","model":"X","amount":1}]', "amount": "5",
            "name": "node-1", "ip": "192.168.0.8", "adminuser": "root", "adminpwd": "x", "orgid": ORG, "opt": "label",
            "label": "a=b",
            "worker_node": "n", "node_name": "n", "state": "cordon", "source_name": "s"}
