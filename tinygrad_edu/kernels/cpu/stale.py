"""Compiled loops that Numba kept are thrown away when any kernel's source has changed.

Numba looks at the file that holds a loop, not at the functions inlined into it from another: after a change to
``exp32`` the old ``gelu`` would go on running.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path


def discard_stale_code(folder: Path) -> bool:
    """Delete what Numba keeps for the modules of `folder` unless it was compiled from their present sources.

    Returns whether it was stale. Where nothing can be written, nothing was kept there either.
    """
    digest = hashlib.sha256()
    for source in sorted(folder.glob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    kept, now = folder / "__pycache__", digest.hexdigest()
    stamp = kept / "kernels.sha256"
    with contextlib.suppress(OSError):
        if stamp.exists() and stamp.read_text(encoding="ascii") == now:
            return False
        kept.mkdir(exist_ok=True)
        for pattern in ("*.nbi", "*.nbc"):
            for compiled in kept.glob(pattern):
                compiled.unlink(missing_ok=True)
        fresh = stamp.with_name(f"{stamp.name}.{os.getpid()}")
        fresh.write_text(now, encoding="ascii")
        fresh.replace(stamp)
    return True
