"""Own what a client's process logs, silent unless switched on. Never compiled: loguru takes a record's module from its frame, and
compiled code has none, so its records would bear the user's name and not be silent."""

from __future__ import annotations

from loguru import logger


def debug(text: str, *facts: object) -> None:
    """Log *facts* in the places of *text*."""
    logger.debug(text, *facts)


def warning(text: str, *facts: object) -> None:
    """Log *facts* in the places of *text*: a person must see to it."""
    logger.warning(text, *facts)
