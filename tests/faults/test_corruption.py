"""One flipped bit, or a lost tail, in any file: `verify` names it, and what comes after refuses or makes it again."""

import random
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import river
import trials

from curate import ledger
from curate.foundation.errors import DataError, GristmillError, UsageError
from curate.foundation.store import MANIFEST, UNITS, Store, digest_file
from pack.verify import problems as shard_problems
from train import checkpoint
from train.recording import sound

VERIFIED = {
    "out": lambda root: ledger.verify(root, deep=False),
    "shards": lambda root: shard_problems(root)[0],
    "run": lambda root: Store(root, "run").verify(),
}
HUMAN = ("card.yaml",)  # the user's own, to be changed at will


def flip(path, rng):
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def cut(path, rng):
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data))])


DAMAGE = {"flip": flip, "cut": cut}


def found(target, root):
    """What verify says, or what it raises."""
    try:
        return VERIFIED[target](root)
    except GristmillError as error:
        return [error.message]


def files(root, *, of_run=False):
    """The files a command made, markers and the user's own left out; of a run also without what stands beside it."""
    names = Store(root, river.KIND[root.name]).names()
    beside = ("checkpoints", "README.md", "card.json", "figures")
    return [name for name in names if name not in HUMAN and not (of_run and name.startswith(beside))]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("target", VERIFIED)
def test_verify_names_every_damaged_file_and_its_digest(target, damage, base, count, tmp_path):
    root = tmp_path / target
    shutil.copytree(base / target, root)
    for name in files(root, of_run=target == "run"):
        rng = random.Random(f"{target} {name} {damage}")
        whole = (root / name).read_bytes()
        if not whole:
            continue
        DAMAGE[damage](root / name, rng)
        said = "\n".join(found(target, root))
        white = name == MANIFEST and _same_json(whole, (root / name).read_bytes())
        assert white or name in said, f"{name}: {said or 'nothing was noticed'}"
        card = name == MANIFEST or name.startswith(("README.md", "card.json", "figures/"))
        if damage == "flip" and not card:
            assert digest_file(root / name) in said, f"{name}: {said}"
        count("damaged files named")
        (root / name).write_bytes(whole)
    assert found(target, root) == []


def _same_json(one, other):
    """Whether only white space was hit."""
    import json

    try:
        return json.loads(one) == json.loads(other)
    except ValueError:
        return False


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_marker_or_output_is_made_again(damage, base, whole, count):
    """A rerun over damage redoes the units it touches, and ends with the same bytes."""
    folder = river.place(base, f"again-{damage}", ("raw", "out"))
    out = folder / "out"
    names = sorted(path.relative_to(out).as_posix() for path in (out / UNITS).rglob("*.json"))[::3]
    names += [name for name in files(out) if name.startswith(("records/", "removed/", "quarantine/"))][::3]
    for name in names:
        DAMAGE[damage](out / name, random.Random(f"{name} {damage}"))
        (out / MANIFEST).unlink(missing_ok=True)  # as a run that was killed before its end
    river.again(folder, "filter", whole["filter"])
    count("damaged files made again", len(names))


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_comes_after_refuses_damaged_input(damage, base, tmp_path, count):
    """pack build and curate exact on out/, train run on shards/: exit 1, the file named, nothing made of it."""
    folder = river.place(base, f"refuse-{damage}", ("out", "shards"))
    steps = [("out", "records/", river.BUILD), ("out", "records/", ("curate", "exact", "out", "fresh"))]
    steps += [("out", MANIFEST, river.BUILD), ("shards", MANIFEST, river.TRAIN)]
    steps += [("shards", start, river.TRAIN) for start in ("train/", "eval/", "tokenizer/")]
    for target, start, words in steps:
        (folder / "shards").rename(folder / "kept") if words is river.BUILD else None
        name = next(name for name in files(folder / target) if name.startswith(start))
        path = folder / target / name
        whole = path.read_bytes()
        DAMAGE[damage](path, random.Random(f"{name} {damage} 1"))
        ended = trials.run(*words, cwd=folder)
        assert ended.code == 1 and name in ended.err and "hint: " in ended.err, f"{words}: {ended}"
        assert "Traceback" not in ended.err
        path.write_bytes(whole)
        for made in ("shards", "fresh", "run") if words is river.BUILD else ("fresh", "run"):
            assert not (folder / made / MANIFEST).exists()
            shutil.rmtree(folder / made, ignore_errors=True)
        (folder / "kept").rename(folder / "shards") if words is river.BUILD else None
        count("damaged inputs refused")


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", [checkpoint.MODEL, checkpoint.STATE, checkpoint.INDEX])
def test_a_damaged_checkpoint_is_passed_over(name, damage, base, whole):
    folder = river.place(base, f"checkpoint-{name}-{damage}", ("shards", "run"))
    (folder / "run" / MANIFEST).unlink()
    newest = checkpoint.saved(folder / "run")[-1]
    DAMAGE[damage](newest / name, random.Random(f"{name} {damage}"))
    assert checkpoint.sound(newest) is None
    ended = river.again(folder, "run", whole["run"])
    assert "is damaged" in ended.err


@pytest.mark.parametrize("damage", DAMAGE)
def test_metrics_that_were_altered_are_no_base_to_go_on_from(damage, base):
    folder = river.place(base, f"metrics-{damage}", ("shards", "run"))
    (folder / "run" / MANIFEST).unlink()
    DAMAGE[damage](folder / "run" / "metrics.jsonl", random.Random(damage))
    ended = trials.run(*river.TRAIN, cwd=folder, check=1)
    assert "metrics.jsonl: altered or cut" in ended.err and "--no-resume" in ended.err


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_finished_run_with_damaged_weights_is_neither_finished_nor_evaluated(damage, base, tmp_path):
    folder = river.place(base, f"weights-{damage}", ("shards", "run"))
    DAMAGE[damage](folder / "run" / "final" / "model.safetensors", random.Random(damage))
    with pytest.raises(DataError, match=r"final/model\.safetensors"):
        sound(Store(folder / "run", "run"), "final/")
    ended = trials.run(*river.TRAIN, cwd=folder, check=1)
    assert "final/model.safetensors" in ended.err and "--overwrite" in ended.err
    (folder / "task.jsonl").write_text('{"prompt": "1+1", "answer": "2"}\n')
    ended = trials.run("train", "eval", "run", "--task", "task.jsonl", cwd=folder, check=1)
    assert "final/model.safetensors" in ended.err


@pytest.fixture(scope="module")
def adapted(base):
    """A working folder with an adapter trained on the model of run/."""
    folder = river.place(base, "adapted", ("shards", "run"))
    trials.run(*ADAPT, cwd=folder, check=0)
    return folder


ADAPT = ("train", "run", "shards", "lora", *river.TRAIN[4:], "--lora", "--model", "run/final")


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_damaged_adapter_is_named_and_neither_finished_nor_evaluated(name, damage, adapted, count):
    root, file = adapted / "lora", f"final/{name}"
    whole = (root / file).read_bytes()
    (adapted / "task.jsonl").write_text('{"prompt": "1+1", "answer": "2"}\n')
    try:
        DAMAGE[damage](root / file, random.Random(f"{name} {damage}"))
        (problem,) = Store(root, "run").verify()
        assert file in problem and (damage == "cut" or digest_file(root / file) in problem)
        for words in (ADAPT, ("train", "eval", "lora", "--task", "task.jsonl")):
            ended = trials.run(*words, cwd=adapted, check=1)
            assert file in ended.err and "hint: " in ended.err and "Traceback" not in ended.err, ended.err
            count("damaged inputs refused")
        count("damaged files named")
    finally:
        (root / file).write_bytes(whole)
    assert "complete" in trials.run(*ADAPT, cwd=adapted, check=0).err


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", [checkpoint.MODEL, checkpoint.STATE, checkpoint.INDEX])
def test_a_damaged_checkpoint_of_an_adapter_is_passed_over(name, damage, adapted):
    undisturbed = river.tree(adapted / "lora")  # in place: an adapter names the folder of its model
    (adapted / "lora" / MANIFEST).unlink()
    newest = checkpoint.saved(adapted / "lora")[-1]
    DAMAGE[damage](newest / name, random.Random(f"{name} {damage}"))
    ended = trials.run(*ADAPT, cwd=adapted, check=0)
    assert "is damaged" in ended.err and "Traceback" not in ended.err, ended.err
    assert river.tree(adapted / "lora") == undisturbed and not river.leftovers(adapted)


def test_sketches_and_records_of_an_earlier_output_are_checked_before_they_are_compared(base):
    folder = river.place(base, "earlier", ("raw",))
    keep = ("--set", "exact.keep_sketches=true", "--set", "minhash.keep_sketches=true")
    trials.run(*river.FILTER, *keep, cwd=folder, check=0)
    out = folder / "out"
    for start in ("sketches/exact/", "sketches/minhash/", "records/"):
        name = next(name for name in files(out) if name.startswith(start))
        whole = (out / name).read_bytes()
        flip(out / name, random.Random(name))
        words = [word if word != "out" else "fresh" for word in river.FILTER]
        ended = trials.run(*words, "--previous", "out", cwd=folder, check=1)
        assert name in ended.err and "Traceback" not in ended.err, ended.err
        (out / name).write_bytes(whole)


def test_a_manifest_of_another_kind_is_refused(base):
    with pytest.raises(UsageError, match="holds shards, not run"):
        sound(Store(base / "shards", "run"))
