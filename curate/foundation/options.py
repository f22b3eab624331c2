"""The options that every command shares, written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Recipe = Annotated[str | None, typer.Option("--recipe", help="A shipped recipe's name, or a YAML file.")]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set one recipe key (repeatable).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No talk on stderr, only warnings and errors.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and write nothing.")]
PrintConfig = Annotated[bool, typer.Option("--print-config", help="Print every setting and its origin, then stop.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Start the output folder afresh.")]
Cards = Annotated[Path | None, typer.Option("--cards", metavar="DIR", help="Publish the card to this gallery too.")]
Workers = Annotated[int, typer.Option("--workers", metavar="N", help="Worker processes; 0 = one a core.", min=0)]
Backend = Annotated[str, typer.Option("--executor", metavar="KIND", help="inline | processes | ray | auto.")]
Previous = Annotated[
    list[str] | None,
    typer.Option("--previous", metavar="OLD_OUT", help="An earlier output: what it kept wins (repeatable)."),
]
Memory = Annotated[
    str | None,
    typer.Option("--memory", metavar="SIZE", help="For near-duplicates, such as 4G; default a quarter of RAM."),
]
Address = Annotated[str | None, typer.Option("--address", metavar="HOST:PORT", help="The Ray cluster to use.")]
