"""Contract 3: what is complete says so, what is damaged is named, what is locked is refused."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

from curate.foundation.errors import DataError, LockHeld, UsageError
from curate.foundation.store import LOCK, MANIFEST, Store, digest_bytes, digest_file, exchange, recover, replacing


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "out", "records")


def filled(store):
    store.write_bytes("records/a.bin", b"first")
    store.write_bytes("records/deep/b.bin", b"second")
    return store.commit({"totals": {"kept": 2}}, ["records/a.bin", "records/deep/b.bin"])


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(store):
    store.write_bytes("a.bin", b"old")
    with pytest.raises(RuntimeError), store.writing("a.bin") as temp:
        temp.write_bytes(b"half")
        raise RuntimeError
    assert store.path("a.bin").read_bytes() == b"old"
    assert store.names(hidden=True) == ["a.bin"]


def test_the_manifest_lists_every_file_with_size_and_digest(store):
    manifest = filled(store)
    assert manifest["files"]["records/a.bin"] == {"bytes": 5, "digest": digest_bytes(b"first")}
    assert store.manifest() == manifest
    assert store.verify() == []


@pytest.mark.parametrize("name", ["records/a.bin", "records/deep/b.bin"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_verify_names_a_damaged_file(store, name, damage):
    filled(store)
    path = store.path(name)
    data = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    elif damage == "truncate":
        path.write_bytes(data[:-1])
    else:
        data[0] ^= 1
        path.write_bytes(data)
    assert [problem.split(":")[0] for problem in store.verify()] == [name]


def test_every_flipped_bit_of_a_manifest_is_noticed(store):
    filled(store)
    path = store.path(MANIFEST)
    good = path.read_bytes()
    for position in range(0, len(good), 7):
        bad = bytearray(good)
        bad[position] ^= 4
        path.write_bytes(bytes(bad))
        try:
            found = store.manifest()
        except (DataError, UsageError):
            continue
        assert found == json.loads(good)  # only white space was hit


def test_a_folder_of_another_kind_is_refused(store):
    filled(store)
    with pytest.raises(UsageError, match="holds records, not shards"):
        Store(store.root, "shards").manifest()


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", ""])
def test_names_cannot_leave_the_folder(store, name):
    with pytest.raises(DataError):
        store.path(name)


def test_a_unit_is_redone_when_key_or_output_changes(store):
    store.write_bytes("records/a.bin", b"x")
    store.mark("ingest/a", "key", ["records/a.bin"], {"rows": 1})
    assert store.done("ingest/a", "key") == {"rows": 1}
    assert store.done("ingest/a", "other") is None
    assert store.done("ingest/b", "key") is None
    store.path("records/a.bin").write_bytes(b"y")
    assert store.done("ingest/a", "key") is None


def test_a_truncated_marker_means_not_done(store):
    store.mark("ingest/a", "key", [], {})
    path = store.path(".units/ingest/a.json")
    for size in range(path.stat().st_size - 1):
        path.write_bytes(path.read_bytes()[: -1 or None])
        assert store.done("ingest/a", "key") in (None, {}), size


def test_the_second_holder_is_refused_and_told_who_holds(store):
    with (
        store.locked("first"),
        pytest.raises(LockHeld, match=f"'first', process {os.getpid()}"),
        store.locked("second"),
    ):
        pass
    with store.locked("third"):
        assert store.holder()["command"] == "third"
    assert not store.path(LOCK).exists()


def test_a_dead_holders_lock_is_taken_over(store, tmp_path):
    script = textwrap.dedent("""
        import os, sys
        from pathlib import Path
        from curate.foundation.store import Store
        with Store(Path(sys.argv[1]), "records").locked("dead"):
            os._exit(9)
    """)
    subprocess.run([sys.executable, "-c", script, str(store.root)], check=False)
    assert store.path(LOCK).exists()
    with store.locked("alive"):
        assert store.holder()["command"] == "alive"


def test_sweep_removes_temporary_and_unnamed_files_but_not_markers(store):
    store.write_bytes("keep/a", b"")
    store.write_bytes("drop/deep/b", b"")
    store.mark("unit", "key", [], {})
    (store.root / ".a.tmp-0123456789ab").write_bytes(b"")
    store.sweep(["keep/a"])
    assert store.names(hidden=True) == [".units/unit.json", "keep/a"]
    assert not (store.root / "drop").exists()


def test_a_range_digest_is_that_of_its_bytes(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(bytes(range(256)) * 100)
    assert digest_file(path, 10, 300) == digest_bytes(path.read_bytes()[10:300])


@pytest.mark.parametrize("killed_after", [0, 1, 2])
def test_an_exchange_killed_anywhere_ends_with_one_whole_folder(tmp_path, killed_after):
    root, fresh, old = tmp_path / "out", tmp_path / ".out.next", tmp_path / ".out.old"
    for folder, word in ((root, "old"), (fresh, "new")):
        Store(folder, "records").write_bytes("word", word.encode())
        Store(folder, "records").commit({}, ["word"])
    if killed_after == 0:
        exchange(root, fresh)
    else:
        root.rename(old)
        if killed_after == 2:
            fresh.rename(root)
    recover(root)
    assert (root / "word").read_text() == "new"
    assert Store(root, "records").verify() == []


def test_replacing_makes_parent_folders(tmp_path):
    with replacing(tmp_path / "a" / "b" / "c") as temp:
        temp.write_text("x")
    assert (tmp_path / "a" / "b" / "c").read_text() == "x"
