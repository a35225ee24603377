"""How the code is laid out, in numbers: rooms, arrows, what a roll-out passes, hand-written atomic writes.

    python bench/structure.py                                  # rooms, arrows, atomic writes of this checkout
    python bench/structure.py --checkout ../other               # of another one
    python bench/structure.py --roll-out checkpoint=outputs/train/demo data.root=outputs/data/demo_128px out=out

A room is a package or module at the top of m3/. An arrow is a pair of rooms of which the first imports the second. A
roll-out is one run of generate.py in this process: files and functions of m3 and of the script that it enters are
counted with `sys.setprofile` (decorated, nested and inherited functions each once, by file and line), and the moves
from one file to another, calls and returns.
"""

from __future__ import annotations

import argparse
import ast
import re
import runpy
import sys
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent


def rooms(package: Path) -> list[str]:
    """Packages and modules at the top."""
    found = [path for path in package.iterdir() if path.suffix == ".py" or any(path.glob("*.py"))]
    return sorted(path.stem for path in found if path.stem not in ("__init__", "__pycache__"))


def arrows(package: Path) -> set[tuple[str, str]]:
    """(importing room, imported room), from the import statements of all files."""
    names, found = set(rooms(package)), set()
    for path in package.rglob("*.py"):
        room = path.relative_to(package).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for imported in _imported(node):
                if imported in names and imported != room and room in names:
                    found.add((room, imported))
    return found


def _imported(node: ast.AST) -> list[str]:
    """Rooms named by an import statement."""
    if isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
        parts = node.module.split(".")
        if parts[0] == "m3":
            return [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
    if isinstance(node, ast.Import):
        return [alias.name.split(".")[1] for alias in node.names if alias.name.startswith("m3.")]
    return []


def atomic_writes(package: Path) -> list[str]:
    """Files that rename a temporary file by hand."""
    pattern = re.compile(r"os\.replace\(|\.rename\(")
    found = [path for path in package.rglob("*.py") if pattern.search(path.read_text(encoding="utf-8"))]
    return sorted(str(path.relative_to(package)) for path in found)


class Trail:
    """What the code of a checkout passes while it is watched."""

    def __init__(self, checkout: Path) -> None:
        self.code = str(checkout / "m3"), str(checkout / "generate.py")
        self.functions: set[tuple[str, int]] = set()
        self.moves = 0
        self._file = ""

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        code = frame.f_code
        if not code.co_filename.startswith(self.code):
            return
        if event == "call" and not code.co_name.startswith("<"):
            self.functions.add((code.co_filename, code.co_firstlineno))
        if event in ("call", "return") and code.co_filename != self._file:
            self.moves += 1
            self._file = code.co_filename

    @property
    def files(self) -> set[str]:
        return {file for file, _ in self.functions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, default=ROOT)
    parser.add_argument("--roll-out", nargs="+", metavar="KEY=VALUE", help="overrides of generate.py")
    options = parser.parse_args()
    package = options.checkout.resolve() / "m3"
    if options.roll_out:
        sys.path.insert(0, str(options.checkout.resolve()))
        sys.argv = [str(options.checkout / "generate.py"), *options.roll_out]
        import generate  # noqa: F401  what importing runs is not part of a roll-out

        trail = Trail(options.checkout.resolve())
        sys.setprofile(trail)
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        finally:
            sys.setprofile(None)
        print(f"a roll-out passes {len(trail.files)} files, {len(trail.functions)} functions, {trail.moves:,} moves")
        return
    by_hand = atomic_writes(package)
    print(f"{len(rooms(package))} rooms: {', '.join(rooms(package))}")
    print(f"{len(arrows(package))} arrows between them")
    print(f"{len(by_hand)} files with a rename of their own: {', '.join(by_hand)}")


if __name__ == "__main__":
    main()
