"""Reading recorded answers of an external pool: queue (contract 7.2) and machines (7.3)."""

from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudsched.drivers import classads
from cloudsched.drivers.classads import AdError, JobDefaults

RECORDED = Path(__file__).parent / "recorded"


def recorded(name):
    return (RECORDED / name).read_text(encoding="utf-8")


def jobs_of(text, defaults=None, **options):
    options.setdefault("max_keep_alive_s", 3600)
    return classads.parse_jobs(text, defaults or JobDefaults(), **options)


def one_job(*lines, defaults=None, **options):
    base = ['GlobalJobId = "h#1.0#9"', "ClusterId = 1", "ProcId = 0", 'Owner = "u"', "JobStatus = 1"]
    jobs, warnings = jobs_of("\n".join([*base, *lines]) + "\n\n", defaults, **options)
    assert warnings == []
    return jobs[0]


def test_every_attribute_of_a_job():
    jobs, warnings = jobs_of(recorded("condor_q_old.txt"), max_keep_alive_s=300)
    assert warnings == []
    job = jobs[0]
    assert job.id == "condor.example.org#12.0#1391234567"
    assert (job.user, job.cluster_id, job.proc_id, job.batch_id) == ("alice", 12, 0, "12.0")
    assert (job.priority, job.status) == (5, 2)
    assert (job.vm_type, job.user_vm_type) == ("canfar", "alice:canfar")
    assert (job.memory_mb, job.cores, job.storage_gb) == (1024, 1, 20)
    assert (job.network, job.image_name) == ("private", "canfar-image")
    assert job.amis == {"alpha": "ami-0001", "beta.example.org": "ami-0002"}
    assert job.instance_types == {"default": "m1.large"}
    assert job.keep_alive_s == 300  # 10 minutes, limited
    assert (job.high_priority, job.vm_type_limit, job.job_per_core) == (1, 4, True)
    assert job.maximum_price == 0.35
    assert job.targets == ("Alpha", "beta")
    assert job.security_groups == ("default", "ssh")
    assert job.user_data == ("/home/alice/a.yaml", "/home/alice/b.sh")
    assert (job.key_name, job.ami_config, job.inject_ca) == ("alice-key", "/home/alice/ami.conf", False)
    assert (job.image_id, job.location) == ("img-77", "east")
    assert job.remote_host == "slot1@host-1001.example.org"
    assert (job.server_time, job.job_start_time) == (1391235000, 1391234800)  # B29: int at once
    assert job.spool_dir == "/home/alice/work"
    assert job.x509userproxy == "/tmp/x509up_u1000"
    assert job.x509userproxysubject == "/C=CA/O=Grid/CN=Alice Example"
    assert job.original_x509userproxy == "/home/alice/proxy"
    assert (job.myproxy_server, job.myproxy_server_port) == ("myproxy.example.org", "7512")
    assert (job.myproxy_creds_name, job.proxy_renew_time) == ("alice-creds", "24")
    assert (job.proxy_non_boot, job.vmimage_proxy_file) == (True, "/proxies/image")


def test_defaults_of_a_job_that_says_nothing():
    job = jobs_of(recorded("condor_q_old.txt"))[0][1]
    assert job.vm_type == "a"  # B24: one letter
    assert (job.priority, job.memory_mb, job.cores, job.storage_gb) == (1, 512, 1, 0)
    assert (job.network, job.image_name, job.amis, job.instance_types) == ("", "Default-Image", {}, {})
    assert (job.keep_alive_s, job.high_priority, job.vm_type_limit) == (0, 0, -1)
    assert (job.job_per_core, job.maximum_price, job.inject_ca) == (False, 0.0, True)
    assert (job.targets, job.security_groups, job.user_data) == ((), (), ())
    assert job.remote_host is None
    assert (job.server_time, job.job_start_time, job.proxy_renew_time) == (0, 0, "12")


def test_held_and_higher_statuses_are_reported_as_they_are():
    old, _ = jobs_of(recorded("condor_q_old.txt"))
    new, _ = jobs_of(recorded("condor_q_new.txt"))
    assert [job.status for job in old] == [2, 1, 5]
    assert [job.status for job in new] == [1, 7]
    assert old[2].vm_type == "default"


def test_a_bad_line_costs_a_line_and_a_bad_number_costs_a_job():
    jobs, warnings = jobs_of(recorded("condor_q_new.txt"))
    assert [job.proc_id for job in jobs] == [0, 1]
    assert jobs[1].memory_mb == 4096
    assert len(warnings) == 2
    assert "line 30 is not 'Name = value', skipped: 'this line was never" in warnings[0]
    assert "#9000.2#" in warnings[1]
    assert "VMMem is 'lots', must be a whole number" in warnings[1]


def test_requests_are_taken_from_requirements_only_when_asked():
    text = recorded("condor_q_new.txt")
    plain = jobs_of(text)[0]
    assert (plain[0].memory_mb, plain[0].cores, plain[0].storage_gb) == (512, 1, 0)
    asked = jobs_of(text, reqs_from_requirements=True)[0]
    assert (asked[0].memory_mb, asked[0].cores, asked[0].storage_gb) == (7800, 4, 50)
    assert asked[1].memory_mb == 4096  # named by the job: wins


@pytest.mark.parametrize(
    ("requirements", "memory_mb", "storage_gb"),
    [
        ("(Memory > 1023)", 1024, 0),
        ("TARGET.Memory >= 1024.5 && Disk >= 10", 1025, 1),
        ("(TotalMemory >= 99)", 512, 0),
        ("(Memory >= RequestMemory)", 512, 0),
        ("(Memory <= 4000)", 512, 0),
    ],
)
def test_requirement_forms(requirements, memory_mb, storage_gb):
    job = one_job(f"Requirements = {requirements}", reqs_from_requirements=True)
    assert (job.memory_mb, job.storage_gb) == (memory_mb, storage_gb)


@pytest.mark.parametrize(
    ("requirements", "vm_type"),
    [
        ('VMType =?= "canfar"', "canfar"),
        ('(vmtype=?="x")', "x"),
        ('(TARGET.VMType is "x y")', "x y"),
        ('(MyVMType =?= "no")', ""),
        ('VMType == "no"', ""),
        ("TRUE", ""),
        ('VMType =?= ""', ""),
    ],
)
def test_vm_type_in_requirements(requirements, vm_type):
    assert classads.vm_type_in(requirements) == vm_type


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("ami-1", {"default": "ami-1"}),
        ("Alpha:ami-1, beta:ami-2", {"alpha": "ami-1", "beta": "ami-2"}),
        ("alpha:ami-1,ami-0", {"alpha": "ami-1", "default": "ami-0"}),
        ("https://images.example.org/a", {"default": "https://images.example.org/a"}),
        ("alpha:https://images.example.org/a", {"alpha": "https://images.example.org/a"}),
        ("", {}),
        ("alpha:", {}),
    ],
)
def test_lists_by_cloud(text, values):
    assert classads.cloud_values(text) == values


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("VMCPUCores = 1.5", "VMCPUCores is '1.5', must be a whole number"),
        ("VMMem = -1", "VMMem is -1, must not be negative"),
        ("VMKeepAlive = soon", "VMKeepAlive is 'soon'"),
        ("VMMaximumPrice = nan", "VMMaximumPrice is 'nan', must be a number"),
        ("VMStorage = 1e400", "VMStorage is '1e400'"),
        ("JobPrio = error", "JobPrio is 'error'"),
    ],
)
def test_an_unusable_number_skips_the_job_and_says_why(line, problem):
    good = 'GlobalJobId = "h#2.0#9"\nClusterId = 2\nProcId = 0\nOwner = "u"\nJobStatus = 1\n\n'
    bad = f'GlobalJobId = "h#1.0#9"\nClusterId = 1\nProcId = 0\nOwner = "u"\nJobStatus = 1\n{line}\n\n'
    jobs, warnings = jobs_of(bad + good)
    assert [job.cluster_id for job in jobs] == [2]
    assert "h#1.0#9" in warnings[0]
    assert problem in warnings[0]


def test_keep_alive_is_minutes_and_never_negative():
    assert one_job("VMKeepAlive = 2").keep_alive_s == 120
    assert one_job("VMKeepAlive = 2.0").keep_alive_s == 120
    assert one_job("VMKeepAlive = -5").keep_alive_s == 0
    assert one_job("VMKeepAlive = 600", max_keep_alive_s=60).keep_alive_s == 60


def test_defaults_come_from_the_job_section():
    section = {
        "default_VMType": "small", "DEFAULT_VMMEM": "1024", "default_VMCPUCores": 2, "default_VMStorage": "5",
        "default_VMAMI": "alpha:ami-1, ami-0", "default_VMInstanceType": "m1.small",
        "default_VMInstanceTypeList": "alpha:m1.big", "default_VMUserData": "a.yaml, b.yaml",
        "default_TargetClouds": ["alpha"], "default_VMJobPerCore": True, "default_VMInjectCA": "false",
        "default_VMMaximumPrice": "", "default_VMName": None, "unrelated": "x",
    }  # fmt: skip
    job = one_job(defaults=JobDefaults.from_mapping(section))
    assert (job.vm_type, job.memory_mb, job.cores, job.storage_gb) == ("small", 1024, 2, 5)
    assert job.amis == {"alpha": "ami-1", "default": "ami-0"}
    assert job.instance_types == {"alpha": "m1.big", "default": "m1.small"}
    assert (job.user_data, job.targets) == (("a.yaml", "b.yaml"), ("alpha",))
    assert (job.job_per_core, job.inject_ca, job.image_name) == (True, False, "Default-Image")


def test_a_wrong_default_names_its_key():
    with pytest.raises(ValueError, match="default_VMMem is 'much', must be a whole number"):
        JobDefaults.from_mapping({"default_vmmem": "much"})


def test_every_default_has_a_key():
    assert set(classads._DEFAULT_KEYS) == {entry.name for entry in fields(JobDefaults)}


@pytest.mark.parametrize(
    "text", ["", "\n\n", "\n\n-- Schedd: s.example.org : <10.0.0.1:9618>\n", "All queues are empty\n"]
)
def test_an_empty_queue(text):
    assert jobs_of(text) == ([], [])


def test_garbage_is_no_empty_queue():
    with pytest.raises(AdError, match="holds no ClassAd"):
        jobs_of("Segmentation fault\n")


def test_half_a_block_is_refused():
    text = recorded("condor_q_new.txt")
    half = text[: text.index("NumJobStarts")]
    with pytest.raises(AdError, match="cut off: its last ad has no ProcId"):
        jobs_of(half)


def test_a_last_line_inside_a_string_is_refused():
    text = recorded("condor_q_old.txt").rstrip()
    with pytest.raises(AdError, match="ends inside a string"):
        jobs_of(text + '\nHoldReason = "via cond')


def test_an_incomplete_ad_in_the_middle_is_skipped():
    jobs, warnings = jobs_of("ClusterId = 1\n\n" + recorded("condor_q_old.txt"))
    assert len(jobs) == 3
    assert warnings == ["job (no GlobalJobId) skipped: GlobalJobId is missing"]


def test_names_are_case_insensitive_and_strings_lose_their_quotes():
    ads, _ = classads.parse_ads('ARGS = "a \\"b\\" c"\nx=1\nRequirements = VMType =?= "q"\n')
    assert ads == [{"args": 'a "b" c', "x": "1", "requirements": 'VMType =?= "q"'}]


def test_slots_with_their_masters():
    masters, master_warnings = classads.parse_masters(recorded("condor_status_master.txt"))
    slots, warnings = classads.parse_slots(recorded("condor_status.txt"), masters)
    assert warnings == []
    assert master_warnings == ["master host-4004.example.org skipped: Machine or MasterIpAddr is missing"]
    assert [slot.name for slot in slots] == [
        "slot1@host-1001.example.org",
        "slot2@host-1001.example.org",
        "slot1_1@host-2002.example.org",  # its partitionable parent does not count
        "slot1@host-3003",  # a partitionable slot alone on its machine does
    ]
    first = slots[0]
    assert (first.machine, first.state, first.activity) == ("host-1001.example.org", "Claimed", "Busy")
    assert first.address == "<10.0.0.11:40123?addrs=10.0.0.11-40123&noUDP>"
    assert first.master_address == "<10.0.0.11:40001?addrs=10.0.0.11-40001>"
    assert (first.vm_type, first.job_id) == ("canfar", "12.0")
    assert first.global_job_id == "condor.example.org#12.0#1391234567"
    assert (first.start, first.remote_owner) == ('( Owner == "alice" )', "alice@example.org")
    assert (first.slot_type, first.total_slots) == ("Static", 2)
    assert (first.my_current_time, first.entered_current_state) == (1391235010, 1391234800)
    assert [slot.user for slot in slots] == ["alice", "alice", "dave", None]
    assert [slot.master_address for slot in slots[2:]] == ["<10.0.0.12:40002>", ""]


def test_an_unusable_slot_is_skipped():
    text = 'Name = "slot1@a"\nMachine = "a"\nTotalSlots = many\n\n' + recorded("condor_status.txt")
    slots, warnings = classads.parse_slots(text, {})
    assert len(slots) == 4
    assert warnings == ["slot slot1@a skipped: TotalSlots is 'many', must be a whole number"]


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("host-1.example.org", "host-1.example.org", True),
        ("slot1@host-1.example.org", "host-1", True),
        ("slot1_2@Host-1.a.org", "host-1.b.org", True),
        ("host-1", "host-2", False),
        ("10.0.0.5", "10.0.0.6", False),
        ("10.0.0.5", "slot2@10.0.0.5", True),
        ("10.0.0.5", "10", False),
        ("fe80::1", "fe80::2", False),
        ("", "", False),
    ],
)
def test_same_machine(left, right, same):
    assert classads.same_machine(left, right) is same
    assert classads.same_machine(right, left) is same


LINES = st.sampled_from(
    [
        *('GlobalJobId = "h#1.0#9"', "ClusterId = 1", "ProcId = 0", 'Owner = "u"', "JobStatus = 2", ""),
        *("VMMem = x", "VMMem = 1e999", 'VMAMI = ":,:"', "JobPrio = 99999999999999999999", "= 3", "junk"),
        *('Name = "a', "Machine = b", "TotalSlots = -1", "Requirements = Memory >= inf"),
        "Requirements = Disk >= 1.2.3",
    ]
)


@given(st.lists(LINES, max_size=30), st.booleans())
def test_any_answer_is_read_or_refused(lines, ended):
    text = "\n".join(lines) + ("\n" if ended else "")
    for parse in (lambda: jobs_of(text, reqs_from_requirements=True), lambda: classads.parse_slots(text, {})):
        try:
            found, warnings = parse()
        except AdError:
            continue
        assert isinstance(found, list)
        assert isinstance(warnings, list)
