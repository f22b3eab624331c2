"""Select does what the user says, and teaches when it cannot understand."""

import pickle

import numpy as np
import pytest

from curate.foundation.errors import UsageError
from curate.record import Message, Record, to_table
from curate.stages.decisions import load_decisions
from curate.stages.select import SelectStage, gather_scores, score_bounds
from curate.stages.settings import ScoreQuantiles, SelectSettings


def batch():
    def talk(user, answer, **more):
        return [Message("user", user), Message("assistant", answer, **more)]

    return to_table(
        [
            Record("math", "f", 0, talk("q", "plain"), extra='{"difficulty":"hard","meta":{"n":3}}', score=0.1),
            Record("math", "f", 1, talk("q", "汉字很多 a", reasoning="because"), extra='{"reward":1}', score=0.9),
            Record("code", "g", 2, talk("q", None, tool_calls='[{"name":"f"}]'), extra='{"reward":true}'),
            Record("code", "g", 3, talk("q", "привет"), tools='[{"name":"f"}]', extra='{"reward":1.0}', score=0.5),
            Record("code", "g", 4, talk("q", "a") * 2, tools="[]", score=0.2),
        ]
    )


def dropped(*conditions):
    stage = pickle.loads(pickle.dumps(SelectStage(SelectSettings(where={"drop": list(conditions)}))))
    return [verdict.index for verdict in stage.judge(batch()).removals]


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        ({"field": "tools", "is": True}, [2, 3]),
        ({"field": "tool_calls", "is": True}, [2]),
        ({"field": "extra.difficulty", "is": "hard"}, [0]),
        ({"field": "extra.difficulty", "not": "hard"}, [1, 2, 3, 4]),
        ({"field": "extra.meta.n", "ge": 3, "lt": 4}, [0]),
        ({"field": "extra.reward", "exists": False}, [0, 4]),
        ({"field": "source", "in": ["code", "web"]}, [2, 3, 4]),
        ({"field": "file", "not_in": ["g"]}, [0, 1]),
        ({"field": "reasoning", "is": True}, [1]),
        ({"field": "turns", "gt": 1}, [4]),
        ({"field": "roles.assistant", "is": 2}, [4]),
        ({"field": "chars.assistant", "ge": 6}, [1, 3]),
        ({"field": "score", "le": 0.2}, [0, 4]),
        ({"field": "script.cjk", "gt": 0.6}, [1]),
        ({"field": "script.cyrillic", "gt": 0.5}, [3]),
        ({"field": "text.assistant", "matches": "^pl.in$"}, [0]),
        ({"field": "text.assistant", "contains": "汉"}, [1]),
        ({"all": [{"field": "source", "is": "code"}, {"field": "turns", "is": 1}]}, [2, 3]),
        ({"any": [{"field": "turns", "is": 2}, {"field": "score", "is": 0.9}]}, [1, 4]),
    ],
)
def test_conditions_find_their_records(condition, rows):
    assert dropped(condition) == rows


def test_keep_removes_what_misses_it_and_true_is_not_one():
    settings = SelectSettings(where={"keep": [{"field": "extra.reward", "is": 1}]})
    removals = SelectStage(settings).judge(batch()).removals
    assert [v.index for v in removals] == [0, 2, 4]
    assert removals[0].rule == "where.keep extra.reward is 1"


@pytest.mark.parametrize(
    ("condition", "hint"),
    [
        ({"field": "turn", "is": 1}, "turns"),
        ({"field": "turns", "iss": 1}, "is"),
        ({"field": "turns"}, "field"),
        ({"is": 1}, "field"),
        ({"field": "source", "in": "code"}, "field"),
        ({"field": "id", "matches": "(?=x)"}, "RE2"),
        ({"field": "id", "matches": "x" * 1001}, "field"),
        ({"all": []}, "field"),
        ("tools", "field"),
    ],
)
def test_what_is_not_a_condition_is_refused_with_a_hint(condition, hint):
    from curate.stages.predicate import compile_condition

    with pytest.raises(UsageError) as refused:
        compile_condition(condition)
    assert hint in refused.value.hint


def test_score_bounds_are_exact_and_do_not_depend_on_order():
    scores = np.array([5.0, np.nan, 1.0, 3.0, 2.0, 4.0, 6.0, 7.0, 8.0, 9.0, 10.0])
    quantiles = ScoreQuantiles(low=0.3, high=0.9)
    assert score_bounds({"a": scores}, quantiles) == score_bounds({"a": scores[::-1]}, quantiles) == {"a": (4.0, 9.0)}
    assert score_bounds({"a": np.array([np.nan])}, quantiles) == {}
    whole = ScoreQuantiles(low=0.5, per="all")
    assert score_bounds({"a": np.array([1.0, 2.0]), "b": np.array([3.0, 4.0])}, whole) == {"": (3.0, 4.0)}


def test_score_quantiles_remove_the_tail_of_each_source_and_leave_the_unscored():
    stage = SelectStage(SelectSettings(score={"low": 0.5}))
    assert stage.needs_scores
    bounds = score_bounds(gather_scores([stage.scores(batch())]), ScoreQuantiles(low=0.5))
    found = stage.with_bounds(bounds).judge(batch()).removals
    assert [(v.index, v.rule, v.value, v.threshold) for v in found] == [
        (0, "score.low", 0.1, 0.9),
        (4, "score.low", 0.2, 0.5),
    ]


def test_decisions_drop_with_their_reason_and_spare_from_conditions(tmp_path):
    table = batch()
    file = tmp_path / "d.csv"
    ids, contents = table.column("id").to_pylist(), table.column("content").to_pylist()
    file.write_text(
        f'id,content,decision,reviewer,why\n{ids[0]},,drop,ann,"private, asked to"\n,{contents[1]},keep,bo,good\n'
    )
    settings = SelectSettings(where={"drop": [{"field": "source", "is": "math"}]}, decisions=str(file))
    [verdict] = SelectStage(settings).judge(table).removals
    assert (verdict.index, verdict.rule) == (0, "decision")
    assert verdict.evidence == '{"reviewer":"ann","why":"private, asked to"}'


@pytest.mark.parametrize(
    ("name", "text", "where"),
    [
        ("d.jsonl", '{"id": "%s", "decision": "keep"}\n{"id": "x", "decision": "keep"}' % ("a" * 32), ":2:"),
        ("d.jsonl", '\n{"id": ', ":2:"),
        ("d.jsonl", "[1]", ":1:"),
        ("d.jsonl", '{"id": "%s", "descision": "keep"}' % ("a" * 32), ":1:"),
        ("d.csv", "id,decision\n%s,maybe\n" % ("a" * 32), ":2:"),
        ("d.csv", f"id,decision\n{'a' * 32},keep\n{'a' * 32},drop\n", ":3:"),
        ("d.csv", "id,decision\n%s\n" % ("a" * 32), ":2:"),
        ("d.csv", "id,content,decision\n,,keep\n", ":2:"),
        ("d.txt", "", "neither"),
    ],
)  # fmt: skip
def test_a_bad_decision_file_is_refused_with_its_line(tmp_path, name, text, where):
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(UsageError) as refused:
        load_decisions(file)
    assert where in refused.value.message and refused.value.hint


def test_a_missing_decision_file_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError):
        load_decisions(tmp_path / "none.csv")
