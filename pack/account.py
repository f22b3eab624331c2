"""What the manifest says of a build: counts by source, the law, fill against the bound, a ribbon, samples.

Pass 1, the plan and pass 2 count independently; a build whose three counts differ writes no manifest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from curate.foundation.console import printable, redact
from curate.foundation.errors import DataError
from pack.choosing import WHY
from pack.config import PackConfig
from pack.gather import Removal
from pack.plan import FATES, NOTDRAWN, OVERLONG, TEMPLATE, Plan, Split
from pack.shards import ShardReader

Counts = dict[str, dict[str, Any]]
EDGES: Final = [0, *(2**power for power in range(4, 21))]
SAMPLES: Final = 3
LAW: Final = ("records", "packed", "eval", "overlong", "template_failed", "not_drawn")
SNIPPET: Final = 280


def decontaminated(records: Mapping[str, Any]) -> list[str] | str:
    """The eval sets that the records were decontaminated against, sorted; "OFF" where nothing was compared or removed."""
    stage = next((s.get("facts") or {} for s in records.get("stages") or () if s["name"] == "decontaminate"), {})
    if not stage.get("evals") or stage.get("report_only"):
        return "OFF"
    return sorted(str(entry["name"]) for entry in stage["evals"])


def by_source(plan: Plan, encoded: Sequence[Mapping[str, Mapping[str, int]]]) -> Counts:
    """Records by fate, documents, tokens, trained tokens and lost texts of each source."""
    out: Counts = {}
    ledger = plan.ledger()
    for code, name in enumerate(plan.documents.names):
        found: dict[str, int] = {}
        for summary in encoded:
            for key, count in summary.get(name, {}).items():
                found[key] = found.get(key, 0) + count
        fates = ledger[name]
        fates["truncated"] += found.get("turns_dropped", 0)
        if found.get("records", 0) != fates["records"] or fates["records"] != sum(fates[fate] for fate in FATES):
            raise DataError(f"source {name}: {found.get('records', 0)} records in, {fates}: the law is broken")
        out[name] = {
            **{{"template": "template_failed", "notdrawn": "not_drawn"}.get(key, key): n for key, n in fates.items()},
            "lost": {key.removeprefix("lost:"): n for key, n in sorted(found.items()) if key.startswith("lost:")},
            **{name: found.get(name, 0) for name in ("control", "control_records", "stop_added", "straddled")},
            **_amounts(plan.stages, name),
            "eval_documents": int((plan.held.sources == code).sum()),
            "eval_tokens": int(plan.held.lengths[plan.held.sources == code].sum()),
            "eval_trained": int(plan.held.trained[plan.held.sources == code].sum()),
        }
    return out


def _amounts(stages: Sequence[Split], name: str) -> dict[str, Any]:
    """Documents, tokens, trained tokens and epochs of a source over all stages."""
    parts = [stage.table[name] for stage in stages]
    out: dict[str, Any] = {key: sum(part[key] for part in parts) for key in ("documents", "tokens", "trained")}
    return {**out, "epochs": round(sum(part["epochs"] for part in parts), 4)}


def law(entry: Mapping[str, int]) -> bool:
    """Whether a source's records are all accounted for."""
    return entry["records"] == sum(entry[part] for part in LAW[1:])


def split_facts(split: Split, totals: Sequence[Mapping[str, int]], names: Sequence[str]) -> dict[str, Any]:
    """Rows, tokens, fill and bound of one split; what pass 2 wrote must be what the plan placed."""
    ctx = split.ctx
    wrote = {key: sum(part[key] for part in totals) for key in ("rows", "segments", "tokens", "trained", "pad")}
    planned = {
        "rows": len(split.rows) - 1,
        "segments": len(split.documents),
        "tokens": int(split.lengths.sum()),
        "trained": int(split.trained.sum()),
    }
    if any(wrote[key] != count for key, count in planned.items()):
        raise DataError(f"{split.name}: planned {planned}, wrote {wrote}")
    room = wrote["rows"] * ctx
    return {
        "ctx": ctx,
        **wrote,
        "parts": list(names),
        "lower_bound": split.bound,
        "fill": round(wrote["tokens"] / room, 6) if room else 0.0,
        "bound_fill": round(wrote["tokens"] / (split.bound * ctx), 6) if split.bound else 0.0,
        "segments_per_row": round(wrote["segments"] / wrote["rows"], 3) if wrote["rows"] else 0.0,
    }


def removals(plan: Plan, tokens: Any, units: Sequence[Any], ctx: int) -> list[Removal]:
    """What was not packed, by unit and reason, in file order."""
    documents = plan.documents
    first = documents.number[documents.first]
    longest = np.maximum.reduceat(documents.length, documents.first)
    owner, row = tokens.owner[first], tokens.column("row")[first]
    out = []
    for fate in (OVERLONG, TEMPLATE, NOTDRAWN):
        mine = np.flatnonzero(plan.fate == fate)
        for unit in np.unique(owner[mine]):
            here = mine[owner[mine] == unit]
            here = here[np.argsort(row[here])]
            if fate == OVERLONG:
                reasons = [f"{longest[record]} tokens, ctx {ctx}" for record in here]
            elif fate == TEMPLATE:
                reasons = tokens.table.column("reason").take(first[here]).to_pylist()
            else:
                reasons = [WHY[why] for why in plan.why[here]]
            out.append(Removal(units[unit], FATES[fate], tuple(row[here].tolist()), tuple(reasons)))
    return out


def template_reasons(found: Sequence[Removal]) -> dict[str, int]:
    """Failed records by the name of the reason."""
    out: dict[str, int] = {}
    for removal in found:
        if removal.fate == FATES[TEMPLATE]:
            for reason in removal.reasons:
                name = reason.split(":")[0]
                out[name] = out.get(name, 0) + 1
    return dict(sorted(out.items()))


def warnings(facts: Mapping[str, Any]) -> list[str]:
    """What the reader of the card must know first."""
    out = []
    if facts["embedded_tokenizer"]:
        out.append("Packed with the embedded tokenizer, because none was named: these shards fit no published model.")
    for name, entry in facts["sources"].items():
        if facts["config"]["control_tokens"] == "text" and 100 * entry["control_records"] > entry["records"]:
            out.append(
                f"Source {name}: {entry['control_records']:,} of {entry['records']:,} records hold literal control "
                "tokens in their texts, encoded as plain text; --control-tokens strip removes them."
            )
    return out


def stages(plan: Plan, splits: Mapping[str, Mapping[str, Any]], config: PackConfig) -> list[dict[str, Any]]:
    """What the manifest lists for the trainer (pack.shards), in order."""
    out = []
    for split, (_, _, mixed) in zip(plan.stages, config.curriculum(), strict=True):
        facts = {key: splits[split.name][key] for key in ("ctx", "rows", "tokens", "trained", "lower_bound", "fill")}
        rest = {"documents": splits[split.name]["segments"], "lengths": mixed.lengths.model_dump(mode="json")}
        out.append({"name": split.name, "split": split.name, **facts, **rest, "sources": split.table})
    return out


def histogram(plan: Plan) -> dict[str, list[int]]:
    """Tokens a document: edges (doubling, the last bin open) and counts, over every encoded document."""
    lengths = plan.documents.length[plan.documents.length > 0]
    counts = np.histogram(lengths, bins=[*EDGES, np.iinfo(np.int64).max])[0]
    return {"edges": EDGES, "documents": [int(count) for count in counts]}


def ribbon(reader: ShardReader) -> dict[str, Any]:
    """One packed row for the card's drawing: the row, among the first 200, with the median number of segments."""
    if not len(reader):
        return {}
    shown = [len(reader.segments(index)) for index in range(min(200, len(reader)))]
    index = int(np.argsort(shown, kind="stable")[len(shown) // 2])
    row, segments = reader.row(index), reader.segments(index)
    trained = np.concatenate(([0], (row["labels"] >= 0).astype(np.int8), [0]))
    starts, stops = np.flatnonzero(np.diff(trained) == 1), np.flatnonzero(np.diff(trained) == -1)
    spans = [[int(start), int(stop - start)] for start, stop in zip(starts, stops, strict=True)]
    return {
        "row": index,
        "ctx": reader.ctx,
        "segments": [{key: part[key] for key in ("source", "start", "length", "trained")} for part in segments],
        "trained_spans": spans,
        "pad": reader.ctx - sum(part["length"] for part in segments),
    }


def samples(reader: ShardReader, tokenizer: Any) -> list[dict[str, Any]]:
    """The first trained tokens of a few documents as text, of as many sources as there are among the first rows:
    redacted, short, control characters made visible.
    """
    places: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for index in range(min(200, len(reader))):
        for segment in reader.segments(index):
            if segment["trained"]:
                places.setdefault(segment["source"], []).append((index, segment))
    most = sorted(places.values(), key=lambda found: (-len(found), found[0][1]["source"]))
    chosen = [found[turn] for turn in range(SAMPLES) for found in most if turn < len(found)][:SAMPLES]
    out: list[dict[str, Any]] = []
    for index, segment in sorted(chosen, key=lambda place: (place[1]["source"], place[0])):
        labels = reader.row(index)["labels"][segment["start"] : segment["start"] + segment["length"]]
        text = tokenizer.decode(labels[labels >= 0].tolist())
        shown = redact(printable(text))
        shown = shown if len(shown) <= SNIPPET else shown[: SNIPPET - 1] + "…"
        out.append({"row": index, "id": segment["id"], "source": segment["source"], "text": shown})
    return out
