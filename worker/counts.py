"""What the engine has done, counted once for everybody who asks: /metrics, and the presence that the dashboard shows.

A batch is counted when it ended, a request when it is answered.
"""

from __future__ import annotations

from collections.abc import Sequence

from shared import metrics
from shared.errors import UmekomiError
from worker.batcher import Batch, Lane
from worker.work import Embedded, Vectors, Work


def lane_of(batch: Batch[Work]) -> Lane:
    """By which lane its rows came; a batch never mixes them."""
    return "bulk" if batch.line == "bulk" else "interactive"


def count_batch(batch: Batch[Work], outcomes: Sequence[Vectors | UmekomiError], seconds: float) -> None:
    """A batch ended, with these outcomes by row."""
    model, lane, padded_tokens = batch.model, lane_of(batch), batch.padded_tokens
    metrics.TEXTS.inc(len(batch.rows), model, lane)
    metrics.TOKENS_RUN.inc(sum(row.tokens for row in batch.rows), model, lane)
    metrics.PADDED_TOKENS.inc(padded_tokens, model, lane)
    metrics.BATCH_TOKENS.observe(padded_tokens, model, lane)
    metrics.BATCH_SECONDS.observe(seconds, model, lane)
    if truncated := sum(row.text.truncated for row in batch.rows):
        metrics.TRUNCATED.inc(truncated, model, lane)
    if failed := sum(isinstance(outcome, UmekomiError) for outcome in outcomes):
        metrics.FAILED_TEXTS.inc(failed, model, lane)


def count_request(work: Work, answer: Embedded) -> None:
    """A request is answered. One that needed no device says nothing of queues."""
    if work.began_at is not None:
        metrics.QUEUE_SECONDS.observe(answer.queue_s, work.model, work.lane)
        metrics.EMBED_SECONDS.observe(answer.embed_s, work.model, work.lane)
