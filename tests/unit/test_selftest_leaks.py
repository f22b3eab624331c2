"""`curate selftest` on the stage `decontaminate`: planted items are found, look-alikes stay, a broken stage is found out."""

import json
import random
import subprocess
import sys

import pytest

from curate.foundation.console import Console
from curate.foundation.errors import DataError
from curate.selftest import leaking
from curate.selftest.edits import fresh_word
from curate.selftest.leaking import COPIES, OWN, QUOTED, SHUFFLED, WORD_FOR_WORD, plant, usable
from curate.selftest.report import selftest
from curate.selftest.running import draw_sample, measure
from curate.stages import decontaminate
from curate.stages.decontaminate_settings import DecontaminateSettings

QUIET = Console(quiet=True)
STOCK = "Read the following passage with care and then answer the question that comes after it in one sentence"


def curate(*given):
    command = [sys.executable, "-P", "-m", "curate", *map(str, given)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Half of 600 sample records will hold an item of a set of 400, 40 of which share a phrase, and 40 are short."""
    work = tmp_path_factory.mktemp("leaks")
    draw = random.Random(0)
    items = [" ".join(fresh_word(draw) for _ in range(draw.randrange(20, 60))) + "?" for _ in range(320)]
    items += [f"{STOCK}: {fresh_word(draw)} {fresh_word(draw)}" for _ in range(40)]
    items += [f"{fresh_word(draw)} {fresh_word(draw)} {fresh_word(draw)}" for _ in range(40)]
    (work / "evals").mkdir()
    rows = [json.dumps({"id": f"q{n}", "question": item, "answer": "7"}) + "\n" for n, item in enumerate(items)]
    (work / "evals" / "quiz.jsonl").write_text("".join(rows))
    curate("sample", work / "raw", "--rows", 700, "--quiet")
    given = ("--set", "stages=[exact,decontaminate]", "--against", work / "evals", "--workers", 1, "--quiet")
    curate("filter", work / "raw", work / "out", *given)
    return work / "out"


def broken(monkeypatch, **changed):
    """The stage works by other thresholds than the recipe says."""
    real = decontaminate.rules_for

    def other(settings, names):
        update = {rule: getattr(settings, rule).model_copy(update=more) for rule, more in changed.items()}
        return real(settings.model_copy(update=update), names)

    monkeypatch.setattr(decontaminate, "rules_for", other)


def test_planted_items_are_found_and_look_alikes_stay(out):
    facts = measure(out, 600, 0, QUIET)
    leaks = facts["leaks"]
    assert facts["below"] == [] and leaks["items"] == 320 and leaks["sets"] == ["evals/quiz"]
    for kind in COPIES:
        assert leaks["kinds"][kind]["recall"] == 1.0, kind
    assert leaks["kinds"][WORD_FOR_WORD]["must_go"] == leaks["kinds"][WORD_FOR_WORD]["pairs"] > 30
    for kind in (SHUFFLED, QUOTED):
        assert leaks["kinds"][kind]["pairs"] > 30 and leaks["kinds"][kind]["removed"] == 0, kind
    assert leaks["kinds"][OWN]["removed"] == 0


def test_a_stage_that_misses_edited_items_is_found_out(out, monkeypatch):
    broken(monkeypatch, bigram={"threshold": 0.97}, ngram={"threshold": 0.97})
    with pytest.raises(DataError, match="1 word in 20 changed: recall"):
        selftest(out, 600, 0, QUIET)


def test_a_stage_that_removes_what_only_begins_alike_is_found_out(out, monkeypatch):
    broken(monkeypatch, bigram={"threshold": 0.1})
    facts = measure(out, 600, 0, QUIET)
    assert facts["leaks"]["kinds"][QUOTED]["wrong"] > 10
    assert any(line.startswith(f"{QUOTED}: precision") for line in facts["below"])


def test_records_that_go_for_items_they_do_not_hold_are_wrong(out, monkeypatch):
    real = leaking.run_on

    def strays(records, config):
        found = list(records)
        left = real(found, config)
        stray = next(record.id for record in found if record.source != "selftest")
        return leaking.Left(left.removed | {stray: ("decontaminate", "evals/quiz#q0")}, left.marked, left.leaks)

    monkeypatch.setattr(leaking, "run_on", strays)
    assert measure(out, 600, 0, QUIET)["leaks"]["kinds"][OWN]["wrong"] == 1


def test_what_is_planted_is_what_was_promised_and_the_same_for_the_same_seed(out):
    from curate.curated import open_folder

    _, manifest = open_folder(out)
    settings = DecontaminateSettings.model_validate(manifest["config"]["decontaminate"])
    sample = draw_sample(out, manifest, 600, 0)
    planted = plant(sample, list(usable(settings)), settings, 3)
    assert (
        planted
        == plant(sample, list(usable(settings)), settings, 3)
        != plant(sample, list(usable(settings)), settings, 4)
    )
    for one in planted:
        text = " ".join(message.content or "" for message in one.record.messages if message.role == "user")
        assert one.due == ("on" if one.share > 0.7 and one.kind in COPIES else "")
        if one.kind in (SHUFFLED, QUOTED):
            assert one.share <= 0.35 and one.item.text not in text
        if one.kind == WORD_FOR_WORD:
            assert one.item.text in text
