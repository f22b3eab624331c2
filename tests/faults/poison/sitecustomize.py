"""Read by the spawned workers of a trial: one that opens a certain file is killed, or hangs, as if by the kernel."""

import os
import signal
import sys
from pathlib import Path

WHAT, _, NAME = os.environ.get("GRISTMILL_TEST_POISON", "").partition(":")


def _audit(event, args):
    if event == "open" and NAME and os.fsdecode(args[0] if not isinstance(args[0], int) else "").endswith(NAME):
        if WHAT == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        Path("hangs").touch()
        signal.pause()


sys.addaudithook(_audit)
