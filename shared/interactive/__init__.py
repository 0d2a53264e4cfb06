"""The interactive lane: asks from web to any worker that serves the model, and answers back, through Redis.

A model's asks wait in a stream with a consumer group; each web process has a list that its answers come to. An ask
leaves the stream in the same transaction that pushes its answer, so one whose worker died is still there and another
worker takes it over. The lane is bounded when an ask enters, by one script: no live worker, or too much waiting, is
said at once. Nothing polls: both ends block in Redis.

An ask is answered at least once; web passes over a second answer. One that nobody waits for any more leaves the lane:
its web process takes it out at the deadline, and if that is gone too, whoever finds the lane full does.
"""

from shared.interactive.client import AskClient
from shared.interactive.server import AskServer, TakenAsk
from shared.interactive.wire import Answer, Ask, AskKind, TokenDetail, Tokens, decode_answer, encode_answer

__all__ = [
    "Answer",
    "Ask",
    "AskClient",
    "AskKind",
    "AskServer",
    "TakenAsk",
    "TokenDetail",
    "Tokens",
    "decode_answer",
    "encode_answer",
]
