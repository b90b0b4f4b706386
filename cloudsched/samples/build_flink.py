"""How is flink_wordcount.jar made from its source? `python -m cloudsched.samples.build_flink [OUTPUT]`.

Needs a JDK (`javac` of JAVA_HOME or PATH) and the extra `flink`. The same source and compiler give the same jar: entries
are sorted and carry no time.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

FOLDER = Path(__file__).parent
SOURCE = FOLDER / "flink" / "WordCount.java"
MAIN_CLASS = "cloudsched.samples.WordCount"
RELEASE = "11"
NO_TIME = (1980, 1, 1, 0, 0, 0)


def main(words: list[str]) -> int:
    target = Path(words[0]) if words else FOLDER / "flink_wordcount.jar"
    with tempfile.TemporaryDirectory() as folder:
        compile_into(Path(folder))
        pack(Path(folder), target)
    return 0


def compile_into(folder: Path) -> None:
    """Compile the source against Flink's own libraries."""
    home = os.environ.get("JAVA_HOME")
    compiler = str(Path(home) / "bin" / "javac") if home else "javac"
    libraries = os.pathsep.join(str(path) for path in sorted((flink_home() / "lib").glob("*.jar")))
    subprocess.run([compiler, "--release", RELEASE, "-proc:none", "-Xlint:all,-processing,-serial,-classfile",
                    "-encoding", "UTF-8", "-cp", libraries, "-d", str(folder), str(SOURCE)], check=True)  # fmt: skip


def pack(folder: Path, target: Path) -> None:
    """Write the jar; its main class is in the manifest."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as jar:
        _add(jar, "META-INF/MANIFEST.MF", f"Manifest-Version: 1.0\r\nMain-Class: {MAIN_CLASS}\r\n\r\n".encode())
        for path in sorted(folder.rglob("*.class")):
            _add(jar, path.relative_to(folder).as_posix(), path.read_bytes())


def flink_home() -> Path:
    found = importlib.util.find_spec("pyflink")
    places = list(found.submodule_search_locations or ()) if found else []
    if not places:
        raise SystemExit("Flink is not there: pip install 'cloudsched[flink]'")
    return Path(places[0])


def _add(jar: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, NO_TIME)
    entry.external_attr = 0o644 << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    jar.writestr(entry, content)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
