"""Are secrets at rest opened by the right key alone, and is the key kept from others?"""

from __future__ import annotations

import multiprocessing
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cloudsched.sealed import FILE_NAME, PREFIX, Sealer, SealError, is_sealed, new_key


def test_seal_and_open(tmp_state: Path) -> None:
    sealer = Sealer.load(tmp_state, {})
    for text in ("", "word", "äöü ☂ \n", "x" * 10_000):
        sealed = sealer.seal(text)
        assert is_sealed(sealed)
        assert sealed.startswith(PREFIX)
        assert sealed.isascii()
        assert not text or text not in sealed
        assert sealer.open(sealed) == text
    assert sealer.seal("same") != sealer.seal("same")


def test_key_file_is_private_and_kept(tmp_state: Path) -> None:
    sealed = Sealer.load(tmp_state, {}).seal("kept")
    file = tmp_state / FILE_NAME
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert Sealer.load(tmp_state, {}).open(sealed) == "kept"
    assert [place.name for place in tmp_state.iterdir()] == [FILE_NAME]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777])
def test_a_key_file_others_can_read_is_refused(tmp_state: Path, mode: int) -> None:
    Sealer.load(tmp_state, {})
    (tmp_state / FILE_NAME).chmod(mode)
    with pytest.raises(SealError, match="chmod 600"):
        Sealer.load(tmp_state, {})


def test_key_from_the_environment_leaves_no_file(tmp_state: Path) -> None:
    old, new = new_key(), new_key()
    sealed = Sealer.load(tmp_state, {"CLOUDSCHED_SECRET_KEY": old}).seal("word")
    both = Sealer.load(tmp_state, {"CLOUDSCHED_SECRET_KEY": f"{new},{old}"})
    assert both.open(sealed) == "word"
    assert Sealer.load(tmp_state, {"CLOUDSCHED_SECRET_KEY": new}).open(both.reseal(sealed)) == "word"
    assert list(tmp_state.iterdir()) == []
    with pytest.raises(SealError, match="separated by a comma"):
        both.rotate()


def test_rotation(tmp_state: Path) -> None:
    first = Sealer.load(tmp_state, {})
    sealed = first.seal("word")
    second = first.rotate()
    assert len(second) == 2
    assert second.open(sealed) == "word"
    resealed = second.reseal(sealed)
    with pytest.raises(SealError):
        first.open(resealed)
    only = second.forget_old()
    assert len(Sealer.load(tmp_state, {})) == len(only) == 1
    assert only.open(resealed) == "word"
    with pytest.raises(SealError, match="cannot be opened"):
        only.open(sealed)
    assert stat.S_IMODE((tmp_state / FILE_NAME).stat().st_mode) == 0o600


def test_a_derived_secret_outlives_the_rotation_and_differs_by_label(tmp_state: Path) -> None:
    sealer = Sealer.load(tmp_state, {})
    derived = sealer.derive("one")
    assert derived == Sealer.load(tmp_state, {}).derive("one") == sealer.rotate().derive("one")
    assert derived != sealer.derive("two")
    assert derived not in (tmp_state / FILE_NAME).read_text()


def test_another_key_or_a_changed_text_is_refused(tmp_state: Path) -> None:
    sealer = Sealer.load(tmp_state, {})
    sealed = sealer.seal("word")
    stranger = Sealer((new_key(),), source="a test")
    tampered = sealed[:-3] + "AAA"
    for broken, by in ((sealed, stranger), (tampered, sealer), (PREFIX + "ä", sealer), (PREFIX, sealer)):
        with pytest.raises(SealError) as caught:
            by.open(broken)
        assert "word" not in str(caught.value)
    with pytest.raises(SealError, match="not sealed"):
        sealer.open("word")


@pytest.mark.parametrize("key", ["", "short", "A" * 43, "!" * 44, "ä"])
def test_keys_of_the_wrong_form(tmp_state: Path, key: str) -> None:
    (tmp_state / FILE_NAME).write_text(key + "\n", encoding="utf-8")
    (tmp_state / FILE_NAME).chmod(0o600)
    with pytest.raises(SealError) as caught:
        Sealer.load(tmp_state, {})
    assert str(tmp_state) in str(caught.value)
    assert key == "" or key not in str(caught.value)


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    with pytest.raises(SealError, match="cannot write"):
        Sealer.load(tmp_path / "plain" / "state", {})


def test_representation_holds_no_key(tmp_state: Path) -> None:
    sealer = Sealer.load(tmp_state, {})
    assert (tmp_state / FILE_NAME).read_text().strip() not in repr(sealer)


def _seal_in_process(state: str, start: object, results: object) -> None:
    start.wait()  # type: ignore[attr-defined]
    results.put(Sealer.load(state, {}).seal("word"))  # type: ignore[attr-defined]


def test_processes_that_start_at_once_agree_on_one_key(tmp_state: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start, results = context.Event(), context.Queue()
    arguments = (str(tmp_state), start, results)
    workers = [context.Process(target=_seal_in_process, args=arguments) for _ in range(3)]

    for worker in workers:
        worker.start()
    start.set()
    sealed = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert {Sealer.load(tmp_state, {}).open(text) for text in sealed} == {"word"}


def test_import_does_not_load_cryptography() -> None:
    code = "import sys, cloudsched.sealed; print('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          check=True).stdout.strip() == "False"
