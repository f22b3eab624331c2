"""Prompt formats: `"Question: {prompt}\\nAnswer: "` for models without a chat template.

The text is the formatted prompt, then the answer; EOS is appended, and the ids the tokenizer itself puts before text
(a BOS, for most) lead. Prompt and answer are tokenised apart, because no header token separates them: what is trained
on is then exactly what follows the ids that evaluation asks with.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass

from curate.foundation.errors import UsageError
from curate.record import Message
from pack.conversation import Slot
from pack.rendering import TemplateFailed
from pack.spans import Layout, Turn
from pack.tokenizing import Tokenizer

_FIELDS = ("prompt", "system")


@dataclass(frozen=True, slots=True)
class PlainFormat:
    """A parsed prompt format: (literal, field or None) in order."""

    source: str
    parts: tuple[tuple[str, str | None], ...]

    @classmethod
    def choose(cls, tokenizer: Tokenizer, template: str | None, prompt_format: str | None) -> PlainFormat | None:
        """The format asked for, None when a chat template is. Raises UsageError for a format without {prompt}."""
        if prompt_format is None and template != "none":
            return None
        if template not in (None, "none"):
            raise UsageError("--template and --prompt-format exclude each other", hint="leave one of them out")
        source = "{prompt}" if prompt_format is None else prompt_format
        try:
            parts = tuple((literal, name) for literal, name, _, _ in string.Formatter().parse(source))
        except ValueError as error:
            raise UsageError(f"--prompt-format cannot be read: {error}", hint="write { as {{ and } as }}") from error
        fields = [name for _, name in parts if name is not None]
        if "prompt" not in fields or any(name not in _FIELDS for name in fields):
            raise UsageError(
                "--prompt-format needs {prompt}, and knows {system} beside it",
                hint='--prompt-format "Question: {prompt}\\nAnswer: "',
            )
        if tokenizer.eos_id is None:
            raise UsageError(
                f"the tokenizer {tokenizer.name} has no EOS to end an answer with",
                hint="--template chatml brings its own terminator",
            )
        return cls(source, parts)

    def lay_out(
        self, messages: Sequence[Message], tools: str | None, control: re.Pattern[str], *, ask: bool = False
    ) -> Layout:
        """[system] [user] assistant as one layout; with `ask`, the prompt alone.

        Raises TemplateFailed("prompt-format-turns") for any other conversation.
        """
        prompt = [m for m in messages if m.role != "assistant"] if ask else list(messages[:-1])
        roles = [m.role for m in prompt]
        if roles not in (["user"], ["system", "user"], [], ["system"]) or (
            not ask and messages[-1].role != "assistant"
        ):
            raise TemplateFailed("prompt-format-turns", "a prompt format holds one question and one answer")
        text, placed, literals = self._fill(prompt)
        border = len(text)
        lost = [Slot("tools", -1, tools)] if tools and tools != "[]" else []
        if ask:
            return Layout(text, [], placed, lost, "format", _count(text, literals, control), literals)
        answer, index = messages[-1], len(messages) - 1
        text += answer.content or ""
        if answer.content:
            placed.append((Slot("assistant", index, answer.content), border, len(text)))
        lost += [
            Slot(kind, index, given)
            for kind, given in (("reasoning", answer.reasoning), ("tool_calls", answer.tool_calls))
            if given
        ]
        turns = [Turn(index, border, len(text), None)]
        steering = _count(text, literals, control)
        return Layout(text, turns, placed, lost, "format", steering, literals, [border] if border else [], True)

    def _fill(self, prompt: Sequence[Message]) -> tuple[str, list[tuple[Slot, int, int]], list[tuple[int, int]]]:
        """The formatted prompt, its texts' places and its literals; a text alone has no prompt at all."""
        if not prompt:
            return "", [], []
        slots = {
            "system" if m.role == "system" else "prompt": Slot(m.role, i, m.content or "") for i, m in enumerate(prompt)
        }
        text, placed, literals = "", [], []
        for literal, name in self.parts:
            literals.append((len(text), len(text) + len(literal)))
            text += literal
            fields = ["system", "prompt"] if name == "prompt" and "{system}" not in self.source else [name]
            for field in fields:
                slot = slots.get(field or "")
                if slot is None:
                    continue
                placed.append((slot, len(text), len(text) + len(slot.text)))
                text += slot.text + ("\n\n" if field == "system" and name == "prompt" else "")
        return text, placed, literals


def _count(text: str, literals: Sequence[tuple[int, int]], control: re.Pattern[str]) -> int:
    return sum(len(control.findall(text[a:b])) for a, b in literals)
