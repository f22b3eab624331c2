"""`pack`: parse, call, print; no logic here, and nothing heavy imported before a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from curate.foundation import options
from curate.foundation.console import Console, run
from curate.foundation.errors import UsageError
from curate.foundation.executor import Spread
from curate.foundation.lean import lean
from curate.foundation.remote import Session, writing

app = typer.Typer(
    name="pack",
    help="out/ -> shards/: chat template, loss mask, packed Arrow rows; every record is accounted for.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Shards = Annotated[Path, typer.Argument(metavar="[SHARDS]", help="A folder of packed shards.")]
Ident = Annotated[str, typer.Argument(metavar="ID", help="A record's id, 32 hex characters.")]
Records = Annotated[
    Path, typer.Option("--records", metavar="OUT", help="The curated folder that the shards were made from.")
]
Overlong = Annotated[
    str | None, typer.Option("--overlong", metavar="W", help="drop | truncate-turns | truncate | error.")
]
ControlTokens = Annotated[
    str | None, typer.Option("--control-tokens", metavar="W", help="Literal ones in content: text | strip | reject.")
]
PromptFormat = Annotated[
    str | None, typer.Option("--prompt-format", metavar="F", help="Such as 'Question: {prompt}\\nAnswer: '.")
]


def main() -> None:
    """Entry point of the `pack` script."""
    run(app)


@app.command("build")
def build_command(
    out: Annotated[Path, typer.Argument(metavar="[OUT]", help="A curated folder.")] = Path("out"),
    shards: Annotated[Path, typer.Argument(metavar="[SHARDS]", help="Where the shards go.")] = Path("shards"),
    ctx: Annotated[int | None, typer.Option("--ctx", metavar="N", help="Tokens a row (4096).")] = None,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", metavar="T", help="A tokenizer's folder or hub name.")
    ] = None,
    template: Annotated[
        str | None, typer.Option("--template", metavar="NAME|FILE", help="chatml, qwen, a file, or none.")
    ] = None,
    prompt_format: PromptFormat = None,
    loss_on: Annotated[
        str | None, typer.Option("--loss-on", metavar="W", help="assistant | last | all | completion.")
    ] = None,
    algorithm: Annotated[str | None, typer.Option("--algorithm", metavar="A", help="bfd | first-fit | none.")] = None,
    overlong: Overlong = None,
    control_tokens: ControlTokens = None,
    engine: Annotated[
        str | None, typer.Option("--tokenizer-engine", metavar="E", help="auto | hf | gigatoken.")
    ] = None,
    eval_fraction: Annotated[
        float | None, typer.Option("--eval-fraction", metavar="F", help="Share of contents held out (0.05).")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="Seed of every order (0).")] = None,
    recipe: options.Recipe = None,
    sets: options.Sets = None,
    workers: options.Workers = 0,
    executor: options.Backend = "auto",
    address: options.Address = None,
    cards: options.Cards = None,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    print_config: options.PrintConfig = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Chat template, loss mask, packed rows, eval split and card."""
    lean()
    from pack import commands

    flags = {
        "ctx": ctx,
        "tokenizer": tokenizer,
        "template": template,
        # No shell turns \\n inside quotes into a line break, and no prompt means a backslash and an n.
        "prompt_format": prompt_format and prompt_format.replace("\\n", "\n").replace("\\t", "\t"),
        "loss_on": loss_on,
        "algorithm": algorithm,
        "overlong": overlong,
        "control_tokens": control_tokens,
        "tokenizer_engine": engine,
        "eval_fraction": eval_fraction,
        "seed": seed,
    }
    console = Console(as_json=as_json, quiet=quiet)
    session = Session()
    out = Path(session.read(out))
    found = commands.settings(out, recipe, sets or [], flags)
    if print_config:
        resolved = found[0]
        data = {"config": resolved.config.model_dump(mode="json"), "origins": resolved.origins}
        console.result(data, "\n".join(resolved.lines("pack")))
        return
    spread = Spread(workers, executor, overwrite, cards, address)
    if dry_run:
        console.result(*session.said(commands.plan_build(out, shards, found, spread, console)))
        return
    with writing(session, shards, "pack build") as target:
        said = commands.build_shards(out, target, found, spread, console)
    console.result(*session.said(said))


@app.command("show")
def show_command(
    shards: Shards = Path("shards"),
    row: Annotated[int | None, typer.Option("--row", metavar="N", help="The row's number in its split.")] = None,
    ident: Annotated[str | None, typer.Option("--id", metavar="ID", help="The row that holds this record.")] = None,
    split: Annotated[
        str | None, typer.Option("--split", metavar="S", help="train (the default), eval, or a stage.")
    ] = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Paint one row: segments in colour, trained text bright (or between guillemets), boundaries marked."""
    import os
    import sys

    from pack import show
    from pack.following import find_row
    from pack.shards import ShardManifest

    if (row is None) == (ident is None):
        raise UsageError("name one row", hint="pack show SHARDS --row 0, or --id ID")
    console, manifest = Console(as_json=as_json, quiet=quiet), ShardManifest.read(shards)
    if split not in (None, *manifest.splits):
        raise UsageError(f"--split {split}: no such split", hint=f"splits are {', '.join(manifest.splits)}")
    if ident is not None:
        split, row = find_row(manifest, ident, split)
    data, pieces = show.row(manifest, split or manifest.splits[0], row or 0)
    if not as_json and sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        show.paint(pieces)
    else:
        console.result(data, show.painted(pieces).rstrip("\n"))


@app.command("explain")
def explain_command(
    ident: Ident,
    shards: Shards = Path("shards"),
    records: Records = Path("out"),
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Follow a record to its split, row and offset, or to the reason it is not there."""
    from pack.following import explain

    Console(as_json=as_json, quiet=quiet).result(*explain(shards, ident, records))


@app.command("verify")
def verify_command(
    shards: Shards = Path("shards"), as_json: options.AsJson = False, quiet: options.Quiet = False
) -> None:
    """Check digests, every invariant of every row, the law and the card; exit 1 naming file and row."""
    from pack.verify import verify

    session = Session()
    Console(as_json=as_json, quiet=quiet).result(*session.said(verify(Path(session.read(shards)))))


@app.command("stats")
def stats_command(
    shards: Shards = Path("shards"), as_json: options.AsJson = False, quiet: options.Quiet = False
) -> None:
    """Records, tokens and fill by source and split, from the manifest."""
    from pack import show

    Console(as_json=as_json, quiet=quiet).result(*show.stats(shards))


@app.command("export")
def export_command(
    shards: Shards,
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="Where the export goes.")],
    to: Annotated[
        str,
        typer.Option("--to", metavar="F", help="hf | trl | axolotl | llamafactory | verl | messages | preferences."),
    ],
    records: Records = Path("out"),
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Hand the rows, or the records in them, to another trainer; what its format cannot say is listed."""
    from pack.exporting import export, said
    from pack.shards import ShardManifest

    manifest = export(ShardManifest.read(shards), dest, to, records, overwrite=overwrite)
    Console(as_json=as_json, quiet=quiet).result(manifest, said(manifest, dest))
