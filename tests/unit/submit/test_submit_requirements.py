"""What a requirements expression asks for, and what is handed back as not understood."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudsched.client.submit.requirements import read_requirements


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ('VMType =?= "canfar"', {"vm_type": "canfar"}),
        ('(TARGET.VMType == "a") && (Memory >= 1024)', {"vm_type": "a", "memory_mb": 1024}),
        ('"x" =?= VMType', {"vm_type": "x"}),
        ("TARGET.Memory > 2*1024", {"memory_mb": 2049}),
        ("1024 <= Memory", {"memory_mb": 1024}),
        ("Memory >= 100 && Memory >= 200 && Memory >= 50", {"memory_mb": 200}),
        ("TARGET.Disk >= 20971521", {"storage_gb": 21}),
        ("Disk >= 1", {"storage_gb": 1}),
        ("(Cpus >= 4) && (GPUs >= 1)", {"cores": 4, "gpus": 1}),
        ('OpSys == "LINUX" && Arch == "X86_64" && TARGET.HasFileTransfer', {}),
        ('(Arch == "INTEL") || (Arch == "PPC")', {}),
        ('((OpSys == "WINDOWS") || (OpSys == "LINUX")) && VMType is "w"', {"vm_type": "w"}),
        ('(VMType =?= "a") || (VMType =?= "a")', {"vm_type": "a"}),
        ("TARGET.Memory >= RequestMemory && Disk >= RequestDisk", {}),
        ("HasFileTransfer =?= True", {}),
        ("TRUE", {}),
        ("1", {}),
    ],
)
def test_understood(text, facts):
    asked = read_requirements(text)
    assert (asked.facts, asked.not_understood) == (facts, ())


@pytest.mark.parametrize(
    ("text", "clause"),
    [
        ('Machine == "node7"', 'Machine == "node7"'),
        ("(Memory <= 512) && TRUE", "(Memory <= 512)"),
        ('OpSys == "WINDOWS"', 'OpSys == "WINDOWS"'),
        ('Arch == "PPC"', 'Arch == "PPC"'),
        ('regexp("a.*", Name, "i")', 'regexp("a.*", Name, "i")'),
        ("!(Memory >= 5)", "!(Memory >= 5)"),
        ("Memory >= 5 ? TRUE : FALSE", "Memory >= 5 ? TRUE : FALSE"),
        ("Memory >= KFlops", "Memory >= KFlops"),
        ("(Memory >= 5 || Cpus >= 2)", "(Memory >= 5 || Cpus >= 2)"),
        ('VMType =!= "a"', 'VMType =!= "a"'),
        ("FALSE", "FALSE"),
        ("Memory >= 10/3", "Memory >= 10/3"),
    ],
)
def test_not_understood_is_named_by_its_text(text, clause):
    assert read_requirements(text).not_understood == (clause,)


def test_two_vm_types_contradict():
    asked = read_requirements('VMType =?= "a" && VMType =?= "b"')
    assert asked.facts == {"vm_type": "a"}
    assert asked.not_understood == ('VMType =?= "b"',)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        ("(Memory >= 5", "'\\)' is missing"),
        ("Memory >=", "ends too early"),
        ("Memory >= 5)", "is not expected there"),
        ("Memory >= 5 # 7", "is not understood"),
        ('VMType =?= "a', "is not understood"),
        ("f(1 2)", "is not expected in f"),
        ("f(1", "is not expected in f"),
        ("(" * 500, "nested more than"),
        ("!" * 500 + "x", "nested more than"),
    ],
)
def test_no_expression(text, problem):
    with pytest.raises(ValueError, match=problem):
        read_requirements(text)


@given(st.text(alphabet='()!&|=?<>"aM 1.+-,:{}', max_size=40))
def test_any_text_is_read_or_refused(text):
    try:
        read_requirements(text)
    except ValueError:
        pass
