"""Layouts to tokens: one call of the engine, or the safe path for content that holds literal control tokens."""

from __future__ import annotations

import numpy as np

from pack import masks
from pack.engines import Engine, HfEngine, Ids, Verdict, choose
from pack.grammar import control_pattern
from pack.rendering import TemplateFailed
from pack.spans import Layout
from pack.tokenizing import Tokenizer
from pack.torture import torture

_MANY = 1_000  # texts with literal control tokens before gigatoken is loaded for them too


class Encoder:
    """A tokenizer, its engine and its control tokens; `steers[id]` says whether an id is one of them."""

    def __init__(self, tokenizer: Tokenizer, source: str, engine: str, verdict: Verdict | None) -> None:
        self.tokenizer = tokenizer
        self.control = tokenizer.control_tokens(source)
        self.pattern = control_pattern(self.control)
        self.steers = np.zeros(tokenizer.vocab_size, dtype=np.bool_)
        self.steers[list(self.control.values())] = True
        corpus = torture(self.control) if verdict is None and engine != "hf" else []
        self.engine, found = choose(tokenizer, verdict.engine if verdict else engine, corpus)
        self.verdict = verdict or found
        self._safe: tuple[Tokenizer, Engine] | None = None
        self._safe_texts = 0

    def fall_back(self, verdict: Verdict) -> None:
        """Use `tokenizers` from now on."""
        self.verdict, self._safe = verdict, None
        self.engine, _ = choose(self.tokenizer, "hf", ())

    def tokens(self, layout: Layout, raw: bytes, ids: Ids | None = None) -> masks.Tokens:
        """Ids and borders; content with literal control tokens goes through the copy that does not know them."""
        if ids is None:
            ids = np.concatenate(self.engine.encode(layout.pieces()))
        if int(self.steers[ids].sum()) != layout.control:
            return self._safely(layout, raw)
        found = masks.borders(self.tokenizer, raw, ids)
        if found is not None:
            return found
        return masks.join([masks.by_offsets(*self.tokenizer.encode(piece), len(piece)) for piece in layout.pieces()])

    def _safely(self, layout: Layout, raw: bytes) -> masks.Tokens:
        """Cut at the template's own control tokens, as `tokenizers` does itself, and encode the rest as plain text."""
        copy, engine = self.plain_copy(1)
        cuts = [m.span() for a, b in layout.literals for m in self.pattern.finditer(layout.text, a, b)]
        cuts += [(at, at) for at in layout.breaks]
        cuts.sort()
        edges = [0, *(edge for cut in cuts for edge in cut), len(layout.text)]
        pieces = [layout.text[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)]
        steers = [self.control.get(layout.text[a:b]) for a, b in cuts]
        encoded = engine.encode(pieces)
        parts: list[Ids] = [encoded[0]]
        for steer, part in zip(steers, encoded[1:], strict=True):
            parts += [np.array([] if steer is None else [steer], dtype=np.int32), part]
        if any(self.steers[part].any() for part in encoded):
            raise TemplateFailed("control-token", "the tokenizer makes a control token from plain text")
        found = masks.borders(self.tokenizer, raw, np.concatenate(parts))
        if found is not None:
            return found
        chunks = [masks.by_offsets(*copy.encode(pieces[0]), len(pieces[0]))]
        for (a, b), steer, piece in zip(cuts, steers, pieces[1:], strict=True):
            chunks.append(
                masks.by_offsets([] if steer is None else [steer], [] if steer is None else [(0, b - a)], b - a)
            )
            chunks.append(masks.by_offsets(*copy.encode(piece), len(piece)))
        return masks.join(chunks)

    def plain_copy(self, texts: int) -> tuple[Tokenizer, Engine]:
        """The copy without control tokens and its engine; the fast one is worth loading only for many texts."""
        before, self._safe_texts = self._safe_texts, self._safe_texts + texts
        if self._safe is None:
            copy = self.tokenizer.without(self.control)
            self._safe = (copy, HfEngine(copy))
        if before < _MANY <= self._safe_texts and self.engine.name != "hf":
            copy = self._safe[0]
            self._safe = (copy, choose(copy, "auto", torture(self.control))[0])
        return self._safe
