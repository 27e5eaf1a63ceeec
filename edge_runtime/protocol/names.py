"""What may be a name, and what a label: one rule for every message that has one."""

from __future__ import annotations

import re
from typing import Final

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def is_name(text: str) -> bool:
    """Whether a text can name a tenant, population or task: 1 to 64 of a-z 0-9 . _ -, a letter or digit first."""
    return _NAME.fullmatch(text) is not None


def is_label(text: str) -> bool:
    """Whether a text can describe an app or a platform: 1 to 128 printable characters."""
    return 1 <= len(text) <= 128 and text.isprintable()
