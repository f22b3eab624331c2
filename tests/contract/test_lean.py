"""Packages of which one module is loaded alone, or without what they load beside themselves."""

import subprocess
import sys

import pytest

ALONE = """
import sys
from curate.foundation.lean import alone
from pack.rendering import Template
template = Template("{% for m in messages %}{% generation %}{{ m['content'] | tojson }}{% endgeneration %}{% endfor %}", {})
said = [template.render([{"content": "a<b"}])]
assert not [name for name in sys.modules if name.partition(".")[0] in ("transformers", "torch")], "it came whole"
from transformers.utils import chat_template_utils
assert alone("transformers.utils.chat_template_utils") is chat_template_utils, "what is loaded is taken as it is"
said.append(Template(template.source, {}).render([{"content": "a<b"}]))
from transformers import AutoTokenizer
print(said[0] == said[1] == ('"a<b"', [(0, 5)]), AutoTokenizer.__name__)
"""
LEAN = """
import sys
from curate.foundation.lean import lean
lean()
import numpy, pyarrow
from pack.kernels import store_kernel
pyarrow.array(numpy.arange(3))
assert "pandas" not in sys.modules and "scipy" not in sys.modules
import pandas, scipy.linalg
print(True, pandas.DataFrame.__name__)
"""
WHOLE = """
from curate.foundation.lean import alone
print(alone("xml.dom.minidom").parseString("<a/>").documentElement.tagName == "a", alone("json").__name__)
"""


@pytest.mark.parametrize(
    ("script", "said"), [(ALONE, "True AutoTokenizer"), (LEAN, "True DataFrame"), (WHOLE, "True json")],
    ids=["alone", "lean", "standard library"],
)  # fmt: skip
def test_what_is_left_out_can_be_had_later(script, said):
    ended = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout.strip()) == (0, said), ended.stderr
