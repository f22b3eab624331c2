"""Secrets masked in samples that are shown: e-mail addresses, keys, tokens, private keys, card and phone numbers.

The shapes are those that the issuers document (a prefix, an alphabet, a length), so that ordinary code and prose stay
readable: a key needs a digit, a card number needs its check digit (ISO/IEC 7812, Luhn). What is masked is what is shown
on cards and terminals; records keep their text. Cost: every pattern is linear in the text, hostile ones included.
"""

from __future__ import annotations

import re
from typing import Final

_PREFIXED: Final = (
    r"(?:sk|pk|rk)[-_](?=[A-Za-z_-]{0,80}+\d)[A-Za-z0-9_-]{16,}+"  # OpenAI, Anthropic, Stripe
    r"|gh[pousr]_[A-Za-z0-9]{30,}+|github_pat_[A-Za-z0-9_]{22,}+|glpat-[A-Za-z0-9_-]{18,}+"
    r"|hf_[A-Za-z0-9]{30,}+|npm_[A-Za-z0-9]{36,}+|pypi-Ag[A-Za-z0-9_-]{40,}+|dckr_pat_[A-Za-z0-9_-]{20,}+"
    r"|xox[abeoprs]-[A-Za-z0-9-]{10,}+|xapp-[A-Za-z0-9-]{16,}+|dop_v1_[a-f0-9]{40,}+|shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}"
    r"|(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}(?![0-9A-Z])|AIza[0-9A-Za-z_-]{35}|GOCSPX-[A-Za-z0-9_-]{20,}+"
    r"|ya29\.[A-Za-z0-9_-]{20,}+|SG\.[A-Za-z0-9_-]{16,}+\.[A-Za-z0-9_-]{16,}+|SK[0-9a-f]{32}(?![0-9a-f])"
    r"|eyJ[A-Za-z0-9_-]{10,}+\.eyJ[A-Za-z0-9_-]{10,}+\.[A-Za-z0-9_-]{10,}+"  # JSON Web Token, RFC 7519
)
_NAMED: Final = r"(?i:passw(?:or)?d|pwd|secret|token|(?:api|access|account|private)[_-]?key)"
_VALUE: Final = r"(?=[A-Za-z/+=_.-]{0,80}+\d)(?=[0-9/+=_.-]{0,80}+[A-Za-z])[A-Za-z0-9/+=_.-]{12,}+"
_CARD: Final = re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w-])")
_PATTERNS: Final = (
    (
        re.compile(
            r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----(?s:.*?)"
            r"(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|\Z)"
        ),
        "[private key]",
    ),
    (re.compile(rf"(?<![A-Za-z0-9_-])(?:{_PREFIXED})"), "[secret]"),
    (re.compile(r"(?<=://)[^\s/:@]{1,100}:[^\s/@]{1,200}(?=@)"), "[secret]"),
    (re.compile(rf"({_NAMED}[\"']?[ \t]{{0,4}}[:=][ \t]{{0,4}}[\"']?){_VALUE}"), r"\1[secret]"),
    (re.compile(rf"(?<!\w)((?i:bearer)[ \t]{{1,4}}){_VALUE}"), r"\1[secret]"),
    (re.compile(r"https://hooks\.slack\.com/services/[A-Za-z0-9/]{20,}+"), "[secret]"),
    (re.compile(r"(?<![\w.+-])[\w.+-]++@[\w-]++(?:\.[\w-]++)++"), "[e-mail]"),
)
_PHONE: Final = re.compile(r"(?<![\w.])\+?\d{1,3}[ .-]?\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}\b")


def redact(text: str) -> str:
    """Mask e-mail addresses, keys, card and phone numbers in a sample that is shown."""
    for pattern, label in _PATTERNS:
        text = pattern.sub(label, text)
    return _PHONE.sub("[phone]", _CARD.sub(_card, text))


def _card(match: re.Match[str]) -> str:
    digits = [int(char) for char in match.group() if char.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return "[number]" if (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0 and any(digits) else match.group()
