"""Shares models and data sets on the Hugging Face hub: a folder with its card, and its upload.

m3-hub outputs/train/NAME outputs/hub/NAME --scores outputs/generate/NAME/metrics.json --push OWNER/NAME
m3-hub push-data outputs/data/NAME OWNER/NAME --license LICENSE
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from m3.checkpoint import CARD, CONFIG, WEIGHTS, load_model, upload
from m3.checkpoint.evaluations import ACCEPTED
from m3.core.errors import one_line_errors
from m3.hub.data_upload import upload_data, write_data_card

PUSH_DATA = "push-data"


def main(arguments: Sequence[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == [PUSH_DATA]:
        return push_data(arguments[1:])
    parser = argparse.ArgumentParser(
        prog="m3-hub",
        description="Makes a folder for sharing from a model.",
        epilog=f"m3-hub {PUSH_DATA} DATA OWNER/NAME shares a data set: m3-hub {PUSH_DATA} --help",
    )
    parser.add_argument("checkpoint", help="a run folder of train.py, a .ckpt file, OWNER/NAME, or pretrained")
    parser.add_argument("folder", type=Path, help="to write")
    parser.add_argument("--scores", type=Path, nargs="+", default=(), metavar="FILE", help=f"for the card: {ACCEPTED}")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="for the card: rollout.gif of generate.py")
    parser.add_argument("--license", help="of the weights, as the hub names it: apache-2.0, cc-by-nc-4.0 …")
    parser.add_argument("--half", action="store_true", help="round the weights to float16: half the size")
    parser.add_argument("--revision", help="branch, tag or commit of the hub's repository that is read")
    parser.add_argument("--push", metavar="OWNER/NAME", help="upload it to this repository of the hub")
    parser.add_argument("--private", action="store_true", help="make the repository, if it is new, a private one")
    options = parser.parse_args(arguments)
    with one_line_errors():
        loaded = load_model(options.checkpoint, revision=options.revision)
        loaded = loaded.rounded() if options.half else loaded
        loaded.save_pretrained(options.folder, options.scores, options.license, options.push, options.picture)
        print(f"{options.folder}: {WEIGHTS}, {CONFIG}, {CARD}")
        if options.push:
            print(upload(options.folder, options.push, options.private))


def push_data(arguments: Sequence[str]) -> None:
    """Writes the card of a data set, and uploads both."""
    parser = argparse.ArgumentParser(
        prog=f"m3-hub {PUSH_DATA}", description="Writes README.md, the data card, and uploads the data set."
    )
    parser.add_argument("data", type=Path, help="a folder of preprocess.py, with dataset.json")
    parser.add_argument(
        "repository", nargs="?", metavar="OWNER/NAME", help="of the hub; without it only the card is written"
    )
    parser.add_argument("--license", help="of the data, as the hub names it: cc-by-4.0, other …; yours to know")
    parser.add_argument("--private", action="store_true", help="make the repository, if it is new, a private one")
    options = parser.parse_args(arguments)
    with one_line_errors():
        print(write_data_card(options.data, options.license, options.repository))
        if options.repository:
            print(upload_data(options.data, options.repository, options.private))


if __name__ == "__main__":
    main()
