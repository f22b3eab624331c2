"""Messages whose meaning is close to an item's: paraphrases and translations that share no run of words with it.

Each distinct message and each question is embedded once, and every pair of a cosine of the rule's threshold or more is
found exactly (`embedding/search.py`). With all-MiniLM-L6-v2 and 0.85 that is most rewrites of a question and few others.

Cost: the model's time for every message in scope; the vectors in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curate.contamination.index import EvalIndex
from curate.contamination.rules import Rules
from curate.splitting import Ints

MODEL: Final = "sentence-transformers/all-MiniLM-L6-v2"


def wanted(rules: Mapping[str, Rules]) -> bool:
    """Whether any eval set is compared by meaning."""
    return any(each.active("semantic") for each in rules.values())


def models(rules: Mapping[str, Rules]) -> list[str]:
    """The models that comparing by meaning takes, sorted."""
    return sorted({each.semantic.model or MODEL for each in rules.values() if each.active("semantic")})


def ready(rules: Mapping[str, Rules]) -> None:
    """Look every model up, fetching it where it has to be. Raises as `embedding.models.locate` does."""
    if names := models(rules):
        from curate.embedding.models import locate

        for name in names:
            locate(name)


def close(index: EvalIndex, rules: Mapping[str, Rules], records: pa.Table) -> dict[str, NDArray[Any]]:
    """Record, message, item and cosine of every pair within its eval's threshold; `records` hold all texts in scope."""
    from curate.embedding.search import pairs

    lists = records.column("texts").combine_chunks()
    values = lists.flatten()
    owner = np.repeat(np.arange(records.num_rows), pc.list_value_length(lists).to_numpy(zero_copy_only=False))
    parts: list[list[NDArray[Any]]] = []
    each = [rules[name] for name in index.evals]
    for model in models(rules):
        uses = np.array([one.active("semantic") and (one.semantic.model or MODEL) == model for one in each])
        bound = np.array([one.semantic.threshold for one in each])
        items = np.flatnonzero(uses[index.eval_of] & (index.spoken > 0))
        left, here = _vectors(values.field("content"), model)
        right, there = _vectors(index.items.column("question").combine_chunks().take(pa.array(items)), model)
        one, two, cosine = pairs(left, right, threshold=float(bound[uses].min()))
        texts, asked = _holders(here, len(left)), _holders(there, len(right))
        for i, j, value in zip(one.tolist(), two.tolist(), cosine.tolist(), strict=True):
            own = items[asked[j]]
            own = own[value >= bound[index.eval_of[own]]]
            message, item = (side.ravel() for side in np.meshgrid(texts[i], own, indexing="ij"))
            parts.append([message, item, np.full(len(item), value)])
    message, item, score = (
        (np.concatenate(column) for column in zip(*parts, strict=True))
        if parts
        else (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    )
    place = values.field("message").to_numpy().astype(np.int64)[message]
    return {"record": owner[message].astype(np.int64), "message": place, "item": item, "score": score}


def _vectors(texts: Any, model: str) -> tuple[NDArray[np.float32], Ints]:
    """The vectors of the distinct texts, and for each text the row of its own."""
    from curate.embedding.embed import embed
    from curate.embedding.vectors import text_digests

    digests = text_digests(texts)
    distinct = digests.unique()
    rows = pc.index_in(digests, distinct).to_numpy(zero_copy_only=False).astype(np.int64)
    first = np.unique(rows, return_index=True)[1]
    shelf = embed(distinct, lambda some: texts.take(pa.array(first[some])).to_pylist(), model)
    return shelf.vectors, rows


def _holders(rows: Ints, count: int) -> list[Ints]:
    """For each distinct text the texts that are it."""
    order = np.argsort(rows, kind="stable")
    return np.split(order, np.searchsorted(rows[order], np.arange(1, count)))
