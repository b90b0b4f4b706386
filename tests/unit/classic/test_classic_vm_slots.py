"""Does a changed allocation touch one line of the file and nothing else (B14)?"""

import os
import threading

import pytest

from cloudsched.classic import vm_slots
from cloudsched.classic.clouds_conf import read_clouds
from cloudsched.classic.problem import ClassicConfigError
from cloudsched.classic.vm_slots import set_vm_slots


@pytest.mark.parametrize(("before", "after"), [
    ("[a]\nvm_slots: 1\n", "[a]\nvm_slots: 7\n"),
    ("[a]\nvm_slots=1", "[a]\nvm_slots=7"),
    ("[A]\r\nVM_Slots\t=  1  ; all of them\r\nhost: x\r\n",
     "[A]\r\nVM_Slots\t=  7  ; all of them\r\nhost: x\r\n"),
    ("[b]\nvm_slots: 1\n# vm_slots: 3\n[a]\n# first\nvm_slots: 1\n[c]\nvm_slots: 1\n",
     "[b]\nvm_slots: 1\n# vm_slots: 3\n[a]\n# first\nvm_slots: 7\n[c]\nvm_slots: 1\n"),
    ("[a]\nvm_slots: 1\nvm_slots: 2\n", "[a]\nvm_slots: 1\nvm_slots: 7\n"),
    ("[a]\nvm_slots:\n   4 ; here\nhost: x\n", "[a]\nvm_slots:\n   7 ; here\nhost: x\n"),
    ("[a]\nvm_slots:\nhost: x\n", "[a]\nvm_slots: 7\nhost: x\n"),
    ("[a]\nhost = x\n\n# next\n[b]\n", "[a]\nhost = x\nvm_slots = 7\n\n# next\n[b]\n"),
    ("[a]\r\nhost:x\r\n   more: text\r\n[b]\r\n", "[a]\r\nhost:x\r\n   more: text\r\nvm_slots: 7\r\n[b]\r\n"),
    ("[b]\n[a]", "[b]\n[a]\nvm_slots: 7\n"),
    ("[DEFAULT]\nvm_slots: 3\n[a]\nhost: x\n", "[DEFAULT]\nvm_slots: 3\n[a]\nhost: x\nvm_slots: 7\n"),
    ("\ufeff[a]\nvm_slots: 1\n", "\ufeff[a]\nvm_slots: 7\n"),
    ("[a]\nvm_slots: 7\n", "[a]\nvm_slots: 7\n"),
])
def test_only_that_line(tmp_path, before, after):
    path = tmp_path / "c.conf"
    path.write_bytes(before.encode())
    assert set_vm_slots(path, "a", 7) is (before != after)
    assert path.read_bytes() == after.encode()
    assert [entry.name for entry in tmp_path.iterdir()] == ["c.conf"]


def test_old_encodings_mode_and_links_stay(tmp_path):
    (tmp_path / "real").mkdir()
    path = tmp_path / "real" / "c.conf"
    path.write_bytes(b"# Z\xfcrich\n[A]\nvm_slots: 1\n")
    path.chmod(0o640)
    link = tmp_path / "link.conf"
    link.symlink_to(path)
    set_vm_slots(link, "a", 12)
    assert path.read_bytes() == b"# Z\xfcrich\n[A]\nvm_slots: 12\n"
    assert path.stat().st_mode & 0o777 == 0o640
    assert link.is_symlink()


@pytest.mark.parametrize(("text", "cloud", "n", "why"), [
    ("[a]\nvm_slots: 1\n", "b", 1, r"no section \[b\]"),
    ("[a]\nvm_slots: 1\n", "a", -1, "at least 0"),
    ("nonsense", "a", 1, "line 1"),
])
def test_refusals_leave_the_file_alone(tmp_path, text, cloud, n, why):
    path = tmp_path / "c.conf"
    path.write_text(text)
    with pytest.raises(ClassicConfigError, match=why):
        set_vm_slots(path, cloud, n)
    assert path.read_text() == text


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "c.conf"
    path.write_text("[a]\nvm_slots: 1\n")

    def no_space(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(vm_slots.os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        set_vm_slots(path, "a", 2)
    assert path.read_text() == "[a]\nvm_slots: 1\n"
    assert os.listdir(tmp_path) == ["c.conf"]


def test_changes_to_different_clouds_at_once_are_all_kept(tmp_path):
    path = tmp_path / "c.conf"
    path.write_text("".join(f"[c{n}]\ncloud_type: Local\nvm_slots: 0\n" for n in range(8)))
    threads = [threading.Thread(target=set_vm_slots, args=(path, f"c{n}", n + 1)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [cloud.vm_slots for cloud in read_clouds(path).clouds] == list(range(1, 9))
