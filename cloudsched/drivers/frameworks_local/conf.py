"""Which settings may a client of Spark or Flink choose, and how are they written into files?

Settings come from whoever may launch a cluster or submit a module of the catalogue: people who choose among programs of the
operator, not bring their own. So a setting may not bring code (class paths, Java agents, plugins, scripts), may not make a
process listen elsewhere, and may not touch what keeps clusters apart (secrets, addresses, directories). Spark has more settings
than anybody can list, and applications add their own: what is known to be dangerous is refused. Flink's are fewer: what is
known to be harmless is let in. The option `trusted_settings` lets in what brings code, never the rest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from cloudsched.drivers import base
from cloudsched.drivers.base import DriverError

MAX_VALUE = 10_000
MAX_SETTINGS = 1000
OURS = "it is set by cloudsched"
CODE = "it brings code into the process (allowed only where dcluster.trusted_settings is on)"

_SPARK_KEY = re.compile(r"spark\.[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_FLINK_KEY = re.compile(r"[a-z][A-Za-z0-9._-]{0,199}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
_SPARK_OURS = re.compile(r"""spark\.(
    master | master\.(?!ui\.(title|retained)).* | submit\..* | authenticate.* | local\.(dir|ip).* | port\.maxRetries
    | (driver|executor|blockManager|driver\.blockManager|shuffle\.service|ui)\.port
    | driver\.(host|bindAddress) | ui\.(filters|killEnabled|reverseProxy.*|proxy.*|allowFramingFrom|view\.acls.*)
    | deploy\.(recovery|zookeeper|default\.?cores|rest).* | deploy\.recoveryMode.* | worker\.(?!cleanup\.|ui\.retained|timeout).*
    | ssl\..* | acls\..* | admin\.acls.* | modify\.acls.* | history\..* | connect\..* | redaction\..* | security\..*
    | driver\.(log\.dfsDir) | io\.encryption\.keygen.* | launcher\..*
    )""", re.VERBOSE | re.IGNORECASE)  # fmt: skip
_SPARK_CODE = re.compile(r"""spark\.(
    (driver|executor|python|r|app)\.(extraClassPath|extraLibraryPath|defaultJavaOptions|userClassPathFirst).*
    | jars.* | files | archives | pyFiles | plugins.* | extraListeners | repl\..* | r\..* | pyspark\..*
    | python\.(daemon|worker)\.module | python\.(profile.*|auth.*|use\.daemon) | executorEnv\..* | hadoop\..* | hive\..*
    | sql\.(extensions|hive|catalog|queryExecutionListeners|streaming\.streamingQueryListeners|artifact|cache\.serializer).*
    | kryo\.registrator | shuffle\.(manager|sort\.io\.plugin.*) | metrics\.(conf|static|executorMetricsSource).*
    | .*discoveryScript.* | .*discoveryPlugin.* | resources\..* | .*\.resource\..* | driver\.supervise | .*\.classloader\..*
    )""", re.VERBOSE | re.IGNORECASE)  # fmt: skip
_SPARK_JAVA = re.compile(r"spark\.(driver|executor)\.extraJavaOptions", re.IGNORECASE)
# What the daemons read: everything else is for the applications alone.
_SPARK_DAEMON = re.compile(r"spark\.(deploy|worker|rpc|network|master\.ui|ui\.retained|shuffle\.service)\b.*")
# Words for a Java machine that only change how it works, not what it runs, writes or listens to.
_JAVA_WORD = re.compile(
    r"-XX:[+-](?!.*(On(OutOf|Error)|Dump|Flags|File|Attach|Management|Unlock|FlightRecorder))\w+"
    r"|-XX:(?!.*(On(OutOf|Error)|Dump|Flags|File|Path|Options|Command|Agent|Recording|Recorder))\w+=[\w.%]+"
    r"|-X(mn|ss)\d+[kKmMgG]?|-D(user\.(timezone|language|country)|file\.encoding)=[\w./+-]+|-D(?!.*[.](?:rmi|management)[.])app\.[\w.-]+=[\w./:+-]*"
)
_FLINK_OPEN = re.compile(r"""
    parallelism\.default | taskmanager\.(numberOfTaskSlots|network\.(?!.*(port|host|bind)).* | debug\.memory.*)
    | pipeline\.(auto-watermark-interval|generic-types|max-parallelism|name|object-reuse|operator-chaining.*)
    | pipeline\.watermark-alignment.*
    | execution\.(runtime-mode|batch.*|buffer-timeout.*|checkpointing\.(?!dir|savepoint-dir).*|sorted-inputs.*|shutdown-on-.*)
    | state\.(backend\.(type|incremental|rocksdb\.(?!localdir|.*factory|log\.dir).*)|backend|ttl.*|latency-track.*)
    | restart-strategy(\..*)? | table\.(exec|optimizer|local-time-zone|display|sql-dialect).*
    | heartbeat\.(interval|timeout|rpc-failure-threshold)
    | (akka|pekko)\.ask\.timeout | client\.timeout | jobmanager\.(execution\..*|scheduler|partition\..*|adaptive-.*)
    | cluster\.(evenly-spread-out-slots|fine-grained.*|task\..*|intercept-.*) | slotmanager\..* | slot\..* | task\..*
    | web\.(refresh-interval|history|checkpoints\.history|exception-history-size|timeout)
    | jobstore\.(cache-size|expiration-time|max-capacity)
    | metrics\.latency\..* | metrics\.fetcher\..* | resourcemanager\.(?!.*(port|host)).*
    """, re.VERBOSE)  # fmt: skip
_FLINK_JAVA = re.compile(r"env\.java\.opts\.(all|jobmanager|taskmanager)|env\.java\.opts")
_FLINK_CODE = re.compile(r"pipeline\.(jars|classpaths|cached-files|default-kryo-serializers|registered-.*|serialization-config)"
                         r"|classloader\..*|metrics\..*|plugin\..*|state\..*|execution\..*|table\..*|fs\..*|s3\..*|python\..*")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_ENV_OURS = re.compile(
    r"(LD_|DYLD_|PYTHON|PYSPARK|SPARK_|_SPARK|HADOOP_|YARN_|JAVA|JDK_|_JAVA|BASH|CLOUDSCHED_|GCONV_|LOCPATH|NLSPATH|MALLOC_|GLIBC).*"
    r"|ENV|PATH|IFS|HOME|SHELL|SHELLOPTS|PS4|CDPATH|TMPDIR|USER|LOGNAME|CLASSPATH|_|MASTER"
)


def spark_settings(settings: Mapping[str, str], *, trusted: bool = False) -> dict[str, str]:
    """Spark settings that may be used as they are; DriverError names the first that may not."""
    checked = _texts(settings, _SPARK_KEY, "a Spark setting (spark.NAME)")
    for key, value in checked.items():
        if _SPARK_OURS.fullmatch(key):
            raise _refused(key, OURS)
        if _SPARK_JAVA.fullmatch(key):
            _check_java_options(key, value, trusted=trusted)
        elif _SPARK_CODE.fullmatch(key) and not trusted:
            raise _refused(key, CODE)
    return checked


def refused(kind: str, settings: Mapping[str, str], *, trusted: bool = False) -> list[tuple[str, str]]:
    """(key, why) of every one of these settings of `spark` or `flink` that may not be used."""
    check = {"spark": spark_settings, "flink": flink_settings}[kind]
    found = []
    for key, value in settings.items():
        try:
            check({key: value}, trusted=trusted)
        except DriverError as error:
            found.append((key, error.message.removeprefix("settings: ").removeprefix(key).lstrip(": ")))
    if len(settings) > MAX_SETTINGS:
        found.append(("*", f"{len(settings)} are too many (at most {MAX_SETTINGS})"))
    return found


def spark_daemon_settings(settings: Mapping[str, str]) -> dict[str, str]:
    """Of checked settings those that master and workers read."""
    return {key: value for key, value in settings.items() if _SPARK_DAEMON.fullmatch(key)}


def flink_settings(settings: Mapping[str, str], *, trusted: bool = False) -> dict[str, str]:
    """Flink settings that may be used as they are, without those for the Java machines (`flink_java_options`)."""
    checked = _texts(settings, _FLINK_KEY, "a Flink setting")
    for key, value in checked.items():
        if _FLINK_JAVA.fullmatch(key):
            _check_java_options(key, value, trusted=trusted)
        elif not _FLINK_OPEN.fullmatch(key) and not (trusted and _FLINK_CODE.fullmatch(key)):
            raise _refused(key, CODE if _FLINK_CODE.fullmatch(key) else "it is set by cloudsched, or not known to be harmless")
    return {key: value for key, value in checked.items() if not _FLINK_JAVA.fullmatch(key)}


def flink_java_options(settings: Mapping[str, str], role: str) -> list[str]:
    """Words for the Java machine of a role (`jobmanager`, `taskmanager`) from checked settings."""
    keys = ("env.java.opts", "env.java.opts.all", f"env.java.opts.{role}")
    return [word for key in keys for word in settings.get(key, "").split()]


def environment(env: Mapping[str, str]) -> dict[str, str]:
    """Variables a job may have; DriverError names the first that could change how programs are started."""
    for name, value in env.items():
        if not isinstance(name, str) or not _ENV_NAME.fullmatch(name):
            raise DriverError(f"env: {name!r} is not a name of a variable", code=base.REQUEST)
        if _ENV_OURS.fullmatch(name):
            raise DriverError(f"env: {name} cannot be set: it changes how programs are started", code=base.REQUEST)
        if not isinstance(value, str) or "\0" in value or len(value) > MAX_VALUE:
            raise DriverError(f"env: {name}: must be text without NUL of at most {MAX_VALUE} characters", code=base.REQUEST)
    return dict(env)


def arguments(words: Sequence[str]) -> list[str]:
    """Arguments a job may have."""
    for number, word in enumerate(words):
        if not isinstance(word, str) or "\0" in word or "\r" in word or len(word) > 100_000:
            raise DriverError(f"arguments[{number}]: must be text without NUL and carriage return, at most 100000 characters",
                              code=base.REQUEST)  # fmt: skip
    return list(words)


def properties(settings: Mapping[str, object]) -> str:
    """A file of Java properties, as Spark reads it."""
    return "".join(f"{_escaped(key)}={_escaped(str(value))}\n" for key, value in settings.items())


def yaml(settings: Mapping[str, object]) -> str:
    """A YAML file of flat keys, as Flink reads it: every value a quoted text."""
    return "".join(f"{json.dumps(key)}: {json.dumps(str(value), ensure_ascii=False)}\n" for key, value in settings.items())


def _texts(settings: Mapping[str, Any], key_form: re.Pattern[str], what: str) -> dict[str, str]:
    if len(settings) > MAX_SETTINGS:
        raise DriverError(f"settings: {len(settings)} are too many (at most {MAX_SETTINGS})", code=base.REQUEST)
    checked = {}
    for key, value in settings.items():
        if not isinstance(key, str) or not key_form.fullmatch(key):
            raise DriverError(f"settings: {key!r} is not {what}", code=base.REQUEST)
        text = str(value).lower() if isinstance(value, bool) else str(value) if isinstance(value, (int, float)) else value
        if not isinstance(text, str) or _CONTROL.search(text) or len(text) > MAX_VALUE:
            raise DriverError(f"settings: {key}: must be one line of text of at most {MAX_VALUE} characters", code=base.REQUEST)
        checked[key] = text
    return checked


def _check_java_options(key: str, value: str, *, trusted: bool) -> None:
    if '"' in value or "'" in value or "\\" in value:
        raise DriverError(f"settings: {key}: quotes and backslashes are not taken", code=base.REQUEST)
    for word in value.split():
        if not trusted and not _JAVA_WORD.fullmatch(word):
            raise DriverError(f"settings: {key}: {word!r} cannot be set (allowed: -XX:+NAME, -XX:NAME=NUMBER, -Xss, -Xmn, "
                              "-Duser.timezone=, -Dfile.encoding=, -Dapp.NAME=; none that runs, writes or listens)",
                              code=base.REQUEST)  # fmt: skip


def _refused(key: str, why: str) -> DriverError:
    return DriverError(f"settings: {key} cannot be set: {why}", code=base.REQUEST)


def _escaped(text: str) -> str:
    """Java's rules: a backslash before what would end a key, begin a comment or be taken for blank space."""
    return re.sub(r"([\\=:#! ])", r"\\\1", text)
