"""Leave out what pyarrow and numba load beside themselves and workers never use: about 0.4 s of a core a process.

pyarrow imports pandas to make the first array; numba imports SciPy, for BLAS in kernels, and each package that offers
it types (awkward). They are let find nothing there, once. `to_pandas` then fails in this process, so only the server
that workers are forked from asks for this.
"""

from __future__ import annotations

import sys


def lean() -> None:
    """Load pyarrow and numba by themselves, where nothing has loaded the others yet."""
    if "pandas" in sys.modules or "scipy" in sys.modules:
        return
    hidden = _Hidden()
    sys.meta_path.insert(0, hidden)
    try:
        import numba.core.entrypoints
        import numba.np.arraymath
        import pyarrow

        pyarrow.array([0])
        numba.core.entrypoints._already_initialized = True
    finally:
        sys.meta_path.remove(hidden)


class _Hidden:
    """Finds pandas and SciPy nowhere."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Raises ImportError for the two; None, so that others look for it, for any other."""
        if name in ("pandas", "scipy"):
            raise ModuleNotFoundError(f"{name} is left out", name=name)
