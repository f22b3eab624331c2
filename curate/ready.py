"""What the workers of `curate filter` begin with: imported by the server that forks them, so once for all of them.

Nothing here may start a thread (Polars starts its own at the first query): a thread does not live on in a fork.
"""

from __future__ import annotations

import importlib

from curate.foundation.lean import lean

_MODULES = (
    "polars", "pyarrow.parquet", "curate.contamination.sketching", "curate.ingest", "curate.prefilters",
    "curate.reading.direct", "curate.stages.decontaminate", "curate.stages.exact", "curate.stages.exempt",
    "curate.stages.length", "curate.stages.minhash", "curate.stages.quality", "curate.stages.score",
    "curate.stages.select",
)  # fmt: skip

lean()
for _name in _MODULES:
    importlib.import_module(_name)

import pyarrow  # noqa: E402

from curate.stages.text import measure  # noqa: E402

measure(pyarrow.array([""], pyarrow.large_string()))  # numba sets itself up at the first call of a kernel
