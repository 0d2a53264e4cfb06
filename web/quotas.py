"""Quotas: how many jobs a key has unfinished, and how many bytes it stores. Where no limit is set nobody is asked.

Like rates, they let everything through while Redis is away.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

from redis import Redis
from redis.exceptions import RedisError

from shared import keys
from shared.errors import QuotaExceeded, RateLimited
from shared.files import FileStore
from shared.jobs.index import JobIndex
from shared.jobs.job import Kind
from shared.logs import get_logger
from web.auth import Caller

logger = get_logger(__name__)

# Nobody knows when a job ends; asked so often, whoever waits is not long behind.
JOBS_RETRY_AFTER_S = 15.0
# A submission of a process that died counts for so long.
SUBMITTING_S = 3600
# Storage is counted anew after so long; what is added meanwhile is added here too.
STORED_S = 60
PAGE = 500

# KEYS: submitting, jobs of, batches of, running. ARGV: submission, now, until, limit. -> 1 if there was a place for it.
ENTER = """
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[2])
local unfinished = redis.call('ZCARD', KEYS[1])
unfinished = unfinished + redis.call('ZINTERCARD', 2, KEYS[2], KEYS[4]) + redis.call('ZINTERCARD', 2, KEYS[3], KEYS[4])
if unfinished >= tonumber(ARGV[4]) then return 0 end
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
redis.call('EXPIREAT', KEYS[1], math.ceil(ARGV[3]))
return 1
"""

# KEYS: stored. ARGV: bytes. -> what it is then. What is not counted yet is left to be counted.
ADD = "if redis.call('EXISTS', KEYS[1]) == 1 then return redis.call('INCRBY', KEYS[1], ARGV[1]) end"


class Quotas:
    """Of all callers."""

    def __init__(self, redis: Redis, index: JobIndex, files: FileStore) -> None:
        self._redis = redis
        self._enter = redis.register_script(ENTER)
        self._add = redis.register_script(ADD)
        self._index = index
        self._files = files

    @contextmanager
    def place_for_job(self, caller: Caller) -> Iterator[None]:
        """A place among the caller's unfinished jobs for the one that is made in the block. Raises RateLimited."""
        limit = caller.allowance.jobs
        if not limit:
            yield
            return
        owner, submission = caller.owner, uuid.uuid4().hex
        now = time.time()
        try:
            has_place = self._enter(
                keys=[keys.submitting(owner), keys.jobs_of(owner), keys.batches_of(owner), keys.JOBS_RUNNING],
                args=[submission, now, now + SUBMITTING_S, limit],
            )
        except RedisError as error:
            logger.warning("jobs of a key not counted, Redis is away", error=type(error).__name__)
            has_place = 1
        if not has_place:
            message = f"{limit} jobs of this API key are not finished, which is its limit; try again when one is"
            raise RateLimited(message, what="jobs", retry_after_s=JOBS_RETRY_AFTER_S)
        try:
            yield
        finally:
            with suppress(RedisError):  # else it counts until SUBMITTING_S
                self._redis.zrem(keys.submitting(owner), submission)

    def bounded(self, caller: Caller, blocks: Iterator[bytes], param: str) -> Iterator[bytes]:
        """The blocks, as far as the caller may store them. Raises QuotaExceeded, before the first one if nothing is left.

        What arrives is counted while it does, so uploads at once are not over the limit together.
        """
        limit = caller.allowance.stored_bytes
        if not limit:
            return blocks
        stored = self.stored_bytes(caller.owner)
        if stored is None:
            return blocks
        if stored >= limit:
            raise _exceeded(limit, stored, param)
        return self._counted(caller, blocks, limit, stored, param)

    def _counted(self, caller: Caller, blocks: Iterator[bytes], limit: int, stored: int, param: str) -> Iterator[bytes]:
        added = 0
        try:
            for block in blocks:
                added += len(block)
                total = None
                with suppress(RedisError):  # else it is counted with the rest, later
                    total = cast(Any, self._add(keys=[keys.stored(caller.owner)], args=[len(block)]))
                if max(stored + added, total or 0) > limit:
                    raise _exceeded(limit, stored, param)
                yield block
        except BaseException:  # refused, or broken off
            self.forget(caller)
            raise

    def stored_bytes(self, owner: str) -> int | None:
        """The owner's files and inputs of jobs, counted within the last minute; None if that cannot be told now."""
        try:
            known = cast(Any, self._redis.get(keys.stored(owner)))
            if known is not None:
                return int(known)
            total = sum(file.bytes for file in self._files.list(owner, limit=2**31)[0])
            total += sum(self._input_bytes(owner, kind) for kind in ("job", "batch"))
            self._redis.set(keys.stored(owner), total, ex=STORED_S)
        except RedisError as error:
            logger.warning("bytes of a key not counted, Redis is away", error=type(error).__name__)
            return None
        return total

    def forget(self, caller: Caller) -> None:
        """Something of the caller's was removed: it is counted anew."""
        if caller.allowance.stored_bytes:
            with suppress(RedisError):  # else within a minute
                self._redis.delete(keys.stored(caller.owner))

    def _input_bytes(self, owner: str, kind: Kind) -> int:
        total, after = 0, None
        while ids := self._index.newest_of(owner, after, PAGE, kind):
            total += sum(view.job.input_bytes for view in self._index.views(ids) if view is not None)
            after = ids[-1]
        return total


def _exceeded(limit: int, stored: int, param: str) -> QuotaExceeded:
    message = f"this API key may store {limit} bytes and has stored {stored}; delete files or jobs to make room"
    return QuotaExceeded(message, param=param)
