"""The published files give the rows their README counts, and each row that gives no record has its reason."""

import json
from collections import Counter

import pytest

from curate.reading import plan, read
from curate.sources import ReadSettings

# file -> rows, records, quarantined. Rows are the README's `records`, but for the TSV (its header is no row).
EXPECTED = {
    "alpaca/alpaca_cleaned_first_1000.json": (1000, 1000, 0),
    "alpaca/alpaca_data.json.gz": (52002, 52002, 0),
    "alpaca/alpaca_gpt4_en_demo.json": (999, 999, 0),
    "alpaca/alpaca_libre_tasks_v1.jsonl": (2375, 2375, 0),
    "alpaca/alpaca_libre_tasks_v2.jsonl": (2294, 2280, 14),
    "alpaca/alpaca_zh_demo.json": (1000, 1000, 0),
    "alpaca/identity.json": (91, 91, 0),
    "chat/dolly_hhrlhf_train_small.jsonl": (1000, 1000, 0),
    "chat/fastchat_dummy_conversation.json": (500, 500, 0),
    "chat/glaive_toolcall_en_demo.json": (300, 300, 0),
    "chat/moss_conversations.jsonl.gz": (1120, 1120, 0),
    "chat/oasst_en_100_tree.jsonl": (100, 546, 0),  # 400 paths end with the assistant, 146 more are cut back to it
    "chat/reason_tool_use_demo_50.jsonl": (50, 50, 0),
    "chat/sgd_train_dialogues_001.json.gz": (128, 128, 0),
    "chat/sgd_train_dialogues_002.json.gz": (128, 128, 0),
    "chat/sgd_train_dialogues_003.json.gz": (128, 128, 0),
    "chat/sgd_train_schema.json": (26, 0, 26),
    "chat/tau_bench_gpt-4o-airline.json": (200, 200, 0),
    "chat/ultrafeedback_train_prefs.jsonl": (500, 0, 500),
    "chat/v1_sft_demo.jsonl": (500, 500, 0),
    "code/code_alpaca_2k.json": (2017, 2017, 0),
    "code/new_codealpaca.json": (4535, 4535, 0),
    "gpteacher/codegen-instruct.json": (4535, 4535, 0),
    "gpteacher/roleplay-simple-deduped-roleplay-instruct.json": (1923, 1923, 0),
    "gpteacher/toolformer-dedupe-only-dataset.json": (7673, 7673, 0),
    "lima/lima.json": (1029, 1029, 0),
    "math/camel_star_gsm8k_part1.json": (1869, 1869, 0),
    "math/camel_star_gsm8k_part2.json": (1868, 1868, 0),
    "math/camel_star_gsm8k_part3.json": (1868, 1868, 0),
    "math/camel_star_gsm8k_part4.json": (1868, 1868, 0),
    "math/gsm_8k_train_alpaca.json": (7473, 7473, 0),
    "math/metamath_GSM8K_Backward.jsonl": (1270, 1270, 0),
    "math/screl_train_use.jsonl": (7473, 7473, 0),
    "self_instruct/seed_tasks.jsonl": (175, 175, 0),
    "self_instruct/user_oriented_instructions.jsonl": (252, 252, 0),
    "t0_train/t0_train.jsonl.zst": (50410, 50410, 0),
    "t0_train/t0_train_index.tsv": (269, 0, 269),
}
SCENARIO = [
    *("alpaca/alpaca_data.json.gz", "alpaca/alpaca_gpt4_en_demo.json", "alpaca/alpaca_cleaned_first_1000.json"),
    *("code/code_alpaca_2k.json", "code/new_codealpaca.json", "gpteacher/codegen-instruct.json"),
    *("math/gsm_8k_train_alpaca.json", "math/screl_train_use.jsonl"),
    *(f"math/camel_star_gsm8k_part{n}.json" for n in (1, 2, 3, 4)),
]


@pytest.fixture(scope="module")
def everything(shared):
    settings = ReadSettings()
    out = {}
    for unit in plan(shared / "data" / "sft", settings, {}).units:
        out.setdefault(unit.file, []).extend(read(unit, settings))
    return out


@pytest.mark.shared
def test_every_row_of_every_file_is_accounted_for(everything):
    counted = {
        file: (sum(b.rows for b in own), sum(b.table.num_rows for b in own), sum(len(b.quarantined) for b in own))
        for file, own in everything.items()
    }
    assert counted == EXPECTED
    for file, own in everything.items():
        gave = {row for batch in own for row in batch.table["origin"].combine_chunks().field("row").to_pylist()}
        assert len(gave) + EXPECTED[file][2] == EXPECTED[file][0], file


@pytest.mark.shared
def test_the_fourteen_malformed_lines_are_named(everything, shared):
    bad = [item for batch in everything["alpaca/alpaca_libre_tasks_v2.jsonl"] for item in batch.quarantined]
    lines = (shared / "data/sft/alpaca/alpaca_libre_tasks_v2.jsonl").read_text().split("\n")
    assert [item.row for item in bad] == [n for n, line in enumerate(lines) if '"input": """"' in line]
    assert all(item.reason.startswith("malformed JSON") for item in bad) and len(bad) == 14


@pytest.mark.shared
def test_reasons_say_what_is_missing(everything):
    for file, word in (
        ("chat/sgd_train_schema.json", "no known format"),
        ("t0_train/t0_train_index.tsv", "no known format"),
        ("chat/ultrafeedback_train_prefs.jsonl", "preference row"),
    ):
        reasons = Counter(item.reason.split(":")[0] for batch in everything[file] for item in batch.quarantined)
        assert set(reasons) == {word}


def texts_below(nodes):
    """The texts of some reply trees."""
    texts = set()
    while nodes:
        texts |= {node["text"] for node in nodes}
        nodes = [below for node in nodes for below in node.get("replies") or []]
    return texts


@pytest.mark.shared
def test_no_text_of_a_reply_tree_is_lost(everything, shared):
    """1,167 texts; 30 of them are prompts nobody answered, beside one that was answered."""
    name = "chat/oasst_en_100_tree.jsonl"
    rows = [row for batch in everything[name] for row in batch.table.to_pylist()]
    kept = {message["content"] for row in rows for message in row["messages"]}
    kept |= texts_below([node for row in rows for node in json.loads(row["extra"]).get("unanswered", [])])
    with (shared / "data/sft" / name).open() as file:
        wanted = texts_below([json.loads(line)["prompt"] for line in file])
    assert len(wanted) > 1_000 and not wanted - kept


@pytest.mark.shared
def test_the_chosen_side_is_kept_on_request_and_the_rejected_one_is_extra(shared):
    settings = ReadSettings(preference="chosen")
    (unit,) = plan(shared / "data/sft/chat/ultrafeedback_train_prefs.jsonl", settings, {}).units
    rows = [row for batch in read(unit, settings) for row in batch.table.to_pylist()]
    assert len(rows) == 500 and all('"rejected":' in row["extra"] for row in rows)


@pytest.mark.shared
def test_prompt_and_response_are_read_alike_across_schemas(everything):
    """Scenario 1: of these files and GSM8K train, 66,045 prompts are distinct; GSM8K's own questions are in two of them."""
    pairs = Counter()
    for file in SCENARIO:
        for batch in everything[file]:
            for messages in batch.table["messages"].to_pylist():
                user, assistant = messages
                pairs[user["content"], assistant["content"]] += 1
    assert pairs.total() == 94_980 - 7_473
    assert len({user for user, _ in pairs}) == 66_045


@pytest.mark.shared
def test_tool_calls_and_roles_match_the_hand_counts(everything):
    def count(file):
        out = Counter()
        for batch in everything[file]:
            for messages in batch.table["messages"].to_pylist():
                for message in messages:
                    out[message["role"]] += 1
                    out["calls"] += message["tool_calls"] is not None
                    out["empty"] += message["content"] is None
                    out["reasoning"] += message["reasoning"] is not None
                    out["untrained"] += not message["train"]
        return {key: value for key, value in out.items() if value}

    assert count("chat/tau_bench_gpt-4o-airline.json") == {
        "system": 200,
        "user": 1490,
        "assistant": 2454,
        "tool": 1164,
        "calls": 1164,
        "empty": 1074,
    }
    glaive = count("chat/glaive_toolcall_en_demo.json")
    assert glaive == {"user": 746, "assistant": 746 + 211, "tool": 211, "calls": 211, "empty": 211}
    assert count("chat/v1_sft_demo.jsonl") == {"user": 500, "assistant": 500, "untrained": 500}
    typed = count("chat/reason_tool_use_demo_50.jsonl")
    assert typed["reasoning"] == 112 and typed["calls"] == 53
