"""``python-docs``: real English text that every Python installation already holds.

Two sources, both under the PSF licence: the language reference as ``help()`` shows it
(`pydoc_data.topics`, one document a topic), and the docstrings of the standard library (one document a
module), read from its source with `ast`, so that nothing is imported or run.

Topics quote each other at length, and so do docstrings. A language model, or an n-gram table, would score
held-out text from memory. So every paragraph is kept only where it stands first: nothing in one document
occurs in another, whichever splits the two fall into.

The text differs a little from one Python version to the next; `Corpus.content_hash` says which it was.
"""

from __future__ import annotations

import ast
import functools
import gc
import hashlib
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from ..errors import DataError

#: Left out: tests and bundled packages (not documentation of the library), character tables (`encodings`),
#: and packages that many distributions leave out or later versions dropped, so that installations of one
#: version agree.
SKIPPED_FOLDERS = frozenset(
    {
        "__pycache__",
        "test",
        "tests",
        "idle_test",
        "site-packages",
        "dist-packages",
        "lib-dynload",
        "pydoc_data",
    }
    | {"encodings", "idlelib", "lib2to3", "turtledemo", "ensurepip", "distutils"}
)
SKIPPED_FILES = ("_sysconfigdata", "_sysconfig_vars")  # generated at build time: machine paths, no text

#: A document's split follows from its name alone, so it is the same under every Python version. The salt is
#: the first whose shares of characters lie within half a percent of 80/10/10 under Python 3.11, 3.12 and
#: 3.13, with a like share of topics in each split; it was fixed before any model was scored.
SPLIT_SALT = 1535

_DEFINITIONS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")


def docstrings(source: bytes, name: str) -> list[str]:
    """Return the docstrings of one module in the order of its source, an empty list if it does not parse.

    Only statements are walked, because definitions stand nowhere else; expressions are most of a tree.
    """
    try:
        tree = ast.parse(source, filename=name)
    except (SyntaxError, ValueError):  # ValueError: a NUL byte
        return []
    found = []
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, _DEFINITIONS):
            text = ast.get_docstring(node)
            if text:
                found.append(text)
        for block in reversed(_BLOCKS):
            todo.extend(reversed(getattr(node, block, None) or ()))
    return found


def _module_documents(library: Path) -> Iterator[tuple[str, str]]:
    """Yield (``docstrings/asyncio/base_events``, text) for each module of the standard library with any."""
    paths = sorted((path.relative_to(library).as_posix(), path) for path in library.rglob("*.py"))
    for relative, path in paths:
        parts = relative.split("/")
        if not SKIPPED_FOLDERS.isdisjoint(parts[:-1]) or parts[-1].startswith(SKIPPED_FILES):
            continue
        try:
            source = path.read_bytes()
        except OSError:
            continue  # a dangling link or an unreadable file is no reason to have no corpus
        texts = docstrings(source, relative)
        if texts:
            yield f"docstrings/{relative.removesuffix('.py')}", "\n\n".join(texts)


def _topic_documents() -> Iterator[tuple[str, str]]:
    """Yield (``topics/assert``, text) for each topic of ``help()``, none where Python came without them."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return
    for name in sorted(topics):
        yield f"topics/{name}", topics[name]


def drop_repeated_paragraphs(documents: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Keep each paragraph where it stands first, and drop documents of which nothing is left.

    A paragraph ends at a blank line. Two are the same if they differ only in spacing and letter case.
    """
    seen: set[str] = set()
    for name, text in documents:
        kept = []
        for paragraph in re.split(r"\n[ \t]*(?:\n[ \t]*)+", text.replace("\r\n", "\n")):
            normal = " ".join(paragraph.split()).casefold()
            if normal and normal not in seen:
                seen.add(normal)
                kept.append(paragraph.strip("\n").rstrip())
        if kept:
            yield name, "\n\n".join(kept)


def split_of(name: str) -> str:
    """Return the split of the document called `name`: a hash of the name, eight tenths to train."""
    digest = hashlib.sha256(f"python-docs {SPLIT_SALT} {name}".encode()).digest()
    tenth = int.from_bytes(digest[:8], "big") * 10 >> 64
    return {0: "test", 1: "validation"}.get(tenth, "train")


@functools.lru_cache(maxsize=1)
def python_docs() -> tuple[tuple[str, str], ...]:
    """Return the whole corpus as (name, text), in a fixed order; about 1.8 million characters, 2 seconds.

    Raises
    ------
    DataError
        When this Python has neither topics nor library sources (a stripped or zipped installation).
    """
    library = Path(sysconfig.get_path("stdlib"))
    collecting = gc.isenabled()
    gc.disable()  # a syntax tree is a million small objects and no garbage: 3 times as fast without
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the library's own invalid escapes and deprecations
            documents = [*_topic_documents(), *_module_documents(library)]
    finally:
        if collecting:
            gc.enable()
    kept = tuple(drop_repeated_paragraphs(iter(documents)))
    if len(kept) < 100:
        raise DataError(
            f"python-docs: only {len(kept)} documents found in the standard library at {library} "
            "(wanted at least 100); this Python came without its sources, so give a text file or folder"
        )
    return kept
