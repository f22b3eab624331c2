"""`curate`: parse, call, print; no logic here, and nothing heavy imported before a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from curate.cli_evals import evals
from curate.cli_stages import Against, Allow, show_config, stages
from curate.foundation import options
from curate.foundation.console import Console, run
from curate.foundation.executor import Spread
from curate.foundation.lean import lean
from curate.foundation.remote import Session, writing

app = typer.Typer(
    name="curate",
    help="raw/ -> out/: read, normalise, filter, deduplicate; every row is accounted for.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Folder = Annotated[Path, typer.Argument(metavar="OUT", help="A curated folder.")]

app.add_typer(stages)
app.add_typer(evals, name="evals")


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
    against: Against = None,
    previous: options.Previous = None,
    allow_wipeout: Allow = False,
    recipe: options.Recipe = None,
    sets: options.Sets = None,
    workers: options.Workers = 0,
    memory: options.Memory = None,
    executor: options.Backend = "auto",
    address: options.Address = None,
    slice_text: Annotated[
        str | None, typer.Option("--slice", metavar="i/n", help="Only this share of a batch array; see curate merge.")
    ] = None,
    cards: options.Cards = None,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    print_config: options.PrintConfig = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Every stage in order: select, length, quality, exact, minhash, embedding (off), decontaminate; then the card."""
    spread = Spread(workers, executor, overwrite, cards, address)
    if not (print_config or dry_run):
        spread.expect(raw, ["curate.ready"])  # before the imports of this process
    lean()
    from curate import commands

    flags = {
        "read.preference": preference,
        "select.decisions": None if decisions is None else str(decisions),
        "decontaminate.against": against or None,
        "previous": previous or None,
        "minhash.memory": memory,
        "allow_wipeout": allow_wipeout or None,
        "stages": commands.chosen_stages(only, skip),
    }
    console = Console(as_json=as_json, quiet=quiet)
    resolved, sources = commands.settings(recipe, sets or [], flags, tokenizer)
    if print_config:
        show_config(console, resolved)
        return
    session = Session()
    raw = str(session.read(raw))
    if dry_run:
        console.result(*session.said(commands.plan(raw, out, resolved, sources, overwrite=overwrite)))
        return
    if slice_text is not None:
        from curate import slices

        console.result(*slices.filter_slice(raw, out, resolved, sources, tokenizer, slice_text, spread, console))
        return
    with writing(session, out, "curate filter") as target:
        found = commands.filter_raw(raw, target, resolved, sources, tokenizer, spread, console)
    console.result(*session.said(found))


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
    width: Annotated[
        int | None,
        typer.Option("--width", metavar="N", help="Columns of the page; from 100 on, two texts a line.", min=40),
    ] = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Why a record went: verdict, evidence, and its twin beside it with the shared parts marked."""
    from curate import explaining

    found = explaining.explain(out, ident)
    Console(as_json=as_json, quiet=quiet).result(found, "" if as_json else explaining.explain_text(found, width=width))


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
    address: options.Address = None,
    cards: options.Cards = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Bring removed records back; the later stages judge again what came back."""
    from curate import again

    console = Console(as_json=as_json, quiet=quiet)
    spread = Spread(workers, executor, False, cards, address)
    console.result(*again.restore(out, rule, source, ident or [], spread, console))


@app.command()
def rethreshold(
    out: Folder,
    embedding: Annotated[
        float | None, typer.Option("--embedding", metavar="C", help="Cosine; stored vectors are used.")
    ] = None,
    minhash: Annotated[float | None, typer.Option("--minhash", metavar="J", help="Exact Jaccard.")] = None,
    allow_wipeout: Allow = False,
    workers: options.Workers = 0,
    executor: options.Backend = "auto",
    cards: options.Cards = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Decide again at another threshold, without embedding again; says what came back and what went."""
    from curate import again

    console = Console(as_json=as_json, quiet=quiet)
    spread = Spread(workers, executor, False, cards)
    thresholds = {"minhash": minhash, "embedding": embedding}
    console.result(*again.rethreshold(out, thresholds, spread, console, allow_wipeout=allow_wipeout))


@app.command()
def merge(
    out: Folder = Path("out"),
    cards: options.Cards = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Join the slices of a batch array: decide over all of them, and when each has written its share, finish."""
    from curate import slices

    console = Console(as_json=as_json, quiet=quiet)
    console.result(*slices.merge_slices(out, cards, console))


@app.command()
def verify(
    out: Folder = Path("out"),
    shallow: Annotated[bool, typer.Option("--shallow", help="Digests and counts only; do not recompute ids.")] = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Check every digest and recount the law from the data; exit 1 naming what is wrong."""
    from curate import looking

    session = Session()
    found = looking.verify(Path(session.read(out)), deep=not shallow)
    Console(as_json=as_json, quiet=quiet).result(*session.said(found))


@app.command()
def selftest(
    out: Folder = Path("out"),
    rows: Annotated[int, typer.Option("--rows", metavar="N", help="Kept records to draw.", min=2)] = 2_000,
    seed: Annotated[int, typer.Option("--seed", help="Same seed, same planted records.", min=0)] = 0,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Plant copies, look-alikes and evaluation items among the folder's own records, run its stages, and say what they found."""
    from curate.selftest.report import selftest as measured

    console = Console(as_json=as_json, quiet=quiet)
    console.result(*measured(out, rows, seed, console))


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
