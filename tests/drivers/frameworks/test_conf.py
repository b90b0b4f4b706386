"""Which settings of Spark and Flink are let in, are they read as written, and what do logs say of failures?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudsched.drivers.base import DriverError
from cloudsched.drivers.frameworks_local import conf, place

SPARK_GOOD = {
    "spark.sql.shuffle.partitions": "8", "spark.executor.memory": "600m",
    "spark.serializer": "org.apache.spark.serializer.KryoSerializer",
    "spark.acme.tenant": "blue", "spark.dynamicAllocation.enabled": "true", "spark.eventLog.dir": "file:/var/log/events",
    "spark.driver.extraJavaOptions": "-XX:+UseG1GC -Xss4m -Duser.timezone=UTC -Dapp.mode=x",
    "spark.driver.maxResultSize": "1g",
    "spark.network.timeout": "120s", "spark.deploy.spreadOut": "true", "spark.log.level": "INFO",
    "spark.master.ui.title": "x",
    "spark.worker.cleanup.interval": "60", "spark.cores.max": "2", "spark.ui.enabled": "false",
}  # fmt: skip
SPARK_BAD = {
    "spark.master": "local", "spark.authenticate": "false", "spark.authenticate.secret": "x", "spark.driver.host": "0.0.0.0",
    "spark.driver.bindAddress": "0.0.0.0", "spark.ui.port": "4040", "spark.submit.deployMode": "cluster",
    "spark.ssl.enabled": "true",
    "spark.submit.pyFiles": "http://x/evil.py", "spark.jars": "http://x/evil.jar", "spark.jars.packages": "a:b:c",
    "spark.files": "x",
    "spark.driver.extraClassPath": "/tmp", "spark.executor.extraLibraryPath": "/tmp", "spark.plugins": "Evil",
    "spark.extraListeners": "Evil", "spark.pyspark.python": "/tmp/evil", "spark.pyspark.driver.python": "/tmp/evil",
    "spark.executorEnv.LD_PRELOAD": "x.so", "spark.hadoop.fs.evil.impl": "Evil", "spark.sql.extensions": "Evil",
    "spark.sql.catalog.x": "Evil", "spark.metrics.conf.*.sink.x.class": "Evil", "spark.local.dir": "/",
    "spark.ui.filters": "Evil",
    "spark.worker.resource.gpu.discoveryScript": "/tmp/evil", "spark.executor.resource.gpu.discoveryScript": "/tmp/evil",
    "spark.deploy.recoveryMode": "CUSTOM", "spark.deploy.recoveryDirectory": "/", "spark.master.rest.enabled": "true",
    "spark.redaction.regex": "nothing", "spark.driver.defaultJavaOptions": "-javaagent:x",
    "spark.python.daemon.module": "evil",
    "spark.ui.killEnabled": "true", "spark.ui.reverseProxy": "true", "spark.port.maxRetries": "9", "spark.r.command": "evil",
    "spark.connect.grpc.binding.port": "1", "spark.driver.userClassPathFirst": "true", "spark.repl.class.uri": "x",
    "SPARK.master": "local", "spark.": "x", "spark.a b": "x", "spark.a\nspark.master": "x", "other.key": "x", "": "x",
}  # fmt: skip
FLINK_GOOD = {
    "parallelism.default": "2", "taskmanager.numberOfTaskSlots": "4", "execution.runtime-mode": "BATCH",
    "restart-strategy.type": "none",
    "state.backend.type": "hashmap", "table.exec.resource.default-parallelism": "2",
    "execution.checkpointing.interval": "10s",
    "pipeline.object-reuse": "true", "env.java.opts.taskmanager": "-XX:+UseG1GC",
}  # fmt: skip
FLINK_BAD = {
    "rest.port": "1", "rest.address": "0.0.0.0", "rest.bind-address": "0.0.0.0", "taskmanager.bind-host": "0.0.0.0",
    "blob.server.port": "1",
    "jobmanager.rpc.address": "x", "jobmanager.bind-host": "0.0.0.0", "taskmanager.memory.process.size": "9g",
    "io.tmp.dirs": "/",
    "env.java.home": "/tmp", "env.java.opts.all": "-javaagent:x", "metrics.reporter.x.factory.class": "Evil",
    "pipeline.jars": "x",
    "pipeline.classpaths": "http://x", "classloader.parent-first-patterns.additional": "x",
    "plugin.classloader.parent-first": "x",
    "high-availability.type": "zookeeper", "security.ssl.internal.enabled": "true", "web.upload.dir": "/",
    "python.executable": "evil",
    "execution.target": "x", "execution.attached": "true", "$internal.pipeline.job-id": "x",
    "state.backend.rocksdb.localdir": "/",
    "taskmanager.network.bind-policy": "ip", "kubernetes.config.file": "x", "execution.checkpointing.dir": "file:///",
}  # fmt: skip
JAVA_BAD = ("-javaagent:evil.jar", "-agentlib:jdwp=transport=dt_socket,address=*:5005", "-XX:OnOutOfMemoryError=evil",
            "-XX:OnError=evil",
            "-XX:Flags=/tmp/x", "-XX:VMOptionsFile=/tmp/x", "@/tmp/x", "-cp", "-Dcom.sun.management.jmxremote.port=1",
            "-XX:+HeapDumpOnOutOfMemoryError",
            "-Dlog4j2.configurationFile=http://x", "-Djava.library.path=/tmp", "-XX:HeapDumpPath=/x", "-Xbootclasspath/a:x",
            "--add-opens",
            "-XX:StartFlightRecording=filename=/x", "-XX:+UnlockDiagnosticVMOptions", "-XX:CompileCommandFile=/x",
            "-Xmx1g;id",
            "-XX:+DisableAttachMechanism", "-XX:SharedArchiveFile=/x", "-XX:ErrorFile=/x", "-Xlog:gc:/x")  # fmt: skip


def test_settings_of_spark_that_are_let_in() -> None:
    assert conf.spark_settings(SPARK_GOOD) == SPARK_GOOD
    assert set(conf.spark_daemon_settings(SPARK_GOOD)) == {
        "spark.network.timeout", "spark.deploy.spreadOut", "spark.master.ui.title", "spark.worker.cleanup.interval"}
    assert conf.spark_settings({"spark.x": True, "spark.y": 3}) == {"spark.x": "true",
    "spark.y": "3"}  # type: ignore[dict-item]


@pytest.mark.parametrize("key", SPARK_BAD)
def test_settings_of_spark_that_are_not(key: str) -> None:
    with pytest.raises(DriverError, match="settings: "):
        conf.spark_settings({key: SPARK_BAD[key]})


def test_settings_of_flink_that_are_let_in() -> None:
    assert conf.flink_settings(FLINK_GOOD) == {key: value for key, value in FLINK_GOOD.items() if not key.startswith("env.")}
    assert conf.flink_java_options(FLINK_GOOD, "taskmanager") == ["-XX:+UseG1GC"]
    assert conf.flink_java_options(FLINK_GOOD, "jobmanager") == []


@pytest.mark.parametrize("key", FLINK_BAD)
def test_settings_of_flink_that_are_not(key: str) -> None:
    with pytest.raises(DriverError, match="settings: "):
        conf.flink_settings({key: FLINK_BAD[key]})


@pytest.mark.parametrize("word", JAVA_BAD)
def test_words_for_java_that_are_not_let_in(word: str) -> None:
    for check, key in ((conf.spark_settings, "spark.executor.extraJavaOptions"), (conf.flink_settings, "env.java.opts.all")):
        with pytest.raises(DriverError, match="cannot be set"):
            check({key: f"-XX:+UseG1GC {word}"})


def test_trusted_settings_may_bring_code_and_nothing_else() -> None:
    code = {"spark.jars": "/opt/x.jar", "spark.driver.extraJavaOptions": "-javaagent:/opt/x.jar"}
    assert conf.spark_settings(code, trusted=True) == code
    with pytest.raises(DriverError, match=r"spark\.driver\.host cannot be set: it is set by cloudsched"):
        conf.spark_settings({"spark.driver.host": "x"}, trusted=True)
    assert conf.flink_settings({"pipeline.jars": "x"}, trusted=True) == {"pipeline.jars": "x"}
    with pytest.raises(DriverError, match=r"rest\.port"):
        conf.flink_settings({"rest.port": "1"}, trusted=True)


@pytest.mark.parametrize("value", ["two\nlines", "nul\0", "x" * 10_001, None, ["list"], "line\u2028"])
def test_values_are_one_line(value: object) -> None:
    with pytest.raises(DriverError, match=r"spark\.x: must be one line"):
        conf.spark_settings({"spark.x": value})  # type: ignore[dict-item]


def test_too_many_are_too_many() -> None:
    with pytest.raises(DriverError, match="1001 are too many"):
        conf.spark_settings({f"spark.x{number}": "" for number in range(1001)})


@pytest.mark.parametrize("name", ["LD_PRELOAD", "PATH", "BASH_ENV", "PYTHONSTARTUP", "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS",
                                  "SPARK_HOME",
                                  "BASH_FUNC_ls%%", "IFS", "CLOUDSCHED_FRAMEWORK", "1A", "A=B", "", "JDK_JAVA_OPTIONS",
                                  "HOME"])
def test_variables_that_change_how_programs_start_are_refused(name: str) -> None:
    with pytest.raises(DriverError, match="env: "):
        conf.environment({name: "x"})
    assert conf.environment({"TENANT": "blue", "A_1": ""}) == {"TENANT": "blue", "A_1": ""}


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=40)


@given(TEXT)
def test_properties_are_read_as_written(value: str) -> None:
    [line] = conf.properties({"spark.x": value}).splitlines()
    key, _, rest = line.partition("=")
    assert (key, _as_java_reads(rest)) == ("spark.x", value)


@given(TEXT)
def test_yaml_is_read_as_written(value: str) -> None:
    key, rest = conf.yaml({"a.b": value})[:-1].split(": ", 1)
    assert (json.loads(key), json.loads(rest)) == ("a.b", value)


def _as_java_reads(text: str) -> str:
    """The value of a property: leading blanks go, a backslash gives the next character."""
    assert not text.startswith((" ", "\t", "\f")), "blanks before a value are lost"
    read, rest = "", iter(text)
    for character in rest:
        read += next(rest) if character == "\\" else character
    return read


@pytest.mark.parametrize(("log", "said"), [
    ("x\nTraceback (most recent call last):\n  raise ValueError('a')\nValueError: a\nbye\n", "ValueError: a"),
    ("py4j.protocol.Py4JJavaError: An error\n: java.lang.X\n\tat a.b\nCaused by: java.io.IOException: disk full\n\tat c\n",
     "java.io.IOException: disk full"),
    ("Py4JJavaError: An error\n: java.lang.IllegalStateException: no\n\tat a.b\n", "java.lang.IllegalStateException: no"),
    ('Exception in thread "main" java.lang.OutOfMemoryError: heap\n', "java.lang.OutOfMemoryError: heap"),
    ("26/01/01 ERROR Master: no port\nbye\n", "26/01/01 ERROR Master: no port"), ("all well\n", ""), ("", "")])
def test_the_reason_of_a_failure_is_found_in_a_log(tmp_path: Path, log: str, said: str) -> None:
    (tmp_path / "log").write_text(log)
    assert place.last_words(tmp_path / "log") == said
    assert place.last_words(tmp_path / "nothing") == ""
