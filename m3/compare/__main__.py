"""Compares runs: scores on the samples that all made, losses and costs, in one table and one plot.

m3-compare outputs/generate/one outputs/generate/other
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from m3.compare.differences import compare_runs
from m3.compare.report import write_comparison
from m3.compare.runs import read_run
from m3.core.errors import one_line_errors
from m3.core.terminal import PlainConsole


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="m3-compare",
        description="Compares runs with the first of them: scores on the same roll-outs, losses, costs.",
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN",
        help="an output folder of generate.py; or a run folder of train.py, which has losses and costs alone",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("outputs/compare"), help="folder to write (%(default)s)")
    options = parser.parse_args(arguments)
    with one_line_errors():
        comparison = compare_runs([read_run(path) for path in options.runs])
        console = PlainConsole()
        for file in write_comparison(options.out, comparison, console):
            console.print(str(file), soft_wrap=True)


if __name__ == "__main__":
    main()
