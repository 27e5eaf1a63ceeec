"""How figures of privacy are written: never so that whoever copies one promises more than holds."""

from __future__ import annotations

import decimal


def rounded_up(value: float, digits: int = 5) -> str:
    """A number in so many digits that tell, never below it: noise that is copied from here is enough."""
    up = decimal.Context(prec=digits, rounding=decimal.ROUND_CEILING).create_decimal(repr(value))
    return f"{up.normalize():f}"
