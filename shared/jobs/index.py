"""JobIndex: what Redis knows of the jobs, so that listing and status are quick; all of it can be rebuilt from storage."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import orjson
from redis import Redis
from redis.client import PubSub

from shared import keys
from shared.jobs.dispatch import RunningJob
from shared.jobs.job import FINALIZE, PREPARE, Delivery, Done, Job, JobView, Kind, Marks
from shared.records import ShardCounts
from shared.webhooks import next_try_at

# Set in a job's shards hash once all that storage knows is in it: a hash that a wipe left half-full is told by its absence.
WHOLE = b"whole"
# Per-shard counts vanish so long after the last change: the totals of a finished job stand in done.json, those of a running
# one in storage, and a late commit to a deleted job leaves nothing for ever.
SHARDS_EXPIRE_S = 86_400


class JobIndex:
    """Every method raises RedisError if Redis is away."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    # What is known of a job

    def put(self, view: JobView) -> None:
        """Everything about a job, as storage tells it, and a place in the lists; its model is dealt for anew."""
        job = view.job
        pipeline = self._redis.pipeline(transaction=True)
        fields: dict[Any, Any] = {"job": job.model_dump_json()} | _mark_fields(view.marks)
        if view.delivery.attempts:
            fields["delivery"] = view.delivery.model_dump_json()
        pipeline.delete(keys.job(job.id))
        pipeline.hset(keys.job(job.id), mapping=fields)
        pipeline.zadd(_list_of(job.owner, job.kind), {job.id: job.created_at})
        if view.marks.done is None:
            # Not deleted first: a worker may commit a shard between the look at storage and this write.
            committed = {str(shard): counts.to_json() for shard, counts in view.committed.items()}
            pipeline.hset(keys.shards(job.id), mapping=cast(Any, committed | {WHOLE: b"1"}))
            pipeline.expire(keys.shards(job.id), SHARDS_EXPIRE_S)
            pipeline.zadd(keys.JOBS_RUNNING, {job.id: job.created_at})
            pipeline.zrem(keys.JOBS_FINISHED, job.id)
            pipeline.rpush(keys.DEAL, job.model)
        else:
            pipeline.zrem(keys.JOBS_RUNNING, job.id)
            pipeline.zadd(keys.JOBS_FINISHED, {job.id: view.marks.done.finished_at})
        _plan_webhook(pipeline, view)
        pipeline.publish(keys.EVENTS, job.id)
        pipeline.execute()

    def view(self, job_id: str) -> JobView | None:
        """All that is known of a job; None if Redis does not know it whole."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.hgetall(keys.job(job_id))
        pipeline.hgetall(keys.shards(job_id))
        fields, shards = pipeline.execute()
        return _view(fields, shards)

    def mark(self, job: Job, marks: Marks) -> None:
        """New marks of a job: it stops or goes on."""
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.hdel(keys.job(job.id), "cancelled_at", "paused_at")
        if fields := _mark_fields(marks):
            pipeline.hset(keys.job(job.id), mapping=cast(Any, fields))
        if marks.done is not None:
            pipeline.zrem(keys.JOBS_RUNNING, job.id)
            pipeline.zrem(keys.PASSES, job.id)
            pipeline.expire(keys.shards(job.id), SHARDS_EXPIRE_S)
            pipeline.zadd(keys.JOBS_FINISHED, {job.id: marks.done.finished_at})
            if job.webhook_url is not None:
                # Whether it was told before is for the one who tells it to see.
                pipeline.zadd(keys.WEBHOOKS, {job.id: marks.done.finished_at}, nx=True)
        elif marks.paused_at is not None:
            pipeline.zrem(keys.PASSES, job.id)  # it comes back as a new one, not with a claim to all it missed
        pipeline.rpush(keys.DEAL, job.model)
        pipeline.publish(keys.EVENTS, job.id)
        pipeline.execute()

    def forget(self, job: Job) -> None:
        """The job was deleted."""
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.delete(keys.job(job.id), keys.shards(job.id))
        pipeline.zrem(_list_of(job.owner, job.kind), job.id)
        for everyone in (keys.JOBS_RUNNING, keys.JOBS_FINISHED, keys.WEBHOOKS, keys.PASSES):
            pipeline.zrem(everyone, job.id)
        pipeline.rpush(keys.DEAL, job.model)
        pipeline.publish(keys.EVENTS, job.id)
        pipeline.execute()

    def stopped(self, job_ids: Iterable[str]) -> set[str]:
        """Those of these jobs that are paused, cancelled, done or gone: a worker gives up what it runs of them."""
        ids = list(job_ids)
        pipeline = self._redis.pipeline(transaction=False)
        for job_id in ids:
            pipeline.hmget(keys.job(job_id), "job", "cancelled_at", "paused_at", "done")
        found = pipeline.execute()
        # A job without a manifest here may be deleted, or Redis wiped: that is for storage to say.
        return {job_id for job_id, fields in zip(ids, found, strict=True) if any(fields[1:]) or fields[0] is None}

    # Lists

    def running(self) -> list[str]:
        """Jobs that are not finished, oldest first."""
        return [raw.decode() for raw in cast(Any, self._redis.zrange(keys.JOBS_RUNNING, 0, -1))]

    def newest_of(self, owner: str, after: str | None, limit: int, kind: Kind = "job") -> list[str]:
        """An owner's jobs or batches, newest first, those after the one `after`."""
        key = _list_of(owner, kind)
        start = 0
        if after is not None:
            rank = cast(Any, self._redis.zrevrank(key, after))
            if rank is None:
                return []
            start = rank + 1
        return [raw.decode() for raw in cast(Any, self._redis.zrevrange(key, start, start + limit - 1))]

    def views(self, job_ids: Sequence[str]) -> list[JobView | None]:
        """`view` of each, in one round trip."""
        pipeline = self._redis.pipeline(transaction=False)
        for job_id in job_ids:
            pipeline.hgetall(keys.job(job_id))
            pipeline.hgetall(keys.shards(job_id))
        found = pipeline.execute()
        return [_view(found[i], found[i + 1]) for i in range(0, len(found), 2)]

    # Shards

    def sent(self, model: str, sends: Sequence[tuple[str, int]], lost_at: float, positions: Mapping[str, float]) -> None:
        """These shards are on their way; each counts as lost at `lost_at` unless a worker renews it."""
        pipeline = self._redis.pipeline(transaction=True)
        if sends:
            pipeline.zadd(keys.in_flight(model), {f"{job_id}/{shard}": lost_at for job_id, shard in sends})
        if positions:
            pipeline.zadd(keys.PASSES, dict(positions))
        pipeline.execute()

    def not_sent(self, model: str, job_id: str, shard: int) -> None:
        """The shard is pending again."""
        self._redis.zrem(keys.in_flight(model), f"{job_id}/{shard}")

    def lease(self, job_id: str, model: str, shard: int, worker_id: str, lease_s: float) -> bool:
        """Whether this worker may run the shard now; nobody else may, until `lease_s` after the last renewal."""
        if not self._redis.set(keys.lease(job_id, shard), worker_id, nx=True, px=int(lease_s * 1000)):
            return False
        self._redis.zadd(keys.in_flight(model), {f"{job_id}/{shard}": time.time() + lease_s})
        return True

    def renew(self, leases: Iterable[tuple[str, str, int]], worker_id: str, lease_s: float) -> None:
        """Keep the leases (job, model, shard) of the shards that this worker runs."""
        pipeline = self._redis.pipeline(transaction=False)
        until = time.time() + lease_s
        for job_id, model, shard in leases:
            pipeline.set(keys.lease(job_id, shard), worker_id, px=int(lease_s * 1000))
            pipeline.zadd(keys.in_flight(model), {f"{job_id}/{shard}": until})
        pipeline.execute()

    def release(self, job_id: str, model: str, shard: int, worker_id: str) -> None:
        """The shard is not run here any more: not in flight, its lease free, its model dealt for anew."""
        holder = cast(Any, self._redis.get(keys.lease(job_id, shard)))
        pipeline = self._redis.pipeline(transaction=True)
        if holder is None or holder.decode() == worker_id:
            pipeline.delete(keys.lease(job_id, shard))
            pipeline.zrem(keys.in_flight(model), f"{job_id}/{shard}")
        pipeline.rpush(keys.DEAL, model)
        pipeline.execute()

    def committed(self, job_id: str, shard: int, counts: ShardCounts) -> None:
        """The shard's output lies in storage."""
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.hset(keys.shards(job_id), str(shard), cast(Any, counts.to_json()))
        pipeline.expire(keys.shards(job_id), SHARDS_EXPIRE_S)
        pipeline.publish(keys.EVENTS, job_id)
        pipeline.execute()

    def uncommitted(self, job_id: str, shards: Iterable[int]) -> None:
        """These shards turned out not to lie in storage."""
        if names := [str(shard) for shard in shards]:
            self._redis.hdel(keys.shards(job_id), *names)

    def in_flight(self, model: str) -> set[tuple[str, int]]:
        """Shards sent and not lost yet; lost ones are taken off."""
        key = keys.in_flight(model)
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.zremrangebyscore(key, "-inf", time.time())
        pipeline.zrange(key, 0, -1)
        members = pipeline.execute()[1]
        return {(job_id, int(shard)) for job_id, _, shard in (raw.decode().rpartition("/") for raw in members)}

    def for_dealing(self, views: Sequence[JobView], in_flight: set[tuple[str, int]], most: int) -> list[RunningJob]:
        """Running jobs as the dealer wants them, each with its first `most` pending shards."""
        if not views:
            return []
        positions = cast(Any, self._redis.zmscore(keys.PASSES, [view.job.id for view in views]))
        jobs = []
        for view, position in zip(views, positions, strict=True):
            pending = _pending(view, in_flight, most)
            jobs.append(
                RunningJob(
                    id=view.job.id,
                    priority=view.job.priority,
                    created_at=view.job.created_at,
                    position=position,
                    pending=pending,
                )
            )
        return jobs

    # The end of a job, and after it

    def delivered(self, view: JobView) -> None:
        """What became of telling the job's webhook, and when to tell it again."""
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.hset(keys.job(view.job.id), "delivery", view.delivery.model_dump_json())
        _plan_webhook(pipeline, view)
        pipeline.publish(keys.EVENTS, view.job.id)
        pipeline.execute()

    def take_webhooks(self, most: int, for_s: float) -> list[str]:
        """Jobs whose webhook is to be told now; nobody else is given them within `for_s`, but for another at this moment."""
        now = time.time()
        due = [raw.decode() for raw in cast(Any, self._redis.zrangebyscore(keys.WEBHOOKS, "-inf", now, start=0, num=most))]
        if due:
            self._redis.zadd(keys.WEBHOOKS, dict.fromkeys(due, now + for_s), xx=True)
        return due

    def drop_webhook(self, job_id: str) -> None:
        """There is nothing to tell the job's webhook."""
        self._redis.zrem(keys.WEBHOOKS, job_id)

    def finished_before(self, at: float, most: int) -> list[str]:
        """Jobs that ended before `at` (unix seconds), those that ended first at the beginning."""
        return [raw.decode() for raw in cast(Any, self._redis.zrangebyscore(keys.JOBS_FINISHED, "-inf", at, start=0, num=most))]

    def drop_finished(self, job_id: str) -> None:
        """The job is no finished one."""
        self._redis.zrem(keys.JOBS_FINISHED, job_id)

    def changes(self) -> PubSub:
        """Tells the id of every job when something about it changed, from the moment on that it is subscribed."""
        listener: PubSub = cast(Any, self._redis).pubsub()
        listener.subscribe(keys.EVENTS)
        return listener

    def wake_listeners(self) -> None:
        """Whoever waits for changes looks up, though nothing changed."""
        self._redis.publish(keys.EVENTS, b"")

    # The leader's own

    def wait_for_deal(self, timeout_s: float) -> set[str]:
        """Block until a model's shards should be dealt; the models, or none after `timeout_s`."""
        found = cast(Any, self._redis.blmpop(timeout_s, 1, keys.DEAL, direction="LEFT", count=1000))
        return {raw.decode() for raw in found[1]} if found else set()

    def lead(self, worker_id: str, for_s: float) -> bool:
        """Whether this worker is the one that deals and reconciles; renews it if it is."""
        key = keys.lock("leader")
        if self._redis.set(key, worker_id, nx=True, px=int(for_s * 1000)):
            return True
        if cast(Any, self._redis.get(key)) != worker_id.encode():
            return False
        return bool(self._redis.pexpire(key, int(for_s * 1000)))

    def is_leading(self, worker_id: str) -> bool:
        """Whether this worker leads now."""
        return bool(cast(Any, self._redis.get(keys.lock("leader"))) == worker_id.encode())

    def stop_leading(self, worker_id: str) -> None:
        """Somebody else may lead at once."""
        if cast(Any, self._redis.get(keys.lock("leader"))) == worker_id.encode():
            self._redis.delete(keys.lock("leader"))

    def is_rebuilt(self) -> bool:
        """Whether Redis was filled from storage since it was last empty."""
        return bool(self._redis.exists(keys.INDEX))

    def rebuilt(self) -> None:
        """Everything that storage knows is in Redis."""
        self._redis.set(keys.INDEX, str(time.time()))


def _pending(view: JobView, in_flight: set[tuple[str, int]], most: int) -> list[int]:
    job = view.job
    if view.is_to_finalize(time.time()):
        steps: Iterable[int] = (FINALIZE,)
    elif not job.is_prepared:
        steps = (PREPARE,)
    else:
        steps = range(len(job.shards))
    pending: list[int] = []
    for step in steps:
        if len(pending) == most:
            break
        if step not in view.committed and (job.id, step) not in in_flight:
            pending.append(step)
    return pending


def _plan_webhook(pipeline: Any, view: JobView) -> None:
    at = next_try_at(view)
    if at is not None:
        pipeline.zadd(keys.WEBHOOKS, {view.job.id: at})
    elif view.job.webhook_url is not None:
        pipeline.zrem(keys.WEBHOOKS, view.job.id)


def _list_of(owner: str, kind: Kind) -> str:
    return keys.batches_of(owner) if kind == "batch" else keys.jobs_of(owner)


def _mark_fields(marks: Marks) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if marks.cancelled_at is not None:
        fields["cancelled_at"] = marks.cancelled_at
    if marks.paused_at is not None:
        fields["paused_at"] = marks.paused_at
    if marks.done is not None:
        fields["done"] = marks.done.model_dump_json()
    return fields


def _view(fields: Mapping[bytes, bytes], shards: Mapping[bytes, bytes]) -> JobView | None:
    if b"job" not in fields or (b"done" not in fields and WHOLE not in shards):
        return None
    marks = Marks(
        cancelled_at=float(fields[b"cancelled_at"]) if b"cancelled_at" in fields else None,
        paused_at=float(fields[b"paused_at"]) if b"paused_at" in fields else None,
        done=Done.model_validate_json(fields[b"done"]) if b"done" in fields else None,
    )
    committed = {int(shard): ShardCounts.from_json(raw) for shard, raw in shards.items() if shard != WHOLE}
    delivery = Delivery.model_validate_json(fields[b"delivery"]) if b"delivery" in fields else Delivery()
    job = Job.model_validate(orjson.loads(fields[b"job"]))
    return JobView(job=job, marks=marks, committed=committed, delivery=delivery)
