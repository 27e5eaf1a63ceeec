"""Files that people write for commands: JSON, TOML, and keys."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from coordinator.commands.console import Mistake
from edge_runtime.protocol.errors import Refusal
from edge_runtime.protocol.keys import SigningKey


def read_json(path: Path) -> Any:
    """Raises: Mistake: The file cannot be read as JSON; it says where."""
    try:
        return json.loads(_text(path))
    except ValueError as problem:
        raise Mistake(f"{path} is not JSON: {problem}") from None


def read_toml(path: Path) -> dict[str, Any]:
    """Raises: Mistake: The file cannot be read as TOML; it says where."""
    try:
        return tomllib.loads(_text(path))
    except tomllib.TOMLDecodeError as problem:
        raise Mistake(f"{path} is not TOML: {problem}") from None


def read_key(path: Path) -> SigningKey:
    """A tenant's key, as `edgewise-export keygen` wrote it.

    Raises:
        Mistake: The file is not one; what it holds stays out of the sentence.
    """
    try:
        return SigningKey(bytes.fromhex(_text(path).strip()))
    except (ValueError, Refusal):
        raise Mistake(f"{path} does not hold a key of 64 hex digits; `edgewise-export keygen` writes one") from None


def read_whole(path: Path) -> bytes:
    """Raises: Mistake: The file cannot be read."""
    try:
        return path.read_bytes()
    except OSError as problem:
        raise Mistake(f"{path} cannot be read: {problem.strerror}") from None


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError:
        raise Mistake(f"{path} is not text in UTF-8") from None
    except OSError as problem:
        raise Mistake(f"{path} cannot be read: {problem.strerror}") from None
