"""The embedded tokenizer: made again byte for byte, loses no text, one token a digit, a template that keeps everything."""

import pytest

from pack.embedded.make import FOLDER, VOCABULARY, write


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(FOLDER))


def test_the_committed_files_are_what_the_maker_writes(tmp_path):
    names = write(tmp_path)
    assert len(names) == 3
    for name in names:
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes(), name
    assert sum((FOLDER / name).stat().st_size for name in names) < 500_000


def test_every_character_comes_back(tokenizer):
    planes = [chr(point) for point in range(0x110000) if not 0xD800 <= point <= 0xDFFF and point % 7 == 0]
    text = "".join(planes)
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    nasty = " \t\r\n  a\u0301 e\u0301\u200d👩‍👩‍👧 ß ﬁ  12  ...  \u2028 x "
    assert tokenizer.decode(tokenizer.encode(nasty, add_special_tokens=False)) == nasty


def test_digits_stand_alone(tokenizer):
    ids = tokenizer.encode("a 1234 5x67", add_special_tokens=False)
    tokens = tokenizer.convert_ids_to_tokens(ids)
    assert [token for token in tokens if any(c.isdigit() for c in token)] == list("1234567")


def test_special_tokens_are_distinct_and_nothing_is_added(tokenizer):
    assert len(tokenizer) == VOCABULARY
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    assert tokenizer.bos_token is None
    assert tokenizer.encode("hello") == tokenizer.encode("hello", add_special_tokens=False)
    for token in ("<|im_start|>", "<|im_end|>", "<|endoftext|>"):
        assert len(tokenizer.encode(token, add_special_tokens=False)) == 1


def test_the_template_grows_by_its_end_and_keeps_every_text(tokenizer):
    call = {"type": "function", "function": {"name": "look", "arguments": {"key": "VALUE"}}}
    chat = [
        {"role": "system", "content": "SYSTEM"},
        {"role": "user", "content": "QUESTION"},
        {"role": "assistant", "content": "", "reasoning_content": "THOUGHT", "tool_calls": [call]},
        {"role": "tool", "content": "RESULT"},
        {"role": "assistant", "content": "ANSWER"},
    ]
    tools = [{"type": "function", "function": {"name": "look", "description": "TOOLTEXT", "parameters": {}}}]

    def render(turns, **options):
        return tokenizer.apply_chat_template(turns, tools=tools, tokenize=False, **options)

    whole = render(chat)
    for word in ("SYSTEM", "QUESTION", "THOUGHT", "look", "VALUE", "RESULT", "ANSWER", "TOOLTEXT"):
        assert word in whole
    for stop in range(1, len(chat)):
        assert whole.startswith(render(chat[:stop]))
    assert whole.startswith(render(chat[:4], add_generation_prompt=True))


def test_ordinary_english_costs_less_than_half_a_token_a_character(tokenizer):
    text = "Please explain how the function returns a list of numbers, and write an example of its output."
    assert len(tokenizer.encode(text, add_special_tokens=False)) < len(text) / 2
