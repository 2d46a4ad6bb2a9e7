"""What the server tells itself as it happens: typed events to the processes that hold browser sockets.

The only user of the channel layer. Delivery is at most once: a lost event costs freshness, never truth, because every page
starts from a snapshot and asks for a new one after a gap.
"""

import logging
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db import transaction

logger = logging.getLogger(__name__)

GROUP = "fleet"
MESSAGE_TYPE = "live.event"


class SamplesStored(msgspec.Struct, array_like=True, tag="samples", frozen=True):
    """One second's newest rows of an ingest process: table code -> (subject ids, times in µs, packed rows), see telemetry.latest."""

    process: str
    seq: int
    tables: dict[int, tuple[bytes, bytes, bytes]]


class NodeChanged(msgspec.Struct, array_like=True, tag="node", frozen=True):
    """A node joined, was approved, revoked, renamed, lost or found, or its GPUs changed."""

    node_id: str


class EventsStored(msgspec.Struct, array_like=True, tag="events", frozen=True):
    """New rows stand in telemetry_event."""

    count: int


LiveEvent = SamplesStored | NodeChanged | EventsStored
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[LiveEvent] = msgspec.msgpack.Decoder(LiveEvent)


def decode(message: dict[str, Any]) -> LiveEvent:
    """Read a channel-layer message back into its event."""
    return _decoder.decode(message["event"])


async def publish(event: LiveEvent) -> None:
    """Tell all live processes. A Redis that is away is logged, never raised: this is freshness, not truth."""
    layer = get_channel_layer()
    try:
        await layer.group_send(GROUP, {"type": MESSAGE_TYPE, "event": _encoder.encode(event)})
    except Exception as error:  # noqa: BLE001 - any transport failure means the same: nobody hears it
        logger.warning("live event not delivered: %s", error)


async def listen() -> AsyncIterator[LiveEvent]:
    """Yield what the processes tell each other, for ever. A message this version cannot read is skipped."""
    layer = get_channel_layer()
    channel = await layer.new_channel()
    await layer.group_add(GROUP, channel)
    try:
        while True:
            message = await layer.receive(channel)
            try:
                event = decode(message)
            except (KeyError, msgspec.DecodeError):
                logger.warning("a live event of another version was skipped")
                continue
            yield event
    finally:
        await layer.group_discard(GROUP, channel)


def publish_on_commit(event: LiveEvent) -> None:
    """Tell all live processes once the current transaction is committed."""
    transaction.on_commit(lambda: async_to_sync(publish)(event), robust=True)
