"""A recipe as `gristmill run` and `gristmill sweep` read it: the file, its `smoke:` overlay, every `--set`, checked whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from curate.config import SECTIONS, load_recipe, merge, parse_sets, validate
from curate.foundation.errors import UsageError

if TYPE_CHECKING:
    from pack.config import PackConfig
    from train.config import TrainConfig
    from train.judging import EvalConfig

DEMO: Final = "demo"


@dataclass(frozen=True, slots=True)
class River:
    """A resolved recipe: its name, its sections, and whether its floors are judged."""

    name: str
    recipe: dict[str, Any]
    judged: bool = True

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of curation."""
        from curate.settings import CurateConfig

        return validate(CurateConfig, self.recipe.get("curate") or {}, "curate").stages

    @property
    def train(self) -> TrainConfig:
        """The settings of `train run`."""
        from train.config import TrainConfig

        return validate(TrainConfig, self.recipe.get("train") or {}, "train")

    @property
    def pack(self) -> PackConfig:
        """The settings of `pack build`."""
        from pack.config import PackConfig

        return validate(PackConfig, self.recipe.get("pack") or {}, "pack")

    @property
    def eval(self) -> EvalConfig:
        """What is asked before and after; raises `UsageError` for a floor of a task that is not asked."""
        from train.judging import EvalConfig

        config = validate(EvalConfig, self.recipe.get("eval") or {}, "eval")
        if missing := config.missing():
            asked = ", ".join(config.tasks) or "nothing"
            raise UsageError(f"eval.expect.{missing[0]}: no task of that name", hint=f"asked: {asked}")
        return config

    def check(self) -> None:
        """Raise `UsageError` for a section that cannot be read, before anything is done."""
        from curate.sources import SourceSettings

        for name, values in (self.recipe.get("sources") or {}).items():
            validate(SourceSettings, values or {}, f"sources.{name}")
        _ = self.stages, self.pack, self.train, self.eval


def resolve(name: str, sets: Sequence[str] = (), *, smoke: bool = False) -> River:
    """The recipe `name` (shipped, or a file) with its overlay and `sets`, every section checked.

    Where `eval.data` has a local copy of an eval set, decontamination compares with that copy too. A smoke run has the
    floors of the whole model only where `--set` repeats them.
    """
    if name == DEMO:
        raise UsageError("the demo makes its own data", hint="run it with: gristmill demo")
    title, recipe = load_recipe(name)
    overlay = recipe.pop("smoke", {})
    if smoke and not overlay:
        raise UsageError(f"recipe {title} has no smoke: section", hint="run it without --smoke")
    given: dict[str, Any] = {}
    for item in sets:
        head = item.partition("=")[0].partition(".")[0].strip()
        if head not in (*SECTIONS, "sweep"):
            raise UsageError(f"--set {item}: must begin with a section", hint=f"sections: {', '.join(SECTIONS)}")
        part = parse_sets([item.replace("sweep", SECTIONS[0], 1) if head == "sweep" else item], SECTIONS[0])
        given = merge(given, {"sweep": part[SECTIONS[0]]} if head == "sweep" else part)
    recipe = merge(merge(recipe, overlay if smoke else {}), given)
    local = (recipe.get("eval") or {}).get("data") or {}
    cleaning = (recipe.get("curate") or {}).get("decontaminate") or {}
    if local and cleaning.get("against"):
        against = [copy for one in cleaning["against"] for copy in (_asked(local[one]) if one in local else [one])]
        recipe = merge(recipe, {"curate": {"decontaminate": {"against": against}}})
    judged = not smoke or bool((given.get("eval") or {}).get("expect"))
    river = River(title + ("-smoke" if smoke else ""), recipe | {"name": title}, judged)
    river.check()
    return river


def _asked(copy: str) -> list[str]:
    """The files of a local copy that hold what is asked: those of the test split, where a folder has other splits too."""
    folder = Path(copy).expanduser()
    files = sorted(str(path) for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    return [file for file in files if Path(file).name.partition(".")[0].endswith("test")] or [copy]
