"""Near-duplicates: what goes is verified, what stays is deterministic, and brute force finds nothing more."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from curate.clusters import ORDER_FIELDS, keep_order, survivors
from curate.foundation.errors import DataError, UsageError
from curate.foundation.store import canonical
from curate.record import Message, Record, to_table
from curate.shingles import shingles_of
from curate.stages.minhash import MinhashStage, key_texts
from curate.stages.minhash_settings import MinhashSettings
from curate.stages.text import unfold
from curate.stages.verdict import VERDICT_FIELDS

WORDS = [f"{a}{b}{c}" for a in "bdklmnprst" for b in "aeiou" for c in "bdklmnprst"]


def record(row: int, text: str, answer: str = "", source: str = "s", **more: object) -> Record:
    messages = [Message("user", text)] + ([Message("assistant", answer)] if answer else [])
    return Record(source, f"{source}.jsonl", row, messages, **more)


def corpus(seed: int, originals: int = 120) -> list[Record]:
    """Random texts, each with edited copies at every distance around the threshold, some copies of copies."""
    draw = random.Random(seed)
    records = []
    for _ in range(originals):
        text = draw.choices(WORDS, k=draw.randint(3, 90))
        for _ in range(draw.randint(1, 5)):
            records.append(record(len(records), " ".join(text)))
            for _ in range(draw.randint(0, 3)):
                text = list(text)
                text[draw.randrange(len(text))] = draw.choice(WORDS)
    draw.shuffle(records)
    return records


def resolve(records: Iterable[Record], settings: MinhashSettings | None = None, parts: int = 1, **more) -> pa.Table:
    stage = MinhashStage(settings or MinhashSettings())
    table = to_table(records)
    step = -(-table.num_rows // parts) if table.num_rows else 1
    cuts = [table.slice(start, step) for start in range(0, max(table.num_rows, 1), step)]
    return stage.resolve([stage.sketch(cut) for cut in cuts], more.pop("priority", {}), texts=cuts, **more)


def decided(resolved: pa.Table) -> list[tuple]:
    names = ["source", "row", "id", "twin_id", "twin_row", "similarity", "evidence"]
    return list(zip(*(resolved.column(name).to_pylist() for name in names), strict=True))


def brute(records: Sequence[Record], threshold: float, priority: dict[str, int] | None = None) -> dict[str, tuple]:
    """Every pair compared in Python, then the keep rule: id -> (twin id, similarity)."""
    sets = shingles_of(["\n".join(m.content for m in r.messages) for r in records], 5)
    table = MinhashStage(MinhashSettings()).sketch(to_table(records)).select([f.name for f in ORDER_FIELDS])
    order = keep_order(table, priority or {})
    pairs = []
    for late in range(len(order)):
        for early in range(late):
            one, two = sets[order[early]], sets[order[late]]
            if one and two and (value := len(one & two) / len(one | two)) >= threshold:
                pairs.append((early, late, value))
    left, right, value = (np.array(side) for side in zip(*pairs, strict=True))
    twin, found = survivors(len(order), left, right, value)
    return {
        records[order[at]].id: (records[order[twin[at]]].id, found[at]) for at in range(len(order)) if twin[at] >= 0
    }


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("threshold", [0.5, 0.8, 1.0])
def test_what_goes_is_what_brute_force_removes(seed, threshold):
    records = corpus(seed)
    wanted = brute(records, threshold)
    found = resolve(records, MinhashSettings(threshold=threshold, bands=200, rows=2))
    assert {one[2]: (one[3], one[5]) for one in decided(found)} == wanted
    assert len(wanted) > 50


def test_a_crowd_around_one_template_loses_no_member_and_compares_few():
    draw = random.Random(5)
    template = draw.choices(WORDS, k=60)
    records = []
    for number in range(1_500):  # Jaccard about 0.65 to each other: one component, many kept
        own = draw.choices(WORDS, k=14)
        text = " ".join(template + own)
        records.append(record(len(records), text))
        if number % 10 == 0:
            records.append(record(len(records), f"{text} {draw.choice(WORDS)}"))
    found = resolve(records)
    assert found.num_rows == 150
    counts = json.loads(found.schema.metadata[b"counts"])
    assert counts["candidates"] == 1_650
    assert counts["compared"] < 10 * len(records)


def test_the_result_does_not_depend_on_splits_order_memory_or_threads():
    records = corpus(3)
    wanted = decided(resolve(records))
    assert wanted
    shuffled = random.Random(9).sample(records, len(records))
    assert decided(resolve(shuffled, parts=7)) == wanted
    assert decided(resolve(records, parts=3, threads=1)) == wanted
    assert decided(resolve(records, MinhashSettings(memory=1 << 20), parts=2, threads=4)) == wanted


def test_a_component_larger_than_memory_is_settled_in_a_scratch_file():
    draw = random.Random(4)
    text = draw.choices(WORDS, k=3_000)
    records = []
    for row in range(60):  # 60 x 3,000 shingles of 8 bytes: more than the megabyte allowed
        text = list(text)
        text[draw.randrange(len(text))] = "changed"
        records.append(record(row, " ".join(text)))
    settings = MinhashSettings(memory=1 << 20)
    assert decided(resolve(records, settings)) == decided(resolve(records))
    assert resolve(records, settings).num_rows > 50


def test_a_chain_keeps_what_resembles_only_removed_records():
    words = [f"w{i}" for i in range(40)]
    near = [" ".join(words), " ".join(["x", "y", "z", *words[3:]]), " ".join(["x", "y", "z", *words[3:-3], *"abc"])]
    sets = shingles_of(near, 5)
    similar = [len(a & b) / len(a | b) for a, b in zip(sets, [sets[1], sets[2], sets[0]], strict=True)]
    assert similar[0] >= 0.8 > similar[2]
    assert similar[1] >= 0.8
    found = resolve([record(row, text) for row, text in enumerate(near)])
    assert found.column("row").to_pylist() == [1]
    assert found.column("twin_row").to_pylist() == [0]


def test_the_keep_rule_priority_then_score_then_longer_answer_then_place():
    same = "one and the same question that many people ask"
    answer = "an answer with a good number of words so that one more word hardly matters at all here"
    longer = answer + " indeed"
    a = record(0, same, answer, source="a")
    b = record(0, same, longer, source="b")
    c = record(1, same, longer, source="b", score=0.1)
    d = record(2, same, answer, source="c", score=float("nan"))
    assert set(resolve([a, b, c, d]).column("twin_id").to_pylist()) == {c.id}
    assert set(resolve([a, b, d]).column("twin_id").to_pylist()) == {b.id}
    assert set(resolve([a, d]).column("twin_id").to_pylist()) == {a.id}
    assert set(resolve([a, b, c, d], priority={"c": 1}).column("twin_id").to_pylist()) == {d.id}


def test_a_record_already_gone_neither_goes_nor_takes_others_with_it():
    text = "these seven words are said three times"
    records = [record(row, text) for row in range(3)]
    found = resolve(records, gone=[np.array([0])])
    assert found.column("row").to_pylist() == [2]
    assert found.column("twin_row").to_pylist() == [1]


def test_verdicts_name_twin_jaccard_and_the_longest_shared_spans():
    here = record(
        1, "Say: “The QUICK brown fox jumps over the lazy dog” twice in a loud voice, then stop and rest now."
    )
    twin = record(
        0, "Say: “the quick brown fox jumps over the lazy dog” twice in a loud voice, then stop and rest.", "k"
    )
    stage = MinhashStage(MinhashSettings(threshold=0.7))
    table = to_table([twin, here])
    verdict = stage.verdicts(stage.resolve([stage.sketch(table)], {}, texts=[table]))
    assert verdict.schema.names[-len(VERDICT_FIELDS) :] == [field.name for field in VERDICT_FIELDS]
    (row,) = verdict.to_pylist()
    one, two = shingles_of([here.messages[0].content, twin.messages[0].content + "\nk"], 5)
    assert row["position"] == 1
    assert row["twin_id"] == twin.id
    assert row["similarity"] == row["value"] == len(one & two) / len(one | two)
    evidence = json.loads(row["evidence"])
    assert evidence["twin"] == {"source": "s", "file": "s.jsonl", "row": 0, "part": 0}
    (start, stop), (begin, end) = evidence["spans"][0]["here"], evidence["spans"][0]["twin"]
    assert here.messages[0].content[start:stop].lower() == twin.messages[0].content[begin:end].lower()
    assert here.messages[0].content[start:stop].startswith("Say: “The QUICK")
    assert here.messages[0].content[start:stop].endswith("and rest")


def test_spans_are_characters_of_the_text_as_written_where_normalisation_changes_lengths():
    text = "ﬁve \u0301 cafe\u0301 Ⅷ words 你好 👩‍🚀 and \u1100\u1161 few more to make a run of them"
    found = resolve([record(0, text, "same"), record(1, text.upper(), "same")], MinhashSettings(threshold=0.5))
    (evidence,) = (json.loads(one) for one in found.column("evidence").to_pylist())
    spans = evidence["spans"][0]
    assert text.upper()[slice(*spans["here"])].endswith("THEM\nSAME"[:4])
    assert spans["twin"][0] == 0
    assert text[slice(*spans["twin"])].startswith("ﬁve")


@pytest.mark.parametrize("text", ["", "?!...", "😀😀 🎉"])
def test_texts_without_words_are_nobodys_near_duplicate(text):
    assert resolve([record(row, text) for row in range(3)]).num_rows == 0


@pytest.mark.parametrize("text", ["word", "word " * 2_000_000, "مرحبا بالعالم", "ok 👍", "你好"])
def test_odd_texts_that_are_equal_keep_one(text):
    found = resolve([record(row, text) for row in range(3)])
    assert found.column("row").to_pylist() == [1, 2]
    assert found.column("similarity").to_pylist() == [1.0, 1.0]


def test_nothing_in_gives_nothing_out():
    assert resolve([]).num_rows == 0
    stage = MinhashStage(MinhashSettings())
    assert stage.resolve([], {}).num_rows == 0
    assert stage.verdicts(stage.resolve([], {})).num_rows == 0


def test_keys_take_the_messages_they_name():
    full = Record(
        "s",
        "f",
        0,
        [
            Message("system", "sys"),
            Message("user", "u1"),
            Message("assistant", None, tool_calls="[call]", reasoning="why"),
            Message("tool", "t1"),
            Message("assistant", "a2"),
        ],
    )
    bare = Record("s", "f", 1, [Message("system", "only")])
    messages = unfold(to_table([full, bare]))
    assert key_texts(messages, "conversation").to_pylist() == ["u1\nwhy\n[call]\nt1\na2", ""]
    assert key_texts(messages, "prompt").to_pylist() == ["u1\nwhy\n[call]\nt1", ""]
    assert key_texts(messages, "response").to_pylist() == ["a2", ""]
    assert key_texts(messages, "first-user").to_pylist() == ["u1", ""]


def stored(out: Path, stage: MinhashStage, tables: Sequence[pa.Table]) -> list[Path]:
    """Sketches and kept records as a run under way has them, in small batches."""
    (out / ".work/kept").mkdir(parents=True)
    (out / "sketches/minhash").mkdir(parents=True)
    for number, table in enumerate(tables):
        for path, content in (("sketches/minhash", stage.sketch(table)), (".work/kept", table)):
            with pa.ipc.new_file(str(out / path / f"{number}.arrow"), content.schema) as writer:
                writer.write_table(content, max_chunksize=40)
    return sorted((out / "sketches/minhash").iterdir())


def test_files_give_what_tables_give_and_so_do_the_records_of_a_finished_run(tmp_path: Path):
    tables = [to_table(part) for part in (corpus(6)[:150], corpus(6)[150:])]
    stage = MinhashStage(MinhashSettings(), tmp_path)
    paths = stored(tmp_path, stage, tables)
    wanted = stage.resolve([stage.sketch(table) for table in tables], {}, texts=tables)
    assert wanted.num_rows > 50
    assert stage.resolve(paths, {}).equals(wanted)
    gone = set(wanted.column("id").to_pylist())
    for folder in ("records", "removed/minhash"):
        (tmp_path / folder).mkdir(parents=True)
    for number, table in enumerate(tables):  # as a finished run leaves them: the order is another, .work is empty
        away = pa.array([one in gone for one in table.column("id").to_pylist()])
        pq.write_table(table.filter(pc.invert(away)), tmp_path / f"records/{number}.parquet")
        pq.write_table(table.filter(away), tmp_path / f"removed/minhash/{number}.parquet")
        (tmp_path / f".work/kept/{number}.arrow").unlink()
    assert stage.resolve(paths, {}).equals(wanted)
    assert not list((tmp_path / ".work").glob("gristmill*"))
    (tmp_path / "removed/minhash/0.parquet").unlink()
    with pytest.raises(DataError) as caught:
        stage.resolve(paths, {})
    assert "--overwrite" in caught.value.hint


def test_sketches_of_another_scheme_are_refused_with_a_hint():
    table = to_table([record(0, "a text of some words")])
    sketch = MinhashStage(MinhashSettings(seed=2)).sketch(table)
    with pytest.raises(UsageError) as caught:
        MinhashStage(MinhashSettings()).resolve([sketch], {}, texts=[table])
    assert "curate minhash" in caught.value.hint


@pytest.mark.shared
def test_toolformer_agrees_with_brute_force_over_all_pairs(shared: Path):
    rows = json.loads((shared / "data/sft/gpteacher/toolformer-dedupe-only-dataset.json").read_bytes())
    records = [
        record(row, one["instruction"] + (f"\n{one['input']}" if one["input"] else ""), one["response"])
        for row, one in enumerate(rows)
    ]
    texts = ["\n".join(m.content for m in r.messages) for r in records]
    sets = shingles_of(texts, 5)
    pairs = _all_pairs(sets, 0.8)
    assert len(pairs) == 917
    order = keep_order(
        MinhashStage(MinhashSettings()).sketch(to_table(records)).select([f.name for f in ORDER_FIELDS]), {}
    )
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    left, right, value = (np.array(side) for side in zip(*pairs, strict=True))
    twin, _ = survivors(len(order), rank[left], rank[right], value)
    wanted = {int(order[at]): int(order[twin[at]]) for at in np.flatnonzero(twin >= 0)}
    found = resolve(records)
    assert dict(zip(found.column("row").to_pylist(), found.column("twin_row").to_pylist(), strict=True)) == wanted
    assert len(wanted) == 463  # 561 by connected components: 98 resemble only records that are gone


def _all_pairs(sets: Sequence[set[int]], threshold: float) -> list[tuple[int, int, float]]:
    """Every pair at the threshold or above, by comparing all sets that share one of their rarest shingles."""
    often = Counter(shingle for own in sets for shingle in own)
    homes: dict[int, list[int]] = {}
    found = []
    for at, own in enumerate(sets):
        rare = sorted(own, key=lambda shingle: (often[shingle], shingle))[
            : len(own) - math.ceil(threshold * len(own)) + 1
        ]
        for other in {other for shingle in rare for other in homes.get(shingle, ())}:
            value = len(own & sets[other]) / len(own | sets[other])
            if value >= threshold:
                found.append((other, at, value))
        for shingle in rare:
            homes.setdefault(shingle, []).append(at)
    return found


def test_evidence_is_canonical_json():
    text = "ünïcode “names” in a place too, with words enough to share"
    found = resolve([record(0, text, source="ä/ö"), record(1, text, source="ä/ö")])
    (evidence,) = found.column("evidence").to_pylist()
    assert evidence == canonical(json.loads(evidence))


def test_a_machine_without_a_writable_cache_still_compiles(tmp_path: Path):
    (tmp_path / "file").write_text("not a folder")
    code = "from curate.shingles import join_words; import numpy as np; o = np.zeros(2, np.uint64); print(join_words(o, 2, 1, o))"
    place = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "file" / "cache")}
    done = subprocess.run([sys.executable, "-c", code], env=place, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr
