"""The answer parser: the first marker, numbers in any dress, LaTeX that means the same; labels that others gave."""

import json
import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.scoring import Said, extract, judge, lines, score, wilson
from train.tasks.answers import (
    after,
    boxed,
    equal_latex,
    equal_numbers,
    marked_number,
    number,
    runs_on,
    written,
)
from train.tasks.items import Item


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("5 + 5 = 10\n#### 10", "10"),
        ("#### 1,234", "1234"),
        ("#### -7", "-7"),
        ("#### $18.00", "18"),
        ("#### -$5", "-5"),
        ("#### $-5", "-5"),
        ("#### \u22125", "-5"),
        ("#### 3.50 dollars", "3.5"),
        ("#### 12\n#### 13", "12"),
        ("42", "42"),
        (" 42. ", "42"),
        ("007", "7"),
        ("-0", "0"),
        ("it is 42", "it is 42"),
        ("  Paris \n", "Paris"),
        ("####", ""),
    ],
)
def test_an_answer_comes_down_to(text, answer):
    assert extract(text) == answer


@given(st.decimals(-(10**12), 10**12, allow_nan=False, places=4), st.sampled_from(["", "$", "€"]), st.booleans())
def test_a_number_is_read_back_whatever_it_wears(value, coin, commas):
    text = f"{value:,f}" if commas else f"{value:f}"
    dressed = f"-{coin}{text[1:]}" if text.startswith("-") else coin + text
    assert number(dressed) == value
    assert marked_number(f"so it is 3\n#### {dressed}\nand 7") == written(value)
    assert Decimal(written(value)) == value and equal_numbers(dressed, written(value))


@given(st.integers(-(10**15), 10**15), st.integers(1, 10**6))
def test_the_tolerance_is_a_millionth_of_the_reference(value, off):
    assert equal_numbers(f"{value}.0000000", str(value))
    assert equal_numbers(str(value + off), str(value)) == (off * 10**6 <= abs(value))


@given(st.text())
def test_any_text_has_a_defined_answer(text):
    for kind in ("number", "latex", "answer", "code", "open"):
        told = judge(Item("q", "#### 1", kind), Said(text, True))
        assert told.outcome and (told.correct is None or isinstance(told.correct, bool))
    assert marked_number(text) is None or number(marked_number(text)) is not None


@pytest.mark.parametrize(
    "text", ["1e999999999", "9" * 5000, "1.2.3", "1-2", "--5", "", "$", "one", "0x10", "nan", "inf"]
)
def test_what_is_no_number_is_none(text):
    assert number(text) is None


@pytest.mark.parametrize(
    ("response", "ended", "bucket"),
    [
        ("2 + 2 = 4\n#### 4", True, "correct"),
        ("#### 4\n\nQuestion: another", False, "correct"),
        ("#### 5", True, "wrong number"),
        ("#### 5\n#### 4", True, "runs on"),
        ("#### 5\nQuestion: and then", False, "runs on"),
        ("it is 4", True, "no marker"),
        ("#### none", True, "no marker"),
        ("it is 4 because", False, "cut off"),
        ("", True, "no marker"),
    ],
)
def test_every_mistake_has_one_bucket(response, ended, bucket):
    assert judge(Item("2 + 2", "#### 4", "number"), Said(response, ended)).outcome == bucket


def test_buckets_add_up_and_running_on_is_counted_apart():
    texts = ["#### 4", "#### 4\nmore", "#### 5\nmore", "#### 5", "four"]
    told = score(
        [judge(Item("2 + 2", "#### 4", "number", str(n % 2)), Said(text, True)) for n, text in enumerate(texts)]
    )
    assert sum(count for _, count in told.buckets) == told.total == 5
    assert dict(told.buckets) == {"correct": 2, "runs on": 1, "wrong number": 1, "no marker": 1} and told.runs_on == 2
    assert told.by_level == (("0", 1, 3), ("1", 1, 2))
    assert "40.0% (2 of 5" in lines(told)[0]


def test_a_stop_string_counts_as_running_on():
    told = judge(Item("q", "#### 4", "number"), Said("#### 5", False, halted=True))
    assert told.outcome == "runs on" and told.runs_on and not told.stopped


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (r"\frac12", r"\dfrac{1}{2}"),
        ("0.5", r"\frac{1}{2}"),
        ("1/2", r"\frac{1}{2}"),
        ("-1/2", r"-\frac{1}{2}"),
        (r"\frac{-1}{2}", r"-\frac{1}{2}"),
        (r"3\frac{1}{2}", "3.5"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"),
        (r"x = 5", "5"),
        (r"x \in [2, 3]", "[2,3]"),
        ("1,000,000", "1000000"),
        (r"\$18.50", "18.5"),
        (r"50\%", "50"),
        (r"\text{Friday}", "friday"),
        (r"162\text{ minutes}", "162"),
        (r"0.25\,\text{ cm}", "0.25"),
        (r"10\text{ cm}^2", "10"),
        (r"45^\circ", "45"),
        (r"\sqrt2", r"\sqrt{2}"),
        (r"\begin{pmatrix} 0 \\ -2 \end{pmatrix}", r"\begin{pmatrix}0\\-2\end{pmatrix}"),
        (".5", "0.50"),
    ],
)
def test_latex_that_means_the_same_is_equal(ours, theirs):
    assert equal_latex(ours, theirs) and equal_latex(theirs, ours)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("(1,2)", "(1,3)"),
        ("(1,234)", "(1234)"),
        ("-2", "2"),
        (r"\frac{1}{2}", r"\frac{2}{1}"),
        ("2x", "2y"),
        (r"\sqrt{2}", "2"),
        ("x^{12}", "x^{1}2"),
        ("", "1"),
    ],
)
def test_latex_that_differs_is_not(ours, theirs):
    assert not equal_latex(ours, theirs)


def test_the_first_box_counts_and_braces_balance():
    text = r"so \boxed{\frac{1}{2}} or \boxed{3}"
    assert boxed(text) == r"\frac{1}{2}" and boxed(text, last=True) == "3"
    assert boxed(r"\fbox{7}") == "7" and boxed(r"\boxed 9$") == "9" and boxed(r"\boxed{\{1, 2\}}") == r"\{1, 2\}"
    assert boxed(r"\boxed{1") is None and boxed("none") is None
    assert after("a #### b\nc") == "b" and after("a") is None and runs_on("#### 1\nc") and not runs_on("#### 1\n")


def test_the_interval_is_wilsons():
    low, high = wilson(8, 10)
    assert low == pytest.approx(0.4901625, abs=1e-6) and high == pytest.approx(0.9433178, abs=1e-6)
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.shared
def test_the_parser_agrees_with_all_5276_labels_of_the_gsm8k_authors(shared):
    """Their samples write `A: 18`; whether each is right was decided by them, not by us."""
    folder = shared / "data" / "eval" / "gsm8k"
    solutions, test = [
        [json.loads(line) for line in (folder / name).read_text().splitlines()]
        for name in ("example_model_solutions.jsonl", "test.jsonl")
    ]
    agree, right = 0, {}
    for row, asked in zip(solutions, test, strict=True):
        reference = marked_number(asked["answer"])
        for name, told in row.items():
            if isinstance(told, dict):
                found = equal_numbers(marked_number(told["solution"], re.compile(r"(?m)^A:")), reference)
                agree += found == told["is_correct"]
                right[name] = right.get(name, 0) + found
    assert agree == 5276 and sorted(right.values()) == [286, 458, 515, 742]


@pytest.mark.shared
def test_the_boxes_of_math_solutions_are_the_published_answers(shared):
    rows = json.loads((shared / "data" / "eval" / "math" / "math500_test.json").read_text())
    assert [row["unique_id"] for row in rows if not equal_latex(boxed(row["solution"]), row["answer"])] == []
