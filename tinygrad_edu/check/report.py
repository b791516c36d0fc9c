"""What a check found, for a terminal, a notebook, and a program."""

from __future__ import annotations

import html
import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import TinygradEduError

if TYPE_CHECKING:
    from rich.console import Group


_SHOWN = 5  # so many right tensors are named in a headline, more are counted


class GradientError(TinygradEduError, AssertionError):
    """A check found a wrong gradient or a broken contract."""


@dataclass
class TensorResult:
    """One tensor: an output of forward, or an input or parameter with its gradient.

    Attributes
    ----------
    name : the input's or parameter's name; ``y`` for the output
    kind : ``"output"``, ``"input"`` or ``"parameter"``
    ok : whether all that could be compared agrees
    yours, numeric, torch : where ok, the derivative along a random direction; where wrong, the worst entry.
        None if there is no such column
    error : largest relative difference found
    worst : index of the worst entry by axis name; empty where ok
    side : ``"forward"``, ``"backward"`` or ``"both"`` where that one is wrong; ``"unknown"`` where it cannot be told
    verdict : the same in words; empty where ok
    relation : how the wrong gradient relates to the right one, in words; empty where ok
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    ok: bool
    yours: float | None = None
    numeric: float | None = None
    torch: float | None = None
    error: float = 0.0
    worst: dict[str, int] = field(default_factory=dict)
    side: str = ""
    verdict: str = ""
    relation: str = ""

    @property
    def label(self) -> str:
        """``dx`` for the gradient of input x; a parameter or output goes by its own name."""
        return f"d{self.name}" if self.kind == "input" else self.name


@dataclass
class Finding:
    """One promise of the contract between layers, and whether it is kept."""

    name: str
    ok: bool
    message: str = ""


@dataclass
class Report:
    """The result of a check. Print it; it is also shown by notebooks.

    Attributes
    ----------
    name : what was checked
    tensors : the output first, then gradients in the order in which the backward pass makes them
    findings : promises of the contract
    failure : why no gradient could be compared, or empty
    stage : which pass failed, where `failure` says that one did
    seeds : how many random directions were tried
    place : of a layer made of layers, the innermost one that is wrong by itself; or empty
    """

    name: str
    tensors: list[TensorResult] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    failure: str = ""
    stage: str = "backward"
    seeds: int = 0
    place: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.failure and not self.wrong and all(finding.ok for finding in self.findings)

    @property
    def wrong(self) -> list[TensorResult]:
        """The tensors that are wrong, in backward order."""
        return [tensor for tensor in self.tensors if not tensor.ok]

    @property
    def first_wrong(self) -> TensorResult | None:
        """Where to look first: the output if it is wrong, else the first wrong gradient in backward order."""
        return next(iter(self.wrong), None)

    @property
    def error(self) -> float:
        """The largest relative difference of any tensor."""
        return max((tensor.error for tensor in self.tensors), default=0.0)

    def raise_if_wrong(self) -> Report:
        """Raise :class:`GradientError` with the whole report unless all is right; return the report otherwise."""
        if not self.ok:
            raise GradientError("\n" + str(self))
        return self

    # -- in words -------------------------------------------------------------------------------------

    def headline(self) -> str:
        """One line: what was checked, and which tensors are wrong."""
        if self.failure:
            return f"{self.name}   {self.stage} FAILED"
        backward = [t.label for t in self.wrong if t.side in ("backward", "both")]
        unknown = [t.label for t in self.wrong if t.side == "unknown"]
        right = [t.label for t in self.tensors if t.ok and t.kind != "output"]
        text = f"{self.name}   forward {'WRONG' if any(t.side in ('forward', 'both') for t in self.wrong) else 'ok'}   "
        if backward:
            others = ", ".join(right) if len(right) <= _SHOWN else f"the {len(right)} others"
            text += f"backward WRONG in {', '.join(backward)}" + (f"   ({others} ok)" if right else "")
        elif not unknown:
            text += "backward ok"
        if unknown:
            text += ("   " if backward else "") + f"no derivative to compare with in {', '.join(unknown)}"
        broken = [finding.name for finding in self.findings if not finding.ok]
        return text + (f"   contract BROKEN: {', '.join(broken)}" if broken else "")

    def explanation(self) -> list[str]:
        """The sentences below the headline: what to look at first, and why."""
        lines = [self.failure] if self.failure else []
        first = self.first_wrong
        if first is not None:
            if len(self.wrong) > 1:
                why = "the gradients of another function are other gradients"
                if first.kind != "output":
                    why = "the backward pass comes by it before the others"
                lines.append(f"Look at {first.label} first: {why}.")
            lines += [text for text in (first.verdict, first.relation) if text]
        if self.place:
            lines.append(self.place)
        lines += [f"{finding.name}: {finding.message}" for finding in self.findings if not finding.ok]
        return lines

    def _rows(self) -> list[tuple[str, ...]]:
        """Rows of the table: tensor, shape, the three columns, error, worst entry."""
        rows: list[tuple[str, ...]] = []
        for t in self.tensors:
            if t.kind == "output" and t.ok and t.torch is None:
                continue
            shape = "(" + ", ".join(map(str, t.shape)) + ")"
            worst = " ".join(f"{axis}={index}" for axis, index in t.worst.items())
            verdict = "ok" if t.ok else "WRONG"
            rows.append(
                (
                    t.label,
                    shape,
                    _number(t.yours),
                    _number(t.numeric),
                    _number(t.torch),
                    show_error(t.error),
                    verdict,
                    worst,
                )
            )
        return rows

    _HEADER = ("tensor", "shape", "yours", "numeric", "torch", "error", "", "worst at")

    def __rich__(self) -> Group:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        colour = "green" if self.ok else "red"
        parts: list[Text | Table] = [Text(self.headline(), style=f"bold {colour}")]
        rows = self._rows()
        if rows:
            table = Table(box=None, pad_edge=False, padding=(0, 1))
            for title in self._HEADER:  # numbers are never cut; in a narrow terminal the last column wraps
                number = title in ("yours", "numeric", "torch", "error")
                table.add_column(title, no_wrap=title != "worst at", justify="right" if number else "left")
            for row in rows:
                table.add_row(*row, style=None if row[-2] == "ok" else "red")
            parts.append(table)
        parts += [Text("  " + line) for line in self.explanation()]
        return Group(*parts)

    def __str__(self) -> str:
        from rich.console import Console

        stream = io.StringIO()
        Console(file=stream, width=140, color_system=None, legacy_windows=False).print(self)
        return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())

    def _repr_html_(self) -> str:
        colour = "#1a7f37" if self.ok else "#cf222e"
        head = "".join(f"<th style='text-align:left'>{html.escape(name)}</th>" for name in self._HEADER)
        body = ""
        for row in self._rows():
            cells = "".join(f"<td style='text-align:left'>{html.escape(cell)}</td>" for cell in row)
            body += f"<tr{'' if row[-2] == 'ok' else ' style=color:#cf222e'}>{cells}</tr>"
        text = "".join(f"<p>{html.escape(line)}</p>" for line in self.explanation())
        title = f"<p style='color:{colour}'><b>{html.escape(self.headline())}</b></p>"
        return f"<div>{title}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{text}</div>"


def show_error(value: float) -> str:
    """A relative difference; below 1e-10 it is rounding, and its digits differ from machine to machine."""
    return "<1e-10" if value < 1e-10 else f"{value:.1e}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"
