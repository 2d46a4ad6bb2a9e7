"""What a database must not have switched off before a commit means that data is safe."""

from collections.abc import Callable

# synchronous_commit may also be remote_write, remote_apply or local: each waits for the own disk.
_NEEDED = {"fsync": "on", "full_page_writes": "on"}


def weaknesses(setting: Callable[[str], str]) -> list[str]:
    """Say, one sentence each, which settings would lose acknowledged data. `setting` reads one by name."""
    found = [name for name, wanted in _NEEDED.items() if setting(name) != wanted]
    if setting("synchronous_commit") == "off":
        found.append("synchronous_commit")
    return [
        f"PostgreSQL runs with {name} = off, so an acknowledged sample could be lost. Set {name} = on and restart."
        for name in found
    ]
