"""JobIndex: what Redis knows of the jobs, so that listing and status are quick; all of it can be rebuilt from storage."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import orjson
from redis import Redis
from redis.client import PubSub

from shared import keys, metrics
from shared.jobs.backlog import Backlog, UnfinishedJob, add_up_backlog, estimated_tokens
from shared.jobs.dispatch import RunningJob
from shared.jobs.job import FINALIZE, PREPARE, Delivery, Done, Job, JobView, Kind, Marks, Priority, Status
from shared.records import ShardCounts
from shared.scripts import run_script
from shared.webhooks import next_try_at

# Set in a job's shards hash once all that storage knows is in it: a hash that a wipe left half-full is told by its absence.
WHOLE = b"whole"
# Per-shard counts vanish so long after the last change: the totals of a finished job stand in done.json, those of a running
# one in storage, and a late commit to a deleted job leaves nothing for ever.
SHARDS_EXPIRE_S = 86_400


# A job of which nothing is committed has begun if a worker holds one of its first shards: they are dealt in order.
FIRST_SHARDS = 32

# KEYS: job, shards. ARGV: number of shards, most. -> the first shards that are not committed; nil if Redis does not know them.
# All below `low` are committed, so a look costs what is in flight and not what is done.
PENDING = """
if redis.call('HEXISTS', KEYS[2], 'whole') == 0 or redis.call('HEXISTS', KEYS[1], 'deal') == 0 then return nil end
local total, most = tonumber(ARGV[1]), tonumber(ARGV[2])
local low = tonumber(redis.call('HGET', KEYS[1], 'low') or '0')
local first, pending = total, {}
for shard = low, total - 1 do
    if #pending >= most then break end
    if redis.call('HEXISTS', KEYS[2], shard) == 0 then
        pending[#pending + 1] = shard
        if shard < first then first = shard end
    end
end
if most > 0 and first > low then redis.call('HSET', KEYS[1], 'low', first) end
return pending
"""


@dataclass(frozen=True, slots=True)
class _Dealing:
    """What the dealer must know of a job, apart from the manifest, which names every shard."""

    model: str
    priority: Priority
    created_at: float
    is_batch: bool
    is_prepared: bool
    shards: int
    expires_at: float  # of a batch, unix seconds; 0: never
    tokens: int = 0  # estimated, of the whole job
    owner: str = ""
    rows: int = 0

    @classmethod
    def of(cls, job: Job) -> _Dealing:
        return cls(
            model=job.model,
            priority=job.priority,
            created_at=job.created_at,
            is_batch=job.kind == "batch",
            is_prepared=job.is_prepared,
            shards=len(job.shards),
            expires_at=float((job.batch or {}).get("expires_at", 0)),
            tokens=estimated_tokens(job),
            owner=job.owner,
            rows=job.rows,
        )

    def step(self, committed: int, is_cancelled: bool, now: float) -> int | None:
        """The step that is due instead of shards; None if it is shards. See JobView.is_to_finalize."""
        is_over = (self.is_prepared and committed >= self.shards) or 0 < self.expires_at <= now
        if self.is_batch and (is_cancelled or is_over):
            return FINALIZE
        return None if self.is_prepared else PREPARE


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a job stands that is not finished, in so few words that a look at hundreds is cheap."""

    id: str
    owner: str
    model: str
    kind: Kind
    priority: Priority
    status: Status
    created_at: float  # unix seconds
    rows: int
    shards: int
    committed: int  # shards
    in_flight: int  # shards sent to workers, or run by them


class JobIndex:
    """Every method raises RedisError if Redis is away."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    # What is known of a job

    def put(self, view: JobView) -> None:
        """Everything about a job, as storage tells it, and a place in the lists; its model is dealt for anew."""
        job = view.job
        pipeline = self._redis.pipeline(transaction=True)
        fields: dict[Any, Any] = {"job": job.model_dump_json(), "deal": orjson.dumps(asdict(_Dealing.of(job)))}
        fields |= _mark_fields(view.marks)
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
        return self._with_started([_view(fields, shards)])[0]

    def glance(self, job_id: str) -> JobView | None:
        """As `view`, but without the counts of the shards, which are many; of a batch, which is small, with them."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.hgetall(keys.job(job_id))
        pipeline.hmget(keys.shards(job_id), [WHOLE])
        fields, (whole,) = pipeline.execute()
        view = _view(fields, {} if whole is None else {WHOLE: whole})
        return self.view(job_id) if view is not None and view.job.kind == "batch" else view

    def is_unfinished(self, job_id: str) -> bool:
        """Whether shards of the job are surely yet to be committed, as far as Redis knows."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.hget(keys.job(job_id), "deal")
        pipeline.hexists(keys.shards(job_id), cast(Any, WHOLE))
        pipeline.hlen(keys.shards(job_id))
        said, is_whole, fields = pipeline.execute()
        return said is not None and is_whole and fields - 1 < _Dealing(**orjson.loads(said)).shards

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

    def standings(self, job_ids: Sequence[str]) -> list[Standing]:
        """How these jobs stand, those that Redis knows whole and that are not finished; a look costs nothing per shard done."""
        known = self._read_dealings(job_ids)
        flying = self._count_in_flight({dealing.model for _, dealing, _, _ in known})
        return [_standing(job_id, dealing, marks, committed, flying[job_id]) for job_id, dealing, marks, committed in known]

    def _read_dealings(self, job_ids: Sequence[str]) -> list[tuple[str, _Dealing, list[bytes | None], int]]:
        """Of jobs that Redis knows whole and that are unfinished: what is dealt; when cancelled, paused, done; commits."""
        pipeline = self._redis.pipeline(transaction=False)
        for job_id in job_ids:
            pipeline.hmget(keys.job(job_id), "deal", "cancelled_at", "paused_at", "done")
            pipeline.hlen(keys.shards(job_id))
        found = pipeline.execute()
        return [
            (job_id, _Dealing(**orjson.loads(said)), marks, max(0, fields - 1))
            for job_id, (said, *marks), fields in zip(job_ids, found[::2], found[1::2], strict=True)
            if said is not None and marks[2] is None
        ]

    def _count_in_flight(self, models: Iterable[str]) -> Counter[str]:
        """Shards sent and not lost, by job; looks only: to take lost ones off, and count them, is the leader's."""
        now = time.time()
        pipeline = self._redis.pipeline(transaction=False)
        for model in models:
            pipeline.zrangebyscore(keys.in_flight(model), now, "+inf")
        return Counter(raw.decode().rpartition("/")[0] for members in pipeline.execute() for raw in members)

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
        return self._with_started([_view(found[i], found[i + 1]) for i in range(0, len(found), 2)])

    def _with_started(self, views: list[JobView | None]) -> list[JobView | None]:
        """Of those that wait: whether their first shards are being run."""
        waiting = {number: view for number, view in enumerate(views) if view is not None and view.status == "queued"}
        pipeline = self._redis.pipeline(transaction=False)
        for view in waiting.values():
            shards = range(max(1, min(len(view.job.shards), FIRST_SHARDS)))
            pipeline.mget([keys.lease(view.job.id, shard) for shard in shards])
        for (number, view), holders in zip(waiting.items(), pipeline.execute() if waiting else (), strict=True):
            views[number] = replace(view, is_started=any(holders))
        return views

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
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.zadd(keys.in_flight(model), {f"{job_id}/{shard}": time.time() + lease_s})
        pipeline.hlen(keys.shards(job_id))
        _, fields = pipeline.execute()
        if fields <= 1:  # nothing is committed yet: who watches the job sees that it begins
            self._redis.publish(keys.EVENTS, job_id)
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
            pipeline = self._redis.pipeline(transaction=True)
            pipeline.hdel(keys.shards(job_id), *names)
            pipeline.hdel(keys.job(job_id), "low")
            pipeline.execute()

    def leased(self, job_id: str, shards: Sequence[int]) -> set[int]:
        """Those of the shards that a worker runs now."""
        if not shards:
            return set()
        held = cast(Any, self._redis.mget([keys.lease(job_id, shard) for shard in shards]))
        return {shard for shard, worker_id in zip(shards, held, strict=True) if worker_id is not None}

    def in_flight(self, model: str) -> set[tuple[str, int]]:
        """Shards sent and not lost yet; lost ones are taken off."""
        key = keys.in_flight(model)
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.zremrangebyscore(key, "-inf", time.time())
        pipeline.zrange(key, 0, -1)
        lost, members = pipeline.execute()
        if lost:
            metrics.SHARDS_LOST.inc(lost, model)
        return {(job_id, int(shard)) for job_id, _, shard in (raw.decode().rpartition("/") for raw in members)}

    def for_dealing(self, job_ids: Sequence[str], model: str, in_flight: set[tuple[str, int]], most: int) -> list[RunningJob]:
        """Those of the jobs that may be dealt for this model, each with its first `most` pending steps.

        What it reads does not grow with what is committed: a job of thousands of shards is dealt for after each of them.
        """
        pipeline = self._redis.pipeline(transaction=False)
        for job_id in job_ids:
            pipeline.hmget(keys.job(job_id), "deal", "cancelled_at", "paused_at", "done")
            pipeline.hmget(keys.shards(job_id), [WHOLE])
            pipeline.hlen(keys.shards(job_id))
        found, now = pipeline.execute(), time.time()
        pending: dict[str, list[int]] = {}
        dealings: dict[str, _Dealing] = {}
        for number, job_id in enumerate(job_ids):
            (said, cancelled_at, paused_at, done), (whole,), fields = found[3 * number : 3 * number + 3]
            if said is None or whole is None or paused_at is not None or done is not None:
                continue
            dealing = _Dealing(**orjson.loads(said))
            if dealing.model != model or (cancelled_at is not None and not dealing.is_batch):
                continue
            dealings[job_id] = dealing
            if (step := dealing.step(fields - 1, cancelled_at is not None, now)) is not None:
                pending[job_id] = [step]
        flying = Counter(job_id for job_id, _ in in_flight)
        asked = [job_id for job_id in dealings if job_id not in pending]
        calls = [((keys.job(job_id), keys.shards(job_id)), (dealings[job_id].shards, most + flying[job_id])) for job_id in asked]
        for job_id, shards in zip(asked, run_script(self._redis, PENDING, calls) if calls else (), strict=True):
            pending[job_id] = shards or []
        if not dealings:
            return []
        positions = cast(Any, self._redis.zmscore(keys.PASSES, list(dealings)))
        return [
            RunningJob(
                id=job_id,
                priority=dealing.priority,
                created_at=dealing.created_at,
                position=position,
                pending=[step for step in pending[job_id] if (job_id, step) not in in_flight][:most],
            )
            for (job_id, dealing), position in zip(dealings.items(), positions, strict=True)
        ]

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

    def backlog(self) -> Backlog:
        """What is left of all jobs together. What it reads grows with the jobs, not with their shards."""
        jobs = [
            (job_id, dealing, paused_at is not None, committed)
            for job_id, dealing, (cancelled_at, paused_at, _), committed in self._read_dealings(self.running())
            if cancelled_at is None
        ]
        flying = self._count_in_flight({dealing.model for _, dealing, _, _ in jobs})
        return add_up_backlog(
            UnfinishedJob(
                created_at=dealing.created_at,
                is_paused=is_paused,
                is_prepared=dealing.is_prepared,
                shards=dealing.shards,
                committed=min(committed, dealing.shards),
                in_flight=flying[job_id],
                tokens=dealing.tokens,
            )
            for job_id, dealing, is_paused, committed in jobs
        )

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


def _plan_webhook(pipeline: Any, view: JobView) -> None:
    at = next_try_at(view)
    if at is not None:
        pipeline.zadd(keys.WEBHOOKS, {view.job.id: at})
    elif view.job.webhook_url is not None:
        pipeline.zrem(keys.WEBHOOKS, view.job.id)


def _standing(job_id: str, dealing: _Dealing, marks: Sequence[Any], committed: int, in_flight: int) -> Standing:
    status: Status = "in_progress" if committed or in_flight else "queued"
    if marks[0] is not None:
        status = "cancelled"
    elif marks[1] is not None:
        status = "paused"
    elif not dealing.is_prepared:
        status = "validating"
    return Standing(
        id=job_id,
        owner=dealing.owner,
        model=dealing.model,
        kind="batch" if dealing.is_batch else "job",
        priority=dealing.priority,
        status=status,
        created_at=dealing.created_at,
        rows=dealing.rows,
        shards=dealing.shards,
        committed=min(committed, dealing.shards),
        in_flight=in_flight,
    )


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
    if b"job" not in fields or b"deal" not in fields or (b"done" not in fields and WHOLE not in shards):
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
