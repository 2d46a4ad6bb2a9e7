"""The life of a node's identity: which verb moves it from where to where, and how a node gets its name."""

import re
from enum import StrEnum

MAX_NAME = 63
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class NodeState(StrEnum):
    """What the server lets a node do."""

    PENDING = "pending"  # join -> pending; telemetry is taken, jobs are not
    APPROVED = "approved"  # approve: pending, quarantined -> approved
    QUARANTINED = (
        "quarantined"  # quarantine: pending, approved -> quarantined; telemetry yes, jobs no
    )
    REVOKED = "revoked"  # revoke: any other -> revoked; the key is no longer trusted


class Verb(StrEnum):
    """What a person or the server decides about a node."""

    APPROVE = "approve"
    QUARANTINE = "quarantine"
    REVOKE = "revoke"


MOVES: dict[Verb, tuple[frozenset[NodeState], NodeState]] = {
    Verb.APPROVE: (
        frozenset({NodeState.PENDING, NodeState.QUARANTINED}),
        NodeState.APPROVED,
    ),
    Verb.QUARANTINE: (
        frozenset({NodeState.PENDING, NodeState.APPROVED}),
        NodeState.QUARANTINED,
    ),
    Verb.REVOKE: (
        frozenset({NodeState.PENDING, NodeState.APPROVED, NodeState.QUARANTINED}),
        NodeState.REVOKED,
    ),
}


def is_name(text: str) -> bool:
    """Whether the text can name a node: 1 to 63 of a-z, 0-9 and inner hyphens."""
    return NAME.fullmatch(text) is not None


def name_from_host(hostname: str) -> str:
    """Turn whatever a machine calls itself into a node name: its first label, cleaned; "node" if nothing is left."""
    label = hostname.lower().split(".", 1)[0]
    cleaned = re.sub(r"[^a-z0-9]+", "-", label)[:MAX_NAME].strip("-")
    return cleaned or "node"


def numbered(name: str, number: int) -> str:
    """Return the name with a number at its end, still a valid name: gpu-1, 2 -> gpu-1-2."""
    suffix = f"-{number}"
    return name[: MAX_NAME - len(suffix)].rstrip("-") + suffix
