"""A stored signature opens in datasketch and means there what it means here."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from curate.record import Message, Record, to_table
from curate.shingles import shingle_hash
from curate.stages.minhash import MinhashStage
from curate.stages.minhash_settings import MinhashSettings
from curate.words import words

datasketch = pytest.importorskip("datasketch", reason="datasketch comes with the test extra")

TEXTS = [
    "How do I reverse a list in Python? Use reversed or a slice with a negative step, both work.",
    "How do I reverse a list in Python? Use reversed or a slice with a negative step, both are fine.",
    "too short",
    "Ünïcode, ﬁne: 你好世界 and more words than five of them",
]


def stored(settings: MinhashSettings) -> np.ndarray:
    table = to_table(Record("s", "f", i, [Message("user", text)]) for i, text in enumerate(TEXTS))
    sketch = MinhashStage(settings).sketch(table)
    assert isinstance(sketch, pa.Table)
    return np.array(sketch.column("signature").to_pylist(), np.uint32)


def built(text: str, size: int, seed: int) -> object:
    made = datasketch.MinHash(num_perm=size, seed=seed, scheme="affine32", hashfunc=shingle_hash)
    spoken = words(text)
    length = min(5, len(spoken))
    for start in range(len(spoken) - length + 1):
        made.update(" ".join(spoken[start : start + length]).encode())
    return made


@pytest.mark.parametrize(("bands", "rows", "seed"), [(40, 6, 1), (8, 4, 7)])
def test_datasketch_builds_the_signature_that_we_store(bands, rows, seed):
    found = stored(MinhashSettings(bands=bands, rows=rows, seed=seed))
    for text, values in zip(TEXTS, found, strict=True):
        assert (built(text, bands * rows, seed).hashvalues == values).all()


def test_a_stored_signature_opens_in_datasketch_and_compares_with_its_own():
    found = stored(MinhashSettings())
    opened = datasketch.MinHash(num_perm=240, seed=1, scheme="affine32", hashvalues=found[0], hashfunc=shingle_hash)
    other = built(TEXTS[1], 240, 1)
    assert opened.jaccard(other) == float((found[0] == found[1]).mean())
    assert 0 < opened.jaccard(other) < 1
