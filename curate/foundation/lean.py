"""Leave out what pyarrow and numba load beside themselves and no command uses: about 0.9 s of a core a process.

pyarrow imports pandas to make the first array; numba imports SciPy, for BLAS in kernels, and each package that offers
it types (awkward). They are let find nothing there, once. `to_pandas` then fails in this process, so only command lines
ask for this, and the server that workers are forked from; no function that others may import does.
"""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from types import ModuleType


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


def alone(name: str) -> ModuleType:
    """A module of a package without what the packages above it import: of `transformers`, a second of a core.

    Where the package is loaded already, or the module needs it whole, it is imported as ever. What was loaded alone is
    forgotten again, so that a later import of the package is complete.
    """
    top = name.partition(".")[0]
    found = find_spec(top)
    if top in sys.modules or found is None or not found.submodule_search_locations:
        return importlib.import_module(name)
    above = name.split(".")[:-1]
    try:
        for depth in range(1, len(above) + 1):
            package = ModuleType(".".join(above[:depth]))
            package.__path__ = ["/".join([found.submodule_search_locations[0], *above[1:depth]])]
            sys.modules[package.__name__] = package
        return importlib.import_module(name)
    except ImportError:
        pass
    finally:
        for module in [module for module in sys.modules if module.partition(".")[0] == top]:
            del sys.modules[module]
    return importlib.import_module(name)


class _Hidden:
    """Finds pandas and SciPy nowhere."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Raises ImportError for the two; None, so that others look for it, for any other."""
        if name in ("pandas", "scipy"):
            raise ModuleNotFoundError(f"{name} is left out", name=name)
