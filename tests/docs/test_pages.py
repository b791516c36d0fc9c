"""Every page of docs/ is true: its code runs, prints what it says, shows functions as they are."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from . import pages
from .pages import DOCS, PAGES, ROOT, Page, blocks, source_of

DERIVATIONS = [page for page in PAGES if page.parent.name == "derivations"]
ALL = sorted(DOCS.rglob("*.md"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(scope="session")
def problems(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, object]]]:
    """What is wrong on each page. In a process of its own: a page may register ops and kernels."""
    cache = {"TINYGRAD_EDU_CACHE": str(tmp_path_factory.mktemp("cache"))}
    done = subprocess.run(
        [sys.executable, str(DOCS.parent / "tests/docs/pages.py"), "--json"],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **cache},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[dict[str, object]]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_is_true(page: Path, problems: dict[str, list[dict[str, object]]]) -> None:
    wrong = problems[name_of(page)]
    lines = "\n".join(f"{name_of(page)}:{problem['line']}: {problem['message']}" for problem in wrong)
    assert not wrong, lines + "\n\n`python tests/docs/pages.py --write` mends sources and outputs"


@pytest.mark.parametrize("page", DERIVATIONS, ids=name_of)
def test_a_derivation_has_all_its_parts(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = list(blocks(text.split("\n")))
    assert any(block.language == "python" and not block.source for block in found), "no worked example is run"
    if page.stem != "chain-rule":
        assert any(block.source for block in found), "no function of the library is shown"
        assert "\n## Common mistakes\n" in text
        assert "\n## The code\n" in text


def test_every_op_with_a_backward_is_derived_somewhere() -> None:
    """Each op of the layers, losses and optimizers is shown on some page, as it stands."""
    from tinygrad_edu import layers, losses, optim  # noqa: F401  (they register their ops)
    from tinygrad_edu.backend import registered_ops

    shown = {
        block.source.rpartition(".")[2]
        for page in PAGES
        for block in blocks(page.read_text(encoding="utf-8").split("\n"))
        if block.source
    }
    ours = {
        name
        for name, op in registered_ops().items()
        if op.reference.__module__.startswith(("tinygrad_edu.layers", "tinygrad_edu.losses", "tinygrad_edu.optim"))
    }
    assert ours - shown == set()


# -- links, and the mathematics ----------------------------------------------------------------------

_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def prose(page: Path) -> str:
    """A page without its fenced blocks and inline code."""
    lines = page.read_text(encoding="utf-8").split("\n")
    for block in blocks(lines):
        lines[block.start - 1 : block.end + 1] = [""] * (block.end - block.start + 2)
    return re.sub(r"`[^`\n]*`", "", "\n".join(lines))


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub names them in links."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", ALL, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(prose(page)):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{name_of(page)}: {target} leads nowhere"
        if anchor:
            assert anchor in anchors(there), f"{name_of(page)}: {target} names no heading there"


def test_the_index_lists_every_page() -> None:
    index = DOCS / "index.md"
    listed = {(DOCS / link.partition("#")[0]).resolve() for link in _LINK.findall(prose(index))}
    missing = [name_of(page) for page in ALL if page != index and page.resolve() not in listed]
    assert not missing, f"docs/index.md does not list {', '.join(missing)}"


@pytest.mark.parametrize("page", [*PAGES, DOCS / "index.md"], ids=name_of)
def test_mathematics_can_be_set(page: Path) -> None:
    """Dollars and braces are closed, and nothing stands in a formula that Markdown would take for its own."""
    text = prose(page)
    displays = re.findall(r"\$\$(.*?)\$\$", text, re.DOTALL)
    rest = re.sub(r"\$\$.*?\$\$", "", text, flags=re.DOTALL)
    for number, line in enumerate(rest.split("\n"), 1):
        assert line.count("$") % 2 == 0, f"line {number}: a formula is not closed: {line}"
    for formula in displays + re.findall(r"\$([^$\n]+)\$", rest):
        assert formula.count("{") == formula.count("}"), formula
        assert len(re.findall(r"\\left\b", formula)) == len(re.findall(r"\\right\b", formula)), formula
        assert formula.count(r"\begin") == formula.count(r"\end"), formula
        escaped = re.findall(r"\\[^\w\s]", formula)  # a Markdown reader may take the backslash for its own
        assert not escaped, f"write \\thinspace, \\lbrace, \\cr for {escaped}: {formula}"
        assert "<" not in formula, f"write \\lt, a browser takes < for a tag: {formula}"


# -- the tests of pages themselves -------------------------------------------------------------------


def page_with(tmp_path: Path, text: str) -> Page:
    path = tmp_path / "page.md"
    path.write_text(text, encoding="utf-8")
    return Page(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```python\n1 / 0\n```", "ZeroDivisionError"),
        ("```python\nassert 1 == 2\n```", "AssertionError"),
        ("```python\nprint(2)\n```\n\n```text\n3\n```", "the block above prints\n"),
        (
            "<!-- source: tinygrad_edu.layers.linear.linear -->\n```python\nreturn x\n```",
            "tinygrad_edu.layers.linear.linear is",
        ),
    ],
    ids=["raises", "assert", "output", "source"],
)
def test_a_page_that_is_not_true_is_noticed(tmp_path: Path, text: str, message: str) -> None:
    (problem,) = page_with(tmp_path, text).run()
    assert message in problem.message


def test_a_page_is_mended_in_place(tmp_path: Path) -> None:
    text = (
        "before\n```python\nx = 2\nprint(x)\n```\n\n```text\n3\n```\nbetween\n"
        "<!-- source: tinygrad_edu.layers.linear.linear -->\n```python\nold\n```\n```text\nnot an output\n```\n"
    )
    page = page_with(tmp_path, text)
    assert len(page.run()) == 2
    page.write()
    again = Page(page.path)
    assert again.run() == []
    written = page.path.read_text(encoding="utf-8")
    assert written == text.replace("3", "2").replace("old", source_of("tinygrad_edu.layers.linear.linear"))


def test_a_source_is_shown_whole_but_for_its_docstring() -> None:
    text = source_of("tinygrad_edu.layers.linear.linear_backward")
    assert text.startswith("@op\ndef linear_backward(")
    assert text.endswith("return dx, dweight, dbias")
    assert '"""' not in text
    assert source_of("tinygrad_edu.layers.dropout.Dropout.backward").startswith("def backward(self, dy")


def test_an_open_block_is_an_error() -> None:
    with pytest.raises(ValueError, match="the block that begins at line 1 is not closed"):
        list(blocks(["```python", "x = 1"]))


def test_there_are_pages() -> None:
    assert len(DERIVATIONS) >= 8
    assert pages.DOCS.joinpath("index.md").exists()
