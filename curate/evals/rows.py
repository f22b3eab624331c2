"""The rows of an eval file as plain values: the containers `curate` reads, csv without a header, members of a zip."""

from __future__ import annotations

import csv
import io
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from curate.evals.model import Fields
from curate.evals.shapes import MMLU, guess
from curate.formats.strict import Broken, loads
from curate.foundation.errors import UsageError
from curate.reading.arrays import Block
from curate.reading.containers import READERS, packing
from curate.reading.decode import Decoder
from curate.reading.model import Batch, Raw, Unit
from curate.reading.plan import container_of, stem
from curate.reading.streams import BOM, RATIO_FLOOR, Cut, blocks, line_ends
from curate.record import SCHEMA
from curate.sources import ReadSettings, SourceSettings

READ: Final = ReadSettings()
Row = tuple[str, int, Any, str]  # stem of the file or member, row from 0, value, problem


class _Values(Decoder):
    """Keeps the values of rows, where a `Decoder` makes records of them."""

    def __init__(self, unit: Unit) -> None:
        super().__init__(unit, READ, exact=True)
        self.kept: list[Raw] = []

    def lines(self, block: bytes, row: int, offset: int) -> Batch:
        """Values of physical lines."""
        self.ends = line_ends(block)
        found = [Raw(row + i, None, line) for i, line in enumerate(block.split(b"\n")) if line.strip()]
        return self.values([_parsed(raw) for raw in found])

    def elements(self, found: Block, row: int) -> tuple[Batch, int | None]:
        """Values of the elements of an array, up to the first that is not JSON at all."""
        raws: list[Raw] = []
        for i, (start, stop) in enumerate(zip(found.starts, found.stops, strict=True)):
            data = found.block[start:stop]
            try:
                raws.append(Raw(row + i, None, b"", loads(data)))
            except Broken as error:
                if error.syntax:
                    return self.values(raws), i
                raws.append(Raw(row + i, None, b"", None, str(error)))
        return self.values(raws), None

    def values(self, raws: list[Raw]) -> Batch:
        """Values as they are."""
        self.kept += raws
        return Batch(SCHEMA.empty_table(), [], len(raws), Counter(), Counter())


def _parsed(raw: Raw) -> Raw:
    try:
        raw.value, raw.data = loads(raw.data), b""
    except Broken as error:
        raw.problem = str(error)
    return raw


def rows_of(path: Path, shown: str, fields: Fields | None) -> Iterator[Row]:
    """The rows of a file or of every data member of a zip; `shown` names the file in errors."""
    if path.suffix.lower() == ".zip":
        yield from _members(path, shown, fields)
        return
    container = container_of(path.name) or ""
    yield from _file(path, stem(path.name), shown, container, fields)


def _file(path: Path, name: str, shown: str, container: str, fields: Fields | None) -> Iterator[Row]:
    unit = Unit("", shown, str(path), "", container, 0, -1, 0, 0, "", SourceSettings())
    if container.startswith(("csv", "tsv")):
        yield from _csv(unit, name, fields)
        return
    decoder = _Values(unit)
    for batch in READERS[container.partition(".")[0]](unit, READ, decoder):
        yield from ((name, raw.row, raw.value, raw.problem) for raw in decoder.kept)
        decoder.kept = []
        yield from ((name, bad.row, None, bad.reason) for bad in batch.quarantined)


def _csv(unit: Unit, name: str, fields: Fields | None) -> Iterator[Row]:
    """Rows of a csv: under the mapping's columns, the header's names, or those of MMLU (which has no header)."""
    csv.field_size_limit(READ.max_line_bytes)
    try:
        data = b"".join(blocks(Path(unit.path), packing(unit), READ)).removeprefix(BOM)
        text = data.decode("utf-8")
    except (Cut, UnicodeDecodeError) as error:
        yield name, 0, None, str(error) if isinstance(error, Cut) else f"invalid UTF-8 at byte {error.start}"
        return
    reader = csv.reader(io.StringIO(text), delimiter="\t" if unit.container.startswith("tsv") else ",", strict=True)
    columns = list(fields.columns) if fields and fields.columns else None
    row = 0
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield name, row, None, f"malformed csv: {error}"
            return
        if not cells:
            continue
        if columns is None:
            columns, header = _header(cells, fields)
            if header:
                continue
        wrong = f"{len(cells)} fields under {len(columns)} columns" if len(cells) != len(columns) else ""
        yield name, row, dict(zip(columns, cells, strict=False)), f"malformed csv: {wrong}" if wrong else ""
        row += 1


def _header(cells: list[str], fields: Fields | None) -> tuple[list[str], bool]:
    """The names of the columns, and whether the first row holds them."""
    if fields is None and guess(dict.fromkeys(cells, "")) is None and len(cells) == 6 and cells[5] in tuple("ABCD"):
        return list(MMLU.columns or ()), False
    return cells, True


def _members(path: Path, shown: str, fields: Fields | None) -> Iterator[Row]:
    """Rows of the data members of a zip, in name order; each is unpacked to a temporary file within the caps."""
    try:
        with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
            for info in sorted(archive.infolist(), key=lambda info: info.filename):
                container = container_of(info.filename)
                if info.is_dir() or container is None or "__MACOSX" in info.filename:
                    continue
                name = stem(Path(info.filename).name)
                target = Path(folder) / "member"
                if problem := _unpack(archive, info, target):
                    yield name, 0, None, problem
                    continue
                yield from _file(target, name, f"{shown}/{info.filename}", container, fields)
    except (zipfile.BadZipFile, OSError) as error:
        raise UsageError(f"{shown}: not a readable zip ({error})", hint="download it again, or unpack it") from None


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> str:
    """Write a member to `target`; gives the reason when it is damaged, locked or larger than the caps allow."""
    most = min(READ.max_file_bytes, max(RATIO_FLOOR, READ.max_ratio * info.compress_size))
    size = 0
    try:
        with archive.open(info) as source, target.open("wb") as out:
            while block := source.read(1 << 20):
                size += len(block)
                if size > most:
                    return "a member of the zip is larger than the caps allow"
                out.write(block)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:
        return f"a member of the zip cannot be read ({type(error).__name__})"
    return ""
