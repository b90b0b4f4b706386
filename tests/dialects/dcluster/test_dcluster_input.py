"""Does every bad field get a 400 that names it, every conflict a 409, and nothing ever a 500?"""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.test import Client

from cloudsched import settings as settings_module
from cloudsched.app import wsgi
from cloudsched.dialects.dcluster import make_app
from cloudsched.dialects.dcluster.front import inner
from cloudsched.dialects.dcluster.routes import Handlers
from cloudsched.services import ratelimits
from cloudsched.store import db

from .conftest import FLINK, JOB, SPARK, Api

CLUSTER_FIELDS: list[tuple[str, Any]] = [
    ("tenant", None), ("tenant", ""), ("tenant", "../etc"), ("tenant", "a/b"), ("tenant", "a\0b"), ("tenant", ["x"]),
    ("tenant", "x" * 101), ("workers", -1), ("workers", 0), ("workers", "three"), ("workers", 2.5), ("workers", True),
    ("workers", 10**12), ("workers", {}), ("workerCpu", "-1"), ("workerCpu", "two"), ("workerCpu", 0), ("workerCpu", "1Gi2"),
    ("masterCpu", "1e999"), ("workerMemory", "8 apples"), ("workerMemory", "-8Gi"), ("workerMemory", "0"),
    ("masterMemory", []), ("masterMemory", "9" * 40 + "Gi"), ("type", "hadoop"), ("type", "flink"), ("type", 3),
    ("useOnDemandMaster", "maybe"), ("launchNewNode", 7), ("launchDynamicDisk", []), ("useExternalNamespace", "x"),
    ("extraConfigs", "{not json}"), ("extraConfigs", "[1]"), ("extraConfigs", '{"a": {"b": 1}}'), ("extraConfigs", '"x"'),
    ("extraConfigs", '{"a": "b\\nc"}'), ("extraConfigs", 7), ("extraConfigs", "[" * 100_000), ("clusterSuffix", "a b"),
    ("clusterSuffix", "../x"), ("clusterSuffix", "x" * 21)]
JOB_FIELDS: list[tuple[str, Any]] = [
    ("client", None), ("client", "../x"), ("client", "a\\b"), ("module", None), ("module", "data-processing"),
    ("module", "../../etc/passwd"), ("module", 3), ("module", {"a": 1}), ("codeVersion", "../v1"), ("codeVersion", "a\0b"),
    ("clusterName", "a/../b"), ("extraCmd", "{"), ("extraCmd", "null"), ("driverMemGb", -4), ("driverMemGb", "four"),
    ("workerMemGb", 0), ("workerMemGb", "1e400"), ("numWorkers", 0), ("numWorkers", "-3"), ("numWorkers", 1.5),
    ("emailRecipients", "not an address"), ("emailRecipients", ["a@b.c"]), ("emailRecipients", "a@b.c\r\nBcc: d@e.f"),
    ("pipelineConfig", "'open quote"), ("pipelineConfig", {"a": 1}), ("pipelineVersion", []), ("jobType", "flink"),
    ("moduleType", "cobol"), ("keepAlive", "perhaps"), ("useLongLivingCluster", 2), ("useExternalCluster", True),
    ("workerCpu", "-2"), ("workerDaemonMemory", "big"), ("masterMemory", "-4g")]
NODE_FIELDS: list[tuple[str, str, Any]] = [
    ("/node/launch", "nodeCount", -1), ("/node/launch", "nodeCount", "x"), ("/node/launch", "nodeCount", 10**9),
    ("/node/launch", "instanceType", ""), ("/node/launch", "instanceType", "../m5"), ("/node/launch", "region", 5),
    ("/node/destroy", "nodeIds", []), ("/node/destroy", "nodeIds", 7), ("/node/destroy", "nodeIds", [1.5]),
    ("/node/destroy", "region", "a b")]
NODES = {"/node/launch": {"nodeCount": 1, "instanceType": "m5.large", "region": "us-west-2"},
         "/node/destroy": {"nodeIds": ["i-1234567890abcdef0"], "region": "us-west-2"}}


def _refused(answer: Any, field: str, value: Any = "") -> None:
    assert answer.status_code == 400, f"{field} {str(value)[:50]!r}: {answer.text}"
    assert set(answer.json) == {"error", "timestamp", "path"}
    assert field in answer.json["error"], answer.json["error"]


def test_each_field_of_a_cluster(api: Api) -> None:
    for field, value in CLUSTER_FIELDS:
        _refused(api.post("/v2/launch/spark/cluster", {**SPARK, field: value}), field, value)
        if field != "type":
            _refused(api.post("/launch/flink/cluster", {**FLINK, field: value}), field, value)
    assert db.read().value("SELECT count(*) FROM cluster") == 0


def test_each_field_of_a_job(api: Api) -> None:
    for field, value in JOB_FIELDS:
        _refused(api.post("/job/submit", {**JOB, field: value}), field, value)
    assert api.get("/job/list").json == []


SETTINGS: list[tuple[str, str, str]] = [
    ("spark", "spark.jars", "brings code"), ("spark", "spark.master", "set by cloudsched"),
    ("spark", "spark.authenticate.secret", "set by cloudsched"), ("spark", "spark.a b", "a b"),
    ("spark", "spark.driver.extraJavaOptions", "-javaagent"), ("spark", "other.key", "spark.NAME"),
    ("flink", "env.java.opts", "-javaagent"), ("flink", "pipeline.jars", "brings code"),
    ("flink", "rest.port", "set by cloudsched")]


@pytest.mark.parametrize(("kind", "key", "words"), SETTINGS)
def test_settings_that_this_machine_refuses_are_refused_at_once(api: Api, kind: str, key: str, words: str) -> None:
    text = json.dumps({key: "-javaagent:/x.jar", "spark.executor.instances" if kind == "spark" else "parallelism.default": 2})
    path, body = ("/v2/launch/spark/cluster", SPARK) if kind == "spark" else ("/launch/flink/cluster", FLINK)
    job = {**JOB, "module": "spark-pi" if kind == "spark" else "flink-wordcount", "jobType": kind}
    for answer, field in ((api.post(path, {**body, "extraConfigs": text}), "extraConfigs"),
                          (api.post("/job/submit", {**job, "extraCmd": text}), "extraCmd")):
        _refused(answer, field)
        assert key in answer.json["error"] and words in answer.json["error"], answer.json["error"]
    assert db.read().value("SELECT count(*) FROM cluster") == 0 and api.get("/job/list").json == []


def test_every_wrong_setting_is_named_and_code_is_let_in_where_that_is_said(api: Api) -> None:
    code = {"spark.jars": "x.jar", "spark.plugins": "X"}
    answer = api.post("/v2/launch/spark/cluster", {**SPARK, "extraConfigs": {**code, "spark.driver.host": "x"}})
    assert all(f"extraConfigs.{key}" in answer.json["error"] for key in (*code, "spark.driver.host"))
    assert "dcluster.trusted_settings" in answer.json["error"]
    api.set(trusted_settings=True)
    assert api.post("/v2/launch/spark/cluster", {**SPARK, "extraConfigs": code}).status_code == 200
    _refused(api.post("/v2/launch/spark/cluster", {**SPARK, "extraConfigs": {"spark.driver.host": "x"}}), "extraConfigs")


def test_settings_that_kubernetes_refuses_are_its_own(api: Api) -> None:
    api.set(place="kubernetes:k8s")
    assert api.post("/v2/launch/spark/cluster", {**SPARK, "extraConfigs": {"spark.jars": "local:///x.jar"}}).status_code == 200
    answer = api.post("/launch/flink/cluster", {**FLINK, "extraConfigs": {"rest.address": "x"}})
    _refused(answer, "extraConfigs.rest.address")
    _refused(api.post("/job/submit", {**JOB, "extraCmd": {"spark.driver.host": "x"}}), "extraCmd.spark.driver.host")


def test_a_job_is_judged_by_the_place_of_the_cluster_it_names(api: Api) -> None:
    number = api.cluster("spark", "running")
    name = db.read().value("SELECT key FROM cluster WHERE id = ?", (number,))
    api.set(place="kubernetes:k8s")
    _refused(api.post("/job/submit", {**JOB, "clusterName": name, "extraCmd": {"spark.jars": "x"}}), "extraCmd.spark.jars")


MASTERS = ("spark://10.1.2.3:7077", "spark://127.0.0.1:8100", "spark://localhost:7077", "spark://169.254.169.254:80",
           "spark://spark.example.com:7077", "spark://2130706433:7077", "spark://good:7077,10.1.2.3:7077", "spark://[::1]:7077")


def test_jobs_go_to_no_cluster_of_others_that_was_not_listed(api: Api) -> None:
    def submit(url: str, **more: Any) -> Any:
        return api.post("/job/submit", {**JOB, "useExternalCluster": True, "extraCmd": {"spark.master": url}, **more})

    api.set(external_clusters="good:7077", driver_host="10.0.0.1")
    for url in MASTERS:
        answer = submit(url)
        _refused(answer, "extraCmd", url)
        assert "dcluster.external_clusters" in answer.json["error"], answer.json["error"]
    assert submit("spark://good:7077").status_code == 200
    assert submit("spark://GOOD:7078", client="b").status_code == 400, "another port"
    api.set(external_clusters="10.1.0.0/16,*.example.com:7077", external_spark_url="spark://127.0.0.1:7000",
            driver_host="10.0.0.1")
    for number, url in enumerate(("spark://10.1.2.3:1", "spark://a.example.com:7077", "spark://127.0.0.1:7000")):
        assert submit(url, client=f"c{number}").status_code == 200, url
    assert api.post("/job/submit", {**JOB, "client": "d", "useExternalCluster": True}).status_code == 200
    flink = {**JOB, "module": "flink-wordcount", "jobType": "flink", "useExternalCluster": True}
    for url, status in (("http://10.1.2.3:8081", 200), ("http://127.0.0.1:8100/api", 400), ("http://169.254.169.254/x", 400)):
        assert api.post("/job/submit", {**flink, "client": url[7:15], "extraCmd": {"rest.url": url}}).status_code == status, url


def test_a_master_elsewhere_needs_an_address_of_ours(api: Api) -> None:
    api.set(external_spark_url="spark://10.1.2.3:7077")
    answer = api.post("/job/submit", {**JOB, "useExternalCluster": True})
    assert answer.status_code == 400 and "dcluster.driver_host" in answer.json["error"]


def test_each_field_of_nodes(api: Api) -> None:
    for path, field, value in NODE_FIELDS:
        _refused(api.post(path, {**NODES[path], field: value}), field, value)


def test_unknown_modules_list_the_known_ones(api: Api) -> None:
    text = api.post("/job/submit", {**JOB, "module": "data-processing"}).json["error"]
    assert "flink-wordcount, spark-pi, spark-wordcount" in text


def test_the_place_of_a_mistake_in_json_is_told(api: Api) -> None:
    error = api.post("/v2/launch/spark/cluster", {**SPARK, "extraConfigs": '{"a": 1,\n "b": }'}).json["error"]
    assert "line 2, column 7" in error
    raw = api.post("/v2/launch/spark/cluster", data=b'{"tenant": }').json["error"]
    assert "byte 11" in raw


def test_numbers_count_as_text_too_and_sizes_are_quantities(api: Api) -> None:
    for value in ("3", 3, 3.0, " 3 "):
        assert api.post("/v2/launch/spark/cluster", {**SPARK, "workers": value}).status_code == 200, value
    for cpu, memory in (("500m", "8G"), (2, "512Mi"), (0.5, "8Gi"), ("2.5", 8589934592), ("1", "1e9")):
        answer = api.post("/launch/flink/cluster", {**FLINK, "workerCpu": cpu, "workerMemory": memory})
        assert answer.status_code == 200, answer.text


def test_bodies_that_are_no_objects(api: Api) -> None:
    for body in (b"", b"  ", b"[]", b"3", b'"x"', b"{", b"\xff", b'{"tenant": "a\\u0000b"}', b"[" * 200_000, b'{"a": "\\ud800"}',
                 b'{"tenant": NaN}'):
        for path in ("/v2/launch/spark/cluster", "/job/submit", "/node/launch", "/node/destroy"):
            answer = api.post(path, data=body)
            assert answer.status_code == 400 and "error" in answer.json, answer.text


def test_large_bodies_are_refused(api: Api) -> None:
    answer = api.post("/job/submit", data=b"x" * ((1 << 20) + 1))
    assert answer.status_code == 413 and "at most" in answer.json["error"]


def test_ids_that_are_none(api: Api) -> None:
    raws = ("0", "-1", "x", "1.5", "1e3", "9" * 19, "9" * 30, "%00", "%2e%2e%2fetc", "%", "%ff", quote("١"))
    for raw, (method, path, field) in itertools.product(raws, (
                                ("GET", "/status/cluster/", "clusterId"), ("GET", "/status/spark/cluster/", "clusterId"),
                                ("DELETE", "/terminate/spark/", "clusterId"), ("GET", "/terminate/flink/", "clusterId"),
                                ("GET", "/job/status/", "jobId"), ("GET", "/job/info/", "jobId"),
                                ("POST", "/job/terminate/", "jobId"))):
        _refused(api(method, path + raw, environ_overrides={"RAW_URI": path + raw}), field, raw)


def test_names_that_lead_elsewhere(api: Api) -> None:
    for raw in ("%2e%2e%2fetc", "a%2fb", "a%00b", "%ff", "a%5cb", "%", "%2e%2e", "%20", "x" * 254):
        _names_refused(api, raw)


def _names_refused(api: Api, raw: str) -> None:
    for method, path, field in (("GET", f"/status/cluster/name/{raw}", "clusterName"), ("GET", f"/job/check/{raw}/m", "client"),
                                ("GET", f"/job/check/c/{raw}", "module"), ("POST", f"/job/stopped/c/{raw}", "module"),
                                ("GET", f"/job/monitor/{raw}", "client")):
        _refused(api(method, path, environ_overrides={"RAW_URI": path}), field)
    path = f"/log/instance/{raw}"
    assert api.post(path, {}, environ_overrides={"RAW_URI": path}).status_code == 400


def test_queries(api: Api) -> None:
    for query in ("status=nonsense", "limit=0", "limit=1001", "limit=x", "offset=-1", "offset=x", "status=%00", "status=%",
                  "status=%ff", "limit=" + "9" * 30, "&".join(f"a{n}=1" for n in range(200))):
        answer = api.get("/job/list", query_string=query)
        assert answer.status_code == 400 and answer.json["path"] == "/job/list", (query, answer.text)


def test_jobs_and_clusters_that_do_not_fit(api: Api) -> None:
    gone, flink = api.cluster("spark", "terminated"), api.cluster("flink", "running")
    names = {number: db.read().value("SELECT key FROM cluster WHERE id = ?", (number,)) for number in (gone, flink)}
    for name, status in ((names[gone], 409), (names[flink], 409), ("nothing", 404)):
        answer = api.post("/job/submit", {**JOB, "clusterName": name})
        assert answer.status_code == status, answer.text


def test_a_job_of_its_own_cluster_goes_with_it(api: Api) -> None:
    number = api.job()
    cluster = api.get(f"/job/info/{number}").json["clusterId"]
    assert api("DELETE", f"/terminate/spark/{cluster}").status_code == 200
    info = api.get(f"/job/info/{number}").json
    assert info["jobStatus"] == "TERMINATED" and "was ended" in info["reason"]


@pytest.mark.parametrize(("path", "found"), [
    ("/cluster/check", "/cluster/check"), ("/cluster/cluster/check", "/cluster/check"), ("/cluster", "/"), ("/cluster/", "/"),
    ("/cluster/status/cluster/7", "/status/cluster/7"), ("/clusters", "/clusters"), ("/status/cluster/7", "/status/cluster/7"),
    ("/cluster//x", "//x")])
def test_the_prefix(path: str, found: str) -> None:
    assert inner(path) == found


class Ports:
    """All listeners of a server, as its front door has them."""

    def __init__(self, state: Path, **keys: Any) -> None:
        flags = {"state": str(state), "cloud_scheduler.config_file": "none", **keys}
        self.settings = settings_module.load(flags, environ={"HOME": str(state)})
        self.app = wsgi.make(self.settings)

    def get(self, port: int, path: str, address: str = "127.0.0.1", method: str = "GET", **kw: Any) -> Any:
        environ = {"REMOTE_ADDR": address, "SERVER_PORT": str(port)}
        return Client(self.app).open(path, method=method, environ_overrides=environ, **kw)


def test_every_port_answers_below_the_prefix_and_keeps_its_own_routes(api: Api, tmp_state: Path) -> None:
    ratelimits.reset()
    ports = Ports(tmp_state)
    number = api.cluster("flink")
    for listener in ports.settings.http_listeners():
        assert ports.get(listener.port, f"/cluster/status/cluster/{number}").json == "PENDING", listener.name
        assert ports.get(listener.port, "/cluster/").json == ports.get(listener.port, "/cluster").json == "Cluster Service"
        assert ports.get(listener.port, "/cluster/check").status_code == 200
        assert ports.get(listener.port, "/cluster/cluster/check").status_code == 200
        if listener.name not in ("dcluster", "native"):
            assert ports.get(listener.port, f"/status/cluster/{number}").status_code in (401, 404), listener.name
    assert ports.get(8080, f"/status/cluster/{number}").json == "PENDING"
    assert ports.get(8100, "/healthz").status_code == 200
    assert ports.get(8111, "/clusters").status_code == 200


def test_networks_fence_it_on_every_port(api: Api, tmp_state: Path) -> None:
    ports = Ports(tmp_state, **{"access.dcluster_networks": "10.1.0.0/16", "access.cloud_scheduler_networks": "10.2.0.0/16",
                                "web.max_body_mb": 1})
    for port in (8080, 8100, 8111):
        assert ports.get(port, "/cluster/", "10.1.2.3").status_code == 200
        answer = ports.get(port, "/cluster/job/list", "10.2.0.1")
        assert answer.status_code == 403
        assert answer.json["path"] == "/cluster/job/list" and "error" in answer.json
    assert ports.get(8080, "/", "10.2.0.1").status_code == 403
    assert ports.get(8111, "/vms", "10.1.2.3").status_code == 403
    large = ports.get(8080, "/job/submit", method="POST", data=b"x" * ((1 << 20) + 1))
    assert large.status_code == 413 and large.json["path"] == "/job/submit"


# anything at all

_TEXTS = st.text(max_size=12) | st.sampled_from(["..", "a/b", "\0", "-1", "1e9", "{}", "true", "500m", "8Gi", "spark-pi"])
_VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXTS,
                       lambda inside: st.lists(inside, max_size=3) | st.dictionaries(_TEXTS, inside, max_size=3), max_leaves=6)
_NAMES = sorted({*SPARK, *JOB, "clusterName", "extraCmd", "nodeCount", "nodeIds", "instanceType", "region", "useExternalCluster",
                 "codeVersion", "clusterSuffix", "keepAlive", "workerDaemonMemory", "idleLimitSeconds", "timeLimitSeconds"})
_BODIES = st.dictionaries(st.sampled_from(_NAMES) | _TEXTS, _VALUES, max_size=8)
_PATHS = st.sampled_from([
    "/", "/launch/spark/cluster", "/v2/launch/spark/cluster", "/launch/flink/cluster", "/status/cluster/{}",
    "/status/spark/cluster/{}", "/status/cluster/name/{}", "/terminate/spark/{}", "/terminate/flink/{}", "/log/instance/{}",
    "/job/submit", "/job/terminate/{}", "/job/status/{}", "/job/info/{}", "/job/list", "/job/check/{}/{}", "/job/stopped/{}/{}",
    "/job/monitor/{}", "/job/monitor/alert", "/node/launch", "/node/destroy", "/ec2-info", "/ec2-list-info", "/{}/{}"])


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, migrated_file: Path) -> Any:
    """One server for all examples."""
    state = tmp_path_factory.mktemp("fuzz")
    shutil.copy(migrated_file, state / "cloudsched.db")
    opened = db.open_database(f"sqlite:///{state / 'cloudsched.db'}", synchronous="OFF")
    found = settings_module.load({"state": str(state), "cloud_scheduler.config_file": "none"}, environ={"HOME": str(state)})
    assert Handlers(found).routes()
    yield Client(make_app(found))
    opened.close()


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
@given(path=_PATHS, parts=st.lists(_TEXTS, min_size=2, max_size=2), body=_BODIES | st.binary(max_size=40),
       query=st.text(max_size=20), method=st.sampled_from(["GET", "POST", "DELETE", "PUT", "HEAD", "OPTIONS"]),
       prefix=st.sampled_from(["", "/cluster"]))
def test_nothing_is_ever_our_mistake(house: Client, path: str, parts: list[str], body: Any, query: str, method: str,
                                     prefix: str) -> None:
    target = prefix + path.format(*(quote(part, safe="", errors="surrogatepass") for part in parts))
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = house.open(target, method=method, data=raw, environ_base={"REMOTE_ADDR": "127.0.0.1"},
                        environ_overrides={"RAW_URI": target, "QUERY_STRING": quote(query, safe="=&%", errors="replace")})
    assert answer.status_code in (200, 400, 403, 404, 405, 409, 503), (target, raw, answer.text)
    if answer.status_code != 200 and method != "HEAD":
        assert {"error", "timestamp", "path"} <= answer.json.keys()
