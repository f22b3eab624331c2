"""The kernels of decontamination find what plain Python finds, no more and no less, rule by rule."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.contamination.decide import Columns
from curate.contamination.tokens import OPERATORS, token_hash, tokenise, tokens
from curate.foundation.store import Store, canonical
from curate.record import Message, Record, to_table
from curate.stages.decontaminate import DecontaminateStage
from curate.stages.decontaminate_settings import RULES, DecontaminateSettings
from curate.words import words

sys.path.insert(0, str(Path(__file__).parents[1]))
import contamination_reference as reference

OFF = dict.fromkeys(RULES, "off")
NO_GUARD = {"boilerplate": {"items": 3, "share": 1.0}}


def stage_for(folder, items, **more):
    """A stage whose index holds `items`: (eval, question, answer)."""
    from curate.contamination.building import build_index
    from curate.contamination.index import write
    from curate.contamination.rules import rules_for

    chosen = DecontaminateSettings.model_validate(more)
    items = sorted(items, key=lambda item: item[0])
    rows = [
        {"eval": name, "item": str(number), "question": question, "answer": answer}
        for number, (name, question, answer) in enumerate(items)
    ]
    kinds = [
        ("eval", pa.string()),
        ("item", pa.string()),
        ("question", pa.large_string()),
        ("answer", pa.large_string()),
    ]
    table = pa.Table.from_pylist(rows, schema=pa.schema(kinds))
    names = sorted({item[0] for item in items})
    store = Store(folder, "records")
    write(build_index(table, rules_for(chosen, names), chosen.boilerplate.items), store, "index")
    about = {name: {"items": 0, "digest": "", "origin": {}, "licence": ""} for name in names}
    store.write_bytes("index/sets.json", canonical(about).encode())
    return DecontaminateStage(chosen, folder / "index"), items


def matches(stage, texts, replies=None):
    """(text, item, rule) -> score, by the stage, each text a user turn of its own record."""
    from curate.contamination.decide import decide
    from curate.stages.decontaminate import gather

    replies = replies or [None] * len(texts)
    records = [
        Record("s", "s.jsonl", row, [Message("user", text)] + ([Message("assistant", reply)] if reply else []))
        for row, (text, reply) in enumerate(zip(texts, replies, strict=True))
    ]
    sketched = stage.sketch(to_table(records))
    kept, hits, total = gather([sketched], None)
    found: Columns = decide(stage.index, stage.rules, hits, total, stage.settings.boilerplate).matches
    rows = kept.column("position").to_pylist()
    return {
        (rows[record], item, RULES[rule]): score
        for record, item, rule, score in zip(
            *(found[name].tolist() for name in ("record", "item", "rule", "score")), strict=True
        )
    }


VOCABULARY = ["a", "b", "the", "of", "is", "x", "2", "+", "-", "=", "sum", "数", "é", "Σ", "ﬁne", "٣"]


def corpus(seed):
    """Items of a small vocabulary, so that much is shared, and texts that hold them whole, cut, edited or not at all."""
    draw = random.Random(seed)

    def line(low, high):
        return " ".join(draw.choice(VOCABULARY) for _ in range(draw.randint(low, high)))

    items = [(draw.choice(["one", "two"]), line(1, 30), draw.choice([None, line(1, 6)])) for _ in range(60)]
    items += [(name, question, answer) for name, question, answer in items[:4] for _ in range(2)]
    texts, replies = [], []
    for _ in range(80):
        _, question, answer = draw.choice(items)
        parts = question.split(" ")
        kind = draw.randrange(5)
        if kind == 0:
            parts = parts[: max(1, int(len(parts) * 0.6))]
        elif kind == 1:
            parts = [draw.choice(VOCABULARY) if draw.random() < 0.15 else part for part in parts]
        text = " ".join([line(0, 12), *parts, line(0, 12) if kind > 2 else ""]).strip()
        texts.append(text.upper() if draw.random() < 0.2 else text)
        replies.append(draw.choice([None, answer, f"{answer} {line(0, 4)}" if answer else None]))
    return items, texts, replies


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("size", "operators", "threshold"), [(8, True, 0.5), (3, True, 0.3), (5, False, 0.0)])
def test_ngram_coverage_is_that_of_plain_python(tmp_path, seed, size, operators, threshold):
    items, texts, _ = corpus(seed)
    rule = {"state": "on", "size": size, "operators": operators, "threshold": threshold}
    stage, items = stage_for(tmp_path, items, **{**OFF, "ngram": rule}, **NO_GUARD)
    split = tokens if operators else words
    wanted = reference.ngram_matches(items, texts, size, threshold, split)
    assert matches(stage, texts) == pytest.approx({(*key, "ngram"): score for key, score in wanted.items()})
    assert wanted


@pytest.mark.parametrize("seed", range(6))
def test_any_ngram_is_that_of_plain_python(tmp_path, seed):
    items, texts, _ = corpus(seed)
    stage, items = stage_for(tmp_path, items, **{**OFF, "any13": {"state": "flag", "size": 6}}, **NO_GUARD)
    wanted = reference.ngram_matches(items, texts, 6, 0.0, words)
    assert matches(stage, texts) == pytest.approx({(*key, "any13"): score for key, score in wanted.items()})


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("threshold", "window"), [(0.7, 1.5), (0.5, 1.0), (0.9, 3.0)])
def test_windowed_bigram_containment_is_that_of_plain_python(tmp_path, seed, threshold, window):
    items, texts, _ = corpus(seed)
    rule = {"state": "on", "threshold": threshold, "window": window, "sure": 1}
    stage, items = stage_for(tmp_path, items, **{**OFF, "bigram": rule}, **NO_GUARD)
    wanted = reference.bigram_matches(items, texts, threshold, window)
    short = stage.index.short
    found = {key: score for key, score in matches(stage, texts).items() if not short[key[1]]}
    assert found == pytest.approx({(*key, "bigram"): score for key, score in wanted.items()})
    assert wanted


@pytest.mark.parametrize("seed", range(6))
def test_answers_are_those_of_plain_python(tmp_path, seed):
    items, texts, replies = corpus(seed)
    stage, items = stage_for(tmp_path, items, **{**OFF, "answer": {"state": "on", "least": 3}}, **NO_GUARD)
    wanted = reference.answer_matches(items, texts, replies, least=3)
    assert set(matches(stage, texts, replies)) == {(*key, "answer") for key in wanted}
    assert wanted


@given(st.lists(st.text(max_size=40), max_size=12))
@settings(max_examples=150, deadline=None)
def test_tokens_are_hashed_as_plain_python_splits_them(texts):
    found = tokenise(pa.array(texts, pa.large_string()))
    for item, text in enumerate(texts):
        every = [token_hash(token) for token in tokens(text)]
        assert found.every[found.at[item] : found.at[item + 1]].tolist() == every
        said = [token_hash(word) for word in words(text)]
        assert found.words[found.word_at[item] : found.word_at[item + 1]].tolist() == said
        assert [token for token in tokens(text) if token not in OPERATORS] == words(text)


def test_a_hyphen_inside_a_word_is_no_operator():
    assert tokens("step-by-step and/or x-y a-b2 3-4 e-mail") == [
        *("step", "by", "step", "and", "or", "x", "-", "y", "a", "-", "b2", "3", "-", "4", "e", "mail")
    ]
    texts = ["step-by-step and/or x-y a-b2 3-4 e-mail", "ab－cd", "é-mail", "-a", "a-", "ab-", "x－y a/b cd/e"]
    found = tokenise(pa.array(texts, pa.large_string()))
    wanted = [token_hash(token) for text in texts for token in tokens(text)]
    assert found.every.tolist() == wanted


def test_operators_are_tokens_and_signs_that_print_alike_are_the_same():
    assert tokens("x−2 ×3 ＝ y^2") == tokens("x-2 *3 = y^2") == ["x", "-", "2", "*", "3", "=", "y", "^", "2"]


LONG_ANSWER = "She sells nine eggs at two dollars every day of the week."
ASKED = (
    "Janet keeps sixteen ducks that lay one egg each and sells what is left over at the market. How much does she make?"
)


@pytest.mark.parametrize("answer", [f"{LONG_ANSWER}\n#### 8417", "8417", "Lisbon"])
@pytest.mark.parametrize("rule", ["ngram", "bigram", "any13", "answer"])
def test_no_sample_of_the_card_prints_an_answer(tmp_path, rule, answer):
    last = answer.rpartition("#### ")[2]
    half = len(ASKED) // 2
    texts = [
        f"{answer} is what we want. {ASKED} {answer}",
        f"So {answer}: {ASKED[:half]} ({last}) {ASKED[half:]} The answer is {answer}!",
        f"{ASKED}\nAnswer: {answer}",
        f"{ASKED.upper()}\n{answer.upper()}",
    ]
    more = {**OFF, rule: {"state": "on", "threshold": 0.5} if rule in ("ngram", "bigram") else "on"}
    stage, _ = stage_for(tmp_path, [("quiz", ASKED, answer)], **more)
    table = to_table(Record("s", "s.jsonl", row, [Message("user", text)]) for row, text in enumerate(texts))
    samples = stage.facts(stage.resolve([stage.sketch(table)], {}))["samples"]
    assert len(samples) >= 3
    for sample in samples:
        shown = "".join(part for side in ("record", "question") for part, _ in sample[side]).lower()
        assert "janet" in shown
        for line in answer.lower().replace("#### ", "").splitlines():
            assert line not in shown
