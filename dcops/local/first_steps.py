"""Run by `dcops up` as a program: what the people and machines of a fresh start need, through the same actions as any other.

Prints one JSON object: `set_up` (path of a one-time link, only while nobody has an account), `join_token`, `hall_token`.
"""

import json
import os
import sys
from typing import Any

HALL_TOKEN_USES_MAX = 10_000


def first_steps(*, join: bool, node_name: str, hall_nodes: int) -> dict[str, Any]:
    """Create the set-up link while nobody can administer, join tokens for this machine and for a hall.

    `node_name` is the node this machine was before its server's address changed, and stays; empty for a new one.
    """
    from dcops import clock
    from dcops.access import actions as access
    from dcops.access import queries as access_queries
    from dcops.access.actor import cli
    from dcops.fleet import actions as fleet

    now, actor = clock.now(), cli("dcops up")
    answer: dict[str, Any] = {}
    if access_queries.needs_setup():
        answer["set_up"] = access.create_setup_link(actor, now=now)
    if join:
        answer["join_token"] = fleet.create_join_token(
            actor, node_name=node_name or None, auto_approve=True, now=now
        )
    if hall_nodes:
        answer["hall_token"] = fleet.create_join_token(
            actor,
            ttl_s=1800,
            auto_approve=True,
            uses=min(hall_nodes, HALL_TOKEN_USES_MAX),
            simulated=True,
            now=now,
        )
    return answer


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dcops.settings")
    import django

    django.setup()
    json.dump(
        first_steps(
            join=sys.argv[1] == "join", node_name=sys.argv[2], hall_nodes=int(sys.argv[3])
        ),
        sys.stdout,
    )
