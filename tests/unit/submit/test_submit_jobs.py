"""From whole submit descriptions, some as people wrote them ten years ago, to jobs of ours."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudsched.client.submit import SubmitError, read, read_text


@pytest.fixture
def home(tmp_path):
    """A submit directory with a program, data and two run directories."""
    for name, text in {
        "run.sh": "#!/bin/sh\n", "in.0": "zero\n", "in.1": "one\n", "data/x.dat": "x", "data/deep/y.dat": "y",
        "run_1/test.data": "t1", "run_2/test.data": "t2",
    }.items():  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def one(text, home, **options):
    submission = read_text(
        f"executable = run.sh\n{text}\nqueue\n", directory=home, file="job", environ={}, **options
    )
    return submission.jobs[0]


def refused(text, home, **options):
    with pytest.raises(SubmitError) as caught:
        one(text, home, **options)
    return str(caught.value)


def test_the_place_of_a_mistake_is_said_once(home):
    assert refused("arguments = $RANDOM_INTEGER(5, 1)", home).startswith("job:2: arguments: $RANDOM_INTEGER takes (min")
    assert refused("input = in.9", home).startswith("job:2: input: ")


def test_a_description_of_a_cloud_user_ten_years_ago(home):
    (home / "canfar.sub").write_text(
        """
        # Regular Condor attributes
        Universe   = vanilla
        Executable = run.sh
        Arguments  = -n $(Process)
        Log        = job.log
        Output     = out/$(Process).out
        Error      = out/$(Process).err
        Input      = in.$(Process)
        should_transfer_files   = YES
        when_to_transfer_output = ON_EXIT
        Priority   = 10
        Notification = Never
        getenv     = False
        +Owner2    = Undefined

        # Cloud attributes
        Requirements = VMType =?= "canfar" && Arch == "x86_64" && \\
                       Memory >= 512
        +VMName       = "canfar-image"
        +VMAMI        = "alpha:ami-0001, Beta:ami-0002"
        +VMInstanceType = "m1.large"
        +VMNetwork    = "private"
        +VMMem        = "2048"
        +VMCPUCores   = "2"
        +VMStorage    = "20"
        +VMKeepAlive  = "10"
        +VMHighPriority = 1
        +VMTypeLimit  = 4
        +VMJobPerCore = True
        +VMMaximumPrice = "0.35"
        +TargetClouds = "Alpha, Beta"
        +VMSecurityGroup = "default,ssh"
        +vmkeyname    = "my-key"
        +VMUserData   = "a.yaml"
        +CSMyProxyCredsName = "creds"
        x509userproxy = /tmp/x509up_u1000
        Queue 2
        """
    )
    submission = read("canfar.sub", directory=home, environ={"SECRET": "x"})
    assert submission.warnings == []
    assert submission.log == str(home / "job.log")
    assert submission.initialdir == str(home)
    assert submission.job_ids == [(1, 0), (1, 1)]
    assert submission.jobs[1] == {
        "command": ["./run.sh", "-n", "1"],
        "name": "run.sh",
        "stdin": "one\n",
        "input_files": [{"name": "run.sh", "path": str(home / "run.sh")}],
        "outputs": {
            "dir": str(home), "stdout": str(home / "out/1.out"), "stderr": str(home / "out/1.err"),
        },
        "priority": 10,
        "vm_type": "canfar",
        "memory_mb": 2048,
        "cores": 2,
        "storage_gb": 20,
        "network": "private",
        "image": {"alpha": "ami-0001", "beta": "ami-0002"},
        "instance_type": "m1.large",
        "keep_alive_s": 600,
        "high_priority": 1,
        "vmtype_limit": 4,
        "job_per_core": True,
        "maximum_price": 0.35,
        "targets": ["Alpha", "Beta"],
        "attributes": {
            "VMName": "canfar-image", "VMSecurityGroup": "default,ssh", "VMKeyName": "my-key",
            "VMUserData": "a.yaml", "CSMyProxyCredsName": "creds", "x509userproxy": "/tmp/x509up_u1000",
        },
    }  # fmt: skip
    json.dumps(submission.jobs)


def test_the_example_with_two_directories(home):
    text = """
        executable     = run.sh
        universe       = vanilla
        input          = test.data
        output         = loop.out
        error          = loop.error
        log            = loop.log
        request_memory = 1 GB
        initialdir     = run_1
        queue
        initialdir     = run_2
        queue
    """
    first, second = read_text(text, directory=home).jobs
    assert (first["stdin"], second["stdin"]) == ("t1", "t2")
    assert first["memory_mb"] == 1024
    assert second["outputs"] == {
        "dir": str(home / "run_2"), "stdout": str(home / "run_2/loop.out"),
        "stderr": str(home / "run_2/loop.error"),
    }  # fmt: skip
    # The executable is looked for where the command is given, not in initialdir.
    assert second["input_files"][0]["path"] == str(home / "run.sh")


def test_the_least_description(home):
    assert one("", home) == {
        "command": ["./run.sh"], "name": "run.sh", "outputs": {"dir": str(home)},
        "input_files": [{"name": "run.sh", "path": str(home / "run.sh")}],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("request_memory = 2048", "memory_mb", 2048),
        ("request_memory = 2 GB", "memory_mb", 2048),
        ("request_memory = 1.5G", "memory_mb", 1536),
        ("request_memory = 1025 KiB", "memory_mb", 2),
        ("RequestMemory = 2*1024", "memory_mb", 2048),
        ("request_memory = 1T", "memory_mb", 1048576),
        ("request_disk = 1048577", "storage_gb", 2),
        ("request_disk = 10GB", "storage_gb", 10),
        ("request_disk = 300M", "storage_gb", 1),
        ("request_cpus = 4", "cores", 4),
        ("request_gpus = 1", "gpus", 1),
        ("request_cpus = 2\nrequirements = Cpus >= 4", "cores", 4),
        ("request_memory = 500\n+VMMem = 800", "memory_mb", 800),
        ("MY.VMType = \"x\"", "vm_type", "x"),
        ("+VMType = x", "vm_type", "x"),
        ("+VMAMI = \"ami-1\"", "image", "ami-1"),
        ("+VMAMI = \"https://i.example.org/a\"", "image", "https://i.example.org/a"),
        ("+VMName = \"image\"", "image", "image"),
        ("+VMInstanceType = \"alpha:big, small\"", "instance_type", {"alpha": "big", "default": "small"}),
        ("priority = -5", "priority", -5),
        ("max_retries = 3", "max_retries", 3),
        ("hold = True", "hold", True),
        ("accounting_group_user = bob", "user", "bob"),
        ("job_batch_name = \"night run $(Process)\"", "name", "night run 0"),
        ("allowed_job_duration = 3600\nallowed_execute_duration = 60*10", "time_limit_s", 600),
        ("environment = \"A=1 B='x y'\"", "env", {"A": "1", "B": "x y"}),
        ("env = A=1;B=2", "env", {"A": "1", "B": "2"}),
        ("transfer_output_files = a.out, b/c.out", "output_files", ["a.out", "b/c.out"]),
        ("+Project = \"p\"\n+Level = 3\n+Rate = 0.5\n+Flag = true\n+Expr = A + 1", "attributes",
         {"Project": "p", "Level": 3, "Rate": 0.5, "Flag": True, "Expr": "A + 1"}),
    ],
)  # fmt: skip
def test_commands(home, line, key, value):
    assert one(line, home)[key] == value


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("universe = docker", "job:2: universe: 'docker' is not supported; allowed are vanilla and local"),
        ("universe = standard", "universe: 'standard' is not supported"),
        ("container_image = x.sif", "container_image: is not supported"),
        ("arguments = a \"b\"", "job:2: arguments: a double quote inside"),
        ("environment = x", "environment: 'x' is not NAME=value"),
        ("environment = a-b=1", "environment: 'a-b' is no name"),
        ("request_memory = lots", "request_memory: 'lots' is not allowed; wanted a number with or"),
        ("request_memory = -1", "request_memory: '-1' is not allowed"),
        ("request_cpus = 0", "request_cpus: '0' is not allowed; wanted a whole number of 1 or more"),
        ("request_cpus = 1.5", "request_cpus: '1.5' is not allowed"),
        ("priority = high", "priority: 'high' is not allowed; wanted a whole number"),
        ("hold = maybe", "hold: 'maybe' is neither true nor false"),
        ("should_transfer_files = perhaps", "should_transfer_files: 'perhaps' is not allowed; YES"),
        ("when_to_transfer_output = soon", "when_to_transfer_output: 'soon' is not allowed"),
        ("transfer_executable = false", "executable: 'run.sh' is not transferred, so it must be"),
        ("executable =", "executable is missing"),
        ("executable = none.sh", "executable: "),
        ("executable = http://x/y", "URLs are not fetched"),
        ("transfer_input_files = none.dat", "transfer_input_files: "),
        ("transfer_input_files = https://x/y", "URLs are not fetched"),
        ("transfer_input_files = run_1/test.data, run_2/test.data", "would both be called 'test.data'"),
        ("transfer_input_files = in.0\nshould_transfer_files = NO\n", "needs should_transfer_files = YES"),
        ("transfer_output_files = /etc/passwd", "transfer_output_files: '/etc/passwd' is not allowed"),
        ("transfer_output_files = ../x", "transfer_output_files: '../x' is not allowed"),
        ("transfer_output_remaps = \"a\"", "transfer_output_remaps: 'a' is not NAME=local path"),
        ("input = none.txt", "input: cannot read"),
        ("requirements = Memory >=", "requirements: is no ClassAd expression: the expression ends too early"),
        ("requirements = Machine == \"a\"", "requirements: the clause 'Machine == \"a\"' is not understood"),
        ("+VMMem = \"much\"", "job:2: +VMMem: 'much' is not allowed; wanted a whole number"),
        ("+VMCPUCores = 0", "+VMCPUCores: 0 is not allowed; wanted 1 or more"),
        ("+VMMaximumPrice = \"cheap\"", "+VMMaximumPrice: 'cheap' is not allowed"),
        ("+VMJobPerCore = 7", "+VMJobPerCore: 7 is neither true nor false"),
    ],
)  # fmt: skip
def test_what_is_refused_names_line_and_command(home, line, problem):
    assert problem in refused(line, home)


def test_stdin_must_be_text(home):
    (home / "binary").write_bytes(b"\xff\x00")
    assert "is not UTF-8 text; give it in transfer_input_files" in refused("input = binary", home)


def test_lenient_requirements_are_warnings(home):
    text = 'executable = run.sh\nrequirements = Machine == "a" && VMType =?= "x"\nqueue'
    submission = read_text(text, directory=home, file="job", lenient=True)
    assert submission.jobs[0]["vm_type"] == "x"
    assert submission.warnings == [
        "job:2: requirements: the clause 'Machine == \"a\"' is not understood and ignored"
    ]


def test_what_has_no_effect_is_said_once(home):
    text = """executable = run.sh
        universe = local
        periodic_remove = JobStatus == 5
        on_exit_hold = ExitCode != 0
        max_materialize = 5
        notification = Always
        retry_until = ExitCode == 0
        success_exit_code = 3
        when_to_transfer_output = ON_EXIT_OR_EVICT
        request_memory = 4G
        +VMMem = 1024
        reqest_cpus = 3
        used = 1
        arguments = $(used)
        queue 3
    """
    warnings = read_text(text, directory=home, file="job").warnings
    for start in (
        "job:2: universe:", "job:3: periodic_remove: is accepted and has no effect", "job:4: on_exit_hold:",
        "job:5: max_materialize:", "job:6: notification:", "job:7: retry_until:", "job:8: success_exit_code:",
        "job:9: when_to_transfer_output:", "memory_mb: 1024 of the +VM attribute is used",
        "job:12: reqest_cpus is no known command and is used nowhere: misspelt?",
    ):  # fmt: skip
        assert sum(warning.startswith(start) for warning in warnings) == 1, start
    assert len(warnings) == 10


def test_requirements_win_over_the_vm_type_attribute(home):
    text = 'executable = run.sh\nrequirements = VMType =?= "a"\n+VMType = "b"\nqueue'
    submission = read_text(text, directory=home, file="job")
    assert submission.jobs[0]["vm_type"] == "a"
    assert submission.warnings == ["job:3: my.vmtype: the VM type of requirements, 'a', is used"]


def test_programs_of_the_node(home):
    job = one("executable = /bin/echo\ntransfer_executable = false\narguments = hi", home)
    assert (job["command"], job["input_files"]) == (["/bin/echo", "hi"], [])
    job = one("executable = /bin/echo\nshould_transfer_files = NO", home)
    assert (job["command"], job["input_files"]) == (["/bin/echo"], [])


def test_input_files_and_directories(home):
    job = one("transfer_input_files = in.0, data\n", home)
    assert [entry["name"] for entry in job["input_files"]] == [
        "run.sh",
        "in.0",
        "data/deep/y.dat",
        "data/x.dat",
    ]
    job = one("transfer_input_files = data/\n", home)
    assert [entry["name"] for entry in job["input_files"]] == ["run.sh", "deep/y.dat", "x.dat"]
    assert job["input_files"][2]["path"] == str(home / "data/x.dat")


def test_remaps_and_the_null_device(home):
    job = one('output = /dev/null\ninput = /dev/null\ntransfer_output_remaps = "a = r/b ; c=/abs/d"', home)
    assert job["outputs"] == {"dir": str(home), "remaps": {"a": str(home / "r/b"), "c": "/abs/d"}}
    assert "stdin" not in job


@pytest.mark.parametrize(
    ("getenv", "names"),
    [
        ("true", ["A", "B_1", "B_2"]), ("false", []), ("A", ["A"]), ("B_*, !B_2", ["B_1"]),
        ("!A", ["B_1", "B_2"]),
    ],
)  # fmt: skip
def test_getenv(home, getenv, names):
    environ = {"A": "1", "B_1": "2", "B_2": "3", "BASH_FUNC_f%%": "() { :; }"}
    text = f"executable = run.sh\ngetenv = {getenv}\nqueue"
    job = read_text(text, directory=home, environ=environ).jobs[0]
    assert sorted(job.get("env", {})) == names


def test_environment_wins_over_getenv(home):
    text = "executable = run.sh\nenvironment = A=mine\ngetenv = true\nqueue"
    assert read_text(text, directory=home, environ={"A": "theirs"}).jobs[0]["env"] == {"A": "mine"}


def test_logs_of_each_job(home):
    text = "executable = run.sh\nlog = $(Process).log\nqueue 2\nlog = /dev/null\nqueue"
    submission = read_text(text, directory=home)
    assert submission.logs == [str(home / "0.log"), str(home / "1.log"), None]


def test_a_description_that_cannot_be_read(home):
    with pytest.raises(SubmitError, match=r"none.sub: cannot read .*No such file"):
        read("none.sub", directory=home)
    (home / "binary.sub").write_bytes(b"\xff")
    with pytest.raises(SubmitError, match="is not UTF-8 text"):
        read("binary.sub", directory=home)


def test_line_endings_of_another_system(home):
    text = "executable = run.sh\r\narguments = a \\\r\n b\r\nqueue\r\n"
    assert read_text(text, directory=home).jobs[0]["command"] == ["./run.sh", "a", "b"]


PIECES = st.sampled_from(
    [
        *("queue", "in", "from", "matching", "(", ")", "[1:", "]", "$(", "$ENV(", "$INT(x", "$F(", ",", "="),
        *("if", "else", "endif", "true", "defined", "x", "+VMMem", "arguments", "executable", "/bin/true"),
        *("requirements", "Memory", ">=", "request_memory", "environment", "include", ":", "@=", "#", "*"),
        *("\n", " ", "\\\n", '"', "'", "3", "-", "\0", "\u00e9", "input", "transfer_input_files"),
    ]
)


@given(st.lists(PIECES, max_size=40).map("".join))
def test_any_text_becomes_jobs_or_a_clear_error(text):
    try:
        submission = read_text(text, directory="/nonexistent", environ={}, max_jobs=50)
    except SubmitError as problem:
        assert str(problem)
    else:
        assert submission.jobs
