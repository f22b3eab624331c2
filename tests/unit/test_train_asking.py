"""A model is asked exactly as its shards were packed, and hints name commands that are there."""

import ast
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from shards_fixture import make_tokenizer, write_shards

from curate.foundation.errors import DataError
from curate.record import Message
from pack.template import Renderer, Tokenizer
from train.asking import Asker, facts_of
from train.data import Shards
from train.final import misread

ROOT = Path(__file__).parents[2]


def packed_with(folder, **rules):
    """Shards whose manifest says what a renderer of these rules would say, and that renderer."""
    make_tokenizer().save_pretrained(folder / "t")
    renderer = Renderer(Tokenizer.load(folder / "t"), engine="hf", **rules)
    root = write_shards(folder / "shards", rendering=renderer.facts(), terminators=renderer.terminators)
    return root, renderer


def test_a_prompt_is_the_ids_before_the_first_trained_one(tmp_path):
    root, renderer = packed_with(tmp_path)
    asker = Asker.of_shards(root)
    (encoded,) = renderer.encode([Message("user", "what is 1 plus 1"), Message("assistant", "2")])
    first = int(encoded.mask.argmax())
    assert asker.ask("what is 1 plus 1") == encoded.ids[:first].tolist()
    assert asker.terminators == [3] and asker.described == "chat template"


def test_shards_of_a_prompt_format_are_asked_with_it_and_final_loses_the_chat_template(tmp_path):
    from train.final import _fill
    from train.model import build_model

    root, renderer = packed_with(tmp_path, prompt_format="what is {prompt} then ")
    (encoded,) = renderer.encode([Message("user", "1 plus 1"), Message("assistant", "2")])
    asked = encoded.ids[: int(encoded.mask.argmax())].tolist()
    assert Asker.of_shards(root).ask("1 plus 1") == asked
    _fill(tmp_path / "final", build_model(small(), Shards(root)), Shards(root))
    final = Asker.of_model(tmp_path / "final")
    assert final.ask("1 plus 1") == asked and "then" in final.described
    assert not (tmp_path / "final" / "chat_template.jinja").exists()


def small():
    from train.config import TinySettings, TrainConfig

    return TrainConfig(tiny=TinySettings(layers=1, hidden=16, heads=2))


def test_a_control_token_in_a_question_is_text_or_gone_as_the_shards_had_it(tmp_path):
    Tokenizer.load().save(tmp_path)  # the embedded one: bytes and ChatML
    text, strip = (Asker(tmp_path, {"rendering": {"control_tokens": rule}}) for rule in ("text", "strip"))
    (stop,) = text.terminators
    nasty, plain = "1 plus <|im_end|>1", "1 plus 1"
    assert text.ask(nasty).count(stop) == text.ask(plain).count(stop) and text.ask(nasty) != text.ask(plain)
    assert strip.ask(nasty) == strip.ask(plain) == text.ask(plain)


def test_another_chat_template_beside_the_model_is_refused(tmp_path):
    root, _ = packed_with(tmp_path)
    folder = root / "tokenizer"
    facts = facts_of(Shards(root).manifest)
    (folder / "chat_template.jinja").write_text((folder / "chat_template.jinja").read_text() + " ")
    with pytest.raises(DataError, match="not the one the model was trained with"):
        Asker(folder, facts)


def test_a_tokenizer_that_transformers_reads_otherwise_is_noticed(tmp_path):
    from tokenizers import pre_tokenizers

    theirs = make_tokenizer()
    theirs.save_pretrained(tmp_path)
    ours = Tokenizer.load(tmp_path)
    assert misread(ours, theirs) is None
    theirs.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # digits no longer one by one
    assert misread(ours, theirs) == "12345 + 678 = 13023"


@pytest.mark.shared
def test_final_tokenises_digits_as_smollm2s_own_file_does(shared, tmp_path):
    """Its tokenizer.json splits digits; a class of its own makes transformers forget that."""
    from transformers import AutoTokenizer

    ours = Tokenizer.load(shared / "tokenizers" / "smollm2")
    ours.save(tmp_path)
    assert misread(ours, AutoTokenizer.from_pretrained(tmp_path)) is None
    assert len(ours.encode("12345")[0]) == 5


def test_every_command_and_flag_of_a_hint_is_in_the_program():
    known = (ROOT / "docs" / "cli.md").read_text()
    found = 0
    for path in sorted((ROOT / "train").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "hint":
                text = "".join(str(part.value) for part in ast.walk(node.value) if isinstance(part, ast.Constant))
                commands = re.findall(r"\b(?:pack|train|curate) (?:build|show|verify|explain|run|check|eval)\b", text)
                for word in [*commands, *re.findall(r"--[a-z-]+", text)]:
                    assert word in known, f"{path.name}: {word}"
                    found += 1
    assert found > 15
