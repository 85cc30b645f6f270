"""The text of a key file, which is also that of a recovery sheet (docs/format.md)."""

import hashlib
import re
from typing import Final

SECRET_BYTES: Final = 32
MAX_KEY_FILE_BYTES: Final = 1 << 16
_MARK: Final = "cbtfs-key-1"
_CHECK_DIGITS: Final = 8
_GROUP: Final = 4


def encode_key_file(secret: bytes, comment: str) -> str:
    """Return the text of a key file; *comment* explains it, in lines."""
    digits = secret.hex() + _check(secret)
    groups = "-".join(digits[at : at + _GROUP] for at in range(0, len(digits), _GROUP))
    head = "".join(f"# {line}\n" if line else "#\n" for line in comment.splitlines())
    return f"{head}{_MARK} {groups}\n"


def decode_key_file(text: str) -> bytes:
    """Return the secret in a key file; ValueError if it has none or a digit is wrong.

    Spaces, dashes and line ends between the digits have no meaning: a sheet may be typed.
    """
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    words = " ".join(lines).split()
    if not words or words[0].lower() != _MARK:
        raise ValueError(f"it has no line that begins with {_MARK}")
    digits = re.sub("[^0-9a-z]", "", "".join(words[1:]).lower())
    if len(digits) != 2 * SECRET_BYTES + _CHECK_DIGITS:
        raise ValueError(f"it has {len(digits)} digits, not {2 * SECRET_BYTES + _CHECK_DIGITS}")
    secret = bytes.fromhex(digits[: 2 * SECRET_BYTES])
    if digits[2 * SECRET_BYTES :] != _check(secret):
        raise ValueError("a digit is wrong: its check digits do not match")
    return secret


def _check(secret: bytes) -> str:
    return hashlib.sha256(b"cbtfs key file" + secret).hexdigest()[:_CHECK_DIGITS]
