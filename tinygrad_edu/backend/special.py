"""Special functions that NumPy lacks."""

from __future__ import annotations

import math

import numpy

from .device import Array, namespace
from .dispatch import op

_erf_of_one_number = numpy.frompyfunc(math.erf, 1, 1)


@op
def erf(x: Array) -> Array:
    r"""The error function :math:`\frac{2}{\sqrt\pi}\int_0^x e^{-t^2}\,dt` of each element."""
    xp = namespace(x)
    if xp is numpy:
        return numpy.asarray(_erf_of_one_number(x), dtype=x.dtype)
    if hasattr(xp, "erf"):
        return xp.erf(x)
    from cupyx.scipy.special import erf as cupy_erf

    return cupy_erf(x)
