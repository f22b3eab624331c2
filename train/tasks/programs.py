"""The code in an answer, and the program that tells whether it is right.

Three shapes, known by their columns: HumanEval (`prompt`, `test`, `entry_point`), MBPP (`test_list`) and contests (`public_tests`
and others: inputs with outputs). Set-up code of MBPP runs *after* the solution, because two of its tasks use a class
from there. Cost: one parse an answer.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from train.tasks.sandbox import Job

FENCE: Final = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.M | re.S)
PYTHON: Final = ("", "python", "py", "python3")
PAIRED: Final = ("public_tests", "private_tests", "generated_tests")
PYTHON3: Final = 3  # among the languages of code-contests
CLASSES: Final = ("unknown", "easy", "medium", "hard", "harder", "hardest", "external")


@dataclass(frozen=True, slots=True)
class Code:
    """What a program needs around it: text `before` and `behind`, the name it must define, or inputs with outputs."""

    before: str = ""
    behind: str = ""
    entry: str = ""
    pairs: tuple[tuple[str, str], ...] = ()

    def program(self, code: str) -> str:
        """The solution as it stands by itself: a bare body, or a body alone, goes behind its signature."""
        if self.before and self.entry not in _defined(code):
            return self.before + code
        return f"{self.before}\n{code}" if self.before and parses(self.before) else code

    def job(self, code: str) -> Job:
        """The program with its checks."""
        return Job("\n".join([self.program(code), self.behind]) if self.behind else self.program(code), self.pairs)


def block(text: str) -> str | None:
    """The first fenced block of Python (or of no language) in an answer, also one that is cut off; None without one."""
    found = [match for match in FENCE.finditer(text) if match[2].strip()]
    chosen = next((match for match in found if match[1].lower() in PYTHON), None)
    return chosen[2] if chosen else None


def fenced(code: str) -> str:
    """Code as an answer holds it."""
    return f"```python\n{code.rstrip()}\n```"


def parses(code: str) -> bool:
    """Whether `ast.parse` takes it."""
    return _tree(code) is not None


def _tree(code: str) -> ast.Module | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(code)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def _defined(code: str) -> set[str]:
    """The names that a module defines at its top level; none when it does not parse."""
    tree, names = _tree(code), set()
    for node in tree.body if tree else ():
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def code_of(row: Mapping[str, Any]) -> tuple[str, str, Code] | None:
    """Question, reference solution and checks of a row that asks for code; None for any other."""
    if isinstance(row.get("entry_point"), str) and isinstance(row.get("test"), str):
        prompt, entry = str(row["prompt"]), row["entry_point"]
        code = Code(prompt, f"{row['test']}\ncheck({entry})\n", entry)
        return prompt, str(row.get("canonical_solution") or ""), code
    if isinstance(row.get("test_list"), list):
        tests = [str(test) for test in row["test_list"]]
        setup = [*(row.get("test_imports") or ()), row.get("test_setup_code") or ""]
        asked = f"{row.get('text') or row.get('prompt')}\nYour code should pass these tests:\n\n" + "\n".join(tests)
        return asked, str(row.get("code") or ""), Code(behind="\n".join([*setup, *tests]) + "\n")
    groups = [row[name] for name in PAIRED if isinstance(row.get(name), Mapping)]
    if groups and isinstance(row.get("description"), str):
        pairs = [
            (str(given), str(wanted))
            for group in groups
            for given, wanted in zip(group.get("input") or (), group.get("output") or (), strict=False)
        ]
        return row["description"], _solution(row.get("solutions")), Code(pairs=tuple(pairs))
    return None


def _solution(solutions: Any) -> str:
    """The first accepted Python 3 solution of a contest problem."""
    if not isinstance(solutions, Mapping):
        return ""
    both = zip(solutions.get("language") or (), solutions.get("solution") or (), strict=False)
    return next((str(code) for language, code in both if language == PYTHON3), "")


def level_of(row: Mapping[str, Any]) -> str | None:
    """How hard a row is said to be: `level`, or `difficulty` (of code-contests: its class, or its letter in a round)."""
    found = row.get("level") if row.get("level") is not None else row.get("difficulty")
    if found is None or isinstance(found, (dict, list, bool)):
        return None
    if isinstance(found, int) and "public_tests" in row:
        return CLASSES[found] if found < len(CLASSES) else chr(ord("A") + found - len(CLASSES))
    return str(found).removeprefix("Level ").strip() or None
