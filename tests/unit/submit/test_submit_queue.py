"""Every form of the queue statement."""

import pytest

from cloudsched.client.submit import SubmitError, read_text

HEAD = "executable = /x\ntransfer_executable = false\n"


def words(text, **options):
    """The arguments of each job."""
    return [job["command"][1:] for job in read_text(HEAD + text, **options).jobs]


@pytest.fixture
def files(tmp_path):
    for name in ("b.dat", "a.dat", ".hidden.dat", "c.txt", "sub.dat/inner.dat"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    return tmp_path


def test_plain_forms():
    assert words("arguments = $(Process)\nqueue") == [["0"]]
    assert words("arguments = $(Process) $(Step)\nQUEUE 3") == [["0", "0"], ["1", "1"], ["2", "2"]]
    assert words("n = 2\narguments = $(ProcId)\nqueue $(n)*2") == [["0"], ["1"], ["2"], ["3"]]


def test_several_queues_with_changes_between():
    text = """
        arguments = 15 2000
        queue
        arguments = 30 $(Process)
        queue 2
    """
    assert words(text) == [["15", "2000"], ["30", "1"], ["30", "2"]]


@pytest.mark.parametrize(
    "text",
    ["in (A, B)", "in A B", "item in A, B", "in (A\nB\n)", "in (\n A,\n B )", "ITEM from (\nA\n# no\n\nB\n)"],
)
def test_items(text):
    jobs = words(f"arguments = $(Item) $(ItemIndex) $(Row) $(Step) $(Process)\nqueue 3 {text}")
    assert [" ".join(job) for job in jobs] == [
        "A 0 0 0 0", "A 0 0 1 1", "A 0 0 2 2", "B 1 1 0 3", "B 1 1 1 4", "B 1 1 2 5",
    ]  # fmt: skip


def test_a_variable_of_a_list_and_macros_in_it():
    assert words("list = a b c\narguments = -x $(word)\nqueue word in ($(list))") == [
        ["-x", w] for w in "abc"
    ]
    assert words("list = a b\narguments = $(word)\nqueue word in $(list)") == [["a"], ["b"]]


def test_rows_of_several_variables():
    rows = "file1, -a -b 26\n file2 -c, -d\n file3"
    text = f"arguments = $(name) [$(rest)] $(Process)\nqueue name, rest from (\n{rows}\n)"
    assert [" ".join(job) for job in words(text)] == ["file1 [-a -b 26] 0", "file2 [-c, -d] 1", "file3 [] 2"]


def test_a_command_may_be_the_variable():
    text = "queue arguments from (\n 15 2000\n -n $(Process)\n)"
    assert words(text) == [["15", "2000"], ["-n", "1"]]


def test_items_from_a_file(files):
    (files / "list.txt").write_text("one 1\n# comment\n\n two 2 \n")
    text = "arguments = $(a)-$(b)\nqueue a,b from list.txt"
    assert words(text, directory=files) == [["one-1"], ["two-2"]]


@pytest.mark.parametrize(
    ("slice_text", "chosen"),
    [
        ("[1:3]", "bc"),
        ("[:]", "abcde"),
        ("[::2]", "ace"),
        ("[-2:]", "de"),
        ("[:-3]", "ab"),
        ("[2]", "c"),
        ("[-1]", "e"),
    ],
)
def test_slices(slice_text, chosen):
    jobs = words(f"arguments = $(w) $(ItemIndex)\nqueue w in {slice_text} (a b c d e)")
    assert jobs == [[letter, str("abcde".index(letter))] for letter in chosen]


@pytest.mark.parametrize(
    ("form", "found"),
    [
        ("files *.dat", ["a.dat", "b.dat"]),
        ("dirs *", ["sub.dat"]),
        ("*.dat", ["a.dat", "b.dat", "sub.dat"]),
        ("any c.* a.*", ["c.txt", "a.dat"]),
        ("files (\n *.txt\n *.dat, a.*\n)", ["c.txt", "a.dat", "b.dat"]),
        ("files sub.dat/*", ["sub.dat/inner.dat"]),
        ("files [1:] *.dat", ["b.dat"]),
        ("files [ab].dat", ["a.dat", "b.dat"]),
        ("files .*.dat", [".hidden.dat"]),
    ],
)
def test_matching(files, form, found):
    assert words(f"arguments = $(f)\nqueue f matching {form}", directory=files) == [[name] for name in found]


def test_matching_of_absolute_patterns(files):
    jobs = words(f"arguments = $(Item)\nqueue matching files {files}/?.dat", directory="/")
    assert jobs == [[f"{files}/a.dat"], [f"{files}/b.dat"]]


def test_another_executable_is_another_cluster():
    text = (
        "transfer_executable = no\nexecutable = /a\nqueue 2\nexecutable = /b\nqueue\nexecutable = /b\nqueue"
    )
    assert read_text(text, cluster=5).job_ids == [(5, 0), (5, 1), (6, 0), (6, 1)]


def test_the_variables_of_a_queue_end_with_it():
    assert words("w = old\narguments = $(w)\nqueue w in (new)\nqueue") == [["new"], ["old"]]


def test_lines_and_a_queue_from_the_command_line():
    assert words("arguments = $(x)", define={"x": "1"}, queue_arguments="2") == [["1"], ["1"]]
    jobs = words("arguments = a\nqueue\nqueue", append=["arguments = b", "priority = 3"])
    assert jobs == [["b"], ["b"]]
    with pytest.raises(SubmitError, match="only for a description without a queue"):
        words("queue", queue_arguments="2")


def test_empty_lists_are_warned_about():
    submission = read_text(HEAD + "queue 0\nqueue in ()\nqueue", file="job")
    assert len(submission.jobs) == 1
    assert submission.warnings == ["job:4: the list of items is empty: no job"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("queue -1", "job:3: the number of jobs is -1"),
        ("queue many", "'many' is not a number of jobs; forms are"),
        ("queue 1.5", "is not a number of jobs"),
        ("queue in (a", "job:3: the list of this queue statement is never closed"),
        ("queue ? x in (a)", "is neither a number of jobs nor a list"),
        ("queue x in [::0] (a)", "the step of a slice is 0"),
        ("queue x in [::-1] (a)", "the step of a slice is -1"),
        ("queue x in [] (a)", "is no slice"),
        ("queue x from make-list.sh |", "would run a script here"),
        ("queue x from none.txt", "cannot read the items of .*none.txt: No such file"),
        ("queue x from", "wants a file name or a list"),
        ("queue x in zzz (a)", "must follow in, from or matching"),
        ("queue 0", "ask for no job at all"),
        ("arguments = 1", "there is no queue statement"),
        ("queue 200000", "more than 100000 jobs"),
        ("queue x matching files **b", "is no usable pattern"),
    ],
)
def test_wrong_forms(tmp_path, text, problem):
    with pytest.raises(SubmitError, match=problem):
        words(text, directory=tmp_path, file="job")
