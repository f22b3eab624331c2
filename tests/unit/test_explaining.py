"""`curate explain`: why a record went and for whom, whatever stage judged it, with the texts and what they share."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.explaining import explain, explain_text
from curate.foundation.errors import UsageError
from curate.foundation.store import Store, canonical
from curate.record import Message, Record, to_table
from curate.stages.verdict import VERDICT_FIELDS

QUESTION = "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May."


def record(row, text, answer="fine"):
    return Record("s", "s.jsonl", row, [Message("user", text), Message("assistant", answer)])


KEPT = record(0, "the quick brown fox jumps over the lazy dog and runs away")
NEAR = record(1, "Well, the quick BROWN fox jumps over the lazy dog and sleeps", "other words entirely")
COPY = record(2, "the  quick brown fox jumps over the lazy dog and runs away")
LEAK = record(3, f"Solve this. {QUESTION} How many clips?")
LONE = record(4, "so \ufffd odd")
OLD = record(5, "an older text that another output holds already")


def verdict(stage, rule, evidence, twin=None, similarity=None, value=None, threshold=0.8):
    return {
        "stage": stage, "rule": rule, "value": value if value is not None else similarity, "threshold": threshold,
        "twin_id": twin, "evidence": canonical(evidence), "similarity": similarity,
    }  # fmt: skip


def place(of, **more):
    return {"source": of.source, "file": of.file, "row": of.row, "part": of.part, **more}


NEAR_SPANS = [{"here": [6, 50], "twin": [0, 44]}]
VERDICTS = {
    "minhash": (NEAR, verdict("minhash", "prompt", {"key": "prompt", "spans": NEAR_SPANS, "twin": place(KEPT)}, KEPT.id, 0.81)),
    "exact": (COPY, verdict("exact", "conversation", {"twin": place(KEPT), "group": 2}, KEPT.id, 1.0)),
    "decontaminate": (LEAK, verdict("decontaminate", "bigram", {
        "eval": "gsm8k", "item": "7", "item_text": QUESTION, "rule": "bigram", "scope": "user", "message": 0, "offset": 100,
        "others": 0, "spans": [{"here": [112, 112 + len(QUESTION)], "item": [0, len(QUESTION)]}],
    }, "gsm8k#7", 0.97)),
    "quality": (LONE, verdict("quality", "encoding.replacement", {"message": 0, "spans": [[3, 4]]}, value=1.0)),
    "embedding": (OLD, verdict("embedding", "prompt", {
        "key": "prompt", "spans": [], "twin": place(KEPT, folder="gone/"), "cut": True}, "ab" * 16, 0.97)),
}  # fmt: skip


def with_verdict(of, values):
    table = to_table([of])
    for field in VERDICT_FIELDS:
        table = table.append_column(field, pa.array([values[field.name]], field.type))
    return table


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    root = tmp_path_factory.mktemp("out")
    store = Store(root, "records")
    tables = {"records/a.parquet": to_table([KEPT])}
    tables |= {f"removed/{stage}/a.parquet": with_verdict(*pair) for stage, pair in VERDICTS.items()}
    flag = with_verdict(
        NEAR, verdict("quality", "refusal", {"message": 1, "spans": [[0, 5]]}, value=1.0, threshold=1.0)
    )
    tables["flags/a.parquet"] = flag.select(["id", "source", *(field.name for field in VERDICT_FIELDS)])
    for name, table in tables.items():
        with store.writing(name) as temp:
            pq.write_table(table, temp)
    store.commit({"units": []}, list(tables))
    return root


def of(out, record):
    (entry,) = explain(out, record.id)["matches"]
    return entry


def marked(side):
    return [side["text"][a:b] for a, b in side["spans"]]


def test_a_near_duplicate_shows_both_texts_with_the_shared_part(out):
    entry = of(out, NEAR)
    removal, flag = entry["comparisons"]
    assert entry["state"] == "removed" and entry["verdict"]["similarity"] == 0.81 and removal["key"] == "prompt"
    assert [text.lower() for text in marked(removal["here"])] == marked(removal["there"]) != []
    assert removal["there"]["id"] == KEPT.id and removal["there"]["text"] == KEPT.messages[0].content
    assert [item["rule"] for item in entry["flags"]] == ["refusal"] and marked(flag["here"]) == ["other"]
    text = explain_text({"matches": [entry]}, colour=False)
    assert "Well, [[the quick BROWN fox" in text and "removed by minhash.prompt" in text
    assert "flagged by quality.refusal" in text and "[[other]] words" in text


def test_an_exact_copy_is_marked_whole(out):
    (removal,) = of(out, COPY)["comparisons"]
    assert marked(removal["here"]) == ["the  quick brown fox jumps over the lazy dog and runs away\nfine"]
    assert marked(removal["there"]) == ["the quick brown fox jumps over the lazy dog and runs away\nfine"]


def test_a_leak_shows_the_item_beside_the_message_that_holds_it(out):
    entry = of(out, LEAK)
    (removal,) = entry["comparisons"]
    assert marked(removal["here"]) == marked(removal["there"]) == [QUESTION]
    assert entry["twin"] == [] and removal["there"]["title"] == "gsm8k, item 7"
    assert "gsm8k item 7" in explain_text({"matches": [entry]}, colour=False)


def test_a_rule_of_one_record_marks_what_it_found(out):
    (removal,) = of(out, LONE)["comparisons"]
    assert marked(removal["here"]) == ["\ufffd"] and removal["there"] is None


def test_a_twin_of_an_earlier_output_that_is_gone_is_named(out):
    entry = of(out, OLD)
    assert entry["comparisons"][0]["there"] is None
    text = explain_text({"matches": [entry]}, colour=False)
    assert "of gone/) is not to be found" in text and "an older text" in text


def test_a_twin_of_an_earlier_output_is_read_there(out, tmp_path):
    root, store = tmp_path / "new", Store(tmp_path / "new", "records")
    told = {"key": "prompt", "spans": NEAR_SPANS, "twin": place(KEPT, folder=str(out))}
    with store.writing("removed/minhash/a.parquet") as temp:
        pq.write_table(with_verdict(NEAR, verdict("minhash", "prompt", told, KEPT.id, 0.81)), temp)
    store.commit({"units": []}, ["removed/minhash/a.parquet"])
    (removal,) = of(root, NEAR)["comparisons"]
    assert removal["there"]["text"] == KEPT.messages[0].content and str(out) in removal["there"]["title"]


def test_a_kept_record_lists_what_went_for_its_sake(out):
    entry = of(out, KEPT)
    assert entry["state"] == "kept" and "verdict" not in entry and entry["comparisons"] == []
    assert entry["kept_for"]["removed"] == 2
    assert [row["id"] for row in entry["kept_for"]["records"]] == [COPY.id, NEAR.id]
    text = explain_text({"matches": [entry]}, colour=False)
    assert "2 removed for its sake" in text and NEAR.id in text and "lazy dog" in text


def test_json_holds_everything_and_survives_a_round_trip(out):
    for values, _ in VERDICTS.values():
        found = explain(out, values.id)
        assert json.loads(json.dumps(found)) == found


def test_an_unknown_id_is_an_error(out):
    with pytest.raises(UsageError, match="no record"):
        explain(out, "0" * 32)
