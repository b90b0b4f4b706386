"""Which value counts, where does it come from, and what is refused?"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from cloudsched.errors import Invalid
from cloudsched.settings import LocalCloud, Settings, check, hand_over, keys_always, load, mask_url
from cloudsched.settings.sections import all_keys, declared_keys
from cloudsched.settings.sources import variable, variables


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home without any configuration, so that the machine's own files are not found."""
    place = tmp_path / "home"
    place.mkdir()
    return place


@pytest.fixture
def loaded(home: Path, tmp_state: Path) -> Any:
    """`loaded(toml, flags, **environment)`: settings from a cloudsched.toml with this text."""

    def make(toml: str = "", flags: dict[str, object] | None = None, **environment: str) -> Settings:
        file = home / "cloudsched.toml"
        file.write_text(toml)
        environ = {"HOME": str(home), "CLOUDSCHED_STATE": str(tmp_state),
                   "CLOUDSCHED_CLOUD_SCHEDULER_CONFIG_FILE": "none"} | environment
        return load(flags or {}, environ, file)

    return make


def refused(loaded: Any, *args: Any, **kw: Any) -> str:
    with pytest.raises(Invalid) as caught:
        loaded(*args, **kw)
    assert caught.value.errors
    return str(caught.value)


def test_flag_beats_environment_beats_file_beats_default(loaded: Any) -> None:
    toml = "[web]\nthreads = 50\n"
    assert loaded().web.threads == 64
    assert loaded(toml).web.threads == 50
    assert loaded(toml, CLOUDSCHED_WEB_THREADS="60").web.threads == 60
    assert loaded(toml, {"web.threads": 70}, CLOUDSCHED_WEB_THREADS="60").web.threads == 70


def test_a_flag_that_is_none_was_not_given(loaded: Any) -> None:
    settings = loaded("", {"web.threads": None, "port_offset": None})
    assert settings.origin("web.threads") == "default"


def test_origins(loaded: Any, home: Path) -> None:
    settings = loaded("# head\n[web]\n\nthreads = 60  # many\n", {"port_offset": 7},
                      CLOUDSCHED_LOG_LEVEL="debug")
    assert settings.origin("web.threads") == f"file {home}/cloudsched.toml:4"
    assert settings.origin("listen.port_offset") == "flag --port-offset"
    assert settings.origin("log.level") == "environment CLOUDSCHED_LOG_LEVEL"
    assert settings.origin("state.dir") == "environment CLOUDSCHED_STATE"
    assert settings.origin("engine.lease_s") == "default"
    assert settings.log.level == "DEBUG"
    with pytest.raises(KeyError):
        settings.origin("web.thread")


def test_classic_file_stands_between_our_file_and_the_defaults(loaded: Any, tmp_path: Path) -> None:
    classic = tmp_path / "cloud_scheduler.conf"
    classic.write_text("[global]\ninfo_server_port: 9111\nadmin_server_port: 9112\nscheduler_interval: 3\n"
                       "max_keepalive = 10\nhigh_priority_job_support: yes\n[logging]\nlog_level: WARNING\n"
                       "[job]\ndefault_VMMem: 700\n")
    settings = loaded(f"[listen]\ncloud_scheduler_info = 9999\n[cloud_scheduler]\nconfig_file = '{classic}'\n"
                      "ban_min_track = 9\n", CLOUDSCHED_CLOUD_SCHEDULER_CONFIG_FILE=str(classic))
    assert settings.listen.cloud_scheduler_info == 9999
    assert settings.cloud_scheduler.general.info_server_port == 9999
    assert settings.listen.cloud_scheduler_admin == 9112
    assert settings.origin("listen.cloud_scheduler_admin") == f"classic file {classic}:3"
    assert settings.engine.scheduler_interval_s == 3
    assert settings.cloud_scheduler.general.scheduler_interval == 3
    assert settings.cloud_scheduler.logging.log_level == "WARNING"
    assert settings.cloud_scheduler.general.max_keepalive_s == 600
    assert settings.origin("cloud_scheduler.max_keepalive_s") == f"classic file {classic}:5"
    assert settings.cloud_scheduler.general.high_priority_job_support is True
    assert settings.cloud_scheduler.general.ban_min_track == 9
    assert settings.cloud_scheduler.job.default_vm_mem == 700
    assert settings.log.level == "WARNING"
    assert settings.classic_file == str(classic)


def test_a_bad_classic_file_is_refused_with_its_line(loaded: Any, tmp_path: Path) -> None:
    classic = tmp_path / "cloud_scheduler.conf"
    classic.write_text("[global]\ninfo_server_port: many\n")
    message = refused(loaded, CLOUDSCHED_CLOUD_SCHEDULER_CONFIG_FILE=str(classic))
    assert f"{classic}:2" in message
    assert "info_server_port must be an integer value" in message


def test_our_keys_stand_in_the_classic_part_too(loaded: Any, tmp_path: Path) -> None:
    classic = tmp_path / "cloud_scheduler.conf"
    classic.write_text("[global]\nmax_destroy_threads: 3\n"
                       "[logging]\nlog_max_size: 2097152\nlog_location: /x/y\n")
    path = {"CLOUDSCHED_CLOUD_SCHEDULER_CONFIG_FILE": str(classic)}
    settings = loaded(**path)
    assert settings.engine.destroy_threads == settings.cloud_scheduler.general.max_destroy_threads == 3
    assert (settings.log.max_size_mb, settings.cloud_scheduler.logging.log_max_size) == (2, 2097152)
    assert settings.log.file == settings.cloud_scheduler.logging.log_location == "/x/y"
    settings = loaded("[engine]\ndestroy_threads = 5\n", **path)
    assert settings.cloud_scheduler.general.max_destroy_threads == 5


def test_minutes_of_the_classic_file_are_seconds_here(loaded: Any) -> None:
    settings = loaded("[cloud_scheduler]\nmax_keepalive_s = 90\n")
    assert settings.cloud_scheduler.general.max_keepalive_s == 90


@pytest.mark.parametrize(("toml", "key", "parts"), [
    ("[web]\nthreads = 'many'\n", "web.threads", ["an integer from 4 to 1024", "'many'", ":2"]),
    ("[web]\nthreads = 3\n", "web.threads", ["from 4 to 1024", "not 3"]),
    ("[web]\nthreads = true\n", "web.threads", ["an integer"]),
    ("[engine]\nlease_s = nan\n", "engine.lease_s", ["a number from 1 to 60"]),
    ("[log]\nlevel = 'LOUD'\n", "log.level", ["VERBOSE, DEBUG, INFO"]),
    ("[log]\nsyslog = 'maybe'\n", "log.syslog", ["yes or no"]),
    ("[access]\nnative_networks = ['10.0.0.0/40']\n", "access.native_networks", ["10.0.0.0/40"]),
    ("[log]\nfile = 7\n", "log.file", ["a path", "not 7"]),
])
def test_bad_values_name_key_origin_and_what_is_allowed(loaded: Any, toml: str, key: str,
                                                        parts: list[str]) -> None:
    message = refused(loaded, toml)
    for part in [key, "cloudsched.toml", *parts]:
        assert part in message


@pytest.mark.parametrize(("toml", "near"), [
    ("[web]\nthread = 5\n", "web.threads"),
    ("[wep]\nthreads = 5\n", "web"),
    ("[wep]\n", "web"),
    ("[cloud_scheduler]\nmax_keepalives_s = 5\n", "cloud_scheduler.max_keepalive_s"),
])
def test_unknown_keys_and_sections_are_refused_with_the_nearest(loaded: Any, toml: str, near: str) -> None:
    assert f"did you mean {near}?" in refused(loaded, toml)


def test_unknown_flags_and_variables(loaded: Any) -> None:
    assert "did you mean web.threads?" in refused(loaded, "", {"web.threds": 5})
    assert "did you mean CLOUDSCHED_WEB_THREADS?" in refused(loaded, CLOUDSCHED_WEB_THREDS="5")
    loaded(CLOUDSCHED_URL="http://127.0.0.1:8100", CLOUDSCHED_JOB_ID="7", CLOUDSCHED_AGENT_TOKEN="x")


def test_every_wrong_value_is_told_at_once(loaded: Any) -> None:
    with pytest.raises(Invalid) as caught:
        loaded("[web]\nthreads = 0\nworkers = 0\n", CLOUDSCHED_LOG_KEEP="-1")
    assert {error.field for error in caught.value.errors} == {"web.threads", "web.workers", "log.keep"}


def test_file_that_is_no_toml_or_not_there(loaded: Any, home: Path) -> None:
    assert "is not TOML" in refused(loaded, "[web\n")
    with pytest.raises(Invalid, match="cannot read"):
        load({}, {"HOME": str(home)}, home / "absent.toml")


def test_everything_lives_under_the_state_directory(loaded: Any, tmp_state: Path) -> None:
    settings = loaded()
    assert settings.database.url == f"sqlite:///{tmp_state}/cloudsched.db"
    assert settings.cloud_scheduler.general.ban_file == f"{tmp_state}/banned.json"


def test_default_state_directory_is_the_users_own(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"HOME": str(home), "CLOUDSCHED_CLOUD_SCHEDULER_CONFIG_FILE": "none"}
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert load({}, environ).state.dir == f"{home}/.local/state/cloudsched"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert load({}, environ).state.dir == "/var/lib/cloudsched"


def test_file_is_found_in_the_state_directory(home: Path, tmp_state: Path) -> None:
    (tmp_state / "cloudsched.toml").write_text("[web]\nthreads = 52\n")
    settings = load({"state": tmp_state}, {"HOME": str(home)})
    assert settings.web.threads == 52
    assert settings.config_file == f"{tmp_state}/cloudsched.toml"


def test_relative_paths_count_from_their_file(loaded: Any, home: Path) -> None:
    settings = loaded("[log]\nfile = './logs/server.log'\n[cloud_scheduler]\nuser_limit_file = 'x/limits'\n")
    assert settings.log.file == f"{home}/logs/server.log"
    assert settings.cloud_scheduler.general.user_limit_file == f"{home}/x/limits"


def test_all_ports_are_shifted(loaded: Any) -> None:
    settings = loaded(CLOUDSCHED_PORT_OFFSET="1000")
    assert {item.name: item.port for item in settings.listeners()} == {
        "cloud_scheduler_info": 9111, "cloud_scheduler_admin": 9112, "native": 9100, "logkit": 9090,
        "retire_cluster": 9081, "retire_cluster_tcp": 9082, "kboss": 9088, "dcluster": 9080}
    assert settings.native_url == "http://127.0.0.1:9100"


def test_port_zero_switches_a_listener_off(loaded: Any) -> None:
    settings = loaded("[listen]\ncloud_scheduler_admin = 0\n")
    assert settings.listener("cloud_scheduler_admin") is None
    assert settings.listener("native").dialect == "native"


@pytest.mark.parametrize(("toml", "says"), [
    ("[listen]\nnative = 8111\n", "same port"),
    ("[listen]\nport_offset = 57000\nnative = 9000\n", "highest port is 65535"),
    ("[listen]\nnative = 0\ncloud_scheduler_info = 0\ncloud_scheduler_admin = 0\nlogkit = 0\n"
     "retire_cluster = 0\nretire_cluster_tcp = 0\nkboss = 0\ndcluster = 0\n", "nothing would listen"),
    ("[listen]\nbind = '0.0.0.0'\n", "retire_cluster.join_token"),
    ("[listen]\nbind = '0.0.0.0'\n", "set access.cloud_scheduler_networks"),
    ("[listen]\nlogkit_bind = '0.0.0.0'\n", "set access.logkit_networks"),
    ("[listen]\nnative_bind = '0.0.0.0'\n[access]\nrequire_keys = 'no'\n", "set access.require_keys to yes"),
    ("[listen]\npublic_url = 'ftp://x'\n", "http:// or https://"),
    ("[web]\nworkers = 2\n", "needs PostgreSQL"),
    ("[database]\nurl = 'mysql://x'\n", "allowed are sqlite"),
    ("[agent]\nheartbeat_s = 40\n", "half of agent.lease_s"),
    ("[agent]\nlong_poll_s = 25\n[web]\nlong_poll_max_s = 20\n", "web.long_poll_max_s"),
    ("[web]\nthreads = 48\n", "less than web.threads"),
])
def test_contradictions_are_refused_and_say_what_to_set(loaded: Any, toml: str, says: str) -> None:
    assert says in refused(loaded, toml)


def test_binding_elsewhere_with_a_fence(loaded: Any) -> None:
    settings = loaded("[listen]\nbind = '0.0.0.0'\n[access]\ncloud_scheduler_networks = ['10.1.2.3/8']\n"
                      "dcluster_networks = ['10.0.0.0/8']\n"
                      "logkit_networks = ['10.1.2.3/8']\n[retire_cluster]\njoin_token = 'some token'\n")
    assert settings.access.cloud_scheduler_networks == ("10.0.0.0/8",)
    assert keys_always(settings)
    assert settings.native_url == "http://127.0.0.1:8100"
    assert not keys_always(loaded())


def test_networks_from_the_environment(loaded: Any) -> None:
    settings = loaded(CLOUDSCHED_ACCESS_NATIVE_NETWORKS="10.0.0.0/8, 192.168.1.20")
    assert settings.access.native_networks == ("10.0.0.0/8", "192.168.1.20/32")


def test_password_in_the_database_url_is_never_shown(loaded: Any) -> None:
    url = "postgresql://app:hidden%20word@db/prod?sslpassword=also&sslmode=require"
    settings = loaded(CLOUDSCHED_DATABASE_URL=url)
    assert settings.database.url == url
    everything = f"{settings!r} {settings.show(origin=True)} {check(settings, ports=False)}"
    assert "hidden" not in everything
    assert "also" not in everything
    assert mask_url(url) == "postgresql://app:***@db/prod?sslpassword=***&sslmode=require"
    assert "hidden" not in refused(loaded, CLOUDSCHED_DATABASE_URL="mysql://app:hidden@db/prod")


def test_show_lists_every_key_with_its_origin(loaded: Any) -> None:
    settings = loaded("[web]\nthreads = 55\n")
    rows = {row.key: row for row in settings.show(origin=True)}
    assert set(rows) == set(all_keys())
    assert rows["web.threads"].value == "55"
    assert rows["web.threads"].origin.startswith("file ")
    assert rows["log.syslog"].value == "no"
    assert rows["local.clouds"].value == "local-a, local-b"
    assert all(row.origin == "" for row in settings.show())


def test_two_local_clouds_by_default(loaded: Any) -> None:
    clouds = loaded().local.clouds
    assert [(cloud.name, cloud.slots) for cloud in clouds] == [("local-a", 4), ("local-b", 4)]


def test_local_clouds_from_the_file(loaded: Any) -> None:
    settings = loaded("[[local.clouds]]\nname = 'here'\nslots = 2\nmemory_mb = 1024\n")
    assert settings.local.clouds == (LocalCloud("here", slots=2, memory_mb=1024),)


@pytest.mark.parametrize(("toml", "says"), [
    ("[[local.clouds]]\nslots = 2\n", "must each have a name"),
    ("[[local.clouds]]\nname = 'a'\nslot = 2\n", "did you mean slots?"),
    ("[[local.clouds]]\nname = 'a'\nslots = 0\n", "slots of a must be an integer from 1 to 1000"),
    ("[[local.clouds]]\nname = 'a'\n[[local.clouds]]\nname = 'A'\n", "different names"),
    ("[local]\nclouds = 'x'\n", "must be tables"),
])
def test_bad_local_clouds(loaded: Any, toml: str, says: str) -> None:
    assert says in refused(loaded, toml)


def test_variables_are_one_to_one() -> None:
    keys = all_keys()
    assert len({variable(key) for key in keys}) == len(keys)
    assert set(variables().values()) == set(keys)
    assert all(key.doc.endswith(".") for key in declared_keys().values())


def test_a_child_process_loads_the_same(loaded: Any, home: Path) -> None:
    settings = loaded("[web]\nthreads = 55\n", {"port_offset": 30, "database_url": "postgresql://a:b@h/c"},
                      CLOUDSCHED_ACCESS_NATIVE_NETWORKS="10.0.0.0/8")
    child = load({}, {"HOME": str(home)} | hand_over(settings))
    for key in all_keys():
        assert child.value(key) == settings.value(key), key


def test_check_on_a_good_machine(loaded: Any, free_ports: Any) -> None:
    info, admin, native = free_ports(3)
    findings = check(loaded(f"[listen]\ncloud_scheduler_info={info}\ncloud_scheduler_admin={admin}\n"
                            f"native={native}\n"))
    assert [finding for finding in findings if finding.level == "error"] == []
    assert {"state.dir", "listen.native", "database.url"} <= {finding.key for finding in findings}


def test_check_tells_of_a_taken_port(loaded: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        settings = loaded(f"[listen]\nnative = {sock.getsockname()[1]}\n")
        errors = [finding for finding in check(settings) if finding.level == "error"
                  and finding.key == "listen.native"]
    assert len(errors) == 1
    assert "taken" in errors[0].text
    assert "port_offset" in errors[0].text


def test_check_reads_the_classic_files(loaded: Any, tmp_path: Path) -> None:
    clouds = tmp_path / "cloud_resources.conf"
    clouds.write_text("[alpha]\ncloud_type: Local\nvm_slots: 2\n[beta]\nvm_slots: 2\n")
    limits = tmp_path / "limits"
    limits.write_text("[1, 2]")
    settings = loaded(f"[cloud_scheduler]\ncloud_resource_config = '{clouds}'\n"
                      f"user_limit_file = '{limits}'\ncondor_q_command = 'no-such-program -l'\n")
    findings = check(settings, ports=False)
    told = {(finding.level, finding.key.partition(".")[2]) for finding in findings}
    assert ("ok", "cloud_resource_config") in told
    assert ("warning", "cloud_resource_config") in told
    assert ("warning", "user_limit_file") in told
    assert ("error", "condor_q_command") in told


def test_check_refuses_what_cannot_be_written(loaded: Any, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    settings = loaded(f"[log]\nfile = '{tmp_path}/plain/server.log'\n[agent]\nrun_as = 'nobody-here'\n",
                      CLOUDSCHED_STATE=str(tmp_path / "plain" / "state"))
    errors = {item.key: item.text for item in check(settings, ports=False) if item.level == "error"}

    assert "is not a directory" in errors["state.dir"]
    assert "is not a directory" in errors["log.file"]
    assert "no user" in errors["agent.run_as"]


def test_check_tells_of_an_open_secret_key(loaded: Any, tmp_state: Path) -> None:
    key = tmp_state / "secret.key"
    key.write_text("x")
    key.chmod(0o644)
    assert any("chmod 600" in finding.text for finding in check(loaded(), ports=False))
