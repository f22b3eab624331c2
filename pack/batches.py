"""Records -> tokens a batch at a time, over Arrow buffers: the fast path of `template`, equal to it row by row.

Records of one shape share a Form (`forms`): their texts are written between its literals into one buffer, the engine
encodes the buffer, and one pass over the ids spells them, compares them with the text and sets the masks. Whatever is
not plain (tools, names, blank texts, content with control tokens or characters a normalizer may change, a shape the
template treats by more than putting texts in places, a text that answers one of its questions with "yes") goes to
`Renderer.encode_batch`, record by record. Tests hold the two equal on real data and on random conversations.

Cost: 3 to 6 us a record of 100 tokens beside the engine's time; memory is a few times the batch's text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curate.record import from_row
from pack import truncate
from pack.columns import Columns, columns_of
from pack.forms import CONTENT, REASONING, Form, build_form
from pack.kernels import OK, STEERS_ELSE, fill_kernel, mark_kernel, store_kernel, weave_kernel
from pack.rendering import TemplateFailed
from pack.shards import TRAINED_BIT
from pack.template import Encoded, Renderer

_COMMON: Final = 4  # records of a shape in one batch before its form is worth building
_FORMS: Final = 4_096

Ints = NDArray[np.int64]


@dataclass(slots=True)
class EncodedBatch:
    """Segments of a batch in row order, as parallel arrays; `tokens` is uint32 with the trained bit, end to end.

    `trained` counts what labels can hold: not a segment's first token. `failures` names the rows that gave nothing;
    `lost` says of which rows the template left which texts out; `fitted` are the rows that lost turns to the limit.
    """

    tokens: NDArray[np.uint32]
    rows: Ints
    segments: Ints
    lengths: Ints
    trained: Ints
    control: Ints
    stop_added: Ints
    straddled: Ints
    failures: dict[int, TemplateFailed]
    lost: list[tuple[tuple[str, ...], Ints]]
    fitted: Ints
    by_form: int


@dataclass(slots=True)
class _Job:
    """Rows of one form: row r is text starts[r]..ends[r]; its spans' ends, breaks and cuts lie at places[r]."""

    form: Form
    rows: Ints
    starts: Ints
    ends: Ints
    places: Ints


@dataclass(slots=True)
class _Marks:
    """What `mark_kernel` found."""

    mask: NDArray[np.bool_]
    verdict: NDArray[np.uint8]
    straddled: Ints
    surplus: Ints


class BatchEncoder:
    """`Renderer.encode_batch` over batches under `curate.record.SCHEMA`."""

    def __init__(self, renderer: Renderer) -> None:
        self.renderer = renderer
        self._forms: dict[bytes, Form | None] = {}
        table = renderer.tokenizer.token_bytes
        self._able = table is not None
        self._blob = np.frombuffer(b"".join(table or []), np.uint8)
        self._edges = np.cumsum([0, *map(len, table or [])], dtype=np.int64)

    def encode(self, batch: pa.RecordBatch, limit: int = 0) -> EncodedBatch:
        """The segments of a batch of records; a `limit` drops turns of conversations with more tokens (`truncate`)."""
        taken = np.zeros(batch.num_rows, dtype=np.bool_)
        jobs, text = self._fill(columns_of(batch, self.renderer.tokenizer.normalizes)) if self._able else ([], _NOTHING)
        done = self._mark(jobs, text, limit) if jobs else _Done.join([])
        taken[done.rows] = True
        rest = np.flatnonzero(~taken)
        read = [from_row(row) for row in batch.take(pa.array(rest)).to_pylist()] if len(rest) else []
        records = [(record.messages, record.tools) for record in read]
        slow = self.renderer.encode_batch(records) if records else []
        fitted = truncate.fit(self.renderer, records, slow, limit) if limit else []
        return self._together(done, rest.tolist(), slow, rest[fitted])

    # -- forms and text ---------------------------------------------------------------------------------------------

    def _form(self, shape: bytes, count: int) -> Form | None:
        if shape not in self._forms:
            if count < _COMMON:
                return None
            if len(self._forms) >= _FORMS:
                self._forms.clear()
            self._forms[shape] = build_form(self.renderer, shape)
        return self._forms[shape]

    def _fill(self, columns: Columns) -> tuple[list[_Job], NDArray[np.uint8]]:
        """Group rows by shape and write their texts, one after the other, job by job."""
        plain = columns.plain & ~self._to_strip(columns)
        groups: dict[bytes, list[int]] = {}
        edges = columns.offsets.tolist()
        for row in np.flatnonzero(plain).tolist():
            groups.setdefault(columns.shape[edges[row] : edges[row + 1]], []).append(row)
        picked = []
        for shape, members in groups.items():
            form = self._form(shape, len(members))
            rows = np.array(members, dtype=np.int64)
            if form is not None and len(rows := _answering_no(form, columns, rows)):
                picked.append((form, rows, _borders(form, columns, rows)))
        sizes = [(ends - starts).sum(axis=1) + sum(map(len, form.literals)) for form, _, (starts, ends) in picked]
        at = np.cumsum(np.concatenate([[0], *sizes]), dtype=np.int64)
        text, jobs, first = np.empty(at[-1], np.uint8), [], 0
        for form, rows, (starts, ends) in picked:
            job = _Job(form, rows, at[first : first + len(rows)], at[first + 1 : first + len(rows) + 1], _NO_PLACES)
            job.places = _write(job, columns, starts, ends, text)
            jobs.append(job)
            first += len(rows)
        return jobs, text

    def _to_strip(self, columns: Columns) -> NDArray[np.bool_]:
        """Rows with literal control tokens, where those are to be stripped."""
        none = np.zeros(len(columns.plain), dtype=np.bool_)
        if self.renderer.control_rule != "strip" or not self.renderer.encoder.control:
            return none
        pattern = "|".join(re.escape(token) for token in self.renderer.encoder.control)
        hit = columns.texts[CONTENT].answers("matches", pattern) | columns.texts[REASONING].answers("matches", pattern)
        count = np.concatenate(([0], np.cumsum(hit)))
        return np.asarray(count[columns.offsets[1:]] > count[columns.offsets[:-1]])

    # -- tokens and masks -------------------------------------------------------------------------------------------

    def _mark(self, jobs: list[_Job], text: NDArray[np.uint8], limit: int) -> _Done:
        """Encode all jobs in one call; what holds literal control tokens is encoded again as plain text."""
        pieces = [_pieces(job) for job in jobs]
        edges = np.concatenate([*(piece.ravel() for piece in pieces), jobs[-1].ends[-1:]])
        ids, borders = self.renderer.encoder.engine.encode_buffer(text, edges)
        counts = np.concatenate([np.full(len(piece), piece.shape[1]) for piece in pieces])
        first = borders[np.concatenate(([0], np.cumsum(counts)))].astype(np.int64)
        done, low = [], 0
        for job in jobs:
            here = first[low : low + len(job.rows) + 1]
            marks = self._masks(job, text, ids, here)
            done.append(self._kept(job, ids, here, marks, limit))
            held = np.flatnonzero(marks.verdict == STEERS_ELSE)
            if len(held) and self.renderer.control_rule == "text":
                done.append(self._safely(job, text, held, marks.surplus[held], limit))
            low += len(job.rows)
        return _Done.join(done)

    def _masks(self, job: _Job, text: NDArray[np.uint8], ids: Any, first: Ints) -> _Marks:
        form, rows = job.form, len(job.rows)
        marks = _Marks(np.zeros(len(ids), np.bool_), np.zeros(rows, np.uint8), *np.zeros((2, rows), np.int64))
        mark_kernel(
            ids, first, text, job.starts, job.ends, np.ascontiguousarray(job.places[:, : 2 * len(form.spans)]),
            np.array([stop for _, _, stop in form.spans], dtype=np.int64), form.control, self._blob, self._edges,
            self.renderer.encoder.steers, marks.mask, marks.verdict, marks.straddled, marks.surplus,
        )  # fmt: skip
        return marks

    def _safely(self, job: _Job, text: NDArray[np.uint8], held: Ints, surplus: Ints, limit: int) -> _Done:
        """Rows cut at the template's own control tokens, the rest encoded by the copy that knows none."""
        form, encoder = job.form, self.renderer.encoder
        part = _Job(form, job.rows[held], job.starts[held], job.ends[held], job.places[held])
        cuts = part.places[:, part.places.shape[1] - 2 * len(form.cuts) :]
        inner = np.concatenate([part.starts[:, None], cuts, part.ends[:, None]], axis=1)
        sizes = part.ends - part.starts
        moved = np.cumsum(sizes) - sizes
        edges = np.append((inner[:, :-1] + (moved - part.starts)[:, None]).ravel(), sizes.sum())
        packed = np.concatenate([text[a:b] for a, b in zip(part.starts.tolist(), part.ends.tolist(), strict=True)])
        ids, borders = encoder.plain_copy(len(held))[1].encode_buffer(packed, edges)
        out, first = np.empty(len(ids) + len(held) * len(form.cuts), np.int32), np.empty(len(held) + 1, np.int64)
        steers = np.array([steer for _, _, steer in form.cuts], dtype=np.int64)
        clean = weave_kernel(ids, borders, inner.shape[1] - 1, steers, encoder.steers, out, first)
        marks = self._masks(part, text, out, first)
        marks.verdict[~clean] = STEERS_ELSE
        marks.surplus = surplus
        return self._kept(part, out, first, marks, limit)

    def _kept(self, job: _Job, ids: Any, first: Ints, marks: _Marks, limit: int) -> _Done:
        """The rows whose masks are proved, closed with BOS and EOS where the slow path would; and the counts."""
        renderer, form = self.renderer, job.form
        eos = -1 if renderer.tokenizer.eos_id is None else renderer.tokenizer.eos_id
        lead = np.array(renderer.tokenizer.leading if renderer.plain else [], dtype=np.uint32)
        lengths = np.diff(first) + len(lead) + form.open_end
        good = marks.verdict == OK
        if form.open_end and eos < 0:
            good &= False
        if limit:  # over-long conversations are shortened on the slow path
            good &= lengths <= limit
        kept = np.flatnonzero(good)
        lengths = lengths[kept]
        at = np.cumsum(lengths) - lengths
        out, trained = np.empty(int(lengths.sum()), np.uint32), np.zeros(len(kept), np.int64)
        store_kernel(ids, marks.mask, first, kept, lead, eos if form.open_end else -1, at, TRAINED_BIT, out, trained)
        rows, count, counts = job.rows[kept], len(kept), renderer.counts
        straddled, control = marks.straddled[kept], marks.surplus[kept]
        happened = {"control": control.sum(), "stop_added": count * form.open_end, "straddled": straddled.sum()}
        counts[f"method:{form.method}"] += count
        counts.update({f"lost:{kind}": count * form.lost.count(kind) for kind in form.lost})
        counts.update({name: int(number) for name, number in happened.items() if number})
        lost = [(form.lost, rows)] if form.lost and count else []
        stops = np.full(count, int(form.open_end), np.int64)
        return _Done(rows, out, at, lengths, trained, control, stops, straddled, lost)

    def _together(
        self, done: _Done, rest: list[int], slow: list[list[Encoded] | TemplateFailed], fitted: Ints
    ) -> EncodedBatch:
        """Both paths' segments in row order."""
        failures = {row: found for row, found in zip(rest, slow, strict=True) if isinstance(found, TemplateFailed)}
        parts = [(row, e) for row, found in zip(rest, slow, strict=True) if isinstance(found, list) for e in found]
        lost = [*done.lost, *((found[-1].lost, np.array([row])) for row, found in zip(rest, slow, strict=True)
                              if isinstance(found, list) and found[-1].lost)]  # fmt: skip
        stores = [stored(encoded) for _, encoded in parts]

        def column(fast: Ints, values: list[int]) -> Ints:
            return np.concatenate([fast, np.array(values, dtype=np.int64)])

        rows = column(done.rows, [row for row, _ in parts])
        numbers = column(np.zeros(len(done.rows), np.int64), [encoded.segment for _, encoded in parts])
        order = np.lexsort((numbers, rows))
        lengths = column(done.lengths, [len(one) for one in stores])
        starts = column(done.at, (np.cumsum([0, *map(len, stores)])[:-1] + len(done.tokens)).tolist())
        tokens = _reordered(np.concatenate([done.tokens, *stores]), starts[order], lengths[order])
        fields = {
            "trained": column(done.trained, [int(np.count_nonzero(e.mask[1:])) for _, e in parts]),
            "control": column(done.control, [e.control for _, e in parts]),
            "stop_added": column(done.stop_added, [int(e.stop_added) for _, e in parts]),
            "straddled": column(done.straddled, [e.straddled for _, e in parts]),
        }
        return EncodedBatch(
            tokens=tokens, rows=rows[order], segments=numbers[order], lengths=lengths[order], failures=failures,
            lost=lost, fitted=fitted, by_form=len(done.rows), **{name: values[order] for name, values in fields.items()},
        )  # fmt: skip


@dataclass(slots=True)
class _Done:
    """What the fast path finished, in its own order."""

    rows: Ints
    tokens: NDArray[np.uint32]
    at: Ints
    lengths: Ints
    trained: Ints
    control: Ints
    stop_added: Ints
    straddled: Ints
    lost: list[tuple[tuple[str, ...], Ints]]

    @classmethod
    def join(cls, parts: list[_Done]) -> _Done:
        """Several as one."""
        base = np.cumsum([0, *(len(part.tokens) for part in parts)]).tolist()

        def column(name: str) -> Any:
            return np.concatenate([np.empty(0, np.int64), *(getattr(part, name) for part in parts)])

        return cls(
            rows=column("rows"),
            tokens=np.concatenate([np.empty(0, np.uint32), *(part.tokens for part in parts)]),
            at=column("at") + np.repeat(base[:-1], [len(part.at) for part in parts]).astype(np.int64),
            lengths=column("lengths"),
            trained=column("trained"),
            control=column("control"),
            stop_added=column("stop_added"),
            straddled=column("straddled"),
            lost=[entry for part in parts for entry in part.lost],
        )


_NOTHING = np.empty(0, np.uint8)
_NO_PLACES = np.empty((0, 0), np.int64)


def stored(encoded: Encoded) -> NDArray[np.uint32]:
    """A segment's ids as uint32 with the trained bit."""
    return np.asarray(encoded.ids.astype(np.uint32) | np.where(encoded.mask, TRAINED_BIT, np.uint32(0)))


def _answering_no(form: Form, columns: Columns, rows: Ints) -> Ints:
    """The rows whose texts take the path the form was traced on."""
    yes = np.zeros(len(rows), dtype=np.bool_)
    for message, source, kind, what in form.questions:
        yes |= columns.texts[source].answers(kind, what)[columns.offsets[rows] + message]
    return rows[~yes]


def _borders(form: Form, columns: Columns, rows: Ints) -> tuple[Ints, Ints]:
    """Where each slot's text lies in its column's bytes: starts, ends int64 [rows, slots]."""
    starts, ends = (np.empty((len(rows), len(form.slots)), np.int64) for _ in range(2))
    for k, slot in enumerate(form.slots):
        low, high = columns.texts[slot.source].stripped(slot.strips)
        starts[:, k], ends[:, k] = low[columns.offsets[rows] + slot.message], high[columns.offsets[rows] + slot.message]
    return starts, ends


def _write(job: _Job, columns: Columns, starts: Ints, ends: Ints, text: NDArray[np.uint8]) -> Ints:
    """Fill the job's part of the text buffer; where its spans' ends and its breaks lie, int64 [rows, marks]."""
    form = job.form
    marks = [place for start, end, _ in form.spans for place in (start, end)] + list(form.breaks)
    marks += [place for start, end, _ in form.cuts for place in (start, end)]
    places = np.empty((len(job.rows), len(marks)), np.int64)
    fill_kernel(
        columns.texts[CONTENT].data, columns.texts[REASONING].data,
        np.array([slot.source for slot in form.slots], dtype=np.int64), starts, ends,
        np.frombuffer(b"".join(form.literals), np.uint8), np.cumsum([0, *map(len, form.literals)], dtype=np.int64),
        np.array(marks, dtype=np.int64).reshape(-1, 2), text, job.starts, places,
    )  # fmt: skip
    return places


def _pieces(job: _Job) -> Ints:
    """Where each row's pieces begin, int64 [rows, pieces]."""
    first = 2 * len(job.form.spans)
    return np.concatenate([job.starts[:, None], job.places[:, first : first + len(job.form.breaks)]], axis=1)


def _reordered(tokens: NDArray[np.uint32], starts: Ints, lengths: Ints) -> NDArray[np.uint32]:
    ends = starts + lengths
    if len(starts) == 0 or np.array_equal(starts[1:], ends[:-1]):
        return tokens
    return np.concatenate([tokens[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)])
