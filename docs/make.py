"""Writes docs/cli.md, and the table in docs/evals.md, from the programs: `python docs/make.py`. Tests keep them equal."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

PROGRAMS = {"curate": "curate.cli", "pack": "pack.cli", "train": "train.cli", "gristmill": "train.suite"}


def surface() -> dict[str, dict[str, dict[str, Any]]]:
    """program -> command -> {"help", "arguments": [names], "options": {flag: (metavar or type, default, help)}}."""
    from typer.main import get_command

    out: dict[str, dict[str, dict[str, Any]]] = {}
    for program, module in PROGRAMS.items():
        root = get_command(importlib.import_module(module).app)
        commands = getattr(root, "commands", None) or {"": root}
        # `gristmill` also carries the other three whole; they are described once, under their own names.
        plain = {name: command for name, command in sorted(commands.items()) if not hasattr(command, "commands")}
        for group in sorted(set(commands) - set(plain) - set(PROGRAMS)):
            plain |= {f"{group} {name}": command for name, command in commands[group].commands.items()}
        out[program] = {name: _describe(command) for name, command in plain.items()}
    return out


def _describe(command: Any) -> dict[str, Any]:
    arguments, flags = [], {}
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            name = (parameter.metavar or parameter.name.upper()).strip("[]")
            arguments.append(name if parameter.required else f"[{name}]")
        elif parameter.name != "help":
            value = "" if getattr(parameter, "is_flag", False) else _value(parameter)
            default = parameter.default
            shown = "" if default in (None, False, True) or callable(default) else str(default)
            flags[" / ".join([*parameter.opts, *parameter.secondary_opts])] = (value, shown, parameter.help or "")
    text = (command.help or "").strip().split("\n\n")[0].replace("\n", " ")
    return {"help": text, "arguments": arguments, "options": flags}


def _value(parameter: Any) -> str:
    """The placeholder of an option's value: its metavar, else the name of its type."""
    kind = parameter.type_descriptor.annotation
    named = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH"}
    return parameter.metavar or named.get(kind, getattr(kind, "__name__", "TEXT").upper())


def render() -> str:
    """The whole of docs/cli.md."""
    lines = ["# The commands", "", "Written by `python docs/make.py`; a test compares it with the programs.", ""]
    for program, commands in surface().items():
        lines += [f"## {program}", ""]
        for name, entry in commands.items():
            title = " ".join([program, name, *entry["arguments"]]).replace("  ", " ")
            lines += [f"### `{title}`", "", entry["help"], ""]
            if entry["options"]:
                lines += ["| option | value | default | |", "|---|---|---|---|"]
                for flag, (value, default, about) in entry["options"].items():
                    cells = (f"`{flag}`", f"`{value}`" if value else "", f"`{default}`" if default else "", about)
                    lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
                lines.append("")
    return "\n".join(lines).rstrip() + "\n"


MARK = "<!-- written by python docs/make.py -->"


def evals_page(page: str) -> str:
    """docs/evals.md with the table of the registry as it is now, below its mark."""
    from curate.evals.registry import SETS

    lines = ["| name | on the hub | config | splits | revision | licence |", "|---|---|---|---|---|---|"]
    for name, entry in sorted(SETS.items()):
        cells = (
            f"`{name}`",
            f"`{entry.hub}`",
            entry.config or "",
            ", ".join(entry.splits),
            entry.revision,
            entry.licence,
        )
        lines.append("| " + " | ".join(cell or ("none" if cell is None else "") for cell in cells) + " |")
    return page.partition(MARK)[0] + MARK + "\n\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    (Path(__file__).parent / "cli.md").write_text(render(), encoding="utf-8")
    own = Path(__file__).parent / "evals.md"
    own.write_text(evals_page(own.read_text(encoding="utf-8")), encoding="utf-8")
