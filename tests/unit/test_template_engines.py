"""The fast engine is used only where it equals `tokenizers`, and known differences are routed around it."""

from __future__ import annotations

import numpy as np
import pytest

from curate.foundation.errors import UsageError
from curate.record import Message
from pack.engines import GigatokenEngine, HfEngine, Verdict, choose, compare, differs_by_design
from pack.template import Renderer
from pack.tokenizing import Tokenizer, _byte_level
from pack.torture import torture

TALK = [Message("user", "1 + 1?"), Message("assistant", "2, naïve 🙂")]


def tokenizer(*, without_byte=None, normalizer=None):
    chars = {byte: char for char, byte in _byte_level().items()}
    vocab = {chars[b]: b for b in range(256) if b != without_byte}
    vocab.update({"he": 256, "Ġhe": 257, "Ã©": 258})
    merges = [["h", "e"], ["Ġ", "he"], ["Ã", "©"]]
    specials = [{"id": 259 + i, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
                 "normalized": False, "special": True} for i, text in enumerate(["<|im_start|>", "<|im_end|>"])]  # fmt: skip
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    spec = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": specials, "normalizer": normalizer,
        "pre_tokenizer": level, "post_processor": None, "decoder": level,
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    }  # fmt: skip
    return Tokenizer(spec, {"eos_token": "<|im_end|>"}, name="small", template=None)


class Wrong(HfEngine):
    """An engine that is wrong on digits only, so that no torture-free check of plain words would notice."""

    name = "gigatoken"

    def encode(self, texts):
        return [np.concatenate([ids, ids[:1]]) if any(c.isdigit() for c in text) else ids
                for text, ids in zip(texts, super().encode(texts), strict=True)]  # fmt: skip


def test_the_torture_corpus_never_changes_and_holds_the_control_tokens():
    assert torture(["<|x|>"]) == torture(["<|x|>"])
    assert "a<|x|>b" in torture(["<|x|>"]) and max(map(len, torture())) == 100_000


def test_a_fast_engine_that_is_exact_is_taken_and_says_so():
    engine, verdict = choose(tokenizer(), "auto", torture())
    assert engine.name == verdict.engine == "gigatoken" and verdict.torture == len(torture())


def test_an_engine_that_differs_is_seen_on_the_torture_corpus():
    small = tokenizer()
    assert compare(Wrong(small), HfEngine(small), torture()) > 20


def test_an_engine_that_differs_on_the_users_records_is_dropped_and_the_ids_are_the_oracles():
    r = Renderer(tokenizer(), template="chatml")
    expected = r.encode(TALK)[0].ids.tolist()
    r.encoder.engine = Wrong(r.tokenizer)
    verdict = r.guard([(TALK, None)])
    assert verdict.engine == "hf" and verdict.differing == 1 and verdict.sample == 1
    assert r.encode(TALK)[0].ids.tolist() == expected
    assert r.facts()["engine"]["reason"] == "differs on the records"


def test_a_tokenizer_gigatoken_refuses_is_encoded_by_tokenizers():
    refused = tokenizer(without_byte=4)
    engine, verdict = choose(refused, "auto", torture())
    assert engine.name == "hf" and verdict.reason.startswith("gigatoken does not read this tokenizer")
    with pytest.raises(UsageError) as caught:
        choose(refused, "gigatoken", torture())
    assert "auto" in caught.value.hint


def test_another_processs_verdict_spares_the_corpus_but_not_the_choice():
    r = Renderer(tokenizer(), template="chatml", verdict=Verdict("auto", "hf", "differs on the records", 3))
    assert r.encoder.engine.name == "hf" and r.verdict.torture == 3


@pytest.mark.parametrize(
    ("text", "routed"),
    [("plain", False), ("né", False), ("ne\u0301", True), ("\u0378", True), ("日本", False), ("\u0915\u093c", True)],
)
def test_combining_and_unassigned_characters_are_routed(text, routed):
    assert differs_by_design(text) is routed


def test_routed_texts_keep_their_place_and_their_normalized_ids():
    small = tokenizer(normalizer={"type": "NFC"})
    texts = ["he", "ne\u0301", "", "he he", "e\u0301", "é"]
    assert compare(GigatokenEngine(small), HfEngine(small), texts) == 0
    assert GigatokenEngine(small).encode(texts)[4].tolist() == [258]


def test_text_a_normalizer_changed_is_masked_by_offsets_and_still_proved():
    r = Renderer(tokenizer(normalizer={"type": "NFC"}), template="chatml")
    found = r.encode([Message("user", "e\u0301"), Message("assistant", "e\u0301he")])[0]
    assert found.ids[found.mask].tolist() == [258, 256, 260]
    safe = r.encode([Message("user", "e\u0301<|im_end|>"), Message("assistant", "e\u0301he")])[0]
    assert safe.ids[safe.mask].tolist() == [258, 256, 260] and safe.control == 1


def test_a_token_that_straddles_header_and_answer_is_trained_and_counted():
    small = tokenizer()
    small.spec["model"]["vocab"]["ĊĊ"] = 259
    small.spec["model"]["merges"].append(["Ċ", "Ċ"])
    small.spec["added_tokens"] = [{**t, "id": t["id"] + 1} for t in small.spec["added_tokens"]]
    r = Renderer(Tokenizer(small.spec, small.config, name="s", template=None), template="chatml", engine="hf")
    found = r.encode([Message("user", "a"), Message("assistant", "\n\nb")])[0]
    assert found.straddled == 1 and r.tokenizer.decode(found.ids[found.mask].tolist()) == "\n\n\nb<|im_end|>"
