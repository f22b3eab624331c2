"""Items of every task by their columns, subsets by seed, examples from the train split alone, programs as they are run."""

import json

import pytest

from curate.foundation.errors import DataError, Offline, UsageError
from train.scoring import Said, executed, judge
from train.tasks import programs
from train.tasks.items import Task, examples, item_of, read_items, subset
from train.tasks.sandbox import execute


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sums(count, start=0):
    return [
        {"question": f"{n} + 1?", "answer": f"{n} + 1 = {n + 1}\n#### {n + 1}"} for n in range(start, start + count)
    ]


def test_a_broken_task_names_its_row(tmp_path):
    task = tmp_path / "task.jsonl"
    task.write_text('{"prompt": "1+1", "answer": 2}\n{"unknown": "x"}\n')
    with pytest.raises(DataError, match="row 2"):
        read_items(task)
    assert read_items(task, 1)[0].answer == "2"
    with pytest.raises(UsageError, match="no such file"):
        read_items(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="holds no items"):
        read_items(lines(tmp_path / "empty.jsonl", []))


@pytest.mark.parametrize(
    ("row", "kind", "level"),
    [
        ({"question": "q", "answer": "so\n#### 4"}, "number", None),
        ({"problem": "q", "solution": r"so \boxed{4}", "level": "Level 3"}, "latex", "3"),
        ({"problem": "q", "solution": ""}, "open", None),
        ({"prompt": "q", "answer": 4, "difficulty": "hard"}, "answer", "hard"),
        ({"text": "q", "code": "x = 1", "test_list": ["assert x"]}, "code", None),
        (
            {
                "prompt": "def f():\n",
                "test": "def check(f): pass",
                "entry_point": "f",
                "canonical_solution": "    pass",
            },
            "code",
            None,
        ),
        ({"description": "q", "public_tests": {"input": ["1"], "output": ["2"]}, "difficulty": 2}, "code", "medium"),
        ({"description": "q", "public_tests": {"input": ["1"], "output": ["2"]}, "difficulty": 8}, "code", "B"),
    ],
)
def test_the_kind_of_an_item_is_told_by_its_columns(row, kind, level):
    item = item_of(row)
    assert item.kind == kind and item.level == level and item.prompt


def test_multiple_choice_is_refused_with_where_to_go(tmp_path):
    with pytest.raises(DataError, match="lm-eval"):
        read_items(lines(tmp_path / "t.jsonl", [{"question": "q", "choices": ["a", "b"], "answer": 0}]))


def test_a_subset_depends_on_the_seed_and_not_on_the_file(tmp_path):
    items = read_items(lines(tmp_path / "t.jsonl", sums(50)))
    drawn = {item.ident for item in subset(items, 10, 1)}
    assert drawn == {item.ident for item in subset(items[::-1], 10, 1)} and len(drawn) == 10
    assert drawn != {item.ident for item in subset(items, 10, 2)}
    assert {item.ident for item in subset(items, 5, 1)} < drawn, "fewer are a part of more"
    assert subset(items, None, 1) == items == subset(items, 99, 1)


def test_examples_come_from_the_train_split_and_are_never_asked(tmp_path):
    lines(tmp_path / "test.jsonl", sums(5))
    lines(tmp_path / "train.jsonl", sums(8))  # five of them are test questions
    task = Task.of("gsm8k", tmp_path)
    asked = task.items()
    drawn = examples(task, 3, 0, asked)
    assert {item.prompt for item in drawn} == {"5 + 1?", "6 + 1?", "7 + 1?"}
    assert drawn == examples(task, 3, 0, asked)
    with pytest.raises(UsageError, match="train split of gsm8k has 3"):
        examples(task, 4, 0, asked)
    assert examples(Task.of("gsm8k", tmp_path / "test.jsonl"), 3, 0, asked) == drawn, "train lies beside the file"


def test_what_is_not_there_says_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="no task of that name"):
        Task.of("gsm9k", None)
    lines(tmp_path / "test.jsonl", sums(2))
    with pytest.raises(UsageError, match="no file of the train split"):
        examples(Task.of("gsm8k", tmp_path), 1, 0, [])
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "none"))
    with pytest.raises(Offline) as said:
        Task.of("humaneval", None).items()
    assert "--data PATH" in said.value.hint


def test_mbpp_splits_by_task_number_and_a_file_of_it_does_not(tmp_path):
    rows = [
        {"text": f"t{n}", "code": "x = 1", "task_id": n, "test_list": ["assert x"]} for n in (5, 11, 510, 511, 601, 974)
    ]
    file = lines(tmp_path / "mbpp.jsonl", rows)
    task = Task.of("mbpp", file)
    assert len(task.items()) == 2 and len(task.items("train")) == 2 and len(Task.of(str(file), None).items()) == 6


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\nx = 1\n```", "x = 1\n"),
        ("Sure:\n```\nx = 1\n```\nbye", "x = 1\n"),
        ("```bash\nls\n```\n```py\nx = 1\n```", "x = 1\n"),
        ("```python\nx = 1", "x = 1"),
        ("```python\n    return 1\n```", "    return 1\n"),
        ("x = 1", None),
        ("```python\n```", None),
        ("```rust\nfn main() {}\n```", None),
    ],
)
def test_the_code_of_an_answer(text, code):
    assert programs.block(text) == code


def test_a_body_and_a_whole_function_both_fit_their_signature():
    row = {
        "prompt": "import math\n\ndef f(x):\n    '''Root.'''\n",
        "test": "def check(f):\n    assert f(4) == 2",
        "entry_point": "f",
        "canonical_solution": "    return math.isqrt(x)\n",
    }
    code = item_of(row).code
    answers = [
        "    return math.isqrt(x)\n",
        "def f(x):\n    return math.isqrt(x)\n",
        "def f(x):\n    return 3\n",
        "f = math.isqrt\n",
    ]
    said, _ = execute([code.job(answer) for answer in answers])
    assert said == ["passed", "passed", "failed", "passed"]


def test_code_is_counted_as_there_as_parsed_and_as_passed_only_when_run():
    item = item_of({"text": "one", "code": "x = 1", "test_list": ["assert x == 1"]})
    texts = ["```python\nx = 1\n```", "x = 1", "```python\nx = 2\n```", "```python\nx = (\n```", "no idea", ""]
    told = [judge(item, Said(text, True)) for text in texts]
    assert [t.fenced for t in told] == [True, False, True, True, False, False]
    assert [t.parses for t in told] == [True, True, True, False, False, False] and {t.correct for t in told} == {None}
    run, layers = executed([item] * 6, told)
    assert [t.outcome for t in run] == ["passed", "passed", "failed", "does not parse", "does not parse", "no code"]
    assert [t.correct for t in run] == [True, True, False, False, False, False] and layers


def test_a_contest_problem_is_run_on_every_input():
    add = "print(sum(map(int, input().split())))"
    tests = {name: {"input": ["1 2\n", "3 4\n"], "output": ["3\n", "7\n"]} for name in programs.PAIRED}
    solutions = {"language": [2, 3], "solution": ["int main", add]}
    row = {"description": "Add.", **tests, "difficulty": 7, "solutions": solutions}
    item = item_of(row)
    assert len(item.code.pairs) == 6 and item.level == "A" and item.answer == add
    assert execute([item.code.job(item.answer), item.code.job("print(3)")])[0] == ["passed", "failed"]


@pytest.mark.shared
def test_every_canonical_solution_of_humaneval_passes(shared):
    items = read_items(shared / "data" / "eval" / "humaneval" / "HumanEval.jsonl.gz")
    told, _ = executed(items, [judge(item, Said(item.shown, True)) for item in items])
    assert len(told) == 164 and [t.outcome for t in told if t.outcome != "passed"] == []


@pytest.mark.shared
def test_every_canonical_solution_of_mbpp_passes(shared):
    """All 974, about 15 s on a quiet core; set-up code runs behind the solution, and some lines end in CRLF."""
    items = read_items(shared / "data" / "eval" / "mbpp" / "mbpp.jsonl")
    told, _ = executed(items, [judge(item, Said(item.shown, True)) for item in items])
    assert len(told) == 974 and [t.item for t in told if t.outcome != "passed"] == []


@pytest.mark.shared
def test_a_wrong_solution_of_every_humaneval_task_fails(shared):
    items = read_items(shared / "data" / "eval" / "humaneval" / "HumanEval.jsonl.gz")[::4]
    told, _ = executed(items, [judge(item, Said("```python\n    return NotImplemented\n```", True)) for item in items])
    assert {t.correct for t in told} == {False}
