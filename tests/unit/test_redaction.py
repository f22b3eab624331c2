"""What is shown is masked where it is a secret, and readable where it is not."""

import time

import pytest

from curate.foundation.redaction import redact

DIGITS = "0123456789abcdefABCDEF" * 8
SECRETS = [
    "jane.doe+x@mail.example.org",
    "AKIA" + "ABCDEFGH12345678",
    "ASIA" + "ABCDEFGH12345678",
    "AIza" + "SyA1234567890abcdefghijklmnopqrstuv",
    "ya29." + DIGITS[:40],
    "ghp_" + DIGITS[:36],
    "ghs_" + DIGITS[:36],
    "github_pat_" + DIGITS[:60],
    "glpat-" + DIGITS[:20],
    "hf_" + DIGITS[:34],
    "npm_" + DIGITS[:36],
    "pypi-AgEIcHlwaS5vcmc" + DIGITS[:60],
    "sk-" + DIGITS[:48],
    "sk-proj-" + DIGITS[:60],
    "sk-ant-api03-" + DIGITS[:60],
    "sk_" + "live_" + DIGITS[:24],
    "rk_" + "test_" + DIGITS[:24],
    "xox" + "b-1234567890-" + DIGITS[:24],
    "SG." + DIGITS[:22] + "." + DIGITS[:43],
    "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxMjM0NTY3ODkwIn0" + ".dozjgNryP4J3jVmNHl0w5N",
    "dop_v1_" + "0123456789abcdef" * 4,
    "password = 'hunter2hunter2'",
    "aws_secret_access_key=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLE1",
    "Authorization: Bearer 0123456789abcdef01234567",
    "postgres://admin:pa55word-and-more@db/x",
    "AccountKey=" + DIGITS[:86] + "==",
    "4111 1111 1111 1111",
    "+1 (415) 555-0132",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\n-----END RSA PRIVATE KEY-----",
    "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk",
]
ORDINARY = [
    "scikit-learn and sk-learn-based-classifier-models",
    "commit 2af98b6d1c3f9f6c0ce1f3e2a9a5f6d7c8b9a0e1",
    "550e8400-e29b-41d4-a716-446655440000",
    "hf_model_name_or_path = args.hf_model_name_or_path",
    "password = get_password_from_user()",
    "token = tokenizer.convert_ids_to_tokens(ids)",
    "api_key = os.environ['API_KEY']",
    "the timestamp 1700000000000 and the id 1234567890123456",
    "3.14159265358979323846",
    "@property\ndef x(self): return a @ b",
    "pip install torch==2.13.0",
    "http://example.com:8080/a?b=c",
    "2026-11-21 09:24:21, 10,000,000 rows",
    "-----BEGIN CERTIFICATE-----",
    "x = [1, 2, 3] * 1000",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_masked_wherever_it_stands(secret):
    tail = max(secret.replace("'", " ").replace("\n", " ").split(), key=len)[-12:].removesuffix("@db/x")
    for text in (secret, f"see {secret} there", f'"{secret}"', f"({secret})"):
        shown = redact(text)
        assert tail not in shown and "[" in shown, shown


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_is_left_alone(text):
    assert redact(text) == text


PIECES = ["a", "a.", "a@", "a@a.", "1", "1-", "sk-", "sk-1", "-", "eyJ", "://a:", "password=", "bearer ", "-----BEGIN "]


@pytest.mark.parametrize(
    "piece", [*PIECES, "-----BEGIN PRIVATE KEY-----", "SG.", "4 ", "+1 (111) ", "password=a", "://"]
)
def test_no_text_makes_it_slow(piece):
    """A pattern that is quadratic takes minutes on the longer text: the old one took 7 s for 40,000 characters."""
    began = time.process_time()
    redact(piece * (1_000_000 // len(piece)))
    assert time.process_time() - began < 10
