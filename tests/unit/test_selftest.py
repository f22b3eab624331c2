"""`curate selftest` passes on stages that keep their promise, fails on stages broken on purpose, and changes nothing."""

import hashlib
import json
import random
import subprocess
import sys
import unicodedata

import pytest

from curate.curated import open_folder
from curate.foundation.console import Console
from curate.foundation.errors import DataError, UsageError
from curate.record import Message, Record
from curate.selftest import edits
from curate.selftest.measuring import Alike, Equal, Meaning, jaccard, shingles, words
from curate.selftest.planting import ABOVE, BELOW, COPIES, KINDS, QUOTED, TEMPLATE, plant
from curate.selftest.report import selftest, table
from curate.selftest.running import OWN, below, draw_sample, measure
from curate.stages import near
from curate.stages.minhash_settings import MinhashSettings
from curate.words import words as stage_words

STAGES = "stages=[length,exact,minhash]"
QUIET = Console(quiet=True)


def curate(*given):
    command = [sys.executable, "-P", "-m", "curate", *map(str, given)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def digests(root):
    return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """The sample corpus, curated with near-duplicates on."""
    work = tmp_path_factory.mktemp("selftest")
    curate("sample", work / "raw", "--rows", 1_500, "--quiet")
    code, _, stderr = curate("filter", work / "raw", work / "out", "--set", STAGES, "--workers", 1, "--quiet")
    assert code == 0, stderr
    return work / "out"


def test_the_stages_keep_their_promise_on_the_sample_corpus(out):
    before = digests(out)
    facts = measure(out, 1_500, 0, QUIET)
    assert facts["below"] == [] and digests(out) == before
    for kind in ("exact copy", "other white space", "re-cased", ABOVE):
        assert facts["kinds"][kind]["recall"] == 1.0 and facts["kinds"][kind]["must_go"] > 50, kind
    for kind in (BELOW, TEMPLATE, QUOTED, "1 word in 5 changed", "said otherwise"):
        assert facts["kinds"][kind]["must_go"] == 0 and facts["kinds"][kind]["pairs"] > 50, kind
        assert facts["kinds"][kind]["wrong"] == 0, kind
    low, high = facts["kinds"][ABOVE]["jaccard"]
    assert low >= 0.8 and high < 0.9
    assert facts["kinds"][BELOW]["jaccard"][1] < 0.8
    assert facts["kinds"]["1 word in 20 changed"]["jaccard"][0] > facts["kinds"]["1 word in 5 changed"]["jaccard"][0]


def test_the_same_seed_plants_the_same(out):
    _, manifest = open_folder(out)
    alike = Alike("conversation", 0.8, 5)
    sample = draw_sample(out, manifest, 200, 4)
    assert plant(sample, alike, 4) == plant(draw_sample(out, manifest, 200, 4), alike, 4)
    assert sample != draw_sample(out, manifest, 200, 5)


def test_bands_that_miss_are_found_out(out, monkeypatch):
    """Rows + 5: a pair at the threshold shares a band with chance .97, not .99999."""
    monkeypatch.setattr(MinhashSettings, "shape", property(lambda self: (self.bands, self.rows + 5)))
    with pytest.raises(DataError, match="just above the threshold: recall"):
        selftest(out, 1_500, 0, QUIET)


def test_a_stage_without_verification_is_found_out(out, monkeypatch):
    real = near.resolve

    def unverified(inputs, settings, *rest, **more):
        return real(inputs, settings.model_copy(update={"threshold": 0.05}), *rest, **more)

    monkeypatch.setattr(near, "resolve", unverified)
    facts = measure(out, 600, 0, QUIET)
    assert any(line.startswith(f"{TEMPLATE}: precision") for line in facts["below"])
    assert facts["kinds"][BELOW]["wrong"] > 10 and facts["wrong"][0]["stage"] == "minhash"
    assert "BELOW THE FLOOR" in table(facts)


def test_a_stage_that_does_nothing_is_found_out(out, monkeypatch):
    real = near.resolve
    monkeypatch.setattr(near, "resolve", lambda *given, **more: real(*given, **more).slice(0, 0))
    facts = measure(out, 300, 0, QUIET)
    assert facts["kinds"]["re-cased"]["recall"] == 0.0 and facts["kinds"]["exact copy"]["recall"] == 1.0
    assert facts["missed"][0]["jaccard"] >= 0.8


def test_a_missed_floor_is_exit_1_and_the_floor_is_a_setting(out, tmp_path):
    """Two bands miss many pairs; the folder's recipe says how many may be missed."""
    weak = ("--set", "minhash.bands=2", "--set", "selftest.recall=0.2", "--key", "response")
    curate("minhash", out, tmp_path / "weak", *weak, "--workers", 1, "--allow-wipeout", "--quiet")
    facts, text = selftest(tmp_path / "weak", 150, 0, QUIET)
    assert facts["kinds"][ABOVE]["recall"] < 0.995 and "recall at least 0.2" in text
    assert facts["stages"]["minhash"]["key"] == "response" and facts["kinds"]["re-cased"]["recall"] == 1.0
    _, manifest = open_folder(tmp_path / "weak")
    assert below(facts["kinds"], 0.995, 1.0)[0].startswith(f"{ABOVE}: recall")
    assert manifest["config"]["selftest"] == {"recall": 0.2, "precision": 1.0}


def test_the_command_exits_1_below_the_floor(out, tmp_path):
    code, stdout, _ = curate("selftest", out, "--rows", 150, "--json", "--quiet")
    assert code == 0 and json.loads(stdout)["below"] == []
    strict = tmp_path / "strict"
    curate("minhash", out, strict, "--set", "minhash.bands=1", "--workers", 1, "--quiet")
    code, stdout, stderr = curate("selftest", strict, "--rows", 150, "--quiet")
    assert code == 1 and "BELOW THE FLOOR" in stdout and "hint:" in stderr


@pytest.mark.parametrize("key", ["conversation", "prompt", "response", "first-user"])
def test_pairs_at_the_threshold_are_near_under_every_key(out, key):
    _, manifest = open_folder(out)
    alike = Alike(key, 0.8, 5)
    groups = plant(draw_sample(out, manifest, 150, 0), alike, 0)
    for kind, low, high in ((ABOVE, 0.8, 0.9), (BELOW, 0.6, 0.8)):
        found = [alike.similarity(*group.records) for group in groups if group.kind == kind]
        assert found and all(low <= value < high or value == low for value in found), kind


def test_tiny_folders_and_folders_without_dedup_are_told_so(tmp_path):
    (tmp_path / "raw").mkdir()
    line = json.dumps({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes."}]})
    (tmp_path / "raw" / "a.jsonl").write_text("\n".join(line.replace("Hi", text) for text in ("Hi", "Ho", "你好")))
    curate("filter", tmp_path / "raw", tmp_path / "none", "--only", "length", "--workers", 1)
    with pytest.raises(UsageError, match="no stage that removes duplicates"):
        measure(tmp_path / "none", 100, 0, QUIET)
    curate("filter", tmp_path / "raw", tmp_path / "three", "--set", STAGES, "--workers", 1)
    facts = measure(tmp_path / "three", 100, 0, QUIET)
    assert facts["below"] == [] and facts["sample"] == 3 and facts["kinds"]["exact copy"]["pairs"] == 1
    assert facts["kinds"][ABOVE]["pairs"] == 0 and facts["kinds"][ABOVE]["recall"] is None
    with pytest.raises(DataError, match="too few records"):
        measure(tmp_path / "three", 1, 0, QUIET)


def test_words_by_our_own_rule_are_the_stage_s_words():
    draw = random.Random(0)
    alphabet = [chr(point) for point in range(0x2FF) if unicodedata.category(chr(point)) != "Cs"]
    alphabet += list("中文字カタカナひらがなー々〆ﾊﾝ한국어Ωσςﬁ²①Ⅳ𝒳अर्थ")
    for _ in range(300):
        text = "".join(draw.choices(alphabet, k=40))
        assert words(text) == stage_words(text)


@pytest.mark.parametrize("name", COPIES)
def test_edits_do_what_they_say(name):
    text = " ".join(f"Cat n{n} sat on mat m{n}, and it saw. Then dogs d{n} ran past it!" for n in range(5))
    made = COPIES[name](text, random.Random(1))
    before, after = (shingles(value, 5) for value in (text, made))
    assert (made == text) == (name == "exact copy")
    assert (jaccard(before, after) == 1.0) == (name in ("exact copy", "other white space", "re-cased"))
    if name.startswith("1 word in"):
        changed = sum(a != b for a, b in zip(words(text), words(made), strict=True))
        assert changed == pytest.approx(len(words(text)) / int(name.split()[3]), abs=1)


def test_edits_reach_scripts_without_spaces():
    text = "".join(f"我们{n}今天去公园散步,看到了很多{n}花。" for n in range(6))
    made = edits.one_in(10)(text, random.Random(0))
    assert 0.1 < jaccard(shingles(text, 5), shingles(made, 5)) < 0.6
    record = Record("s", "f", 0, [Message("user", text), Message("assistant", "好。" * 30)])
    alike = Alike("conversation", 0.8, 5)
    groups = plant([Record("s", "f", n, record.messages) for n in range(40)], alike, 0)
    near_pairs = [group.records for group in groups if group.kind == ABOVE]
    assert near_pairs and all(0.8 <= alike.similarity(*pair) < 0.85 for pair in near_pairs)


def test_exact_promises_ignore_white_space_and_keep_case():
    one, two, three = (
        Record("s", "f", n, [Message("user", text), Message("assistant", "ok")])
        for n, text in enumerate(("Ça va ?", "C\u0327a\n va  ?", "ça va ?"))
    )
    assert Equal("conversation").holds(one, two) and not Equal("conversation").holds(one, three)
    empty = Record("s", "f", 3, [Message("assistant", "ok")])
    assert not Equal("first-user").holds(empty, empty) and Equal("response").holds(one, three)
    assert OWN not in KINDS


def test_of_meaning_only_equal_texts_are_promised():
    records = [
        Record("s", "f", n, [Message("user", text)]) for n, text in enumerate(("Hi you", "Hi you", "Hello", " "))
    ]
    meaning = Meaning("prompt")
    assert meaning.holds(records[0], records[1]) is True
    assert meaning.holds(records[0], records[2]) is None and meaning.holds(records[3], records[3]) is None


@pytest.mark.shared
def test_the_stages_keep_their_promise_on_real_data(shared, tmp_path):
    raw = shared / "data" / "sft" / "gpteacher"
    curate("filter", raw, tmp_path / "out", "--set", STAGES, "--allow-wipeout", "--quiet")
    facts = measure(tmp_path / "out", 1_000, 1, QUIET)
    assert facts["below"] == [] and facts["kinds"][ABOVE]["must_go"] > 150
