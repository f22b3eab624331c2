"""The byte kernels against plain Python, on any text."""

import os
import subprocess
import sys
import unicodedata

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import kernels
from curate.stages import text

SPACES = "".join(chr(c) for c in range(0x110000) if chr(c).isspace())
ANY = st.text(alphabet=st.one_of(st.characters(codec="utf-8"), st.sampled_from(SPACES + "ab\u0301\u1100\u1161\u3099é")))


def collapsed(value):
    data, at = text.buffers(pa.array([value], pa.large_string()))
    out = np.zeros(len(value.encode()) + 8, np.uint8)
    return bytes(out[: kernels.collapse(data, at[0], at[1], kernels.SPACE, out, 0)]).decode()


@settings(max_examples=300, deadline=None)
@given(ANY)
def test_white_space_collapses_as_split_and_join_do(value):
    assert collapsed(value) == " ".join(value.split())


def test_every_white_space_character_is_known_alone_and_inside():
    for space in SPACES:
        assert collapsed(f"{space}a{space}{space}b{space}") == "a b"
        assert collapsed(space) == ""


@settings(max_examples=300, deadline=None)
@given(st.lists(ANY, max_size=5))
def test_measures_agree_with_python(values):
    found = text.measure(pa.array(values, pa.large_string()))
    assert found.chars.tolist() == [len(value) for value in values]
    assert found.stripped.tolist() == [len(value.strip()) for value in values]
    assert [bool(f & kernels.NON_ASCII) for f in found.flags] == [not value.isascii() for value in values]
    controls = [any((c < " " and c not in "\t\n\r") or c == "\x7f" for c in value) for value in values]
    assert [bool(f & kernels.C0_CONTROL) for f in found.flags] == controls


@settings(max_examples=200, deadline=None)
@given(st.lists(ANY, max_size=4))
def test_nfc_of_a_column_is_nfc_of_each_text(values):
    array = text.nfc(pa.array([*values, None], pa.large_string()))
    assert array.to_pylist() == [*(unicodedata.normalize("NFC", value) for value in values), None]


def test_no_character_that_nfc_may_touch_passes_as_safe():
    every = [chr(c) for c in range(0x80, 0x110000) if not 0xD800 <= c <= 0xDFFF]
    safe = (text.measure(pa.array(every, pa.large_string())).flags & kernels.NFC_SUSPECT) == 0
    seconds = set()
    for char in every:
        parts = unicodedata.decomposition(char).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            seconds.add(chr(int(parts[1], 16)))
    seconds |= {chr(c) for c in (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))}
    for char, passes in zip(every, safe.tolist(), strict=True):
        if passes:
            assert unicodedata.normalize("NFC", char) == char and not unicodedata.combining(char), hex(ord(char))
            assert char not in seconds, hex(ord(char))


def test_slices_and_nulls_read_as_what_they_hold():
    array = pa.array(["skipped", " ab ", None, "é"], pa.large_string())[1:]
    assert text.measure(array).stripped.tolist() == [2, 0, 1]


def test_kernels_run_where_no_cache_can_be_written(tmp_path):
    blocked = tmp_path / "a file, not a folder"
    blocked.write_text("")
    code = (
        "import numpy as np; from curate import kernels as k; o = np.zeros(9, np.uint8);"
        "n = k.collapse(np.frombuffer(b' a  b ', np.uint8), 0, 6, k.SPACE, o, 0); print(bytes(o[:n]).decode())"
    )
    environment = {
        **os.environ,
        "NUMBA_CACHE_DIR": str(blocked / "cache"),
        "NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator",
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "a b\n"), done.stderr
