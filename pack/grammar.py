"""What must be known of a template before the first record: its control tokens, terminators and generation header.

Found by rendering a plain conversation of sentinels, so that it holds for templates nobody has seen.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from curate.foundation.errors import UsageError
from curate.record import Message
from pack.builtin import TEMPLATES
from pack.conversation import dissect
from pack.rendering import Template, TemplateFailed, watch
from pack.spans import Grammar, find_stop, take_apart
from pack.tokenizing import Tokenizer

NEVER: Final = re.compile(r"(?!)")
_CHAT_TOKEN = re.compile(r"<\|[A-Za-z_]+\|>")
_PLAIN = [Message(role, text) for role, text in (("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))]


def template_source(tokenizer: Tokenizer, asked: str | None) -> str:
    """The text of the template asked for: chatml, qwen, a file, or the tokenizer's own when None.

    Raises UsageError when there is none.
    """
    if asked is None:
        if tokenizer.template is None:
            raise UsageError(
                f"the tokenizer {tokenizer.name} has no chat template",
                hint='--template chatml, or for plain text --prompt-format "Question: {prompt}\\nAnswer: "',
            )
        return tokenizer.template
    if asked in TEMPLATES:
        return TEMPLATES[asked]
    file = Path(asked)
    if not file.is_file():
        raise UsageError(f"no template {asked}", hint="--template chatml|qwen|none, or the path of a Jinja file")
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{asked} is no readable text ({type(error).__name__})", hint="--template takes a Jinja file in UTF-8"
        ) from error


def missing_tokens(tokenizer: Tokenizer, source: str) -> list[str]:
    """Chat tokens a template writes, `<|...|>`, that the vocabulary lacks; in order of first use."""
    found = dict.fromkeys(_CHAT_TOKEN.findall(source))
    return [token for token in found if tokenizer.token_id(token) is None]


def control_pattern(tokens: dict[str, int]) -> re.Pattern[str]:
    """Any control token, longer ones first."""
    if not tokens:
        return NEVER
    return re.compile("|".join(re.escape(token) for token in sorted(tokens, key=lambda t: (-len(t), t))))


def probe(tokenizer: Tokenizer, source: str, control: re.Pattern[str]) -> tuple[Grammar, bool, bool]:
    """The grammar, whether a last turn's reasoning is kept, whether the last turn ends in a terminator.

    Raises UsageError for a template that refuses even a plain conversation.
    """
    try:
        grammar = Grammar(Template(source, tokenizer.special_strings), control)
        parts = dissect(_PLAIN, None, control)
        thinking = dissect([_PLAIN[0], Message("assistant", "b", reasoning="r")], None, control)
        with watch():
            text, _ = grammar.template.render(parts.bare_chat)
            ask, _ = grammar.template.render(parts.bare_chat[:1])
            ask_more, _ = grammar.template.render(parts.bare_chat[:1], generate=True)
            thought, _ = grammar.template.render(thinking.bare_chat)
    except TemplateFailed as error:
        raise UsageError(
            f"the chat template fails on a plain conversation: {error}",
            hint="check the template, or take --template chatml",
        ) from error
    grammar.header = ask_more[len(ask) :] if ask_more.startswith(ask) else ""
    literals, numbers = take_apart(text)
    after = [literals[k + 1] for k, number in enumerate(numbers) if parts.slots[number].kind == "assistant"]
    found = [stop and piece[stop[0] : stop[1]] for piece in after if (stop := find_stop(grammar, piece)) or True]
    grammar.stops = list(dict.fromkeys(stop for stop in found if stop))
    kept = any(thinking.slots[number].kind == "reasoning" for number in take_apart(thought)[1])
    return grammar, kept, bool(found and found[-1])
