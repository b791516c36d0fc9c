"""What a row of the table of ops is made of: forward, backward, inputs, and the same function written with torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..backend import use
from . import op as check_op
from .case import Draw, Inputs, Library
from .report import Report
from .subject import OpSubject

Function = Callable[..., Any]


@dataclass(frozen=True)
class OpCase:
    """One row.

    Attributes
    ----------
    of : name of the op
    backward : name of its backward op; or a function of the library that makes one with plain parameters
    inputs : makes forward's inputs for a batch B and a length T
    options : what is special about the row, in words
    forward : makes the forward from the library, where the op alone is not it
    torch : makes the same function in torch
    linear : inputs in which the op is linear, so that its adjoint can be tested exactly
    wrt : inputs that have a gradient, where not all floating-point ones do
    covers : further ops that this row tries out
    """

    of: str
    backward: str | Callable[[Library], Function]
    inputs: Callable[[Draw, int, int], Inputs]
    options: str = ""
    forward: Callable[[Library], Function] | None = None
    torch: Callable[[], Any] | None = None
    linear: tuple[str, ...] = ()
    wrt: tuple[str, ...] | None = None
    covers: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """``attention (causal)``."""
        return f"{self.of} ({self.options})" if self.options else self.of

    @property
    def ops(self) -> tuple[str, ...]:
        """Names of all ops that this row tries out."""
        return (self.of, *self.covers, *((self.backward,) if isinstance(self.backward, str) else ()))

    def functions(self, mine: Mapping[str, Any] | None = None) -> tuple[Function, Function]:
        """Forward and backward."""
        library = Library(mine)
        forward = getattr(library, self.of) if self.forward is None else self.forward(library)
        backward = getattr(library, self.backward) if isinstance(self.backward, str) else self.backward(library)
        return forward, backward

    def subject(self, batch: int = 3, time: int = 4, device: str = "cpu", seed: int = 0) -> OpSubject:
        """The row as the engine takes it."""
        with use(device):
            inputs = self.inputs(Draw(seed), batch, time)
        return OpSubject(*self.functions(), inputs, {}, wrt=self.wrt, device=device)

    def check(
        self,
        batch: int = 3,
        time: int = 4,
        *,
        torch: bool = False,
        device: str = "cpu",
        mine: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> Report:
        """Check this row; arguments as in :meth:`tinygrad_edu.check.cases.Case.check`."""
        with use(device):
            inputs = self.inputs(Draw(settings.get("seed", 0)), batch, time)
        settings = {
            "wrt": self.wrt,
            "torch": self.torch() if torch and self.torch else None,
            "device": device,
            **settings,
        }
        report = check_op(*self.functions(mine), *inputs, **settings)
        report.name = self.name
        return report
