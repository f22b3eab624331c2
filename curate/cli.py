"""`curate`: parse, call, print; no logic here, and nothing heavy imported before a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from curate.foundation import options
from curate.foundation.console import Console, run
from curate.foundation.executor import Spread

app = typer.Typer(
    name="curate",
    help="raw/ -> out/: read, normalise, filter, deduplicate; every row is accounted for.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Folder = Annotated[Path, typer.Argument(metavar="OUT", help="A curated folder.")]
Allow = Annotated[bool, typer.Option("--allow-wipeout", help="Accept a stage that empties more than half of a source.")]


def main() -> None:
    """Entry point of the `curate` script."""
    run(app)


@app.command("filter")
def filter_command(
    raw: Annotated[str, typer.Argument(metavar="RAW", help="A folder or file of raw chats, or hf://name@revision.")],
    out: Annotated[Path, typer.Argument(metavar="[OUT]", help="Where the curated folder goes.")] = Path("out"),
    only: Annotated[list[str] | None, typer.Option("--only", metavar="STAGE", help="Run only this stage.")] = None,
    skip: Annotated[list[str] | None, typer.Option("--skip", metavar="STAGE", help="Leave this stage out.")] = None,
    preference: Annotated[
        str | None, typer.Option("--preference", metavar="chosen", help="Read preference rows by this side.")
    ] = None,
    decisions: Annotated[
        Path | None,
        typer.Option("--decisions", metavar="FILE", help="Hand decisions: id or digest, keep|drop, who, why."),
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", metavar="T", help="Count tokens for the card; pack inherits it.")
    ] = None,
    allow_wipeout: Allow = False,
    recipe: options.Recipe = None,
    sets: options.Sets = None,
    workers: options.Workers = 0,
    executor: options.Backend = "auto",
    cards: options.Cards = None,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    print_config: options.PrintConfig = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Every stage in order: select, length, quality, exact; then the card."""
    from curate import commands

    flags = {
        "read.preference": preference,
        "select.decisions": None if decisions is None else str(decisions),
        "allow_wipeout": allow_wipeout or None,
        "stages": commands.chosen_stages(only, skip),
    }
    console = Console(as_json=as_json, quiet=quiet)
    resolved, sources = commands.settings(recipe, sets or [], flags, tokenizer)
    if print_config:
        _show_config(console, resolved)
        return
    spread = Spread(workers, executor, overwrite, cards)
    if dry_run:
        console.result(*commands.plan(raw, out, resolved, sources, overwrite=overwrite))
        return
    console.result(*commands.filter_raw(raw, out, resolved, sources, tokenizer, spread, console))


def _stage_command(stage: str, about: str) -> None:
    @app.command(stage, help=f"Run only `{stage}` on a curated folder: {about}")
    def command(
        source: Annotated[Path, typer.Argument(metavar="IN", help="A curated folder.")],
        out: Annotated[Path, typer.Argument(metavar="OUT", help="Where the result goes.")],
        key: Annotated[
            str | None, typer.Option("--key", help="For exact: conversation | prompt | first-user | response.")
        ] = None,
        allow_wipeout: Allow = False,
        recipe: options.Recipe = None,
        sets: options.Sets = None,
        workers: options.Workers = 0,
        executor: options.Backend = "auto",
        cards: options.Cards = None,
        overwrite: options.Overwrite = False,
        print_config: options.PrintConfig = False,
        as_json: options.AsJson = False,
        quiet: options.Quiet = False,
    ) -> None:
        from curate import commands

        console = Console(as_json=as_json, quiet=quiet)
        flags: dict[str, Any] = {"stages": [stage], "allow_wipeout": allow_wipeout or None}
        flags |= commands.key_flag(stage, key)
        resolved = commands.stage_settings(source, recipe, sets or [], flags)
        if print_config:
            _show_config(console, resolved)
            return
        spread = Spread(workers, executor, overwrite, cards)
        console.result(*commands.one_stage(source, out, resolved, spread, console, f"curate {stage}"))


_stage_command("select", "predicates, score quantiles and hand decisions.")
_stage_command("length", "characters a field and a sample.")
_stage_command("quality", "encoding damage, unfinished answers, broken fences, role order and more.")
_stage_command("exact", "equal conversations, prompts or responses.")


@app.command("minhash")
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
    allow_wipeout: Allow = False,
    recipe: options.Recipe = None,
    sets: options.Sets = None,
    workers: options.Workers = 0,
    executor: options.Backend = "auto",
    cards: options.Cards = None,
    overwrite: options.Overwrite = False,
    print_config: options.PrintConfig = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Near-duplicates on a curated folder: MinHash candidates, every removal verified by exact Jaccard."""
    from curate import commands

    console = Console(as_json=as_json, quiet=quiet)
    given = {"key": key, "threshold": threshold, "ngram": ngram, "bands": bands, "rows": rows, "recall": recall}
    flags: dict[str, Any] = {"stages": ["minhash"], "allow_wipeout": allow_wipeout or None}
    flags |= {f"minhash.{name}": value for name, value in given.items()}
    resolved = commands.stage_settings(source, recipe, sets or [], flags)
    if print_config:
        _show_config(console, resolved)
        return
    if recall is not None:
        console.say(commands.s_curve(resolved.config))
    spread = Spread(workers, executor, overwrite, cards)
    console.result(*commands.one_stage(source, out, resolved, spread, console, "curate minhash"))


def _show_config(console: Console, resolved: Any) -> None:
    data = {"config": resolved.config.model_dump(mode="json"), "origins": resolved.origins}
    console.result(data, "\n".join(resolved.lines("curate")))


@app.command()
def formats(
    raw: Annotated[str, typer.Argument(metavar="RAW", help="A folder or file of raw chats.")],
    preference: Annotated[str | None, typer.Option("--preference", metavar="chosen", help="As for filter.")] = None,
    recipe: options.Recipe = None,
    sets: options.Sets = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """What would be read, file by file: container, rows, formats, quarantined; nothing is written."""
    from curate import commands

    resolved, sources = commands.settings(recipe, sets or [], {"read.preference": preference}, None)
    Console(as_json=as_json, quiet=quiet).result(*commands.formats(raw, resolved.config, sources))


@app.command()
def sample(
    raw: Annotated[Path, typer.Argument(metavar="RAW", help="Where the corpus goes.")] = Path("raw"),
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.", min=0)] = 0,
    rows: Annotated[int | None, typer.Option(help="About how many rows.", min=100)] = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Write the embedded sample corpus, with planted dirt and a truth file beside it."""
    from curate import looking

    Console(as_json=as_json, quiet=quiet).result(*looking.sample(raw, seed, rows))


@app.command()
def explain(
    ident: Annotated[
        str, typer.Argument(metavar="ID", help="A record's id or content digest, or its first characters.")
    ],
    out: Folder = Path("out"),
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Why a record went, with its evidence and its twin."""
    from curate import ledger

    found = ledger.explain(out, ident)
    Console(as_json=as_json, quiet=quiet).result(found, ledger.explain_text(found))


@app.command()
def restore(
    out: Folder,
    rule: Annotated[
        str | None, typer.Option(help="Bring back what this rule removed (stage.rule, or a stage).")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Only records of this source.")] = None,
    ident: Annotated[list[str] | None, typer.Option("--id", help="Only this record (repeatable).")] = None,
    workers: options.Workers = 0,
    executor: options.Backend = "auto",
    cards: options.Cards = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Bring removed records back; the later stages judge again what came back."""
    from curate import commands

    console = Console(as_json=as_json, quiet=quiet)
    spread = Spread(workers, executor, False, cards)
    console.result(*commands.restore(out, rule, source, ident or [], spread, console))


@app.command()
def verify(
    out: Folder = Path("out"),
    shallow: Annotated[bool, typer.Option("--shallow", help="Digests and counts only; do not recompute ids.")] = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Check every digest and recount the law from the data; exit 1 naming what is wrong."""
    from curate import looking

    Console(as_json=as_json, quiet=quiet).result(*looking.verify(out, deep=not shallow))


@app.command()
def card(
    folder: Folder = Path("out"),
    cards: options.Cards = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Render the card again from the manifest and the sidecar, and show it; no data is read."""
    from curate import looking

    Console(as_json=as_json, quiet=quiet).result(*looking.card(folder, cards))


@app.command()
def status(out: Folder = Path("out"), as_json: options.AsJson = False, quiet: options.Quiet = False) -> None:
    """How far a run is: units read and written, who holds the lock, whether the folder is complete."""
    from curate import looking

    Console(as_json=as_json, quiet=quiet).result(*looking.status(out))


@app.command()
def doctor(as_json: options.AsJson = False, quiet: options.Quiet = False) -> None:
    """What this machine offers: versions, cores, memory, disk, caches, hub access."""
    from curate import looking

    Console(as_json=as_json, quiet=quiet).result(*looking.doctor())


if __name__ == "__main__":
    main()
