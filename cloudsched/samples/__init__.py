"""Where are the applications that ship with the product? Three that run for real: two of Spark, one of Flink.

| file | arguments | what it does |
| --- | --- | --- |
| `spark_wordcount.py` | INPUT [OUTPUT] | counts the words of a text file or directory |
| `spark_pi.py` | [THROWS [SLICES [SEED]]] | estimates pi by throwing darts |
| `flink_wordcount.jar` (`FLINK_MAIN_CLASS`) | INPUT [OUTPUT] | the same count as a Flink job; its source is in `flink/` |

A word is what stands between blanks, tabs and line ends; OUTPUT has a line `word TAB count` for each, in no order.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
SPARK_WORDCOUNT = FOLDER / "spark_wordcount.py"
SPARK_PI = FOLDER / "spark_pi.py"
FLINK_WORDCOUNT = FOLDER / "flink_wordcount.jar"
FLINK_MAIN_CLASS = "cloudsched.samples.WordCount"
