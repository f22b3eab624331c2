"""Rule D on multiple choice: a question with all its choices is found in any order and labelling, and nothing less is."""

from __future__ import annotations

from itertools import permutations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.contamination.offered import BUDGET, LABEL, LABELS, LEAD, LEADS, offered
from curate.contamination.tokens import token_hash
from curate.foundation.store import Store
from curate.record import Message, Record, to_table
from curate.stages.decontaminate import DecontaminateStage, gather
from curate.stages.decontaminate_settings import RULES, DecontaminateSettings

STOCK = "Which of the following is true?"
ITEMS = [
    *(
        ("quiz", STOCK, [f"copper{n} sinks", f"ice{n} floats", f"lead{n} burns", f"tin{n} sings"], None)
        for n in range(5)
    ),
    ("quiz", "Choose x.", ["+", "a dog", "b", "-"], "a dog"),
]


def stage_for(folder, items):
    from curate.contamination.building import build_index
    from curate.contamination.index import write
    from curate.contamination.rules import rules_for

    chosen = DecontaminateSettings()
    names = ("eval", "question", "choices", "answer")
    rows = [{"item": str(k)} | dict(zip(names, item, strict=True)) for k, item in enumerate(items)]
    text = pa.large_string()
    kinds = {"eval": pa.string(), "item": pa.string(), "question": text, "choices": pa.list_(text), "answer": text}
    table = pa.Table.from_pylist(rows, schema=pa.schema(kinds))
    write(build_index(table, rules_for(chosen, ["quiz"]), 3), Store(folder, "records"), "index")
    return DecontaminateStage(chosen, folder / "index")


def found(stage, *texts):
    from curate.contamination.decide import decide

    table = to_table(Record("s", "f", row, [Message("user", text)]) for row, text in enumerate(texts))
    kept, hits, total = gather([stage.sketch(table)], None)
    matches = decide(stage.index, stage.rules, hits, total, stage.settings.boilerplate).matches
    rows = kept.column("position").to_pylist()
    columns = (matches[name].tolist() for name in ("record", "item", "rule", "flag"))
    return {(rows[r], item, RULES[rule]) for r, item, rule, flag in zip(*columns, strict=True) if not flag}


@pytest.mark.parametrize(
    "choices",
    [
        "A. copper2 sinks\nB. ice2 floats\nC. lead2 burns\nD. tin2 sings\nAnswer: B",
        "(D) Tin2 sings (C) Lead2 burns (B) Ice2 floats (A) Copper2 sinks",
        "Answer choices:\n1) ice2 floats\n2) copper2 sinks\n3) tin2 sings\n4) lead2 burns",
        "- lead2 burns\n- tin2 sings\n- ice2 floats\n- copper2 sinks",
        "Options: copper2 sinks, ice2 floats, lead2 burns, or tin2 sings",
        "Pick one of the following. Option A: tin2 sings. Option B: ice2 floats. Option C: lead2 burns. Option D: copper2 sinks",
    ],
)
def test_a_stock_question_is_told_by_its_choices_in_any_order_and_labelling(tmp_path, choices):
    stage = stage_for(tmp_path, ITEMS)
    assert found(stage, f"Physics quiz.\n{STOCK}\n{choices}") == {(0, 2, "answer")}


@pytest.mark.parametrize(
    "choices",
    [
        "A. copper2 sinks\nB. ice2 floats\nC. lead2 burns",  # one is missing
        "A. copper2 sinks\nB. ice2 floats\nC. lead2 burns\nD. tin3 sings",  # one is of another item
        "copper2 quickly sinks, ice2 floats, lead2 burns, tin2 sings",  # one is edited
        "Let me think for a while about it: copper2 sinks, ice2 floats, lead2 burns, tin2 sings",  # not right after it
        "",
    ],
)
def test_a_stock_question_with_other_choices_is_not_the_item(tmp_path, choices):
    assert found(stage_for(tmp_path, ITEMS), f"{STOCK}\n{choices}") == set()


def test_a_choice_that_begins_like_a_label_and_choices_without_words_do_not_hide_an_item(tmp_path):
    stage = stage_for(tmp_path, ITEMS)
    assert (0, 5, "answer") in found(stage, "Now. Choose x. A) a dog B) + C) - D) b")


def test_items_that_share_question_and_choices_are_boilerplate(tmp_path):
    same = [("quiz", STOCK, ["yes it is", "no it is not"][:: 1 if n % 2 else -1], str(n)) for n in range(3)]
    stage = stage_for(tmp_path, [*same, ITEMS[0]])
    assert stage.index.offered.tolist() == [False, False, False, True]
    assert found(stage, f"{STOCK} yes it is or no it is not") == set()


def test_an_index_is_built_from_items_without_choices(tmp_path):
    stage = stage_for(tmp_path, [("quiz", "Who built Carthage?", None, "Dido of Tyre")])
    assert stage.index.offered.tolist() == [False]
    assert (0, 0, "answer") in found(stage, "Who built Carthage? Dido of Tyre")


def brute(after, choices):
    """Every order of the choices, with every number of words before each that may stand there."""

    def rest(at, left, fillers, most):
        if not left:
            return True
        for skip in range(most + 1):
            if any(word not in fillers for word in after[at : at + skip]) or at + skip > len(after):
                return False
            begin = at + skip
            if after[begin : begin + len(left[0])] == left[0] and rest(begin + len(left[0]), left[1:], labels, LABEL):
                return True
        return False

    labels = {token_hash(word) for word in LABELS}
    leads = labels | {token_hash(word) for word in LEADS}
    return any(rest(0, list(order), leads, LEAD) for order in permutations(choices))


WORDS = st.sampled_from(["a", "b", "x", "y", "or", "choices"]).map(token_hash)


@given(st.lists(st.lists(WORDS, min_size=1, max_size=3), min_size=2, max_size=3), st.data())
@settings(max_examples=200, deadline=None)
def test_choices_are_offered_where_some_order_of_them_is(choices, data):
    mixed = data.draw(st.permutations(choices))
    after = [word for choice in mixed for word in (*data.draw(st.lists(WORDS, max_size=2)), *choice)]
    assert offered(after, choices) == brute(after, choices)


def test_hostile_choices_cost_a_bounded_search():
    choices = [[1] * size for size in range(1, 27)]
    calls = 0

    class Counted(list):
        def __getitem__(self, key):
            nonlocal calls
            calls += 1
            return super().__getitem__(key)

    assert not offered(Counted([1] * 351 + [2]), [*choices, [3]])
    assert calls <= BUDGET * 30
