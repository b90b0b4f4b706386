"""Are the clouds of contract 6.3 read by type, and the broken ones named and skipped?"""

import pytest

from cloudsched.classic.clouds_conf import CLOUD_TYPES, raw_sections, read_clouds
from cloudsched.classic.problem import ClassicConfigError, Secret

VALUES = {"host": "c.example.org", "regions": "r1, r2", "security_group": "default", "access_key_id": "AKIA",
          "secret_access_key": "very-secret", "auth_url": "https://keystone:5000/v3", "username": "me",
          "password": "hush",
          "tenant_name": "t", "auth_dat_file": "/a", "secret_file": "/s", "project_id": "p",
          "blob_url": "b", "contextualization": "ctx", "vm_slots": "10"}
TYPES = [(cloud_type, required) for cloud_type, (_, required) in CLOUD_TYPES.items()]


def section(cloud_type, *, without=(), **more):
    keys = {key: VALUES[key] for key in ("vm_slots", *CLOUD_TYPES[cloud_type][1])} | more
    lines = [f"{key}: {value}" for key, value in keys.items() if key not in without]
    return "\n".join([f"[{cloud_type}-Cloud]", f"cloud_type: {cloud_type}", *lines, ""])


@pytest.fixture
def read(tmp_path):
    path = tmp_path / "cloud_resources.conf"

    def read_text(text):
        path.write_text(text)
        return read_clouds(path)

    return read_text


@pytest.mark.parametrize(("cloud_type", "required"), TYPES)
def test_each_type_with_its_required_keys(read, cloud_type, required):
    result = read(section(cloud_type))
    assert result.problems == ()
    cloud = result.clouds[0]
    assert (cloud.section, cloud.name) == (f"{cloud_type}-Cloud", f"{cloud_type}-Cloud".lower())
    assert (cloud.cloud_type, cloud.vm_slots, cloud.enabled) == (cloud_type, 10, None)
    assert (cloud.memory, cloud.storage, cloud.cpu_cores, cloud.max_vm_mem) == (-1, -1, -1, -1)  # B30
    assert cloud.regions == (("r1", "r2") if "regions" in required else ())


REQUIRED = [(cloud_type, key) for cloud_type, keys in TYPES for key in ("vm_slots", *keys)]


@pytest.mark.parametrize(("cloud_type", "key"), REQUIRED)
def test_each_missing_key_skips_the_section(read, cloud_type, key):
    result = read(section(cloud_type, without=(key,)) + "[good]\ncloud_type: Local\nvm_slots: 1\n")
    assert [cloud.name for cloud in result.clouds] == ["good"]
    assert [(p.section, p.key, p.line) for p in result.problems] == [(f"{cloud_type}-Cloud", key, 1)]
    assert f"{key} is required for {cloud_type} clouds" in str(result.problems[0])


def test_every_key(read):
    cloud = read(section(
        "AmazonEC2", port="443", memory="20480", storage="500", cpu_cores="8", max_vm_mem="4096",
        max_vm_storage="50", total_cpu_cores="64", networks="private, public", priority="-2",
        vm_keep_alive="5", boot_timeout="600", key_name="k", placement_zone="z", secure_connection="yes",
        reverse_dns_lookup="on", enabled="true",
        user_domain_name="u", project_domain_name="d", cacert="/ca", service_name="s",
        keycert="/kc")).clouds[0]
    assert (cloud.port, cloud.memory, cloud.storage, cloud.cpu_cores) == (443, 20480, 500, 8)
    assert (cloud.max_vm_mem, cloud.max_vm_storage, cloud.total_cpu_cores) == (4096, 50, 64)
    assert (cloud.networks, cloud.priority, cloud.vm_keep_alive_s) == (("private", "public"), -2, 300)
    assert (cloud.boot_timeout, cloud.key_name, cloud.placement_zone) == (600, "k", "z")
    assert (cloud.secure_connection, cloud.reverse_dns_lookup, cloud.enabled) == (True, True, True)
    assert (cloud.user_domain_name, cloud.project_domain_name, cloud.cacert) == ("u", "d", "/ca")
    assert (cloud.service_name, cloud.keycert) == ("s", "/kc")


def test_ignored_keys_are_ignored(read):
    keys = ("cpu_archs", "image_attach_device", "scratch_attach_device", "temp_lease_storage", "vm_lifetime",
            "hypervisor", "vm_domain_name")
    ignored = dict.fromkeys(keys, "whatever")
    result = read(section("Eucalyptus", **ignored) + section("Local", hypervisor="xen"))
    assert (len(result.clouds), result.problems) == (2, ())
    assert result.clouds[1].options == {}


def test_unknown_key_skips_the_section_and_suggests(read):
    result = read(section("OpenStack", memori="1"))
    assert result.clouds == ()
    assert [(p.key, p.line) for p in result.problems] == [("memori", 9)]
    assert "memori is not a key of OpenStack clouds (did you mean memory?)" in str(result.problems[0])


def test_own_types_pass_unknown_keys_through(read):
    cloud = read(section("Kubernetes", context="prod", api_token="t0ps3cret", Namespace="batch")).clouds[0]
    assert cloud.options == {"context": "prod", "namespace": "batch", "api_token": Secret("t0ps3cret")}
    assert "t0ps3cret" not in repr(cloud)


@pytest.mark.parametrize(("key", "value", "why"), [
    ("vm_slots", "ten", "vm_slots must be an integer value"),
    ("vm_slots", "-1", "vm_slots must be an integer value of at least 0"),
    ("memory", "2G", "memory must be an integer value"),
    ("enabled", "perhaps", "enabled must be a Boolean value"),
    ("port", "0", "port must be an integer value of at least 1 and at most 65535"),
])
def test_wrong_values_skip_the_section(read, key, value, why):
    result = read(section("Local", **{key: value}))
    assert result.clouds == ()
    assert result.problems[0].key == key
    assert f"section skipped: {why}" in str(result.problems[0])


def test_unknown_or_missing_type(read):
    result = read("[a]\nvm_slots: 1\n[b]\ncloud_type: Cumulus\nvm_slots: 1\n"
                  "[c]\ncloud_type: openstacknative\n")
    assert [(p.section, p.key) for p in result.problems[:2]] == [("a", "cloud_type"), ("b", "cloud_type")]
    assert "'Cumulus' is not one of AmazonEC2, " in str(result.problems[1])
    assert {p.key for p in result.problems[2:]} == {"vm_slots", *CLOUD_TYPES["OpenStackNative"][1]}


def test_type_is_taken_in_any_case_and_shown_as_usual(read):
    assert read("[a]\ncloud_type: local\nvm_slots: 1\n").clouds[0].cloud_type == "Local"


def test_same_name_in_another_case_is_refused(read):
    result = read("[Alpha]\ncloud_type: Local\nvm_slots: 1\n[alpha]\ncloud_type: Local\nvm_slots: 2\n")
    assert [(c.section, c.vm_slots) for c in result.clouds] == [("Alpha", 1)]
    assert "is the same cloud as [Alpha] above" in str(result.problems[0])


def test_secrets_never_show(read):
    for cloud in read(section("OpenStackNative") + section("AmazonEC2")).clouds:
        shown = f"{cloud!r} {cloud}"
        assert "hush" not in shown and "very-secret" not in shown and "AKIA" not in shown
    assert cloud.secret_access_key.reveal() == "very-secret"


@pytest.mark.parametrize(("cloud_type", "address"), [
    ("AmazonEC2", "c.example.org"), ("OpenStackNative", "https://keystone:5000/v3"),
    ("Azure", "azure.microsoft.com"), ("StratusLab", "c.example.org"), ("Local", "localhost"),
    ("Nimbus", "")])
def test_network_address(read, cloud_type, address):
    assert read(section(cloud_type)).clouds[0].network_address == address


def test_unreadable_file_raises_but_an_empty_one_is_no_cloud(read, tmp_path):
    assert read("").clouds == ()
    with pytest.raises(ClassicConfigError, match="cannot read"):
        read_clouds(tmp_path / "absent")
    with pytest.raises(ClassicConfigError, match="line 1"):
        read("nonsense")


def test_raw_sections(tmp_path):
    path = tmp_path / "clouds.conf"
    path.write_text("[Alpha]\nHost: a.example.org\ncloud_type = OpenStack\nvm_slots:10\nkey_name: 100%\n"
                    "password: x\nUsername: y\naccess_key_id: z\nsecret_access_key: q\nsecret_file: /s\n"
                    "api_token: t\n"
                    "[empty]\n")
    assert raw_sections(path) == [
        ("Alpha", [("host", "a.example.org"), ("cloud_type", "OpenStack"), ("vm_slots", "10"),
                   ("key_name", "100%"), ("secret_file", "/s")]),
        ("empty", [])]
    assert raw_sections(tmp_path / "absent") == []
    path.write_text("nonsense\n")
    assert raw_sections(path) == []
