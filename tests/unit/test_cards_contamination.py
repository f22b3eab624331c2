"""The card's chapter on contamination: honest headlines, no answers, and eval text that stays text."""

from __future__ import annotations

import json
import re

from curate import facts
from curate.cards import contamination
from curate.cards.render import render_terminal, rendered

HOSTILE = (
    "<script>alert(1)</script> | [x](http://evil.example) ![i](http://evil.example/i.png) `tick` **b** @you #1 \x1b[31m"
)


def manifest(**facts):
    entry = {
        "name": "gsm8k",
        "items": 50,
        "digest": "0" * 32,
        "licence": "mit",
        "origin": {"path": "gsm8k/test.jsonl"},
        "hit_items": 3,
        "removed": 4,
        "flagged": 1,
        "undetectable": 2,
        "undetectable_items": ["test:7", "test:9"],
    }
    told = {
        "evals": [entry],
        "scope": "user",
        "heatmap": {"gsm8k": {"web": 2, "books": 1}},
        "boilerplate": [],
        **facts,
    }
    stage = {
        "name": "decontaminate",
        "records_in": 10,
        "removed": 4,
        "rules": {"ngram": {"removed": 4}, "any13": {"flagged": 1}},
    }
    stages = [{**stage, "facts": told}]
    return {
        "kind": "records",
        "totals": {"rows": 10, "records": 10, "kept": 6, "removed": 4},
        "sources": {},
        "stages": stages,
        "decontamination": contamination.summary(stages),
    }


def sample(record, question):
    return {
        "eval": "gsm8k",
        "item": "test:1",
        "rule": "ngram",
        "score": 0.9,
        "file": "a.jsonl",
        "row": 3,
        "record": record,
        "question": question,
    }


def readme(tmp_path, told):
    return rendered(tmp_path, told)["README.md"].decode()


def test_with_nothing_to_compare_against_the_headline_says_off():
    assert contamination.headline(contamination.summary([])) == "decontamination: OFF"
    ran = [{"name": "decontaminate", "removed": 0, "rules": {}, "facts": {"evals": []}}]
    assert contamination.headline(contamination.summary(ran)) == "decontamination: OFF"


def test_the_headline_counts_evals_items_records_and_what_no_rule_can_see(tmp_path):
    shown = readme(tmp_path, manifest())
    told = "against 1 eval, 50 items; 4 records removed, 1 flagged; 2 items no rule can see"
    assert f"Decontamination: {told}" in shown.replace("\\", "")
    assert (
        told in render_terminal(tmp_path, manifest()).replace("\n│ ", " ").replace(" │", "")
        or "no rule can see" in shown
    )


def test_report_only_says_that_nothing_was_removed(tmp_path):
    told = manifest(report_only=True)
    assert "report only" in contamination.headline(told["decontamination"])
    assert "nothing was removed" in readme(tmp_path, told)


def test_card_json_names_the_items_no_rule_can_see(tmp_path):
    facts = json.loads(rendered(tmp_path, manifest())["card.json"])["facts"]
    assert facts["undetectable"]["gsm8k"]["undetectable_items"] == ["test:7", "test:9"]


def test_a_source_that_hits_more_than_two_percent_of_an_eval_raises_a_warning(tmp_path):
    told = contamination.warnings(contamination.stage_facts(manifest()["stages"]))
    assert told == [
        "Contamination: source web hits 2 of 50 items of gsm8k (4.0 %)"
    ]  # books hits 1 of 50: 2 %, not more
    assert "source web hits 2 of 50" in readme(tmp_path, manifest())


def test_the_heatmap_has_a_row_an_eval_and_a_column_a_source(tmp_path):
    svg = rendered(tmp_path, manifest())["figures/contamination.svg"].decode()
    assert all(name in svg for name in ("gsm8k", "web", "books"))


def test_record_and_item_stand_side_by_side_with_the_matches_marked(tmp_path):
    record = contamination.pieces("Please solve: Tom has 3 apples and eats one.", [[14, 31]])
    told = manifest(samples=[sample(record, contamination.pieces("Tom has 3 apples.", [[0, 16]], whole=True))])
    line = next(line for line in readme(tmp_path, told).splitlines() if "Please solve" in line)
    assert "Please solve: **⟦Tom has 3 apples ⟧**" in line or "Please solve: **⟦Tom has 3 apples⟧**" in line
    assert line.count("⟦") == 2
    assert "eats one" not in line  # what follows the match may be the answer


def test_hostile_eval_text_stays_text_in_readme_figure_and_terminal(tmp_path):
    told = manifest(
        heatmap={HOSTILE: {HOSTILE: 9}},
        boilerplate=[{"eval": HOSTILE, "ngram": HOSTILE, "items": 3, "records": 4}],
        samples=[sample([[HOSTILE, True]], [[HOSTILE, False]]) | {"eval": HOSTILE, "item": HOSTILE, "file": HOSTILE}],
    )
    told["stages"][0]["facts"]["evals"][0]["name"] = HOSTILE
    files = rendered(tmp_path, told)
    shown = files["README.md"].decode()
    outside = re.sub(r"`+[^`]*`+", "", shown)
    assert "<script>" not in outside
    assert not re.search(r"(?<!\\)\]\(http://evil", outside)
    assert "\x1b" not in shown
    for line in shown.splitlines():
        if line.startswith("| ") and " repeats " in line:
            assert len(re.findall(r"(?<!\\)\|", line)) == 4  # three cells, however many bars the text has
    assert "<script>" not in files["figures/contamination.svg"].decode()
    assert "\x1b" not in render_terminal(tmp_path, told)


def test_a_long_answer_is_taken_out_wherever_it_stands():
    answer = "Janet sells nine eggs every single day.\n#### 18"
    text = "How many eggs? janet sells NINE eggs every single day. And then?"
    assert contamination.pieces(text, [], whole=True, hide=answer) == [
        ("How many eggs? ", False),
        (contamination.HIDDEN, False),
        (" And then?", False),
    ]
    shown = contamination.pieces(text, [[0, len(text)]], hide=answer)
    assert all("nine" not in part.lower() for part, _ in shown)


def test_a_short_answer_is_taken_out_of_a_record_unless_it_is_a_word_of_the_question():
    asked, text = "How many of 9 eggs are left?", "How many (it is 18, not 180) of 9 eggs are left? 18."
    spans = [[0, 8], [29, 48]]
    shown = contamination.pieces(text, spans, hide="She sells some.\n#### 18", asked=asked)
    assert (
        "".join(part for part, _ in shown) == f"How many (it is {contamination.HIDDEN}, not 180) of 9 eggs are left?…"
    )
    assert [part for part, flag in shown if flag] == ["How many", "of 9 eggs are left?"]
    shown = contamination.pieces(text, spans, hide="9", asked=asked)
    assert "".join(part for part, _ in shown) == "How many (it is 18, not 180) of 9 eggs are left?…"


def test_a_long_answer_across_the_edge_of_a_match_is_hidden_as_a_whole():
    answer = "the Phoenicians of Tyre in Lebanon"
    text = f"Who built Carthage? {answer} did"
    shown = contamination.pieces(text, [[0, 30], [40, len(text)]], hide=answer, asked="Who built Carthage?")
    assert shown == [("Who built Carthage? ", True), (contamination.HIDDEN, False), (" did", True)]


def test_pieces_keep_the_text_merge_overlaps_and_cut_what_is_long():
    assert contamination.pieces("abcdef", [[1, 3], [2, 4]], whole=True) == [("a", False), ("bcd", True), ("ef", False)]
    assert contamination.pieces("abcdef", [], whole=True) == [("abcdef", False)]
    parts = contamination.pieces("x" * 5000, [[1000, 4000]])
    assert parts[0] == ("…", False)
    assert parts[-1] == ("…", False)
    assert sum(len(part) for part, _ in parts) <= contamination.SHOWN + 2


def test_secrets_in_evidence_are_masked():
    parts = contamination.pieces("token hf_abcdefghijklmnopqrstuvwxyz012345 here", [[0, 46]], whole=True)
    assert all("hf_abcdefghijkl" not in part for part, _ in parts)


def test_the_manifest_keeps_no_text_of_a_contaminated_record_that_might_answer():
    row = {
        "id": "0" * 32,
        "source": "web",
        "origin": {"file": "a.jsonl", "row": 3},
        "messages": [{"role": "user", "content": "Solve it."}, {"role": "assistant", "content": "forty-two"}],
    }
    assert "forty-two" in facts.example(row, {"stage": "length", "rule": "long"})["text"]
    assert facts.example(row, {"stage": "decontaminate", "rule": "ngram"})["text"] == ""


def test_removed_records_of_the_stage_are_shown_in_its_own_chapter_only(tmp_path):
    told = manifest()
    told["examples"] = {
        "decontaminate.ngram": [{"id": "0", "source": "web", "file": "a", "row": 1, "text": "never here"}]
    }
    assert "never here" not in readme(tmp_path, told)
