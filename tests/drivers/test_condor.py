"""Running the configured commands of an external pool for real: small scripts stand in for them."""

import json
import os
import stat
import sys
import time
from pathlib import Path

import pytest

from cloudsched.drivers.classads import Slot
from cloudsched.drivers.condor import (
    CondorCommands,
    CondorError,
    CondorPool,
    Machines,
    settle_machines,
)

RECORDED = Path(__file__).parent / "recorded"
STARTD = "<10.0.0.11:40123?addrs=10.0.0.11-40123&noUDP>"
MASTER = "<10.0.0.11:40001?addrs=10.0.0.11-40001>"


@pytest.fixture
def tool(tmp_path):
    """Makes a command that notes its words and input, prints what it is told and exits."""

    def make(name, *, out="", err="", code=0, body=""):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        notes = tmp_path / f"{name}.notes"
        path.write_text(
            f"#!{sys.executable} -S\n"
            "import json, os, sys, time\n"
            "given = sys.stdin.read()\n"
            f"with open({str(notes)!r}, 'a') as notes:\n"
            "    notes.write(json.dumps([sys.argv[1:], given]) + '\\n')\n"
            f"{body}\n"
            f"sys.stdout.write({out!r})\n"
            f"sys.stderr.write({err!r})\n"
            f"sys.exit({code})\n"
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    return make


@pytest.fixture
def calls(tmp_path):
    def read(name):
        notes = tmp_path / f"{name}.notes"
        if not notes.exists():
            return []
        return [json.loads(line) for line in notes.read_text().splitlines()]

    return read


def recorded(name):
    return (RECORDED / name).read_text(encoding="utf-8")


def slot(name="slot1@a"):
    return Slot(
        name=name, machine=name.partition("@")[2], state="Unclaimed", activity="Idle", address="",
        master_address="", vm_type="", job_id=None, global_job_id=None, start="", remote_owner=None,
        user=None, slot_type="Static", total_slots=1, my_current_time=0, entered_current_state=0,
    )  # fmt: skip


def test_the_queue_is_read_by_the_configured_command(tool, calls):
    command = tool("condor_q", out=recorded("condor_q_new.txt"), err="a remark")
    queue = CondorPool(CondorCommands(q=f"{command} -l -allusers 'two words' $HOME;")).read_queue()
    assert [job.batch_id for job in queue.jobs] == ["9000.0", "9000.1"]
    assert len(queue.warnings) == 2
    # Split into words, never seen by a shell.
    assert calls("condor_q") == [[["-l", "-allusers", "two words", "$HOME;"], ""]]


def test_an_empty_queue_is_an_answer(tool):
    assert CondorPool(CondorCommands(q=tool("condor_q"))).read_queue().jobs == ()


def test_a_failing_command_names_itself_its_code_and_its_complaint(tool):
    command = tool("condor_q", err="Can't find address\nof schedd " + "x" * 2000, code=3)
    with pytest.raises(CondorError) as caught:
        CondorPool(CondorCommands(q=f"{command} --secret-word")).read_queue()
    problem = caught.value
    assert (problem.command, problem.exit_code) == ("condor_q", 3)
    assert problem.stderr.startswith("Can't find address of schedd xxx")
    assert len(problem.stderr) < 600
    assert str(problem).startswith("condor_q failed with exit code 3: Can't find address")
    assert "secret-word" not in str(problem)


def test_a_command_ended_by_a_signal(tool):
    command = tool("condor_q", body="os.kill(os.getpid(), 9)")
    with pytest.raises(CondorError, match="condor_q was ended by signal 9"):
        CondorPool(CondorCommands(q=command)).read_queue()


def test_a_missing_command(tmp_path):
    with pytest.raises(CondorError, match="condor_q could not be started: No such file") as caught:
        CondorPool(CondorCommands(q=str(tmp_path / "condor_q"))).read_queue()
    assert caught.value.exit_code is None


def test_a_hanging_command_is_killed_with_its_children(tool, tmp_path):
    child_file = tmp_path / "child"
    body = (
        f"child = os.fork()\nif child:\n    open({str(child_file)!r}, 'w').write(str(child))\ntime.sleep(600)"
    )
    command = tool("condor_q", body=body)
    with pytest.raises(CondorError, match=r"condor_q gave no answer within 2 s and was killed"):
        CondorPool(CondorCommands(q=command, query_limit_s=2.0)).read_queue()
    assert not _alive(int(child_file.read_text()))


def test_garbage_keeps_the_old_picture(tool):
    with pytest.raises(CondorError, match=r"condor_q cannot be used: the answer holds no ClassAd"):
        CondorPool(CondorCommands(q=tool("condor_q", out="<html>502</html>\n"))).read_queue()


def test_bytes_that_are_no_text_do_not_stop_the_reading(tool):
    body = "os.write(1, bytes([79, 61, 34, 255, 254, 34, 10, 10]))"  # O="\\xff\\xfe"
    command = tool("condor_q", body=body, out=recorded("condor_q_old.txt"))
    assert len(CondorPool(CondorCommands(q=command)).read_queue().jobs) == 3


def test_machines_are_read_with_their_masters(tool, calls):
    commands = CondorCommands(
        status=f"{tool('condor_status', out=recorded('condor_status.txt'))} -l",
        status_master=f"{tool('condor_master', out=recorded('condor_status_master.txt'))} -master -l",
    )
    machines = CondorPool(commands).read_machines(Machines())
    assert len(machines.slots) == 4
    assert machines.slots[0].master_address == MASTER
    assert machines.empty_polls == 0
    assert len(machines.warnings) == 1
    assert calls("condor_status") == [[["-l"], ""]]
    assert calls("condor_master") == [[["-master", "-l"], ""]]


def test_a_failing_master_list_keeps_the_old_picture(tool):
    commands = CondorCommands(
        status=tool("condor_status", out=recorded("condor_status.txt")),
        status_master=tool("condor_master", code=1),
    )
    with pytest.raises(CondorError, match="condor_master failed with exit code 1"):
        CondorPool(commands).read_machines(Machines())


def test_a_suddenly_empty_list_is_believed_at_the_fourth_poll(tool):
    commands = CondorCommands(status=tool("condor_status"), status_master=tool("condor_master"))
    pool = CondorPool(commands)
    machines = Machines((slot(),))
    kept = []
    for _ in range(5):
        machines = pool.read_machines(machines)
        kept.append(len(machines.slots))
    assert kept == [1, 1, 1, 0, 0]


def test_a_list_that_comes_back_starts_the_count_again():
    machines = settle_machines(settle_machines(Machines((slot("slot1@a"),)), []), [])
    assert machines.empty_polls == 2
    machines = settle_machines(machines, [slot("slot1@b")])
    assert (machines.empty_polls, machines.slots) == (0, (slot("slot1@b"),))
    assert settle_machines(machines, []).slots == (slot("slot1@b"),)


def test_a_pool_empty_from_the_start_is_empty():
    assert settle_machines(Machines(), []).slots == ()


def test_off_tells_the_start_daemon_and_then_the_master(tool, calls):
    command = tool("condor_off", out='Sent "Kill-Daemon-Peacefully" command\n')
    answer = CondorPool(CondorCommands(off=command)).off(STARTD, MASTER)
    assert answer.ok
    assert [words for words, _ in calls("condor_off")] == [
        ["-peaceful", "-addr", STARTD, "-subsystem", "startd"],
        ["-peaceful", "-addr", MASTER, "-subsystem", "master"],
    ]


@pytest.mark.parametrize("out", ["Can't connect to startd\n", "", " Sent\n", "sent\n", "It was not Sent\n"])
def test_off_fails_unless_the_answer_begins_with_sent(tool, calls, out):
    answer = CondorPool(CondorCommands(off=tool("condor_off", out=out, err="why"))).off(STARTD, MASTER)
    assert not answer.ok
    assert "condor_off for the startd answered" in answer.detail
    assert len(calls("condor_off")) == 1  # the master is left alone


def test_off_fails_when_only_the_master_refuses(tool, calls):
    body = "if 'master' in sys.argv:\n    print('No route')\n    sys.exit(0)"
    command = tool("condor_off", out="Sent it\n", body=body)
    answer = CondorPool(CondorCommands(off=command)).off(STARTD, MASTER)
    assert not answer.ok
    assert answer.detail == "condor_off for the master answered No route"
    assert len(calls("condor_off")) == 2


@pytest.mark.parametrize(
    ("startd", "master", "word"),
    [("", MASTER, "startd"), (STARTD, "", "master"), ("-all", MASTER, "startd")],
)
def test_off_without_addresses_fails_at_once(tool, calls, startd, master, word):
    answer = CondorPool(CondorCommands(off=tool("condor_off", out="Sent\n"))).off(startd, master)
    assert (answer.ok, answer.detail) == (False, f"the {word} address of the machine is not known")
    assert calls("condor_off") == []


def test_off_that_hangs_or_is_missing_is_a_no(tool, tmp_path):
    hanging = tool("condor_off", body="time.sleep(600)")
    answer = CondorPool(CondorCommands(off=hanging, command_limit_s=0.5)).off(STARTD, MASTER)
    assert (answer.ok, answer.detail) == (False, "condor_off gave no answer within 0.5 s and was killed")
    answer = CondorPool(CondorCommands(off=str(tmp_path / "nothing"))).off(STARTD, MASTER)
    assert not answer.ok
    assert "nothing could not be started" in answer.detail


def test_off_over_ssh_quotes_for_the_shell_over_there(tool, calls):
    commands = CondorCommands(
        off="/usr/sbin/condor_off", ssh_path=tool("ssh", out="Sent\n"), ssh_key="/keys/cs",
        central_host="central.example.org",
    )  # fmt: skip
    assert CondorPool(commands).off(STARTD, MASTER).ok
    first, second = (words for words, _ in calls("ssh"))
    assert first == [
        "-i", "/keys/cs", "-o", "BatchMode=yes", "central.example.org",
        f"/usr/sbin/condor_off -peaceful -addr '{STARTD}' -subsystem startd",
    ]  # fmt: skip
    assert second[-1].endswith("-subsystem master")


def test_hold_and_release(tool, calls):
    pool = CondorPool(CondorCommands(hold=f"{tool('condor_hold')} -v", release=tool("condor_release")))
    pool.hold("Bad job requirements.", ["12.0", "13.2"])
    pool.release(["12.0"])
    assert calls("condor_hold") == [[["-v", "-reason", "Bad job requirements.", "12.0", "13.2"], ""]]
    assert calls("condor_release") == [[["12.0"], ""]]


def test_hold_of_many_jobs_goes_in_parts_and_of_none_is_nothing(tool, calls):
    pool = CondorPool(CondorCommands(hold=tool("condor_hold")))
    pool.hold("x", [])
    assert calls("condor_hold") == []
    pool.hold("x", [f"1.{number}" for number in range(1001)])
    assert [len(words) - 2 for words, _ in calls("condor_hold")] == [500, 500, 1]


@pytest.mark.parametrize("batch_id", ["12", "-all", "12.0 13.0", "alice", ""])
def test_hold_takes_job_ids_only(tool, calls, batch_id):
    with pytest.raises(ValueError, match=r"must be CLUSTER\.PROC"):
        CondorPool(CondorCommands(hold=tool("condor_hold"))).hold("x", ["1.0", batch_id])
    assert calls("condor_hold") == []


def test_a_refused_hold_is_an_error(tool):
    pool = CondorPool(CondorCommands(hold=tool("condor_hold", err="Permission denied", code=1)))
    with pytest.raises(CondorError, match="condor_hold failed with exit code 1: Permission denied"):
        pool.hold("x", ["1.0"])


def test_invalidate_sends_a_query_for_the_machine(tool, calls):
    pool = CondorPool(CondorCommands(advertise=tool("condor_advertise")))
    pool.invalidate('host"1\\')
    pool.invalidate("host-2", subsystem="master")
    (words, ad), (master_words, master_ad) = calls("condor_advertise")
    assert words == ["INVALIDATE_STARTD_ADS"]
    assert ad == 'MyType = "Query"\nTargetType = "Machine"\nRequirements = Machine == "host\\"1\\\\"\n'
    assert master_words == ["INVALIDATE_MASTER_ADS"]
    assert 'TargetType = "DaemonMaster"' in master_ad


def test_invalidate_and_advertise_refuse_what_they_cannot_send(tool):
    pool = CondorPool(CondorCommands(advertise=tool("condor_advertise")))
    with pytest.raises(ValueError, match="must be one of startd, master"):
        pool.invalidate("host", subsystem="schedd")
    with pytest.raises(ValueError, match="machine is 'a"):
        pool.invalidate("a\nb")
    with pytest.raises(ValueError, match="update_command"):
        pool.advertise("-debug", "")


def test_commands_from_the_configuration():
    commands = CondorCommands.from_mapping(
        {
            "condor_q_command": "/opt/condor_q -l -allusers", "Condor_Off_Command": "/opt/condor_off",
            "cloudscheduler_ssh_key": "", "condor_webservice_url": "http://central.example.org:8080",
            "scheduler_interval": 5, "condor_hold_command": None,
        }
    )  # fmt: skip
    assert commands.q == "/opt/condor_q -l -allusers"
    assert commands.off == "/opt/condor_off"
    assert commands.hold == "condor_hold"
    assert (commands.ssh_key, commands.central_host) == ("", "central.example.org")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"condor_q_command": " "}, "condor_q_command is empty"),
        ({"condor_status_command": "a 'b"}, "condor_status_command is .* quotes must be balanced"),
        ({"condor_webservice_url": "http://:80"}, "condor_webservice_url is .* must be a URL"),
    ],
)
def test_unusable_configuration_names_its_key(section, message):
    with pytest.raises(ValueError, match=message):
        CondorCommands.from_mapping(section)


def _alive(pid):
    """Killed children of a killed command are taken over and reaped by another process; give it a moment."""
    for _ in range(200):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        if Path(f"/proc/{pid}/stat").exists() and ") Z " in Path(f"/proc/{pid}/stat").read_text():
            return False
        time.sleep(0.01)
    return True
