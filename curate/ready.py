"""What the workers of `curate filter` begin with: imported by the server that forks them, so once for all of them.

Nothing here may start a thread (Polars starts its own at the first query): a thread does not live on in a fork.
"""

from __future__ import annotations

import polars  # noqa: F401
import pyarrow as pa
import pyarrow.parquet

from curate.stages.text import measure

measure(pa.array([""], pa.large_string()))  # numba sets itself up at the first call of a kernel
