"""How Celery's consumer lets go of a message: also when Redis is away at that moment, or it would stay deaf for ever."""

from __future__ import annotations

from celery.worker.request import Request
from kombu.transport.virtual import QoS


class ShardRequest(Request):  # type: ignore[misc]  # Celery has no types
    """A message whose failed acknowledgement gives its place among the prefetched ones back.

    kombu (5.7) keeps a message whose acknowledgement raised among those being run. Once every place is taken so, the
    consumer looks at its connection no more, does not see that it is broken, and takes nothing when Redis is back. Such a
    message may come a second time, which changes nothing.
    """

    def acknowledge(self) -> None:
        """Acknowledge, or forget the message if that fails."""
        super().acknowledge()
        if not self.message.acknowledged:
            QoS.ack(self.message.channel.qos, self.message.delivery_tag)
