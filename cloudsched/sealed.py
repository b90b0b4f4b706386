"""How are secrets kept at rest? Encrypted with a key that is not in the database.

The key comes from CLOUDSCHED_SECRET_KEY, or from `secret.key` in the state directory, which is made at the
first start. Both may hold several keys: the first seals, all of them open, so that a key can be exchanged:

    sealer = Sealer.load(state_dir, os.environ)
    sealer = sealer.rotate()
    for every stored text: text = sealer.reseal(text)
    sealer = sealer.forget_old()
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import hmac
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cloudsched.errors import CloudschedError

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

VARIABLE = "CLOUDSCHED_SECRET_KEY"
FILE_NAME = "secret.key"
PREFIX = "sealed:1:"
_KEY_BYTES = 32
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class SealError(CloudschedError):
    """A key or a sealed text cannot be used. The message says which, and never holds a secret."""

    kind = "sealed"


class Sealer:
    """Seals and opens short texts. `file` is None when the keys came from the environment."""

    def __init__(self, keys: tuple[str, ...], *, file: Path | None = None, source: str = "") -> None:
        self._keys = tuple(_checked(key, source or str(file)) for key in keys)
        if not self._keys:
            raise SealError(f"{source or file} holds no key")
        self._file = file
        self._box: MultiFernet | None = None

    @classmethod
    def load(cls, state_dir: str | Path, environ: Mapping[str, str] | None = None) -> Sealer:
        """The keys of this instance; makes `secret.key` (mode 0600) when there are none yet.

        Raises SealError for a key file that others can read, or a key of the wrong form."""
        given = (os.environ if environ is None else environ).get(VARIABLE, "").strip()
        if given:
            keys = tuple(key for part in given.split(",") if (key := part.strip()))
            return cls(keys, source=f"the variable {VARIABLE}")
        file = Path(state_dir) / FILE_NAME
        if not file.exists():
            _create(file, new_key())
        return cls(_read(file), file=file)

    def seal(self, text: str) -> str:
        """The text, encrypted with the newest key, as printable ASCII."""
        return PREFIX + self._opened().encrypt(text.encode()).decode("ascii")

    def open(self, sealed: str) -> str:
        """The text that was sealed. Raises SealError when no key fits or the text was changed."""
        from cryptography.fernet import InvalidToken

        try:
            return self._opened().decrypt(self._token(sealed)).decode()
        except InvalidToken:
            raise SealError("a stored secret cannot be opened: the key it was sealed with is none of "
                            f"those in {self._place()}, or it was changed") from None

    def reseal(self, sealed: str) -> str:
        """The same text under the newest key. Raises SealError as `open` does."""
        return self.seal(self.open(sealed))

    def derive(self, label: str) -> str:
        """A secret that belongs to `label`: the same each time, until the oldest key is forgotten."""
        key = base64.urlsafe_b64decode(self._keys[-1])
        digest = hmac.digest(key, label.encode(), "sha256")
        return base64.urlsafe_b64encode(digest).decode("ascii").rstrip("=")

    def rotate(self) -> Sealer:
        """A new key in front of the old ones, saved. Raises SealError when keys come from the environment."""
        file = self._own_file("rotated")
        with _locked(file):
            _replace(file, (new_key(), *_read(file)))
            return Sealer(_read(file), file=file)

    def forget_old(self) -> Sealer:
        """Keeps the newest key alone, once everything is resealed. Raises SealError as `rotate` does."""
        file = self._own_file("forgotten")
        with _locked(file):
            _replace(file, self._keys[:1])
            return Sealer(self._keys[:1], file=file)

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"<Sealer, {len(self._keys)} keys from {self._place()}>"

    def _opened(self) -> MultiFernet:
        if self._box is None:
            from cryptography.fernet import Fernet, MultiFernet

            self._box = MultiFernet([Fernet(key) for key in self._keys])
        return self._box

    def _token(self, sealed: str) -> bytes:
        if not is_sealed(sealed):
            raise SealError(f"a stored secret is not sealed: it does not begin with {PREFIX}")
        return sealed[len(PREFIX):].encode("ascii", errors="replace")

    def _own_file(self, verb: str) -> Path:
        if self._file is None:
            raise SealError(f"the key comes from {VARIABLE} and cannot be {verb} here: put a new key in "
                            "front of the old one, separated by a comma")
        return self._file

    def _place(self) -> str:
        return VARIABLE if self._file is None else str(self._file)


def is_sealed(text: str) -> bool:
    """Was this text made by `seal`?"""
    return text.startswith(PREFIX)


def new_key() -> str:
    """A random key in the form the file and the variable take."""
    return base64.urlsafe_b64encode(secrets.token_bytes(_KEY_BYTES)).decode("ascii")


def _checked(key: str, source: str) -> str:
    try:
        size = len(base64.b64decode(key, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        size = -1
    if size != _KEY_BYTES:
        raise SealError(f"{source} holds a key of the wrong form: it must be {_KEY_BYTES} bytes in URL-safe "
                        "base64")
    return key


def _read(file: Path) -> tuple[str, ...]:
    try:
        with file.open(encoding="ascii") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            if mode & _OTHERS:
                raise SealError(f"{file} is open to others (mode {stat.S_IMODE(mode):o}): chmod 600 {file}")
            return tuple(line for raw in stream if (line := raw.strip()) and not line.startswith("#"))
    except OSError as error:
        raise SealError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SealError(f"{file} is not a key file") from error


def _create(file: Path, key: str) -> None:
    """Makes the file as a whole or not at all; when another process was first, its file stays."""
    draft = _draft(file, (key,))
    try:
        os.link(draft, file)
    except FileExistsError:
        pass
    except OSError as error:
        raise SealError(f"cannot write {file}: {error.strerror}") from error
    finally:
        draft.unlink()
    _sync_directory(file.parent)


def _replace(file: Path, keys: tuple[str, ...]) -> None:
    os.replace(_draft(file, keys), file)
    _sync_directory(file.parent)


def _draft(file: Path, keys: tuple[str, ...]) -> Path:
    draft = file.with_name(f".{file.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SealError(f"cannot write {file}: {error.strerror}") from error
    with os.fdopen(descriptor, "w", encoding="ascii") as stream:
        stream.write("".join(f"{key}\n" for key in keys))
        stream.flush()
        os.fsync(stream.fileno())
    return draft


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    with open(file.with_name(f".{file.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
