"""Every record of a curated folder through every tokenizer's template: what fails and why, and how much is trained.

    curate filter RAW out/ --preference chosen
    python -P benchmarks/pack_templates.py out/ TOKENIZER_FOLDER...

A tokenizer without a chat template takes `chatml`. One line a tokenizer; failures by reason, lost texts by kind.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from pack.batches import BatchEncoder
from pack.template import Renderer
from pack.tokenizing import Tokenizer


def measure(out: Path, folder: Path) -> str:
    """One table line."""
    tokenizer = Tokenizer.load(folder)
    encoder = BatchEncoder(Renderer(tokenizer, template=None if tokenizer.template else "chatml"))
    records = tokens = trained = by_form = 0
    failed: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    began = time.perf_counter()
    for file in sorted((out / "records").glob("*.parquet")):
        for batch in pq.ParquetFile(file).iter_batches(batch_size=2_000):
            found = encoder.encode(batch)
            records, tokens = records + batch.num_rows, tokens + len(found.tokens)
            trained, by_form = trained + int(found.trained.sum()), by_form + found.by_form
            failed.update(failure.reason for failure in found.failures.values())
            for kinds, rows in found.lost:
                lost.update(dict.fromkeys(set(kinds), len(np.atleast_1d(rows))))
    took = time.perf_counter() - began
    reasons = ", ".join(f"{name} {count:,}" for name, count in failed.most_common()) or "none"
    gone = ", ".join(f"{name} {count:,}" for name, count in lost.most_common()) or "none"
    engine = encoder.renderer.verdict.engine
    return (
        f"| {folder.name} | {records:,} | {sum(failed.values()):,} ({reasons}) | {gone} | {tokens:,} | "
        f"{trained / tokens:.1%} | {by_form / records:.1%} | {engine} | {took:.0f} |"
    )


if __name__ == "__main__":
    print("| tokenizer | records | failed | records with lost texts | tokens | trained | by form | engine | s |")
    print("|---|---:|---|---|---:|---:|---:|---|---:|")
    for name in sys.argv[2:]:
        print(measure(Path(sys.argv[1]), Path(name)), flush=True)
