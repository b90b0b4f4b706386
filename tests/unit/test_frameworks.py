"""Requests for Spark and Flink clusters and jobs, their names, quantities, and the order of launches."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudsched.domain import frameworks, quantities
from cloudsched.domain.frameworks import ModuleSpec, Room, Sizes, Waiting
from cloudsched.errors import Invalid

SEED = {
    "tenant": "my-team", "workers": 3, "workerCpu": "2", "workerMemory": "8Gi", "masterCpu": "1", "masterMemory": "4Gi",
    "type": "spark3", "useOnDemandMaster": True, "extraConfigs": '{"spark.executor.instances": 2}', "launchNewNode": True,
    "launchDynamicDisk": False, "useExternalNamespace": False, "clusterSuffix": ""}
SEED_JOB = {
    "client": "my-team", "module": "data-processing", "extraCmd": '{"spark.executor.instances": 2}', "driverMemGb": 4,
    "workerMemGb": 8, "numWorkers": 3, "emailRecipients": "team@example.com", "pipelineVersion": "1.0.0",
    "pipelineConfig": "config.json", "codeVersion": "v1.0", "jobType": "spark", "moduleType": "spark", "keepAlive": False,
    "useLongLivingCluster": False, "useExternalCluster": False, "useExternalNamespace": False, "workerCpu": 2,
    "workerDaemonMemory": "2g", "masterMemory": "4g", "dockerImageName": "dv-spark:2.2.0"}
MODULE = ModuleSpec("data-processing", "spark", "/m/x.py", arguments=("config.json", "{as it is}"))


@pytest.mark.parametrize(("text", "cores_m"), [
    ("500m", 500), ("2", 2000), (2, 2000), (0.5, 500), ("1.25", 1250), ("1e1", 10_000)])
def test_cores(text: Any, cores_m: int) -> None:
    assert quantities.cores_m(text, "workerCpu") == cores_m


@pytest.mark.parametrize(("text", "mb"), [
    ("8Gi", 8192), ("8G", 7630), ("512Mi", 512), ("4g", 4096), ("512m", 512), ("1Ti", 1 << 20), (1 << 30, 1024),
    ("1.5Gi", 1536)])
def test_memory(text: Any, mb: int) -> None:
    assert quantities.memory_mb(text, "workerMemory") == mb


@pytest.mark.parametrize("text", ["", "x", "-1", "1 Gi", "1gi", "NaN", "1e999", "٣", True, None, [], "1Gi\n2", "0", "9" * 30])
def test_what_is_no_quantity_is_named(text: Any) -> None:
    for read in (quantities.memory_mb, quantities.cores_m, quantities.gigabytes_mb):
        with pytest.raises(Invalid) as refused:
            read(text, "some.field")
        assert refused.value.errors[0].field == "some.field"


@given(st.one_of(st.text(max_size=30), st.integers(), st.floats(), st.none(), st.booleans()))
def test_any_value_is_a_quantity_or_refused(value: Any) -> None:
    for read in (quantities.memory_mb, quantities.cores_m, quantities.gigabytes_mb):
        try:
            assert read(value, "f") >= 1
        except Invalid as refused:
            assert refused.errors[0].field == "f"


def test_the_seeds_cluster_is_understood() -> None:
    ask = frameworks.cluster_ask("spark", SEED, Sizes())
    assert (ask.type, ask.tenant, ask.workers, ask.cores_m, ask.memory_mb) == ("spark3", "my-team", 3, 7000, 28 * 1024)
    assert ask.settings == {"spark.executor.instances": "2"}
    assert ask.options == {"on_demand_master": True, "launch_new_node": True, "dynamic_disk": False, "external_namespace": False}
    text = frameworks.cluster_ask("spark", {**SEED, "workers": "3", "useOnDemandMaster": "true"}, Sizes())
    assert text == ask


@pytest.mark.parametrize(("field", "value", "words"), [
    ("workers", -1, "1 to 1000"), ("workers", 0, "1 to 1000"), ("workers", "three", "whole number"),
    ("workers", 2.5, "whole number"),
    ("workers", True, "whole number"), ("workers", 10**9, "1 to 1000"), ("workerCpu", "-2", "not a quantity"),
    ("workerCpu", "0", "out of range"), ("workerMemory", "8Xi", "not a quantity"), ("workerMemory", "8", "out of range"),
    ("masterCpu", {}, "not a quantity"), ("masterMemory", "lots", "512Mi"), ("type", "hadoop", "spark, spark3"),
    ("type", "flink", "spark, spark3"), ("tenant", "", "is missing"), ("tenant", "../../etc", "is not a name"),
    ("tenant", "a\0b", "is not a name"), ("tenant", "x" * 101, "is not a name"), ("tenant", ["a"], "is not a name"),
    ("extraConfigs", "{bad", "line 1, column 2"), ("extraConfigs", "[1]", "JSON object"), ("extraConfigs", 7, "JSON object"),
    ("extraConfigs", '{"a": {"b": 1}}', "not plain"), ("extraConfigs", '{"a=b": 1}', "not the name of a setting"),
    ("extraConfigs", '{"a": "x\\ny"}', "line break"), ("extraConfigs", '{"a": "\\ud800"}', "no character"),
    ("clusterSuffix", "a\0", "no character"), ("useOnDemandMaster", "maybe", "true, false"),
    ("clusterSuffix", "../x", "up to 20"), ("clusterSuffix", "x" * 21, "20"), ("idleLimitSeconds", -5, "seconds"),
])
def test_a_wrong_field_of_a_cluster_is_named(field: str, value: Any, words: str) -> None:
    with pytest.raises(Invalid) as refused:
        frameworks.cluster_ask("spark", {**SEED, field: value}, Sizes())
    assert [error.field for error in refused.value.errors] == [field]
    assert words in str(refused.value)


def test_all_wrong_fields_are_named_at_once() -> None:
    with pytest.raises(Invalid) as refused:
        frameworks.cluster_ask("spark", {"workers": 0, "workerCpu": "x", "extraConfigs": "{"}, Sizes())
    assert {error.field for error in refused.value.errors} == {"tenant", "workers", "workerCpu", "extraConfigs"}


def test_the_seeds_job_is_understood() -> None:
    ask = frameworks.job_ask(SEED_JOB, MODULE, Sizes())
    assert ask.arguments == ("config.json", "{as it is}")
    assert (ask.driver_memory_mb, ask.cores_max, ask.settings) == (4096, 0, {"spark.executor.instances": "2"})
    assert (ask.ask.workers, ask.ask.worker_memory_mb, ask.ask.master_memory_mb) == (3, 8192, 4096)
    assert ask.ask.options == {"external_namespace": False, "image": "dv-spark:2.2.0", "worker_daemon_memory_mb": 2048}
    assert ask.executor_memory_mb == 0


def test_a_job_has_all_of_its_own_cluster_and_of_another_what_it_asks_for() -> None:
    plain = {"client": "c", "module": MODULE.name}
    sizes = [(ask.executor_memory_mb, ask.cores_max) for ask in (
        frameworks.job_ask({**plain, **more}, MODULE, Sizes()) for more in (
            {}, {"numWorkers": 3, "workerMemGb": 2}, {"clusterName": "x"}, {"useLongLivingCluster": True},
            {"clusterName": "x", "workerMemGb": 0.5}, {"clusterName": "x", "numWorkers": 2, "workerCpu": 2}))]
    assert sizes == [(0, 0), (0, 0), (0, 0), (0, 0), (512, 0), (0, 4)]


def test_long_living_clusters_of_tenants_that_look_alike_are_told_apart() -> None:
    alike = ("My Team", "my-team", "my.team", "x" * 70 + "1", "x" * 70 + "2")
    names = [frameworks.long_living_name("spark", "dev", tenant) for tenant in alike]
    assert len(set(names)) == len(alike) and names[1] == "spark-dev-my-team-long-living"
    assert all(len(name) <= 63 and frameworks.label(name) == name for name in names)


@pytest.mark.parametrize(("field", "value", "words"), [
    ("client", "a/b", "is not a name"), ("client", "", "is missing"), ("numWorkers", "-3", "1 to 1000"),
    ("jobType", "flink", "spark"),
    ("moduleType", "x", "spark, spark3, flink"), ("extraCmd", "{", "is not JSON"), ("driverMemGb", "-1", "not a quantity"),
    ("workerMemGb", "much", "not a quantity"), ("keepAlive", 7, "true, false"), ("clusterName", "..", "is not a name"),
    ("dockerImageName", {"a": 1}, "is not text"), ("useExternalCluster", True, "dcluster.external_spark_url"),
    ("maxRetries", 101, "0 to 100"),
])
def test_a_wrong_field_of_a_job_is_named(field: str, value: Any, words: str) -> None:
    with pytest.raises(Invalid) as refused:
        frameworks.job_ask({**SEED_JOB, field: value}, MODULE, Sizes())
    assert field in [error.field for error in refused.value.errors]
    assert words in str(refused.value)


@pytest.mark.parametrize("url", ["spark://", "http://x:7077", "spark://user@host:1", "spark://a b"])
def test_an_external_cluster_has_an_address(url: str) -> None:
    with pytest.raises(Invalid, match="spark://HOST:PORT"):
        frameworks.job_ask({**SEED_JOB, "useExternalCluster": True, "extraCmd": {"spark.master": url}}, MODULE, Sizes())


@given(st.text(min_size=1, max_size=100), st.text(max_size=20), st.sampled_from(["", "x", "A-b-C", "y" * 20]))
def test_any_tenant_makes_a_dns_label(tenant: str, env: str, suffix: str) -> None:
    ask = frameworks.ClusterAsk("spark", "spark3", tenant, 1, 1, 1, 1, 1, suffix=suffix)
    key = frameworks.cluster_key(ask, env, 1_700_000_000_000)
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", key)
    assert key.startswith("spark3-")
    assert "-1700000000000" in key


def test_names_read_as_the_contract_says() -> None:
    ask = frameworks.cluster_ask("spark", {**SEED, "clusterSuffix": "nightly"}, Sizes())
    assert frameworks.cluster_key(ask, "dev", 123) == "spark3-dev-my-team-123-nightly"


def test_the_tenant_with_fewest_running_is_first_then_the_oldest() -> None:
    waiting = [Waiting(number, tenant, 1000, 100) for number, tenant in enumerate("aaabbc", start=1)]
    chosen = frameworks.next_launches(waiting, {"a": 1, "c": 1}, Room(5))
    assert [one.id for one in chosen] == [4, 1, 5, 6, 2]


def test_room_is_clusters_cores_and_memory() -> None:
    waiting = [Waiting(1, "a", 3000, 100), Waiting(2, "b", 3000, 100), Waiting(3, "c", 500, 100)]
    assert [one.id for one in frameworks.next_launches(waiting, {}, Room(None, 4000, None))] == [1]  # 3 waits behind 2
    assert [one.id for one in frameworks.next_launches(waiting, {}, Room(None, None, 250))] == [1, 2]
    assert frameworks.next_launches(waiting, {}, Room(0)) == []


@pytest.mark.parametrize(("state", "goal", "word"), [
    ("pending", "run", "SUBMITTED"), ("assigned", "run", "QUEUED"), ("running", "run", "RUNNING"),
    ("running", "cancel", "TERMINATING"),
    ("assigned", "cancel", "TERMINATING"), ("succeeded", "run", "SUCCEEDED"), ("timeout", "run", "FAILED"),
    ("cancelled", "cancel", "TERMINATED")])
def test_words_of_states(state: str, goal: str, word: str) -> None:
    assert frameworks.job_word(state, goal) == word
    states, wanted = frameworks.states_of(word.lower())
    assert state in states
    assert wanted in ("", goal)
