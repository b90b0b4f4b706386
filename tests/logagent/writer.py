"""Who writes the logs that a test follows? Numbered lines to rotating files, in a thread or in a process of its own.

Every line is known from its file and number (`line_of`), so what arrived can be compared with what was written, byte by
byte. Even files are rotated by renaming, odd ones by copying and truncating; as many generations are kept as are written.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
import threading
import time
from pathlib import Path

_WORDS = ("some words of a log", "räksmörgås", "日誌", "x" * 70, "a\\\"b", "")
NUMBERS = re.compile(r'\{"file":(\d+),"line":(\d+),')


def line_of(file: int, line: int) -> str:
    """One line with its end; a JSON object."""
    return f'{{"file":{file},"line":{line},"text":"{_WORDS[(file + line) % len(_WORDS)]}"}}\n'


class Writer(threading.Thread):
    """Writes `lines` in all, in `seconds`, and keeps writing while nobody reads."""

    def __init__(self, folder: Path, *, files: int, lines: int, seconds: float, rotate_at: int) -> None:
        super().__init__(daemon=True)
        self.folder, self.seconds, self.rotate_at = folder, seconds, rotate_at
        self.each = lines // files
        self.files = [io.FileIO(self.path(number), "ab") for number in range(files)]

    def path(self, number: int) -> Path:
        return self.folder / f"app{number}.log"

    def run(self) -> None:
        began, step = time.monotonic(), min(50, self.rotate_at)
        for first in range(0, self.each, step):
            last = min(first + step, self.each)
            for number in range(len(self.files)):
                self.files[number].write("".join(line_of(number, line) for line in range(first, last)).encode())
                if last % self.rotate_at == 0:
                    self._rotate(number)
                written = first + step * number / len(self.files)
                time.sleep(max(0.0, began + self.seconds * written / self.each - time.monotonic()))
        for file in self.files:
            file.close()

    def _rotate(self, number: int) -> None:
        path = self.path(number)
        kept = sum(1 for _ in self.folder.glob(f"{path.name}.*"))
        for old in range(kept, 0, -1):
            Path(f"{path}.{old}").rename(f"{path}.{old + 1}")
        if number % 2:
            shutil.copyfile(path, f"{path}.1")
            os.truncate(path, 0)
        else:
            path.rename(f"{path}.1")
            self.files[number].close()
            self.files[number] = io.FileIO(path, "ab")


if __name__ == "__main__":
    place, files, lines, seconds, rotate_at = sys.argv[1:]
    writer = Writer(Path(place), files=int(files), lines=int(lines), seconds=float(seconds), rotate_at=int(rotate_at))
    print("ready", flush=True)
    sys.stdin.readline()
    writer.run()
