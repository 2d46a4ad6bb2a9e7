"""What agents say about their machines: stored as far as it makes sense, and never at another node's cost."""

from datetime import timedelta

import msgspec
import pytest

from dcops.audit.models import AuditEvent
from dcops.domain.errors import Invalid
from dcops.fleet import actions, queries
from dcops.fleet.errors import ForeignGpu
from dcops.fleet.models import Gpu, Node
from dcops.wire.frames import GpuIdentity, HostIdentity, Inventory
from tests.integration.control.cast import NOW, SHELL, inventory, join


@pytest.fixture
def node(db):
    return node_id(join(hostname="gpu-1"))


@pytest.fixture
def other(db):
    return node_id(join(hostname="gpu-2"))


def node_id(answer):
    return queries.node_for_link(answer.node_id).id


def holder(uuid):
    return Gpu.objects.get(uuid=uuid).node_id


def test_ids_come_back_in_the_order_of_the_inventory_and_stay(node):
    first = actions.record_inventory(node, inventory("GPU-b", "GPU-a", "GPU-c"), NOW)
    assert first == [Gpu.objects.get(uuid=uuid).id for uuid in ("GPU-b", "GPU-a", "GPU-c")]
    assert actions.record_inventory(node, inventory("GPU-c", "GPU-b"), NOW) == [first[2], first[0]]


def test_a_gpu_that_is_gone_is_kept_but_not_shown(node):
    actions.record_inventory(node, inventory("GPU-a", "GPU-b"), NOW)
    actions.record_inventory(node, inventory("GPU-b"), NOW)
    assert Gpu.objects.get(uuid="GPU-a").present is False
    assert [gpu.uuid for gpu in queries.seats(SHELL)[0].gpus] == ["GPU-b"]


def test_a_gpu_of_a_connected_node_cannot_be_claimed(node, other):
    actions.record_inventory(node, inventory("GPU-a"), NOW)
    actions.note_alive([node], NOW + timedelta(minutes=5))
    soon = NOW + timedelta(minutes=5, seconds=59)
    with pytest.raises(ForeignGpu) as refused:
        actions.record_inventory(other, inventory("GPU-x", "GPU-a"), soon)
    assert (refused.value.uuid, refused.value.holder) == ("GPU-a", "gpu-1")
    assert holder("GPU-a") == node
    assert not Gpu.objects.filter(uuid="GPU-x").exists()


def test_a_gpu_moves_once_its_node_was_silent_for_a_minute(node, other):
    (before,) = actions.record_inventory(node, inventory("GPU-a"), NOW)
    later = NOW + timedelta(seconds=61)
    assert actions.record_inventory(other, inventory("GPU-a", hostname="gpu-2"), later) == [before]
    assert holder("GPU-a") == other
    row = AuditEvent.objects.latest("id")
    assert (row.object_name, row.after["gpus"]) == ("gpu-2", ["GPU-a"])
    assert (row.before["GPU-a"], row.after["GPU-a"]) == ({"node": "gpu-1"}, {"node": "gpu-2"})


@pytest.mark.parametrize("how", ["revoked", "pulled out"])
def test_a_gpu_moves_at_once_if_its_node_gave_it_up(node, other, how):
    actions.record_inventory(node, inventory("GPU-a"), NOW)
    if how == "revoked":
        actions.revoke_node(SHELL, name="gpu-1", now=NOW)
    else:
        actions.record_inventory(node, inventory(), NOW)
    actions.record_inventory(other, inventory("GPU-a"), NOW)
    assert holder("GPU-a") == other


@pytest.mark.parametrize("uuids", [("GPU-a", "GPU-a"), ("",), ("a b",), ("GPU-a\n",), ("x" * 97,)])
def test_an_inventory_that_cannot_be_is_refused_whole(node, uuids):
    with pytest.raises(Invalid):
        actions.record_inventory(node, inventory("GPU-good", *uuids), NOW)
    assert not Gpu.objects.exists()


HOSTILE = [
    "\0",
    "x" * 10_000,
    "<script>alert(1)</script>",
    "'; DROP TABLE fleet_node; --",
    "\ud7ff\u202e",
]


@pytest.mark.parametrize("text", HOSTILE, ids=["nul", "long", "script", "sql", "bidi"])
def test_any_text_an_agent_sends_can_be_stored(node, text):
    words = {text + str(i): text for i in range(200)}
    host = HostIdentity(**dict.fromkeys(texts(HostIdentity), text), details=words)
    gpu_text = dict.fromkeys(set(texts(GpuIdentity)) - {"uuid"}, text)
    gpu = GpuIdentity(**gpu_text | {"uuid": "GPU-a", "index": 0, "details": words})
    gpu = msgspec.structs.replace(gpu, mig_devices=[text] * 200)
    actions.record_inventory(node, Inventory(host, [gpu]), NOW)
    stored = Node.objects.get(pk=node)
    assert stored.kernel == text.replace("\0", "")[:255]
    assert len(stored.details) <= 64


@pytest.mark.parametrize("number", [2**63, -(2**70), 10**30, 2**63 - 1, -1])
def test_any_number_an_agent_sends_can_be_stored(node, number):
    host = HostIdentity("gpu-1", cpu_cores=number, memory_total_bytes=number)
    numbers = dict.fromkeys(numeric(GpuIdentity), number)
    gpu = GpuIdentity(**numbers | {"uuid": "GPU-a", "model": "m", "index": 3})
    actions.record_inventory(node, Inventory(host, [gpu]), NOW)
    fits = -(2**63) <= number < 2**63
    assert Node.objects.get(pk=node).memory_total_bytes == (number if fits else None)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_limit_that_is_no_number_is_unknown(node, number):
    gpu = GpuIdentity("GPU-a", 0, "m", power_limit_max_w=number)
    actions.record_inventory(node, Inventory(HostIdentity("gpu-1"), [gpu]), NOW)
    assert Gpu.objects.get().power_limit_max_w is None


def texts(struct):
    return [f.name for f in msgspec.structs.fields(struct) if f.type is str]


def numeric(struct):
    return [
        f.name
        for f in msgspec.structs.fields(struct)
        if f.name != "index" and f.type in (int | None, float | None)
    ]


def test_the_map_of_a_hall_takes_two_queries(db, django_assert_num_queries):
    for number in range(5):
        made = node_id(join(hostname=f"n{number}"))
        actions.record_inventory(made, inventory(*(f"GPU-{number}-{i}" for i in range(8))), NOW)
    with django_assert_num_queries(2):
        seats = queries.seats(SHELL)
    assert [seat.name for seat in seats] == [f"n{number}" for number in range(5)]
    assert [gpu.index for gpu in seats[0].gpus] == list(range(8))


def test_an_inventory_that_says_nothing_new_costs_little(node, django_assert_max_num_queries):
    said = inventory(*(f"GPU-{i}" for i in range(8)))
    ids = actions.record_inventory(node, said, NOW)
    rows = AuditEvent.objects.count()
    later = NOW + timedelta(seconds=5)
    with django_assert_max_num_queries(6):
        assert actions.record_inventory(node, said, later) == ids
    assert AuditEvent.objects.count() == rows
    assert set(Gpu.objects.values_list("last_seen_at", flat=True)) == {later}


def test_what_changed_is_told_and_nothing_else(node):
    actions.record_inventory(node, inventory("GPU-a", "GPU-b"), NOW)
    said = inventory("GPU-a", "GPU-b")
    gpus = [said.gpus[0], msgspec.structs.replace(said.gpus[1], vbios="96.00")]
    host = msgspec.structs.replace(said.host, driver_version="610.1")
    actions.record_inventory(node, Inventory(host, gpus), NOW)
    row = AuditEvent.objects.latest("id")
    assert row.before == {"GPU-b": {"vbios": ""}, "host": {"driver_version": ""}}
    assert row.after == {"GPU-b": {"vbios": "96.00"}, "host": {"driver_version": "610.1"}}
    assert Gpu.objects.get(uuid="GPU-b").vbios == "96.00"


def test_a_first_inventory_tells_which_gpus_came(node):
    actions.record_inventory(node, inventory("GPU-b", "GPU-a"), NOW)
    row = AuditEvent.objects.latest("id")
    assert (row.before["gpus"], row.after["gpus"]) == ([], ["GPU-a", "GPU-b"])
