"""The house budgets: no file over 400 lines, no function over 70, names that say what a room is for."""

import ast

CODE = ("curate", "pack", "train")


def files(root):
    return [path for folder in CODE for path in (root / folder).rglob("*.py")]


def test_no_file_is_longer_than_400_lines(root):
    long = {str(path): n for path in files(root) if (n := path.read_text().count("\n") + 1) > 400}
    assert long == {}


def test_no_function_is_longer_than_70_lines(root):
    long = [
        f"{path}:{node.lineno} {node.name}"
        for path in files(root)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno + 1 > 70
    ]
    assert long == []


def test_no_room_is_called_utils(root):
    vague = ("util", "utils", "helper", "helpers", "manager", "misc", "common")
    assert [str(path) for path in files(root) if path.stem in vague] == []


def test_no_package_markers_among_the_tests(root):
    assert list((root / "tests").rglob("__init__.py")) == []
