"""`curate evals list|show|fetch`: parse, call, print; nothing heavy imported before a command runs."""

from __future__ import annotations

from typing import Annotated

import typer

from curate.foundation import options
from curate.foundation.console import Console

evals = typer.Typer(help="The evaluation sets that `decontaminate` compares against.", no_args_is_help=True)


@evals.command("list")
def list_command(as_json: options.AsJson = False, quiet: options.Quiet = False) -> None:
    """The registry: names, which are cached, items, licences, where the hub has them."""
    from curate.evals import listing

    Console(as_json=as_json, quiet=quiet).result(*listing.listed())


@evals.command("show")
def show_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A registry name; or a path: what it would give.")],
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """One set: origin, revision, licence, mapping, what is cached; for a path, the sets and what could not be read."""
    from curate.evals import listing

    Console(as_json=as_json, quiet=quiet).result(*listing.shown(name))


@evals.command("fetch")
def fetch_command(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Registry names.")],
    source: Annotated[
        str | None, typer.Option("--from", metavar="PATH", help="A local copy, for a machine without a network.")
    ] = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Put sets into the cache, where every later run finds them."""
    from curate.evals import listing

    Console(as_json=as_json, quiet=quiet).result(*listing.fetched(names, source))
