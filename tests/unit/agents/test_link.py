"""The protocol state machine alone: frames and times in, frames and decisions out. No sockets, no waiting."""

import random

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agents.adapters.keys import verify
from agents.link import (
    FRESH_EXTRA,
    HANDSHAKE_S,
    HELD_S,
    INVENTORY_WAIT_S,
    STALL_S,
    WINDOW_BATCHES,
    Link,
    Peer,
    Send,
    Stop,
)
from dcops.wire import frames
from dcops.wire.frames import RefusalCode
from dcops.wire.identity import pin_of, server_transcript
from tests.fakes.disk import FakeDisk
from tests.fakes.spool_damage import open_spool, payload

SERVER, NODE = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
PUBLIC = SERVER.public_key().public_bytes_raw()
INVENTORY = frames.Inventory(frames.HostIdentity("h"), [])


class Conversation:
    """A link, and the server's side of it by hand."""

    def __init__(self, *, records=0, events=0, inventory=INVENTORY):
        self.spool = open_spool(FakeDisk(), metrics_segment_bytes=1 << 20)
        self.link = Link(
            Peer("node-1", PUBLIC, "boot", "1"),
            self.spool,
            sign=NODE.sign,
            verify=verify,
            random_bytes=lambda count: b"n" * count,
            jitter=random.Random(1),
        )
        self.link.inventory = inventory
        self.now = 100.0
        self.add(records)
        for number in range(events):
            self.spool.events.append(b"\x90" + payload(number))

    def add(self, records, size=60):
        for number in range(records):
            self.spool.metrics.append(payload(number, size))

    def sent(self):
        """Everything the link wants to send now, decoded; a Stop as it is."""
        found = []
        while (output := self.link.next_output(self.now)) is not None:
            if isinstance(output, Stop):
                found.append(output)
                break
            assert isinstance(output, Send)
            found.append(frames.decode_from_node(output.data))
        return found

    def hear(self, frame):
        self.link.received(frames.encode(frame), self.now)

    def challenge(self, hello, **changes):
        server_id = pin_of(PUBLIC)[:16]
        transcript = server_transcript(hello.nonce, b"s" * 32, server_id, hello.node_id)
        answer = {
            "protocol": frames.PROTOCOL,
            "server_id": server_id,
            "nonce": b"s" * 32,
            "signature": SERVER.sign(transcript),
        }
        return frames.Challenge(**(answer | changes))

    def open(self):
        self.link.opened(self.now)
        (hello,) = self.sent()
        self.hear(self.challenge(hello))
        (proof,) = self.sent()
        self.hear(frames.Welcome("s", "node-1", "approved", 0))
        return proof

    def opened(self):
        self.open()
        return [frame for frame in self.sent() if isinstance(frame, frames.Batch)]


def ack(batch):
    return frames.Ack(batch.spool_id, [(batch.records[0].seq, batch.records[-1].seq)])


def seqs(batch):
    return [record.seq for record in batch.records]


def test_nothing_but_a_hello_is_sent_before_the_server_has_proved_itself():
    talk = Conversation(records=5)
    talk.link.opened(talk.now)
    (hello,) = talk.sent()
    assert (hello.node_id, hello.nonce) == ("node-1", b"n" * 32)
    assert talk.sent() == []


def test_nothing_but_a_proof_is_sent_before_the_welcome():
    talk = Conversation(records=5)
    talk.link.opened(talk.now)
    (hello,) = talk.sent()
    talk.hear(talk.challenge(hello))
    (proof,) = talk.sent()
    assert proof.boot_id == "boot"
    assert set(proof.layouts) == {"gpu_sample", "gpu_health", "node_sample"}
    assert talk.sent() == []


@pytest.mark.parametrize(
    "changes",
    [
        {"signature": b"x" * 64},
        {"signature": b""},
        {"nonce": b"t" * 32},
        {"server_id": "0" * 16},
    ],
)
def test_a_challenge_with_anything_changed_gets_no_proof(changes):
    talk = Conversation()
    talk.link.opened(talk.now)
    (hello,) = talk.sent()
    talk.hear(talk.challenge(hello, **changes))
    (stop,) = talk.sent()
    assert "not the server that the node joined" in stop.reason
    assert talk.link.closed(talk.now) >= 300


def test_a_challenge_for_another_connection_gets_no_proof():
    talk = Conversation()
    talk.link.opened(talk.now)
    (hello,) = talk.sent()
    other = frames.Hello(1, hello.node_id, b"m" * 32)
    talk.hear(talk.challenge(other))
    assert isinstance(talk.sent()[0], Stop)


def test_another_protocol_names_the_remedy():
    talk = Conversation()
    talk.link.opened(talk.now)
    (hello,) = talk.sent()
    talk.hear(talk.challenge(hello, protocol=2))
    assert "Upgrade" in talk.sent()[0].reason


@pytest.mark.parametrize(
    "frame",
    [
        frames.Ack("s", [(0, 5)]),
        frames.Welcome("s", "n", "approved", 0),
    ],
)
def test_a_frame_out_of_turn_ends_the_connection(frame):
    talk = Conversation()
    talk.link.opened(talk.now)
    talk.sent()
    talk.hear(frame)
    assert "out of turn" in talk.sent()[0].reason


@pytest.mark.parametrize("data", [b"", b"\xc1", b"text", frames.encode(frames.Hello(1, "n", b""))])
def test_what_cannot_be_read_ends_the_connection_and_raises_nothing(data):
    talk = Conversation()
    talk.opened()
    talk.link.received(data, talk.now)
    assert "cannot read" in talk.sent()[0].reason


def test_a_server_that_does_not_answer_the_hello_is_left():
    talk = Conversation()
    talk.link.opened(talk.now)
    talk.sent()
    assert talk.link.deadline() == talk.now + HANDSHAKE_S
    talk.now += HANDSHAKE_S
    assert isinstance(talk.sent()[0], Stop)


def test_a_server_that_stops_answering_is_left_but_an_idle_one_is_not():
    talk = Conversation()
    talk.opened()
    talk.now += 10 * STALL_S
    assert talk.sent() == []
    talk.add(1)
    assert len(talk.sent()) == 1
    assert talk.link.deadline() == talk.now + STALL_S
    talk.now += STALL_S
    assert "stopped answering" in talk.sent()[0].reason


def test_events_go_before_metrics_and_the_newest_first():
    talk = Conversation(records=3000, events=3)
    batches = talk.opened()
    assert batches[0].spool == "events"
    assert batches[1].spool == "metrics"
    assert seqs(batches[1])[-1] == 2999
    assert len(batches[1].records) <= frames.MAX_BATCH_RECORDS


def test_no_more_than_a_window_is_on_its_way_and_fresh_records_pass_it():
    talk = Conversation()
    talk.add(60, size=100_000)
    batches = talk.opened()
    assert len(batches) == WINDOW_BATCHES
    for extra in range(FRESH_EXTRA):
        talk.add(1)
        (fresh,) = talk.sent()
        assert seqs(fresh) == [60 + extra]
    talk.add(1)
    assert talk.sent() == []
    talk.hear(ack(batches[0]))
    assert seqs(talk.sent()[0]) == [60 + FRESH_EXTRA]


def test_what_was_not_acknowledged_is_sent_again_on_the_next_connection():
    talk = Conversation(records=10)
    (first,) = talk.opened()
    talk.hear(frames.Ack(first.spool_id, [(3, 5)]))
    talk.link.closed(talk.now, "gone")
    again = talk.opened()
    assert [seqs(batch) for batch in again] == [[6, 7, 8, 9], [0, 1, 2]]


def test_an_ack_counts_only_for_what_was_sent_on_this_connection():
    talk = Conversation(records=10)
    (batch,) = talk.opened()
    talk.add(5)
    talk.hear(frames.Ack(batch.spool_id, [(0, 1 << 60)]))
    talk.hear(frames.Ack("another spool", [(0, 1 << 60)]))
    assert talk.spool.metrics.waiting == 5
    talk.link.closed(talk.now)
    talk.open()
    talk.hear(ack(batch))
    assert talk.spool.metrics.waiting == 5


def test_a_full_server_gets_events_only_until_its_time_is_over():
    talk = Conversation(records=10, events=2)
    events, metrics = talk.opened()
    code = RefusalCode.DISK
    refused = frames.Refusal(code, "Full.", False, 60.0, metrics.spool_id, [(0, 9)])
    talk.hear(refused)
    talk.hear(ack(events))
    talk.spool.events.append(b"\x90")
    assert [batch.spool for batch in talk.sent()] == ["events"]
    talk.now += 59
    assert talk.sent() == []
    talk.now = talk.link.deadline()
    talk.hear(frames.Ack("s", []))
    talk.now += 14
    assert [batch.spool for batch in talk.sent() if isinstance(batch, frames.Batch)] == ["metrics"]


def test_records_that_the_server_will_not_take_do_not_hold_up_the_others():
    talk = Conversation(records=10)
    (batch,) = talk.opened()
    talk.hear(
        frames.Refusal(RefusalCode.FOREIGN, "Not yours.", False, 0.0, batch.spool_id, [(0, 4)])
    )
    talk.hear(frames.Ack(batch.spool_id, [(5, 9)]))
    talk.add(1)
    assert [seqs(batch) for batch in talk.sent()] == [[10]]
    talk.hear(frames.Ack(batch.spool_id, [(10, 10)]))
    talk.now += HELD_S
    assert [seqs(batch) for batch in talk.sent()] == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize("code", list(RefusalCode))
@pytest.mark.parametrize("fatal", [True, False])
def test_every_refusal_is_survived_and_shown(code, fatal):
    talk = Conversation(records=3)
    (batch,) = talk.opened()
    talk.hear(frames.Refusal(code, "Because.", fatal, 5.0, batch.spool_id, [(0, 2)]))
    assert talk.link.trouble.startswith("Because.")
    assert any(isinstance(output, Stop) for output in talk.sent()) == fatal
    assert talk.spool.metrics.waiting == 3
    if fatal:
        assert talk.link.closed(talk.now) >= 5.0


def test_metrics_wait_for_the_inventory_that_names_their_gpus_but_not_for_ever():
    talk = Conversation(records=3, events=1, inventory=None)
    assert [batch.spool for batch in talk.opened()] == ["events"]
    talk.link.inventory = INVENTORY
    assert [type(frame) for frame in talk.sent()] == [frames.Inventory, frames.Batch]
    talk = Conversation(records=3, inventory=None)
    assert talk.opened() == []
    talk.now = talk.link.deadline()
    assert talk.now == 100.0 + INVENTORY_WAIT_S
    assert len(talk.sent()) == 1


def test_attempts_back_off_with_full_jitter_and_begin_anew_after_an_ack():
    talk = Conversation(records=1)
    waits = [talk.link.closed(talk.now) for _ in range(200)]
    assert waits[0] <= 1
    assert max(waits) <= 60
    assert max(waits[10:]) > 45
    assert min(waits[10:]) < 15
    (batch,) = talk.opened()
    talk.hear(ack(batch))
    assert talk.link.closed(talk.now) <= 1
