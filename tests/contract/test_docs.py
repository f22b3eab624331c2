"""The docs match the program: the command reference, every command line shown, every path named."""

import importlib.util
import re
import shlex

import pytest

PROGRAMS = ("curate", "pack", "train", "gristmill")


@pytest.fixture(scope="module")
def make(root):
    spec = importlib.util.spec_from_file_location("docs_make", root / "docs" / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def surface(make):
    return make.surface()


def pages(root):
    return [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").glob("*.md"))]


def command_lines(text):
    """Lines of code blocks (fenced or indented) that begin with one of our programs."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        found = re.match(rf"^(?:    |\t|\$ |)((?:{'|'.join(PROGRAMS)}) [a-z].*)$", line)
        if found:
            yield re.split(r"\s{2,}|\s#", found.group(1))[0]


def test_the_command_reference_is_what_the_programs_say(root, make):
    assert (root / "docs" / "cli.md").read_text() == make.render(), "run: python docs/make.py"


def test_the_registry_in_the_docs_is_what_the_program_knows(root, make):
    page = (root / "docs" / "evals.md").read_text()
    assert page == make.evals_page(page), "run: python docs/make.py"


def test_every_command_line_in_the_docs_exists(root, surface):
    seen = 0
    for page in pages(root):
        if page.name == "cli.md":
            continue
        for line in command_lines(page.read_text()):
            words = shlex.split(line)
            commands = surface[words[0]]
            name = " ".join(words[1:3]) if " ".join(words[1:3]) in commands else words[1]
            assert name in commands, f"{page.name}: {line}"
            flags = {flag for option in commands[name]["options"] for flag in option.split(" / ")}
            for word in words[2:]:
                if word.startswith("--"):
                    assert word.split("=")[0] in flags, f"{page.name}: {line}: {word}"
            seen += 1
    assert seen >= 6


def test_every_path_named_in_the_docs_exists(root):
    missing = []
    for page in pages(root):
        for target in re.findall(r"\]\(([^)#:\s]+)\)", page.read_text()):
            if not (page.parent / target).exists():
                missing.append(f"{page.name}: {target}")
        for target in re.findall(
            r"`((?:curate|pack|train|tests|benchmarks|docs|data_cards)/[\w./-]+)`", page.read_text()
        ):
            if not (root / target.rstrip("/")).exists():
                missing.append(f"{page.name}: {target}")
    assert missing == []


def test_every_make_target_in_the_docs_exists(root):
    targets = set(re.findall(r"^([a-z]+):", (root / "Makefile").read_text(), re.M))
    for page in pages(root):
        for name in re.findall(r"(?:^|`|\s)make ([a-z]+)\b(?=`|$|\s+#|\s{2,})", page.read_text(), re.M):
            assert name in targets, f"{page.name}: make {name}"


def test_nothing_committed_names_a_machine_or_a_registry(root):
    import subprocess

    names = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True, check=True).stdout.split("\n")
    pattern = re.compile(r"/(?:work|root|home/\w+)/(?:main|\.library|shared)|(?:pypi|npmjs)\.org|/opt/pypi")
    bad = []
    for name in names:
        path = root / name
        texts = (".py", ".md", ".toml", ".yaml", ".txt", ".jinja", "")
        if name == "tests/contract/test_docs.py" or not path.is_file() or path.suffix not in texts:
            continue
        if pattern.search(path.read_text(errors="replace")):
            bad.append(name)
    assert bad == []
