"""How often is each word in a text? A Spark application: `spark_wordcount.py INPUT [OUTPUT]`.

The ten most frequent words are printed. With OUTPUT the whole count is written to that file, `word TAB count` in each
line, complete or not at all.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from operator import add

BLANKS = re.compile(r"[ \t\n\r\f]+")
TOP = 10


def main(words: list[str]) -> int:
    if len(words) not in (1, 2):
        sys.stderr.write("usage: spark_wordcount.py INPUT [OUTPUT]\n")
        return 2
    from pyspark import SparkConf, SparkContext  # type: ignore[import-not-found,import-untyped,unused-ignore]

    context = SparkContext(conf=SparkConf().setAppName("cloudsched word count"))
    try:
        lines = context.textFile(words[0])
        counts = lines.mapPartitions(counted).reduceByKey(add).cache()
        for word, count in counts.takeOrdered(TOP, key=lambda pair: (-pair[1], pair[0])):
            sys.stdout.write(f"{word}\t{count}\n")
        if len(words) == 2:
            write(words[1], counts.toLocalIterator())
    finally:
        context.stop()
    return 0


def counted(lines: Iterable[str]) -> Iterator[tuple[str, int]]:
    """The words of one partition with their counts: what is counted here need not be sent."""
    counts: dict[str, int] = {}
    for line in lines:
        for word in BLANKS.split(line):
            if word:
                counts[word] = counts.get(word, 0) + 1
    return iter(counts.items())


def write(path: str, counts: Iterable[tuple[str, int]]) -> None:
    beside = path + ".part"
    with open(beside, "w", encoding="utf-8") as file:
        for word, count in counts:
            file.write(f"{word}\t{count}\n")
    os.replace(beside, path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
