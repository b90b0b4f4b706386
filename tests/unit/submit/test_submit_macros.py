"""Macros, functions, conditions, includes."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudsched.client.submit import Place, SubmitError, read_text
from cloudsched.client.submit.macros import Macros, arithmetic, file_name

HERE = Place("job.sub", 7)


@pytest.fixture
def macros():
    made = Macros({"HOME": "/home/alice"}, "/work/dir", random.Random(1))
    made.assign("Name", "abcdef", HERE)
    made.assign("file", "/data/run1/sim.tar.gz", HERE)
    made.assign("list", "red, green  blue", HERE)
    made.live["process"] = "4"
    return made


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$(name)-$(NAME)", "abcdef-abcdef"),
        ("$(missing:24)", "24"),
        ("$(missing:$(name))", "abcdef"),
        ("$(missing:)", ""),
        ("$(DOLLAR)x $5 $", "$x $5 $"),
        ("$ENV(HOME)/x $ENV(NOPE:none)", "/home/alice/x none"),
        ("$INT(Process,%04d)", "0004"),
        ("$INT($(Process) + 1)", "5"),
        ("$REAL(3/2.0,%.2f)", "1.50"),
        ("$CHOICE(1, list)", "green"),
        ("$CHOICE(Process, a, b, c, d, e)", "e"),
        ("$SUBSTR(Name, 2)", "cdef"),
        ("$SUBSTR(Name, 0, -2)", "abcd"),
        ("$SUBSTR(Name, 1, 3)", "bcd"),
        ("$SUBSTR(Name, -1)", "f"),
        ("$SUBSTR(Name, 4, -3)", ""),
        (
            "$Fp(file)|$Fd(file)|$Fdb(file)|$Fn(file)|$Fx(file)|$Fxb(file)",
            "/data/run1/|run1/|run1|sim.tar|.gz|gz",
        ),
        ("$Fnx(file) $BASENAME(file) $DIRNAME(file)", "sim.tar.gz sim.tar.gz /data/run1/"),
        ("$Fpdnxq(/tmp/simulate.exe)", '"/tmp/simulate.exe"'),
        ("$Fnqa(/tmp/simulate.exe)", "'simulate'"),
        ("$Ff(a/b.c)", "/work/dir/a/b.c"),
        ("$RANDOM_INTEGER(5, 5)", "5"),
        ("$RANDOM_CHOICE(x)", "x"),
        ("a(b) $(name)(c)", "a(b) abcdef(c)"),
    ],
)
def test_expansion(macros, text, value):
    assert macros.expand(text, HERE) == value


def test_random_integers_stay_in_their_range_and_step(macros):
    numbers = {int(macros.expand("$RANDOM_INTEGER(0, 8, 2)", HERE)) for _ in range(200)}
    assert numbers == {0, 2, 4, 6, 8}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("x $$(OpSys)", r"job.sub:7: \$\$\(OpSys\) is not supported"),
        ("$$([TARGET.Memory * 0.9])", "is not supported"),
        ("$(name", "'\\(' is never closed"),
        ("$EVAL(1)", r"\$EVAL\(...\) is not known; known functions are \$BASENAME"),
        ("$CHOICE(9, a, b)", "index 9 is outside of the 2 items"),
        ("$RANDOM_INTEGER(5, 1)", "min <= max"),
        ("$INT(name)", "'abcdef' is not a number"),
        ("$INT(1,%s)", "'%s' is no number format"),
        ("$SUBSTR(name)", "takes"),
    ],
)
def test_what_cannot_be_expanded_names_its_line(macros, text, problem):
    with pytest.raises(SubmitError, match=problem):
        macros.expand(text, HERE)


def test_a_variable_may_be_made_of_itself_but_not_in_a_circle(macros):
    macros.assign("foo", "bar", HERE)
    macros.assign("FOO", "snap $(foo)", HERE)
    assert macros.expand("$(foo)", HERE) == "snap bar"
    macros.assign("b", "$(c)", HERE)
    macros.assign("c", "$(b)", HERE)
    with pytest.raises(SubmitError, match="without end"):
        macros.expand("$(b)", HERE)


def test_values_cannot_grow_without_end(macros):
    macros.assign("x", "0123456789", HERE)
    with pytest.raises(SubmitError, match="grows beyond"):
        for _ in range(40):
            macros.assign("x", "$(x)$(x)", HERE)


def test_what_is_not_defined_is_warned_about_once(macros):
    assert macros.expand("$(nope)$(nope) $ENV(NOPE)", HERE) == " UNDEFINED"
    assert len(macros.warnings) == 2


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2*3", 7),
        ("7/2", 3),
        ("-7/2", -3),
        ("7.0/2", 3.5),
        ("-7 % 3", -1),
        ("(2)", 2),
        ("007", 7),
        ("0/5", 0),
    ],
)
def test_arithmetic(text, value):
    assert arithmetic(text, HERE) == value


@pytest.mark.parametrize(
    "text", ["", "a", "1/0", "2**9", "__import__('os')", "1" * 300, "1 2", "()", "1.5.2", "9e99"]
)
def test_no_arithmetic(text):
    if text == "9e99":
        assert arithmetic(text, HERE) == 9e99
        return
    with pytest.raises(SubmitError, match="is not a number"):
        arithmetic(text, HERE)


@given(st.text(alphabet="0123456789+-*/%(). e", max_size=30))
def test_any_sum_is_calculated_or_refused(text):
    try:
        arithmetic(text, HERE)
    except SubmitError:
        pass


@given(st.text(alphabet="ab./", max_size=20))
def test_directory_and_name_make_the_path_again(path):
    assert file_name(path, "p", "/") + file_name(path, "nx", "/") == path


def arguments_of(text, **options):
    return read_text(f"executable = /bin/true\ntransfer_executable = false\n{text}\nqueue\n", **options).jobs[
        0
    ]["command"][1:]


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("true", True), ("No", False), ("1", True), ("0", False), ("$(yes)", True), ("$(empty)", False),
        ("defined yes", True), ("! defined yes", False), ("defined nothing", False),
        ("defined $(nothing)", False), ("version >= 8.1.6", True), ("version < 8.0", False),
        ("version == 10.0", True), ("version != 10", False),
        ("version <= 10.0.0", True), ("version > 9.9", True), ("defined +VMType", True), ("!!true", True),
    ],
)  # fmt: skip
def test_conditions(condition, holds):
    text = (
        f'yes = true\nempty =\n+VMType = "a"\nif {condition}\narguments = then\nelse\narguments = else\nendif'
    )
    assert arguments_of(text) == ["then" if holds else "else"]


def test_elif_and_nesting():
    text = """
    if false
      if true
        arguments = no
      else
        arguments = never
      endif
    elif true
      if defined X
        arguments = $(X)
      endif
    elif true
      arguments = late
    else
      arguments = last
    endif
    """
    assert arguments_of(text, define={"X": "3"}) == ["3"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("if true", "job:3: this if has no endif"),
        ("endif", "endif without an if"),
        ("if false\nelse\nelse\nendif", "job:5: else after else"),
        ("if $(x) == 3\nendif", "the condition .* is not supported"),
        ("if maybe\nendif", "is not supported"),
        ("what is this", "job:3: 'what is this' is no statement"),
        ("error : not here", "job:3: not here"),
        ("use feature : gpus", "'use' is not supported"),
        ("include : gen.sh |", "command's output is not supported"),
        ("include command : gen.sh", "command's output is not supported"),
        ("include : missing.sub", "job:3: cannot read .*missing.sub: No such file"),
        ("arguments = $$(Name)", r"job:3: arguments: \$\$\(Name\) is not supported"),
        ("x @=end\n a", "never closed with a line @end"),
    ],
)
def test_wrong_statements_name_their_line(text, problem):
    with pytest.raises(SubmitError, match=problem):
        arguments_of(text, file="job")


def test_comments_and_continued_lines():
    text = "# a comment \\\narguments = not this\narguments = a \\\n  # in between\n   b \\\n   c\n"
    assert arguments_of(text) == ["a", "b", "c"]


def test_a_value_of_many_lines():
    assert arguments_of("arguments @=end\n a\n  b c\n@end") == ["a", "b", "c"]


def test_includes(tmp_path):
    (tmp_path / "common.sub").write_text("include : deeper.sub\nword = one\n")
    (tmp_path / "deeper.sub").write_text("arguments = $(word) $(X:0)\n")
    text = "word = two\nINCLUDE:common.sub\ninclude ifexist : none.sub\nwarning : take $(word)"
    submission = read_text(
        f"executable = /x\ntransfer_executable = no\n{text}\nqueue", directory=tmp_path, file="job"
    )
    assert submission.jobs[0]["command"] == ["/x", "one", "0"]
    assert submission.warnings == ["job:6: take one"]


def test_an_include_of_itself_ends(tmp_path):
    (tmp_path / "loop.sub").write_text("include : loop.sub\n")
    with pytest.raises(SubmitError, match="nested more than 20 deep"):
        read_text("include : loop.sub\nqueue", directory=tmp_path)


def test_automatic_variables():
    words = arguments_of(
        "arguments = $(OPSYS) $(IsLinux) $(IsWindows) [$(Node)] $(Cluster).$(ProcId)", cluster=77
    )
    assert words == ["LINUX", "true", "false", "[]", "77.0"]


def test_a_nul_character_is_refused_with_its_line(tmp_path):
    with pytest.raises(SubmitError, match="job:4: a NUL character"):
        arguments_of("x = 1\narguments = \0", file="job")
    (tmp_path / "rows").write_bytes(b"a\n\0\n")
    with pytest.raises(SubmitError, match="rows:2: a NUL character"):
        read_text("queue x from rows", directory=tmp_path)
