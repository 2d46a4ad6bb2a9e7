"""Strict readers of environment variables: a wrong setting stops the start with a sentence, and never means a default.

Every reader also accepts NAME_FILE, the path of a file holding the value, as container secrets arrive.
"""

import os
from pathlib import Path

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


class SettingError(Exception):
    """A setting is missing or cannot be used; the message says which and what to write."""


def env_str(name: str, default: str | None = None) -> str:
    """Return the value of NAME or the content of NAME_FILE. Raises SettingError if neither is set and there is no default."""
    value, file = os.environ.get(name), os.environ.get(f"{name}_FILE")
    if value is not None and file is not None:
        raise SettingError(f"Both {name} and {name}_FILE are set. Keep one.")
    if file is not None:
        return _read(name, Path(file))
    if value is not None:
        return value
    if default is None:
        raise SettingError(
            f"{name} is not set. Set it, or {name}_FILE to the path of a file that holds it; `dcops up` sets it by itself."
        )
    return default


def env_bool(name: str, default: bool) -> bool:
    """Return a yes/no setting. Raises SettingError for any other word."""
    word = env_str(name, "yes" if default else "no").strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise SettingError(f"{name} is {word!r}. Write yes or no.")


def env_int(name: str, default: int, minimum: int | None = None) -> int:
    """Return a whole number. Raises SettingError if it is not one or lies under `minimum`."""
    text = env_str(name, str(default)).strip()
    try:
        number = int(text)
    except ValueError:
        raise SettingError(f"{name} is {text!r}. Write a whole number.") from None
    if minimum is not None and number < minimum:
        raise SettingError(f"{name} is {number}. Write {minimum} or more.")
    return number


def env_list(name: str, default: str = "") -> list[str]:
    """Return comma-separated words, without blanks."""
    return [word.strip() for word in env_str(name, default).split(",") if word.strip()]


def _read(name: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SettingError(
            f"{name}_FILE is {path}, which cannot be read: {error.strerror}."
        ) from error
