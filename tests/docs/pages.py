"""Runs the pages of docs/, so that nothing in them can go stale.

- A block ```` ```python ```` is run; the blocks of a page share their names, in order.
- A block ```` ```text ```` right after it is what it prints.
- ``<!-- source: tinygrad_edu.layers.linear.linear -->`` before a python block: it is that function as it stands in
  the library, without its docstring. It is compared, not run.

``python tests/docs/pages.py`` says what is out of date, ``python tests/docs/pages.py --write`` mends outputs and
sources in place; review the difference before you commit it.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import importlib
import inspect
import io
import json
import re
import sys
import textwrap
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tinygrad_edu  # before NumPy, whose threads it settles

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [
    DOCS / "architecture.md",
    DOCS / "data.md",
    DOCS / "design-decomposition.md",
    DOCS / "gradient-checking.md",
    DOCS / "metrics.md",
    DOCS / "models.md",
    DOCS / "training.md",
    DOCS / "vision-models.md",
    DOCS / "adding-an-architecture.md",  # after the pages that list the architectures: it registers one
    *sorted((DOCS / "derivations").glob("*.md")),
]

_FENCE = re.compile(r"^```(\w*)\s*$")
_SOURCE = re.compile(r"^<!-- source: ([\w.]+) -->$")


@dataclass
class Block:
    """A fenced block.

    Attributes
    ----------
    language : what stands after the opening fence
    start, end : line numbers of its text, from 0, end excluded
    source : the function that it must show, or empty
    follows : whether it stands right after another block, only blank lines between
    """

    language: str
    start: int
    end: int
    source: str
    follows: bool


def blocks(lines: list[str]) -> Iterator[Block]:
    """The fenced blocks of a page.

    Raises
    ------
    ValueError
        If a block is not closed.
    """
    inside, source, adjacent = None, "", False
    for number, line in enumerate(lines):
        fence = _FENCE.match(line)
        if inside is not None:
            if line.strip() == "```":
                language, start, follows = inside
                yield Block(language, start, number, source, follows)
                inside, source, adjacent = None, "", True
        elif fence:
            inside = fence[1], number + 1, adjacent
        elif line.strip():
            found = _SOURCE.match(line)
            source, adjacent = (found[1] if found else ""), False
    if inside is not None:
        raise ValueError(f"the block that begins at line {inside[1]} is not closed")


def source_of(dotted: str) -> str:
    """The text of a function, method or op of the library, without its docstring."""
    parts = dotted.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        with contextlib.suppress(ModuleNotFoundError):
            found: Any = importlib.import_module(".".join(parts[:cut]))
            break
    else:
        raise ValueError(f"no module begins the name {dotted!r}")
    for part in parts[cut:]:
        found = getattr(found, part)
    text = textwrap.dedent(inspect.getsource(getattr(found, "reference", found)))
    lines = text.rstrip("\n").split("\n")
    (node,) = ast.parse(text).body
    body = getattr(node, "body", [])
    if ast.get_docstring(node, clean=False) is not None:  # type: ignore[arg-type]
        lines[body[0].lineno - 1 : body[0].end_lineno] = []
    return "\n".join(lines)


@dataclass
class Problem:
    """Something on a page that is not so."""

    line: int
    message: str


class Page:
    """One page: what is wrong with it, and its text with that mended."""

    def __init__(self, path: Path):
        self.path = path
        self.lines = path.read_text(encoding="utf-8").split("\n")
        self.mended: list[tuple[Block, str]] = []
        self.problems: list[Problem] = []

    def run(self) -> list[Problem]:
        """Run and compare all blocks; stop at the first that raises."""
        names: dict[str, Any] = {"__name__": self.path.stem}
        printed: str | None = None
        for block in blocks(self.lines):
            text = "\n".join(self.lines[block.start : block.end])
            if block.source:
                self._compare(block, text, source_of(block.source), f"{block.source} is now")
            elif block.language == "python":
                try:
                    printed = self._execute(text, block.start, names)
                except Exception:
                    error = traceback.format_exc(limit=-1)
                    self.problems.append(Problem(block.start + 1, f"the block raises\n{error}"))
                    break
            elif block.language == "text" and block.follows and printed is not None:
                self._compare(block, text, printed.rstrip("\n"), "the block above prints")
            if block.language != "python":
                printed = None
        return self.problems

    def _execute(self, text: str, start: int, names: dict[str, Any]) -> str:
        stream = io.StringIO()
        # Line numbers are those of the page; the __future__ of this file is not that of the block.
        code = compile("\n" * start + text, str(self.path), "exec", dont_inherit=True)
        with contextlib.redirect_stdout(stream), warnings.catch_warnings():
            warnings.simplefilter("error")
            exec(code, names)
        return "\n".join(line.rstrip() for line in stream.getvalue().split("\n"))

    def _compare(self, block: Block, found: str, wanted: str, what: str) -> None:
        if found != wanted:
            difference = difflib.unified_diff(found.split("\n"), wanted.split("\n"), "page", "library", lineterm="")
            self.problems.append(Problem(block.start + 1, what + "\n" + "\n".join(difference)))
            self.mended.append((block, wanted))

    def write(self) -> None:
        """Put in what was found to be different."""
        for block, wanted in reversed(self.mended):
            self.lines[block.start : block.end] = wanted.split("\n")
        self.path.write_text("\n".join(self.lines), encoding="utf-8")


def main() -> int:
    """Check all pages, or those named; with --write mend them; with --json give the problems to a program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path, default=PAGES)
    parser.add_argument("--write", action="store_true", help="mend outputs and sources in place")
    parser.add_argument("--json", action="store_true", help="print the problems as JSON")
    options = parser.parse_args()
    numpy = importlib.import_module("numpy")
    found: dict[str, list[dict[str, Any]]] = {}
    for path in options.pages:
        page = Page(path.resolve())
        with numpy.printoptions():  # a page may set them for itself
            problems = page.run()
        if options.write:
            page.write()
        found[page.path.relative_to(ROOT).as_posix()] = [vars(problem) for problem in problems]
    if options.json:
        print(json.dumps(found))
        return 0
    for name, its in found.items():
        for problem in its:
            print(f"{name}:{problem['line']}: {problem['message']}")
    return 1 if any(found.values()) and not options.write else 0


if __name__ == "__main__":
    assert tinygrad_edu.__version__
    sys.exit(main())
