"""Rendering: a chat template compiled as transformers compiles it, then fenced in.

Templates are foreign code. The sandbox stops attribute access and mutation; here come a limit on time, on the size
of what one operator makes, and a frozen date, because the same input must give the same bytes tomorrow.
Cost: 10 to 100 us a render; importing transformers' compiler, by itself, 0.1 s, once.
"""

from __future__ import annotations

import datetime
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from curate.foundation.lean import alone

SECONDS = 5.0
MAX_TEXT = 64 << 20
_TODAY = datetime.date(2024, 7, 26)  # the date Llama's own templates print when they are not given one


class TemplateFailed(Exception):
    """A record the template or the mask rules refuse; `reason` is a short stable name, `detail` holds no data."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.reason, self.detail))


_watching = False  # whether `watch` is open in this process's main thread


class _TooLong(BaseException):
    """The time limit; a BaseException so that no template construct swallows it."""


class Template:
    """One compiled chat template and the special strings it may print."""

    def __init__(self, source: str, special: Mapping[str, str]) -> None:
        """Raises TemplateFailed("template-syntax") for one that does not compile."""
        from jinja2.exceptions import TemplateError

        self.source = source
        self.special = dict(special)
        self.tagged = "{% generation" in source or "{%- generation" in source
        self.dated = "strftime_now" in source
        try:
            self._compiled = private_environment().from_string(source)
        except (TemplateError, RecursionError) as error:
            raise TemplateFailed("template-syntax", type(error).__name__) from error

    def render(
        self, messages: Sequence[Mapping[str, Any]], tools: Any = None, *, generate: bool = False
    ) -> tuple[str, list[tuple[int, int]]]:
        """The text, and the character spans of `{% generation %}` blocks.

        Raises TemplateFailed: role-alternation, template-raised, template-timeout, template-output.
        """
        blocks: list[str] = []
        spans: list[tuple[int, int]] = []
        scope = {"messages": messages, "tools": tools, "documents": None, "add_generation_prompt": generate}
        try:
            if _watching:
                signal.setitimer(signal.ITIMER_REAL, SECONDS)
            with self._compiled.environment.activate_tracker(blocks, spans):
                size = 0
                for block in self._compiled.generate(**self.special, **scope):
                    blocks.append(block)
                    size += len(block)
                    if size > MAX_TEXT:
                        raise TemplateFailed("template-output", f"more than {MAX_TEXT >> 20} M characters")
        except TemplateFailed:
            raise
        except _TooLong:
            raise TemplateFailed("template-timeout", f"more than {SECONDS:g} s for one conversation") from None
        except Exception as error:
            raise self._failure(error) from None
        finally:
            if _watching:
                signal.setitimer(signal.ITIMER_REAL, 0)
        return "".join(blocks), spans

    def _failure(self, error: Exception) -> TemplateFailed:
        message = str(error)
        # Only what the template itself says may be shown; anything else could hold the data's text.
        said = message if message and message in self.source else ""
        if type(error).__name__ == "TemplateError" and "alternat" in message.lower():
            return TemplateFailed("role-alternation", said)
        return TemplateFailed("template-raised", said or type(error).__name__)


def private_environment() -> Any:
    """transformers' sandbox, not the library's cached one: its operators and clock are replaced."""
    environment = alone("transformers.utils.chat_template_utils")._cached_compile_jinja_template("").environment
    environment.intercepted_binops = frozenset(("*", "**"))
    environment.binop_table = {**environment.binop_table, "*": _times, "**": _power}
    environment.globals["strftime_now"] = _TODAY.strftime
    return environment


def _times(a: Any, b: Any) -> Any:
    for one, other in ((a, b), (b, a)):
        if isinstance(one, (str, list, tuple)) and isinstance(other, int) and len(one) * other > MAX_TEXT:
            raise TemplateFailed("template-output", "a repetition")
    return a * b


def _power(a: Any, b: Any) -> Any:
    if abs(b) > 64:
        raise TemplateFailed("template-output", "a power")
    return a**b


@contextmanager
def watch() -> Iterator[None]:
    """Limit every render inside to SECONDS, by SIGALRM.

    Only a process's main thread can be interrupted this way; elsewhere there is no limit.
    """
    global _watching
    if _watching or threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    previous = signal.signal(signal.SIGALRM, _alarm)
    _watching = True
    try:
        yield
    finally:
        _watching = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _alarm(*_: object) -> None:
    raise _TooLong
