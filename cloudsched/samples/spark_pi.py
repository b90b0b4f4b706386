"""What is pi, about? A Spark application that throws darts: `spark_pi.py [THROWS [SLICES [SEED]]]`.

The line `pi is about 3.14...` is the result. The same three numbers give the same answer on any cluster.
"""

from __future__ import annotations

import random
import sys
from operator import add

USAGE = "usage: spark_pi.py [THROWS (1000000) [SLICES (4) [SEED (1)]]]\n"


def main(words: list[str]) -> int:
    try:
        throws, slices, seed = (int(word) for word in [*words, *("1000000", "4", "1")[len(words):]])
    except ValueError:
        sys.stderr.write(USAGE)
        return 2
    if throws < 1 or slices < 1:
        sys.stderr.write("THROWS and SLICES must be at least 1\n" + USAGE)
        return 2
    from pyspark import SparkConf, SparkContext  # type: ignore[import-not-found,import-untyped,unused-ignore]

    context = SparkContext(conf=SparkConf().setAppName("cloudsched pi"))
    try:
        each = -(-throws // slices)
        numbers = context.parallelize(range(slices), slices)
        hits = numbers.map(lambda number: hits_of(each, seed * 1_000_003 + number)).reduce(add)
        sys.stdout.write(f"pi is about {4 * hits / (each * slices):.6f}\n")
    finally:
        context.stop()
    return 0


def hits_of(throws: int, seed: int) -> int:
    """How many of so many darts land in the circle?"""
    dart = random.Random(seed).random  # noqa: S311
    return sum(1 for _ in range(throws) if dart() ** 2 + dart() ** 2 <= 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
