"""Chat template -> token ids and loss mask, proved record by record.

One render, laid out against its skeleton (`spans`); one tokenisation (`engines`); spans to tokens and a check of the
result (`masks`). What cannot be proved raises TemplateFailed with a stable reason: a record is never half right.

Trained is what the assistant wrote, with its reasoning, tool calls and terminator; not the generation header and not
an empty think block. Reasoning that a template drops from earlier turns (`thinking`): `last` trains only the turns
that still hold theirs, `split` makes one segment for each such turn, `all` trains the turns without it.

Cost a record: 30 to 100 us for rendering and layout, the engine's time, about 30 us for the mask.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.foundation.errors import UsageError
from curate.record import Message
from pack import masks
from pack.conversation import Dissection, dissect, map_texts
from pack.encoding import Encoder
from pack.engines import HfEngine, Ids, Verdict, compare
from pack.grammar import missing_tokens, probe, template_source
from pack.plain import PlainFormat
from pack.rendering import TemplateFailed, watch
from pack.spans import (
    Grammar,
    Layout,
    Skeleton,
    build_skeleton,
    by_prefixes,
    lay_out,
    place_literals,
    take_apart,
)
from pack.tokenizing import Tokenizer, text_digest
from pack.turns import all_but, prove, tagged_turns

__all__ = ["Encoded", "Renderer", "TemplateFailed", "Tokenizer"]

LOSS_ON = ("assistant", "last", "completion", "all")
CONTROL = ("text", "strip", "reject")
THINKING = ("last", "split", "all")
_SHAPES = 2_048

Conversation = tuple[Sequence[Message], str | None]


@dataclass(slots=True)
class Encoded:
    """One segment: int32 ids and its loss mask, and what happened on the way.

    `lost` names each text the template does not print ("system", "reasoning", "tool_calls", ...), once a message.
    `segment` of `segments`: a record is split only by `thinking="split"`. `control` counts literal control tokens in
    the content; `stop_added` says that EOS was appended; `straddled` counts trained tokens that begin in a header.
    """

    ids: Ids
    mask: NDArray[np.bool_]
    lost: tuple[str, ...] = ()
    segment: int = 0
    segments: int = 1
    method: str = "sentinel"
    control: int = 0
    stop_added: bool = False
    straddled: int = 0

    @property
    def trained(self) -> int:
        """Trained tokens."""
        return int(self.mask.sum())


@dataclass(slots=True)
class _Plan:
    """A laid out segment before tokenisation; `spans` are the trained characters with each span's terminator."""

    layout: Layout
    raw: bytes
    spans: list[tuple[int, int, str | None]]
    lost: tuple[str, ...]
    stripped: int = 0
    segment: int = 0
    segments: int = 1


class Renderer:
    """Turns conversations into ids and masks with one tokenizer, one template and one set of rules."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        template: str | None = None,
        prompt_format: str | None = None,
        loss_on: str = "assistant",
        control_tokens: str = "text",
        thinking: str = "last",
        engine: str = "auto",
        verdict: Verdict | None = None,
    ) -> None:
        """`verdict` of another process's guard on the same tokenizer spares this one the torture corpus.

        Raises UsageError for an unknown choice, a missing template, or one that refuses a plain conversation.
        """
        for flag, value, known in (
            ("--loss-on", loss_on, LOSS_ON),
            ("--control-tokens", control_tokens, CONTROL),
            ("thinking:", thinking, THINKING),
        ):
            if value not in known:
                raise UsageError(f"{flag} {value} is unknown", hint=f"{flag} {'|'.join(known)}")
        self._loss_on, self.control_rule, self._thinking = loss_on, control_tokens, thinking
        self.plain = PlainFormat.choose(tokenizer, template, prompt_format)
        source = self.plain.source if self.plain else template_source(tokenizer, template)
        self.template = None if self.plain else source
        self.added_tokens = [] if self.plain or template is None else missing_tokens(tokenizer, source)
        self.tokenizer = tokenizer.with_tokens(self.added_tokens) if self.added_tokens else tokenizer
        self.encoder = Encoder(self.tokenizer, source, engine, verdict)
        self._pattern = self.encoder.pattern
        self.grammar: Grammar | None = None
        self._keeps_reasoning, self._stops_last = False, False
        if not self.plain:
            self.grammar, self._keeps_reasoning, self._stops_last = probe(self.tokenizer, source, self._pattern)
        self._shapes: dict[str, Skeleton] = {}
        self.counts: Counter[str] = Counter()

    # -- what others ask --------------------------------------------------------------------------------------------

    def encode(self, messages: Sequence[Message], tools: str | None = None) -> list[Encoded]:
        """The segments of one conversation, usually one. Raises TemplateFailed."""
        found = self.encode_batch([(messages, tools)])[0]
        if isinstance(found, TemplateFailed):
            raise found
        return found

    def encode_batch(self, records: Sequence[Conversation]) -> list[list[Encoded] | TemplateFailed]:
        """`encode` of many conversations, with one call of the engine; a refusal takes its record's place."""
        plans: list[list[_Plan] | TemplateFailed] = []
        with watch():
            for messages, tools in records:
                try:
                    plans.append(self.plan(messages, tools))
                except TemplateFailed as failure:
                    plans.append(failure)
        flat = [plan for found in plans if isinstance(found, list) for plan in found]
        pieces = [piece for plan in flat for piece in plan.layout.pieces()]
        ids = iter(self.encoder.engine.encode(pieces))
        return [self._finish_all(found, ids) for found in plans]

    def prompt(self, messages: Sequence[Message], tools: str | None = None) -> list[int]:
        """The ids a model is asked with: the conversation so far and the generation header. Raises TemplateFailed."""
        if self.control_rule == "strip":
            messages, tools, _ = self._strip(messages, tools)
        if self.plain:
            layout = self.plain.lay_out(messages, tools, self._pattern, ask=True)
            return [*self.tokenizer.leading, *self.encoder.tokens(layout, masks.utf8(layout.text)).ids.tolist()]
        assert self.grammar is not None
        parts = self._dissect(messages, tools)
        text, _ = self.grammar.template.render(parts.chat, parts.tools, generate=True)
        bare, _ = self.grammar.template.render(parts.bare_chat, parts.bare_tools, generate=True)
        literals = place_literals(*take_apart(bare), parts.slots, text) or [(0, len(text))]
        control = sum(len(self._pattern.findall(text[a:b])) for a, b in literals)
        layout = Layout(text, [], [], [], "prompt", control, literals)
        found: list[int] = self.encoder.tokens(layout, masks.utf8(text)).ids.tolist()
        return found

    @property
    def terminators(self) -> list[int]:
        """The ids trained as end of turn: what generation must stop at."""
        stops = [self.tokenizer.token_id(stop) for stop in self.grammar.stops] if self.grammar else []
        if not self._stops_last:
            stops.append(self.tokenizer.eos_id)
        return list(dict.fromkeys(stop for stop in stops if stop is not None))

    def guard(self, records: Sequence[Conversation]) -> Verdict:
        """Compare the engine with `tokenizers` on a sample of the user's own records; on a difference, drop it."""
        encoder = self.encoder
        if encoder.engine.name == "hf":
            return encoder.verdict
        texts = []
        for messages, tools in records:
            try:
                texts += [piece for plan in self.plan(messages, tools) for piece in plan.layout.pieces()]
            except TemplateFailed:
                continue
        differing = compare(encoder.engine, HfEngine(self.tokenizer), texts)
        reason = "differs on the records" if differing else "equal on the torture corpus and on the records"
        name = "hf" if differing else encoder.engine.name
        verdict = Verdict(encoder.verdict.asked, name, reason, encoder.verdict.torture, len(texts), differing)
        if differing:
            encoder.fall_back(verdict)
        encoder.verdict = verdict
        return verdict

    @property
    def verdict(self) -> Verdict:
        """The engine in use and why."""
        return self.encoder.verdict

    def facts(self) -> dict[str, Any]:
        """For the manifest: digests, engine and verdict, rules, terminators, counts so far."""
        return {
            "tokenizer": self.tokenizer.name,
            "tokenizer_digest": self.tokenizer.digest,
            "vocab_size": self.tokenizer.vocab_size,
            "template_digest": None if self.template is None else text_digest(self.template),
            "prompt_format": self.plain.source if self.plain else None,
            "loss_on": self._loss_on,
            "control_tokens": self.control_rule,
            "thinking": self._thinking,
            "added_tokens": list(self.added_tokens),
            "terminators": self.terminators,
            "frozen_date": bool(self.grammar and self.grammar.template.dated),
            "engine": self.verdict.facts(),
            "counts": dict(sorted(self.counts.items())),
        }

    # -- rendering --------------------------------------------------------------------------------------------------

    def _dissect(self, messages: Sequence[Message], tools: str | None, nine: bool = False) -> Dissection:
        return dissect(messages, tools, self._pattern, nine=nine)

    def plan(self, messages: Sequence[Message], tools: str | None = None) -> list[_Plan]:
        """The laid out segments of one conversation, before tokenisation. Raises TemplateFailed."""
        if not messages:
            raise TemplateFailed("no-message")
        stripped = 0
        if self.control_rule == "strip":
            messages, tools, stripped = self._strip(messages, tools)
        layout = self._lay_out(messages, tools)
        wanted = self._wanted(messages)
        dropped = {slot.message for slot in layout.lost if slot.kind == "reasoning"} if self._keeps_reasoning else set()
        segments = [(layout, wanted - dropped if self._thinking != "all" else wanted)]
        rest = wanted & dropped if self._thinking == "split" else set()
        while rest:
            shorter = self._lay_out(messages[: max(rest) + 1], tools)
            gone = {slot.message for slot in shorter.lost if slot.kind == "reasoning"}
            here = rest - gone or {max(rest)}
            segments.insert(0, (shorter, here))
            rest -= here
        kept = [(part, turns) for part, turns in segments if turns] or segments[-1:]
        plans = [self._segment(part, turns, messages, stripped) for part, turns in kept]
        for k, plan in enumerate(plans):
            plan.segment, plan.segments = k, len(plans)
        return plans

    def _lay_out(self, messages: Sequence[Message], tools: str | None) -> Layout:
        if self.plain:
            return self.plain.lay_out(messages, tools, self._pattern)
        assert self.grammar is not None
        parts = self._dissect(messages, tools)
        try:
            text, tags = self.grammar.template.render(parts.chat, parts.tools)
        except TemplateFailed as failure:
            if "length 9" not in failure.detail:
                raise
            parts = self._dissect(messages, tools, nine=True)
            text, tags = self.grammar.template.render(parts.chat, parts.tools)
        skeleton = self._shape(parts)
        layout = lay_out(self.grammar, parts, skeleton, text) if skeleton else None
        if layout is None:
            layout = by_prefixes(self.grammar, parts, text)
        if tags:
            layout.method = "tags"
            layout.turns = tagged_turns(layout.turns, tags)
        return layout

    def _shape(self, parts: Dissection) -> Skeleton | None:
        """The skeleton of this shape of conversation, from the cache or built; None if sentinels make it fail."""
        assert self.grammar is not None
        skeleton = self._shapes.get(parts.key)
        if skeleton is None:
            try:
                skeleton = build_skeleton(self.grammar, parts)
            except TemplateFailed as failure:
                if failure.reason == "no-terminator":
                    raise
                return None
            if len(self._shapes) >= _SHAPES:
                self._shapes.clear()
            self._shapes[parts.key] = skeleton
        return skeleton

    def _strip(self, messages: Sequence[Message], tools: str | None) -> tuple[Sequence[Message], str | None, int]:
        count = 0

        def clean(text: str) -> str:
            nonlocal count
            while True:  # what is left may join into another token
                text, n = self._pattern.subn("", text)
                count += n
                if not n:
                    return text

        return [map_texts(message, clean) for message in messages], tools and clean(tools), count

    # -- which turns ------------------------------------------------------------------------------------------------

    def _wanted(self, messages: Sequence[Message]) -> set[int]:
        """Indices of the assistant messages whose turn is to be trained."""
        turns = [i for i, message in enumerate(messages) if message.role == "assistant"]
        if self._loss_on == "last":
            turns = turns[-1:]
        elif self._loss_on == "completion" and turns:
            asked = max((i for i, m in enumerate(messages[: turns[-1]]) if m.role == "user"), default=-1)
            turns = [i for i in turns if i > asked]
        return {i for i in turns if messages[i].train}

    def _segment(self, layout: Layout, wanted: set[int], messages: Sequence[Message], stripped: int) -> _Plan:
        """The trained spans of one layout, and the proof that they hold the assistant's texts and nobody else's."""
        # A turn that is not printed whole would teach what the assistant did not do.
        wanted = wanted - {slot.message for slot in layout.lost if slot.kind in ("assistant", "tool_calls")}
        turns = [turn for turn in layout.turns if turn.message in wanted]
        prove(turns, layout.placed)
        spans = [(turn.start, turn.end, turn.stop) for turn in turns]
        if not spans or not any(end > start for start, end, _ in spans):
            raise TemplateFailed("no-trained-token", "no assistant turn of this conversation is trained")
        raw = masks.utf8(layout.text)
        if self._loss_on == "all":
            spans = all_but([(t.start, t.end) for t in layout.turns if not messages[t.message].train], layout)
        lost = sorted({(slot.message, slot.kind) for slot in layout.lost})
        return _Plan(layout, raw, spans, tuple(kind for _, kind in lost), stripped)

    # -- tokens and masks -------------------------------------------------------------------------------------------

    def _finish_all(self, plans: list[_Plan] | TemplateFailed, ids: Any) -> list[Encoded] | TemplateFailed:
        if isinstance(plans, TemplateFailed):
            self.counts[f"failed:{plans.reason}"] += 1
            return plans
        mine = [np.concatenate([next(ids) for _ in plan.layout.pieces()]) for plan in plans]
        try:
            found = [self._finish(plan, part) for plan, part in zip(plans, mine, strict=True)]
        except TemplateFailed as failure:
            self.counts[f"failed:{failure.reason}"] += 1
            return failure
        self.counts[f"method:{found[-1].method}"] += 1
        self.counts.update(f"lost:{kind}" for kind in found[-1].lost)
        for name in ("control", "stop_added", "straddled"):
            if count := sum(int(getattr(part, name)) for part in found):
                self.counts[name] += count
        return found

    def _finish(self, plan: _Plan, ids: Ids) -> Encoded:
        layout = plan.layout
        control = int(self.encoder.steers[ids].sum()) - layout.control
        if control and self.control_rule == "reject":
            raise TemplateFailed("control-token", "the content holds a literal control token")
        tokens = self.encoder.tokens(layout, plan.raw, ids)
        flat = [(start, end) for start, end, _ in plan.spans]
        spans = masks.to_bytes(layout.text, flat) if tokens.exact else flat
        mask = np.zeros(len(tokens.ids), dtype=np.bool_)
        ranges = masks.token_ranges(tokens, spans)
        for a, b in ranges:
            mask[a:b] = True
        stops = [None if stop is None else self.encoder.control.get(stop) for _, _, stop in plan.spans]
        masks.check(tokens, mask, spans, stops)
        if not tokens.exact:
            self._compare(plan, tokens, ranges)
        straddled = sum(int(tokens.starts[a] < start) for (a, _), (start, _) in zip(ranges, spans, strict=True))
        ids, mask, added = self._close(tokens.ids, mask, plan)
        return Encoded(
            ids, mask, plan.lost, plan.segment, plan.segments, layout.method, control + plan.stripped, added, straddled
        )

    def _compare(self, plan: _Plan, tokens: masks.Tokens, ranges: list[tuple[int, int]]) -> None:
        """Borders came from offsets: the decoded spans must hold the assistant's texts."""
        for (a, b), (start, end, _) in zip(ranges, plan.spans, strict=True):
            decoded = self.tokenizer.decode(tokens.ids[a:b].tolist())
            for slot, at, to in plan.layout.placed:
                if start <= at and to <= end and not masks.same_text(decoded, plan.layout.text[at:to]):
                    raise TemplateFailed("span-mismatch", f"a trained span does not decode to its {slot.kind} text")

    def _close(self, ids: Ids, mask: NDArray[np.bool_], plan: _Plan) -> tuple[Ids, NDArray[np.bool_], bool]:
        """BOS for plain formats; EOS after a last turn that the template leaves open."""
        added = plan.layout.open_end
        if self.plain and self.tokenizer.leading:
            ids = np.concatenate([np.array(self.tokenizer.leading, dtype=np.int32), ids])
            mask = np.concatenate([np.zeros(len(self.tokenizer.leading), dtype=np.bool_), mask])
        if added:
            if self.tokenizer.eos_id is None:
                raise TemplateFailed("no-terminator", "the template leaves the stop off and the tokenizer has no EOS")
            ids = np.append(ids, np.int32(self.tokenizer.eos_id))
            mask = np.append(mask, mask[-1] if len(mask) else False)
        return ids, mask, added
