"""`curate STAGE IN OUT`: one stage on a curated folder. Parse, call, print; nothing heavy imported before a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from curate.foundation import options
from curate.foundation.console import Console
from curate.foundation.executor import Spread

stages = typer.Typer()

Allow = Annotated[bool, typer.Option("--allow-wipeout", help="Accept a stage that empties more than half of a source.")]

Against = Annotated[
    list[str] | None,
    typer.Option("--against", metavar="EVALS", help="Eval sets to compare with: names, or a path (repeatable)."),
]


def show_config(console: Console, resolved: Any) -> None:
    """Print the resolved settings with the origin of each."""
    data = {"config": resolved.config.model_dump(mode="json"), "origins": resolved.origins}
    console.result(data, "\n".join(resolved.lines("curate")))


def _one_stage(
    stage: str,
    places: tuple[Path, Path],
    given: tuple[str | None, list[str] | None],
    flags: dict[str, Any],
    spread: Spread,
    console: Console,
    print_config: bool,
) -> None:
    """What every stage command does once its options are read: settle the settings, show them or run the stage."""
    from curate import commands

    source, out = places
    recipe, sets = given
    resolved = commands.stage_settings(source, recipe, sets or [], {**flags, "stages": [stage]})
    if print_config:
        show_config(console, resolved)
        return
    if stage == "minhash" and resolved.config.minhash.recall is not None:
        console.say(commands.s_curve(resolved.config))
    console.result(*commands.one_stage(source, out, resolved, spread, console, f"curate {stage}"))


def _stage_command(stage: str, about: str) -> None:
    @stages.command(stage, help=f"Run only `{stage}` on a curated folder: {about}")
    def command(
        source: Annotated[Path, typer.Argument(metavar="IN", help="A curated folder.")],
        out: Annotated[Path, typer.Argument(metavar="OUT", help="Where the result goes.")],
        key: Annotated[
            str | None, typer.Option("--key", help="For exact: conversation | prompt | first-user | response.")
        ] = None,
        previous: options.Previous = None,
        allow_wipeout: Allow = False,
        recipe: options.Recipe = None,
        sets: options.Sets = None,
        workers: options.Workers = 0,
        executor: options.Backend = "auto",
        address: options.Address = None,
        cards: options.Cards = None,
        overwrite: options.Overwrite = False,
        print_config: options.PrintConfig = False,
        as_json: options.AsJson = False,
        quiet: options.Quiet = False,
    ) -> None:
        from curate import commands

        flags: dict[str, Any] = {"allow_wipeout": allow_wipeout or None}
        flags |= commands.duplicate_flags(stage, key, previous)
        spread = Spread(workers, executor, overwrite, cards, address)
        _one_stage(
            stage, (source, out), (recipe, sets), flags, spread, Console(as_json=as_json, quiet=quiet), print_config
        )


_stage_command("select", "predicates, score quantiles and hand decisions.")
_stage_command("length", "characters a field and a sample.")
_stage_command("quality", "encoding damage, unfinished answers, broken fences, role order and more.")
_stage_command("exact", "equal conversations, prompts or responses.")


@stages.command("minhash")
def minhash_command(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A curated folder.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Where the result goes.")],
    key: Annotated[str | None, typer.Option("--key", help="conversation | prompt | first-user | response.")] = None,
    threshold: Annotated[float | None, typer.Option("--threshold", metavar="J", help="Exact Jaccard (0.8).")] = None,
    ngram: Annotated[int | None, typer.Option("--ngram", metavar="N", help="Words a shingle (5).")] = None,
    bands: Annotated[int | None, typer.Option("--bands", metavar="N", help="Bands of the signature (40).")] = None,
    rows: Annotated[int | None, typer.Option("--rows", metavar="N", help="Rows a band (6).")] = None,
    recall: Annotated[
        float | None,
        typer.Option("--recall", metavar="R", help="Pick bands and rows for this recall at the threshold."),
    ] = None,
    previous: options.Previous = None,
    allow_wipeout: Allow = False,
    recipe: options.Recipe = None,
    sets: options.Sets = None,
    workers: options.Workers = 0,
    memory: options.Memory = None,
    executor: options.Backend = "auto",
    address: options.Address = None,
    cards: options.Cards = None,
    overwrite: options.Overwrite = False,
    print_config: options.PrintConfig = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Near-duplicates on a curated folder: MinHash candidates, every removal verified by exact Jaccard."""
    given = {"key": key, "threshold": threshold, "ngram": ngram, "bands": bands, "rows": rows, "recall": recall}
    given["memory"] = memory
    flags: dict[str, Any] = {"allow_wipeout": allow_wipeout or None, "previous": previous or None}
    flags |= {f"minhash.{name}": value for name, value in given.items()}
    spread = Spread(workers, executor, overwrite, cards, address)
    _one_stage(
        "minhash", (source, out), (recipe, sets), flags, spread, Console(as_json=as_json, quiet=quiet), print_config
    )


@stages.command("embedding")
def embedding_command(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A curated folder.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Where the result goes.")],
    key: Annotated[str | None, typer.Option("--key", help="prompt | conversation | first-user | response.")] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="M", help="A local folder, a hub name or a package (thenlper/gte-small)."),
    ] = None,
    threshold: Annotated[float | None, typer.Option("--threshold", metavar="C", help="Cosine (0.95).")] = None,
    previous: options.Previous = None,
    allow_wipeout: Allow = False,
    recipe: options.Recipe = None,
    sets: options.Sets = None,
    workers: options.Workers = 0,
    executor: options.Backend = "auto",
    address: options.Address = None,
    cards: options.Cards = None,
    overwrite: options.Overwrite = False,
    print_config: options.PrintConfig = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Rewrites of one another on a curated folder, by the cosine of their embeddings; exact search."""
    flags: dict[str, Any] = {"allow_wipeout": allow_wipeout or None, "previous": previous or None}
    flags |= {"embedding.key": key, "embedding.model": model, "embedding.threshold": threshold}
    spread = Spread(workers, executor, overwrite, cards, address)
    _one_stage(
        "embedding", (source, out), (recipe, sets), flags, spread, Console(as_json=as_json, quiet=quiet), print_config
    )


@stages.command("decontaminate")
def decontaminate_command(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A curated folder.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Where the result goes.")],
    against: Against = None,
    scope: Annotated[str | None, typer.Option("--scope", help="Whose turns: user | assistant | all.")] = None,
    semantic: Annotated[
        bool, typer.Option("--semantic", help="Mark paraphrases and translations too, by embeddings.")
    ] = False,
    report_only: Annotated[bool, typer.Option("--report-only", help="Remove nothing; every match is a flag.")] = False,
    allow_wipeout: Allow = False,
    recipe: options.Recipe = None,
    sets: options.Sets = None,
    workers: options.Workers = 0,
    executor: options.Backend = "auto",
    address: options.Address = None,
    cards: options.Cards = None,
    overwrite: options.Overwrite = False,
    print_config: options.PrintConfig = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Items of evaluation sets on a curated folder: n-grams, edited copies, answers; with the evidence for each."""
    flags: dict[str, Any] = {"allow_wipeout": allow_wipeout or None}
    flags |= {"decontaminate.against": against or None, "decontaminate.scope": scope}
    flags |= {"decontaminate.report_only": report_only or None, "decontaminate.semantic": "flag" if semantic else None}
    spread = Spread(workers, executor, overwrite, cards, address)
    _one_stage(
        "decontaminate",
        (source, out),
        (recipe, sets),
        flags,
        spread,
        Console(as_json=as_json, quiet=quiet),
        print_config,
    )
