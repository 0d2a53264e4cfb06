"""The worker's spans of asks, told when they are answered: the engine knows nothing of traces, and is no slower for them."""

from __future__ import annotations

from shared import traces
from shared.errors import UmekomiError
from shared.interactive import Answer, TakenAsk


def trace_ask(taken: TakenAsk, answer: Answer | UmekomiError, now: float) -> None:
    """An ask has its answer; `now` in unix seconds."""
    ask = taken.ask
    span = traces.begin(
        "answer",
        ask.traceparent,
        kind="consumer",
        at=traces.unix_of(taken.taken_at),
        facts={"model": ask.model, "lane": "interactive", "texts": len(ask)},
    )
    if isinstance(answer, UmekomiError):
        span.end(at=now, error=answer.reason)
        return
    span.tell({"tokens": sum(answer.tokens), "truncated": len(answer.truncated)})
    trace_engine(span, now, answer.queue_ms / 1000, answer.embed_ms / 1000)
    span.end(at=now)


def trace_engine(span: traces.Span, now: float, queue_s: float, embed_s: float) -> None:
    """Below a request's span: how long it waited for its first batch, and how long it took from there to its last vector."""
    began_at = now - embed_s
    traces.past("queue", span.traceparent, began_at - queue_s, began_at)
    traces.past("embed", span.traceparent, began_at, now)
