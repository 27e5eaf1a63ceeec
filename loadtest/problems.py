"""What keeps a load test from running at all."""

from __future__ import annotations


class SetUpError(Exception):
    """One sentence for the person who started it, without keys or tokens."""
