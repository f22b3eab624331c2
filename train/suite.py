"""`gristmill`: the three commands under one name, and the demo that runs them all."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from curate.cli import app as curate_app
from curate.foundation import options
from curate.foundation.console import Console, run
from pack.cli import app as pack_app
from train.cli import app as train_app

app = typer.Typer(
    name="gristmill",
    help="Raw chats go in, packed training shards come out, and every grain is accounted for.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(curate_app, name="curate")
app.add_typer(pack_app, name="pack")
app.add_typer(train_app, name="train")


def main() -> None:
    """Entry point of the `gristmill` script."""
    run(app)


@app.command("demo")
def demo_command(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where everything goes.")] = Path("demo"),
    seeds: Annotated[int, typer.Option("--seeds", metavar="N", min=1, max=100, help="Training runs.")] = 1,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few rows and steps: shows the river, learns nothing.")
    ] = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """The whole river on the embedded sample: sample, filter, build, run, score; about five minutes on two cores."""
    from train.demo import demo

    console = Console(as_json=as_json, quiet=quiet)
    console.result(*demo(folder, seeds, console, quick=quick))


Name = Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped recipe's name, or a YAML file.")]
Folder = Annotated[Path | None, typer.Argument(metavar="[DIR]", help="Where everything goes; the recipe's name.")]
Smoke = Annotated[bool, typer.Option("--smoke", help="The recipe's small overlay: every step, on a tiny model.")]


@app.command("run")
def run_command(
    recipe: Name,
    folder: Folder = None,
    smoke: Smoke = False,
    sets: options.Sets = None,
    dry_run: options.DryRun = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """A recipe from its sources to the table of before and after; what is complete is skipped, exit 1 under a floor."""
    from train import resolving, river

    console = Console(as_json=as_json, quiet=quiet)
    found = resolving.resolve(recipe, sets or [], smoke=smoke)
    root = river.folder_of(found, folder)
    console.result(*(river.plan(found, root) if dry_run else river.run(found, root, console)))


@app.command("recipes")
def recipes_command(as_json: options.AsJson = False, quiet: options.Quiet = False) -> None:
    """The shipped recipes: what each does, its model, what it needs from the hub."""
    from train.needing import catalogue

    Console(as_json=as_json, quiet=quiet).result(*catalogue())


@app.command("sweep")
def sweep_command(
    recipe: Name,
    folder: Folder = None,
    smoke: Smoke = False,
    sets: options.Sets = None,
    dry_run: options.DryRun = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Shard sets over size, quality and diversity at equal trained tokens, and the runs they are for."""
    from train import resolving, river, sweeping

    console = Console(as_json=as_json, quiet=quiet)
    found = resolving.resolve(recipe, sets or [], smoke=smoke)
    root = river.folder_of(found, folder or Path(f"{found.name}-sweep"))
    console.result(*(sweeping.plan(found, root) if dry_run else sweeping.sweep(found, root, console)))


if __name__ == "__main__":
    main()
