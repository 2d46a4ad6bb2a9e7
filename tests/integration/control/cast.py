"""People, machines and tokens that the tests of the control plane share."""

import os
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dcops import clock
from dcops.access import actions as access
from dcops.access import queries as people
from dcops.access.actor import Role, cli
from dcops.fleet import actions as fleet
from dcops.wire.frames import GpuIdentity, HostIdentity, Inventory
from dcops.wire.identity import JoinRequest, parse_token, to_base64

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
PASSWORD = "correct horse battery staple"
SHELL = cli("root")


def fresh_key():
    return to_base64(Ed25519PrivateKey.generate().public_key().public_bytes_raw())


def join_request(token, *, hostname="gpu-1", public_key=None, simulated=False):
    parsed = parse_token(token)
    return JoinRequest(
        parsed.token_id,
        parsed.secret,
        public_key or fresh_key(),
        hostname,
        "machine",
        simulated,
    )


def join(*, hostname="gpu-1", now=NOW, **token):
    text = fleet.create_join_token(SHELL, now=now, **token)
    request = join_request(text, hostname=hostname, simulated=token.get("simulated", False))
    return fleet.join_node(request, source_ip="10.0.0.1", now=now)


def inventory(*uuids, hostname="gpu-1"):
    gpus = [GpuIdentity(uuid, index, "NVIDIA H100") for index, uuid in enumerate(uuids)]
    return Inventory(HostIdentity(hostname, "machine"), gpus)


def make_person(name, role):
    return access.create_user(SHELL, username=name, password=PASSWORD, role=role, now=NOW)


def actor(user):
    return people.actor_of_user(user, source_ip="10.0.0.9", request_id="r1")


def bearer(user, role=Role.ADMINISTRATOR):
    token = access.create_token(
        actor(user), name=os.urandom(3).hex(), role=role, days=1, now=clock.now()
    )
    return {"authorization": f"Bearer {token}"}
