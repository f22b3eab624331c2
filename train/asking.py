"""Prompts as they were packed: the renderer that made the shards also asks the model and reads its answers.

`final/gristmill.json` carries what the renderer needs beside the tokenizer and the chat template: prompt format, rule for
control tokens, terminators. A model folder without it is asked through its own chat template, and one without that
with the bare text behind the ids that its tokenizer puts first. Cost: 0.2 to 1 ms a prompt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from curate.foundation.errors import DataError, UsageError
from curate.record import Message
from pack.shards import ShardManifest
from pack.template import Renderer, TemplateFailed, Tokenizer

FACTS: Final = "gristmill.json"
RULES: Final = ("loss_on", "control_tokens", "thinking")


def facts_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What `final/gristmill.json` says, from the manifest of the shards."""
    rendering = manifest.get("rendering") or {}
    keys = (*RULES, "prompt_format", "template_digest", "frozen_date")
    return {
        "format": 1,
        "ctx": manifest["ctx"],
        "shards": manifest["fingerprint"],
        "tokenizer": dict(manifest["tokenizer"]),
        "terminators": list(manifest["terminators"]),
        "pad_id": manifest["pad_id"],
        "rendering": {key: rendering[key] for key in keys if key in rendering},
    }


class Asker:
    """Texts to prompt ids and answer ids to texts, with one renderer; `described` names how it asks."""

    def __init__(self, folder: Path, facts: Mapping[str, Any] | None) -> None:
        """`folder` holds the tokenizer; `facts` is what `facts_of` gives, None for a model that is not ours.

        Raises `UsageError` without a tokenizer, `DataError` when the template is not the one of the facts.
        """
        tokenizer = Tokenizer.load(folder)
        rendering = dict((facts or {}).get("rendering") or {})
        plain = rendering.get("prompt_format")
        if plain is None and tokenizer.template is None:
            plain = "{prompt}"
        if plain is None and rendering.get("template_digest") not in (None, tokenizer.template_digest):
            raise DataError(
                f"{folder}: its chat template is not the one the model was trained with",
                hint="put chat_template.jinja back from tokenizer/ of the shards",
            )
        rules = {key: rendering[key] for key in RULES if key in rendering}
        self.renderer = Renderer(tokenizer, prompt_format=plain, engine="hf", **rules)
        self.described = f"prompt format {plain!r}" if plain is not None else "chat template"
        if facts is None:
            self.described += f" of {folder.name}, not known to be the one it was trained with"
        self.terminators = [int(token) for token in (facts or {}).get("terminators") or self.renderer.terminators]
        pad = (facts or {}).get("pad_id", tokenizer.pad_id)
        self.pad = int(pad or 0)
        self.stops = self._stop_strings()

    def _stop_strings(self) -> list[str]:
        """What begins the next question of a prompt format, on a line of its own: an answer ends before it."""
        plain = self.renderer.plain
        opening = plain.parts[0][0].strip() if plain and plain.parts else ""
        return [f"\n{opening}"] if any(letter.isalnum() for letter in opening) else []

    @classmethod
    def of_model(cls, folder: Path) -> Asker:
        """For a saved model: as `gristmill.json` beside it says."""
        file = folder / FACTS
        if not file.is_file():
            return cls(folder, None)
        try:
            return cls(folder, dict(json.loads(file.read_bytes())))
        except (ValueError, TypeError) as error:
            raise DataError(f"{file}: not readable ({error})", hint="train again, or take the file away") from error

    @classmethod
    def of_shards(cls, shards: Path) -> Asker:
        """For a model that is about to be trained on these shards."""
        manifest = ShardManifest.read(shards)
        return cls(manifest.tokenizer, facts_of(manifest.facts))

    def ask(self, prompt: str, shots: Sequence[tuple[str, str]] = (), instruction: str = "") -> list[int]:
        """The ids of a question and what opens its answer, behind worked examples (question, answer) and an instruction.

        A chat template gets examples as turns; a prompt format as texts of its own shape, a blank line between them.
        Raises `DataError` when the template refuses the prompt, `UsageError` when its format cannot hold examples.
        """
        questions = [*(question for question, _ in shots), prompt]
        if instruction:
            questions[0] = f"{instruction}\n\n{questions[0]}"
        answers = [answer for _, answer in shots]
        if self.renderer.plain:
            messages = [Message("user", self._joined(questions, answers))]
        else:
            turns = [Message("user", question) for question in questions]
            messages = [turns[0]]
            for answer, turn in zip(answers, turns[1:], strict=True):
                messages += [Message("assistant", answer), turn]
        try:
            return self.renderer.prompt(messages)
        except TemplateFailed as failure:
            raise DataError(f"a prompt cannot be asked: {failure}", hint="take that item out of the task") from failure

    def _joined(self, questions: Sequence[str], answers: Sequence[str]) -> str:
        """Questions and answers in the shape of the prompt format, as the text of its one `{prompt}`."""
        plain = self.renderer.plain
        if not answers or plain is None:
            return questions[-1]
        literals = [literal for literal, _ in plain.parts]
        before, behind = literals[0], "".join(literals[1:])
        if sum(field is not None for _, field in plain.parts) > 1 or self.renderer.encoder.pattern.search(
            before + behind
        ):
            raise UsageError(
                f"prompt format {plain.source!r} cannot hold worked examples: it has control tokens or a system text",
                hint="ask with --shots 0",
            )
        pairs = zip(questions, answers, strict=False)
        return "".join(f"{question}{behind}{answer}\n\n{before}" for question, answer in pairs) + questions[-1]

    def cut(self, text: str) -> tuple[str, bool]:
        """An answer up to the first stop string, and whether there was one."""
        places = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        return (text[: min(places)], True) if places else (text, False)

    def read(self, ids: Sequence[int]) -> str:
        """The text of an answer, without special tokens."""
        return str(self.renderer.tokenizer.backend.decode([int(token) for token in ids], skip_special_tokens=True))
