"""Which stages a run has: judges for the map stages, sketchers for the reduce stages, and how verdicts reach units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curate.foundation.console import Console
from curate.foundation.events import Events
from curate.foundation.store import Store
from curate.stages.verdict import VERDICT_FIELDS, MapStage

if TYPE_CHECKING:
    from curate.settings import CurateConfig

UNIT_SCHEMA: Final = pa.schema(
    [
        pa.field("position", pa.int64()),
        pa.field("twin_source", pa.string()),
        pa.field("flag", pa.bool_(), nullable=False),
        *VERDICT_FIELDS,
    ]
)


@dataclass(frozen=True, slots=True)
class Setting:
    """Where a run happens: its folder, and whom to tell; what a stage may use besides settings and sketches."""

    out: Path
    console: Console | None = None


class Reducer(Protocol):
    """A stage that decides over all records at once, from small sketches of each."""

    name: str

    def sketch(self, table: pa.Table, start: int = 0) -> pa.Table:
        """What the decision needs of each record; `position` counts from `start`."""
        ...

    def resolve(
        self, sketches: Sequence[Path], priority: Mapping[str, int], gone: Sequence[NDArray[np.int64]] | None = None
    ) -> pa.Table:
        """The records that go; `gone` are positions, by sketch, that an earlier reduce stage removed."""
        ...

    def verdicts(self, resolved: pa.Table) -> pa.Table:
        """The same rows as verdicts, with `sketch`, `position`, `twin_source`, and `flag` where some only mark."""
        ...

    def facts(self, resolved: pa.Table) -> dict[str, Any]:
        """What the manifest and the card say of the decision as a whole, as JSON values."""
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


def sketchers(config: CurateConfig, setting: Setting | None = None, evals: Path | None = None) -> dict[str, Reducer]:
    """The reduce stages, in stage order; `setting` is given where they will resolve, not where they only sketch.

    `evals` is where the index of the eval sets lies; without one there is nothing to decontaminate against.
    """
    from curate.previous import open_previous
    from curate.stages.exact import ExactStage
    from curate.stages.exempt import exempting_sketch
    from curate.stages.score import ScoreStage

    out = None if setting is None else setting.out
    previous = [] if setting is None else open_previous(config.previous)
    made: dict[str, Reducer] = {}
    if "select" in config.stages and config.select.score is not None:
        made["select"] = exempting_sketch(ScoreStage(config.select.score), config.restore)
    if "exact" in config.stages:
        made["exact"] = exempting_sketch(ExactStage(config.exact, previous), config.restore)
    if "minhash" in config.stages:
        from curate.stages.minhash import MinhashStage

        made["minhash"] = exempting_sketch(MinhashStage(config.minhash, out, previous), config.restore)
    if "embedding" in config.stages:
        from curate.stages.embedding import EmbeddingStage

        made["embedding"] = exempting_sketch(EmbeddingStage(config.embedding, setting, previous), config.restore)
    if "decontaminate" in config.stages and evals is not None:
        from curate.stages.decontaminate import DecontaminateStage

        made["decontaminate"] = exempting_sketch(DecontaminateStage(config.decontaminate, evals, out), config.restore)
    return made


def resolve_all(
    store: Store, units: Sequence[str], config: CurateConfig, console: Console | None = None, state: str = ""
) -> dict[str, dict[str, Any]]:
    """Let each reduce stage decide on what the ones before it left; its verdicts land in one file a unit.

    `state` names the index of the eval sets, "" when there is none. Returns what each stage says of its decision as a whole.
    """
    from curate.ingest import WORKING, evals_folder, sketch_name, verdict_name
    from curate.previous import said_afresh

    gone = [np.empty(0, np.int64) for _ in units]
    said: dict[str, dict[str, Any]] = {}
    reducers = sketchers(config, Setting(store.root, console), evals_folder(store.root, state))
    events = Events() if console is None else console.events
    for stage, reducer in reducers.items():
        events.emit("stage", stage=f"deciding {stage}", of=1, unit="decisions")
        if console is not None and stage in WORKING:
            for line in said_afresh(config.previous, stage):
                console.say(line)
        paths = [store.path(sketch_name(stage, unit, config)) for unit in units]
        resolved = reducer.resolve(paths, config.priority, gone)
        said[stage] = reducer.facts(resolved)
        found = reducer.verdicts(resolved)
        if "flag" not in found.column_names:
            found = found.append_column("flag", pa.array(np.zeros(found.num_rows, np.bool_)))
        found = found.sort_by([("sketch", "ascending"), ("position", "ascending")]).combine_chunks()
        starts = np.searchsorted(found.column("sketch").to_numpy(), np.arange(len(units) + 1))
        for index, unit in enumerate(units):
            part = found.slice(starts[index], starts[index + 1] - starts[index]).select(UNIT_SCHEMA.names)
            removals = part.filter(pc.invert(part.column("flag")))
            gone[index] = np.union1d(gone[index], removals.column("position").to_numpy())
            _write(store, verdict_name(stage, unit), part.cast(UNIT_SCHEMA))
        events.emit("stage finished", stage=f"deciding {stage}", done=1)
    return said


def surviving(path: Path, gone: NDArray[np.int64] | None) -> pa.Table:
    """A sketch, memory-mapped, without the positions that an earlier stage removed."""
    from curate.tables import read_arrow

    table = read_arrow(path)
    if gone is None or not len(gone):
        return table
    return table.filter(pc.invert(pc.is_in(table.column("position"), pa.array(gone, pa.int64()))))


def _write(store: Store, name: str, table: pa.Table) -> None:
    with store.writing(name, durable=False) as temp, pa.ipc.new_file(str(temp), table.schema) as writer:
        writer.write_table(table)
