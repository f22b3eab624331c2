"""Which stages a run has: judges for the map stages, sketchers for the reduce stages, and how verdicts reach units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate.foundation.store import Store
from curate.stages.verdict import VERDICT_FIELDS, MapStage

if TYPE_CHECKING:
    from curate.settings import CurateConfig

UNIT_SCHEMA: Final = pa.schema(
    [pa.field("position", pa.int64()), pa.field("twin_source", pa.string()), *VERDICT_FIELDS]
)


class Reducer(Protocol):
    """A stage that decides over all records at once, from small sketches of each."""

    name: str

    def sketch(self, table: pa.Table, start: int = 0) -> pa.Table:
        """What the decision needs of each record; `position` counts from `start`."""
        ...

    def resolve(self, sketches: Sequence[Path], priority: Mapping[str, int]) -> pa.Table:
        """The records that go."""
        ...

    def verdicts(self, resolved: pa.Table) -> pa.Table:
        """The same rows as verdicts, with `sketch`, `position` and `twin_source`."""
        ...


def map_stages(config: CurateConfig) -> list[MapStage]:
    """The judges of one batch, in stage order; exemptions are applied around each."""
    from curate.stages.exempt import exempting
    from curate.stages.length import LengthStage
    from curate.stages.quality import QualityStage
    from curate.stages.select import SelectStage, load_decisions

    path = config.select.decisions
    decisions = load_decisions(Path(path)) if path else None
    made: list[MapStage] = []
    if "select" in config.stages:
        made.append(SelectStage(config.select.model_copy(update={"score": None}), decisions))
    if "length" in config.stages:
        made.append(LengthStage(config.length, decisions))
    if "quality" in config.stages:
        made.append(QualityStage(config.quality, decisions))
    return [exempting(stage, config.restore) for stage in made]


def sketchers(config: CurateConfig) -> dict[str, Reducer]:
    """The reduce stages, in stage order."""
    from curate.stages.exact import ExactStage
    from curate.stages.exempt import exempting_sketch
    from curate.stages.score import ScoreStage

    made: dict[str, Reducer] = {}
    if "select" in config.stages and config.select.score is not None:
        made["select"] = exempting_sketch(ScoreStage(config.select.score), config.restore)
    if "exact" in config.stages:
        made["exact"] = exempting_sketch(ExactStage(config.exact), config.restore)
    if "minhash" in config.stages:
        from curate.stages.minhash import MinhashStage

        made["minhash"] = exempting_sketch(MinhashStage(config.minhash), config.restore)
    return made


def resolve_all(store: Store, units: Sequence[str], config: CurateConfig) -> None:
    """Let each reduce stage decide on what the ones before it left; its verdicts land in one file a unit."""
    from curate.ingest import sketch_name, verdict_name

    gone: dict[str, list[int]] = {unit: [] for unit in units}
    for stage, reducer in sketchers(config).items():
        paths = [store.path(sketch_name(stage, unit)) for unit in units]
        if any(gone.values()):
            paths = [_surviving(store, path, stage, unit, gone[unit]) for path, unit in zip(paths, units, strict=True)]
        found = reducer.verdicts(reducer.resolve(paths, config.priority))
        found = found.sort_by([("sketch", "ascending"), ("position", "ascending")]).combine_chunks()
        starts = np.searchsorted(found.column("sketch").to_numpy(), np.arange(len(units) + 1))
        for index, unit in enumerate(units):
            part = found.slice(starts[index], starts[index + 1] - starts[index]).select(UNIT_SCHEMA.names)
            gone[unit] += part.column("position").to_pylist()
            _write(store, verdict_name(stage, unit), part.cast(UNIT_SCHEMA))


def _surviving(store: Store, path: Path, stage: str, unit: str, gone: list[int]) -> Path:
    """A sketch without the records that an earlier reduce stage removed."""
    from curate.tables import read_arrow

    if not gone:
        return path
    name = f".work/sketches/{stage}/{unit}.arrow"
    table = read_arrow(path)
    left = table.filter(pc.invert(pc.is_in(table.column("position"), pa.array(gone, pa.int64()))))
    _write(store, name, left)
    return store.path(name)


def _write(store: Store, name: str, table: pa.Table) -> None:
    with store.writing(name, durable=False) as temp, pa.ipc.new_file(str(temp), table.schema) as writer:
        writer.write_table(table)
