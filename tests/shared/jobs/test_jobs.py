"""Jobs over storage and a real Valkey: storage is the truth, Redis may forget, be away or be told late."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pytest
from redis import Redis

from shared import keys
from shared.connections import connect
from shared.errors import Conflict, NotFound, RedisAway
from shared.jobs.dispatch import deal
from shared.jobs.finishing import finish
from shared.jobs.index import JobIndex
from shared.jobs.job import Counts, Done, Job, JobView, Marks, new_job_id
from shared.jobs.jobs import Jobs
from shared.jobs.store import JobStore, digest_key
from shared.records import INPUT_SCHEMA, OUTPUT_SCHEMA, ShardCounts
from shared.storage import DirectoryStorage
from tests.support.valkey import free_port

COUNTS = ShardCounts(rows=2, failed=0, truncated=0, tokens=6, started_at=1.0, finished_at=2.0)
DONE = Done(status="completed", finished_at=9.0, counts=Counts(total=4, completed=4), started_at=1.0)


@pytest.fixture
def storage(tmp_path: Any) -> DirectoryStorage:
    """An empty directory: what S3 does differently is tested in test_store.py."""
    return DirectoryStorage(tmp_path / "storage")


@pytest.fixture
def jobs(storage: DirectoryStorage, redis: Redis) -> Jobs:
    """Jobs as web and worker have them."""
    return Jobs(JobStore(storage), JobIndex(redis))


@pytest.fixture
def without_redis(storage: DirectoryStorage) -> Iterator[Jobs]:
    """The same storage, seen by a process that cannot reach Redis."""
    with connect(f"redis://127.0.0.1:{free_port()}/0") as away:
        yield Jobs(JobStore(storage), JobIndex(away))


def submit(jobs: Jobs, *, shards: int = 2, owner: str = "me", **fields: Any) -> Job:
    fields = {"created_at": time.time(), "model": "m"} | fields
    job = Job(id=new_job_id(), owner=owner, shards=(2,) * shards, **fields)
    for shard in range(shards):
        jobs.store.put_input(job.id, shard, pa.Table.from_pylist([{"index": 0, "text": "a"}] * 2, schema=INPUT_SCHEMA))
    return jobs.submit(job)


def commit(jobs: Jobs, job: Job, shard: int) -> None:
    assert jobs.store.commit(job.id, shard, pa.Table.from_pylist([], schema=OUTPUT_SCHEMA), COUNTS)


def keys_in(redis: Redis) -> set[str]:
    return {raw.decode() for raw in redis.keys("*")}  # type: ignore[union-attr]


# Submitting


def test_a_submitted_job_is_seen_by_its_owner_and_nobody_else(jobs: Jobs) -> None:
    job = submit(jobs)

    assert jobs.view(job.id, "me").status == "queued"
    assert jobs.view(job.id) == jobs.from_storage(job.id) == JobView(job=job, marks=Marks())
    with pytest.raises(NotFound):
        jobs.view(job.id, "you")
    with pytest.raises(NotFound):
        jobs.view("job_nothing")
    assert jobs.store.unannounced() == []
    assert jobs.index.wait_for_deal(1.0) == {"m"}


def test_a_second_submission_with_the_same_key_gives_the_first_job_and_leaves_nothing(jobs: Jobs) -> None:
    key = digest_key("k")
    first = submit(jobs, idempotency_key=key)
    second = submit(jobs, idempotency_key=key)

    assert second == first
    assert jobs.store.ids() == [first.id]
    assert jobs.store.unannounced() == []


def test_without_redis_a_job_is_accepted_and_announced_later(without_redis: Jobs, jobs: Jobs, redis: Redis) -> None:
    job = submit(without_redis)

    assert without_redis.view(job.id, "me").status == "queued"
    assert jobs.store.unannounced() == [job.id]
    assert keys_in(redis) == set()

    assert jobs.announce(job.id)
    assert jobs.store.unannounced() == []
    assert jobs.index.running() == [job.id]


# What Redis knows


def test_a_commit_is_seen_at_once_and_survives_a_wipe_of_redis(jobs: Jobs, redis: Redis) -> None:
    job = submit(jobs)
    commit(jobs, job, 1)
    jobs.index.committed(job.id, 1, COUNTS)
    before = jobs.view(job.id)
    assert before.committed == {1: COUNTS}
    assert before.status == "in_progress"

    redis.flushall()

    assert jobs.index.view(job.id) is None
    assert jobs.view(job.id) == before
    assert jobs.index.view(job.id) == before
    assert jobs.index.running() == [job.id]


def test_a_commit_after_a_wipe_does_not_pass_for_all_that_was_committed(jobs: Jobs, redis: Redis) -> None:
    job = submit(jobs, shards=3)
    commit(jobs, job, 0)
    jobs.index.committed(job.id, 0, COUNTS)
    redis.flushall()
    commit(jobs, job, 1)
    jobs.index.committed(job.id, 1, COUNTS)

    assert jobs.index.view(job.id) is None
    assert set(jobs.view(job.id).committed) == {0, 1}


def test_a_commit_between_the_look_at_storage_and_the_telling_of_redis_is_kept(jobs: Jobs) -> None:
    job = submit(jobs)
    old = jobs.from_storage(job.id)
    commit(jobs, job, 0)
    jobs.index.committed(job.id, 0, COUNTS)

    jobs.index.put(old)

    assert set(jobs.view(job.id).committed) == {0}


def test_outputs_that_turn_out_not_to_be_there_are_pending_again(jobs: Jobs) -> None:
    job = submit(jobs)
    jobs.index.committed(job.id, 0, COUNTS)
    jobs.index.committed(job.id, 1, COUNTS)

    jobs.index.uncommitted(job.id, [0])
    jobs.index.uncommitted(job.id, [])

    assert set(jobs.view(job.id).committed) == {1}


def test_a_finished_job_is_told_from_its_end(jobs: Jobs, redis: Redis) -> None:
    job = submit(jobs)
    done = jobs.store.mark_done(job, DONE)
    jobs.index.mark(job, jobs.store.marks(job.id))

    for _ in range(2):
        seen = jobs.view(job.id)
        assert (seen.status, seen.counts, seen.marks.done) == ("completed", DONE.counts, done)
        assert jobs.index.running() == []
        redis.flushall()
    assert jobs.view(job.id).status == "completed"
    assert jobs.index.running() == []


def test_nothing_of_a_job_stays_in_redis_for_ever_but_the_job(jobs: Jobs, redis: Redis) -> None:
    job = submit(jobs)
    jobs.index.committed(job.id, 0, COUNTS)
    jobs.index.committed("job_deleted-meanwhile", 0, COUNTS)

    for key in keys_in(redis):
        if key.startswith(keys.shards("")):
            assert redis.ttl(key) > 0  # type: ignore[operator]


# Marks


def test_pausing_resuming_and_cancelling(jobs: Jobs) -> None:
    job = submit(jobs)

    paused = jobs.pause(jobs.view(job.id))
    assert paused.status == jobs.view(job.id).status == "paused"
    assert jobs.index.stopped([job.id]) == {job.id}
    assert jobs.resume(paused).status == jobs.view(job.id).status == "queued"
    assert jobs.index.stopped([job.id]) == set()
    cancelled = jobs.cancel(jobs.view(job.id))
    assert cancelled.status == jobs.view(job.id).status == "cancelled"
    assert jobs.index.stopped([job.id]) == {job.id}
    assert jobs.cancel(cancelled).marks == cancelled.marks
    assert jobs.store.unannounced() == []


def test_a_job_that_ended_is_left_as_it_is(jobs: Jobs) -> None:
    job = submit(jobs)
    jobs.store.mark_done(job, DONE)
    jobs.index.mark(job, jobs.store.marks(job.id))
    view = jobs.view(job.id)

    for change in (jobs.cancel, jobs.pause, jobs.resume):
        with pytest.raises(Conflict, match="completed"):
            change(view)


@pytest.mark.parametrize("change", ["cancel", "pause", "delete"])
def test_what_was_decided_while_redis_was_away_is_told_to_it_later(without_redis: Jobs, jobs: Jobs, change: str) -> None:
    job = submit(jobs)

    getattr(without_redis, change)(without_redis.view(job.id))
    assert jobs.index.stopped([job.id]) == set()
    assert jobs.store.unannounced() == [job.id]
    jobs.announce(job.id)  # as the leader does with what is noted

    assert jobs.index.stopped([job.id]) == {job.id}
    assert jobs.store.unannounced() == []
    assert (jobs.index.view(job.id) is None) == (change == "delete")


def test_old_news_does_not_overwrite_a_pause(jobs: Jobs) -> None:
    # given somebody who looked at storage, and is slow to tell Redis
    job = submit(jobs)
    old = jobs.from_storage(job.id)
    jobs.pause(jobs.view(job.id))

    jobs._put(old)

    assert jobs.view(job.id).status == "paused"


def test_of_two_decisions_at_once_redis_ends_with_the_one_in_storage(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a pause that is about to be told to Redis when the job is resumed, and told
    job = submit(jobs)
    mark: Callable[[Job, Marks], None] = jobs.index.mark
    others = [lambda: jobs.resume(jobs.from_storage(job.id))]

    def slow(of: Job, marks: Marks) -> None:
        if others:
            others.pop()()
        mark(of, marks)

    monkeypatch.setattr(jobs.index, "mark", slow)
    jobs.pause(jobs.view(job.id))

    assert jobs.view(job.id).marks == jobs.store.marks(job.id) == Marks()


# Deleting


def test_a_deleted_job_is_gone_everywhere(jobs: Jobs, redis: Redis) -> None:
    job = submit(jobs, idempotency_key=digest_key("k"))
    commit(jobs, job, 0)
    jobs.index.committed(job.id, 0, COUNTS)
    jobs.index.sent("m", [], 0, {job.id: 1.0})

    jobs.delete(jobs.view(job.id))

    with pytest.raises(NotFound):
        jobs.view(job.id)
    assert jobs.store.ids() == []
    assert jobs.store.unannounced() == []
    assert keys_in(redis) <= {keys.DEAL}
    assert jobs.index.stopped([job.id]) == {job.id}


def test_a_job_deleted_while_it_is_told_to_redis_does_not_reappear(jobs: Jobs, redis: Redis) -> None:
    job = submit(jobs)
    old = jobs.from_storage(job.id)
    jobs.delete(old)

    jobs._put(old)

    assert keys_in(redis) <= {keys.DEAL}
    assert jobs.announce(job.id)
    with pytest.raises(NotFound):
        jobs.view(job.id)


# Listing


def test_jobs_are_listed_newest_first_a_page_at_a_time_and_only_ones_own(jobs: Jobs, redis: Redis) -> None:
    mine = [submit(jobs, created_at=1000.0 + number).id for number in range(7)][::-1]
    submit(jobs, owner="you", created_at=1003.5)
    for is_rebuilt in (False, True):
        if is_rebuilt:
            jobs.index.rebuilt()

        pages, after = [], None
        while True:
            page, has_more = jobs.list("me", status=None, after=after, limit=3)
            pages.append([view.job.id for view in page])
            if not has_more:
                break
            after = pages[-1][-1]

        assert pages == [mine[:3], mine[3:6], mine[6:]]
        assert jobs.list("me", status=None, after=mine[-1], limit=3) == ([], False)
        assert jobs.list("me", status=None, after="job_nothing", limit=3) == ([], False)
        assert jobs.list("nobody", status=None, after=None, limit=3) == ([], False)
        assert jobs.list("me", status=None, after=None, limit=7)[1] is False


def test_jobs_are_listed_by_status_across_pages_of_redis(jobs: Jobs) -> None:
    jobs.index.rebuilt()
    ids = [submit(jobs, shards=1, created_at=1000.0 + number).id for number in range(120)]
    paused = [ids[3], ids[60], ids[110]]
    for job_id in paused:
        jobs.pause(jobs.view(job_id))

    page, has_more = jobs.list("me", status="paused", after=None, limit=2)
    assert ([view.job.id for view in page], has_more) == ([paused[2], paused[1]], True)
    page, has_more = jobs.list("me", status="paused", after=paused[1], limit=2)
    assert ([view.job.id for view in page], has_more) == ([paused[0]], False)


def test_a_list_is_whole_right_after_redis_was_wiped(jobs: Jobs, redis: Redis) -> None:
    jobs.index.rebuilt()
    ids = [submit(jobs, created_at=1000.0 + number).id for number in range(3)]
    redis.flushall()
    jobs.view(ids[1])  # one is back in Redis already

    assert [view.job.id for view in jobs.list("me", status=None, after=None, limit=10)[0]] == ids[::-1]


def test_without_redis_a_list_is_refused(without_redis: Jobs) -> None:
    with pytest.raises(RedisAway):
        without_redis.list("me", status=None, after=None, limit=3)


# Shards on their way


def test_a_lease_is_for_one_worker_until_it_is_released_or_runs_out(jobs: Jobs, redis: Redis) -> None:
    index = jobs.index
    assert index.lease("j", "m", 0, "w1", 30)
    assert not index.lease("j", "m", 0, "w2", 30)
    assert index.in_flight("m") == {("j", 0)}

    index.release("j", "m", 0, "w2")  # it is not w2's to release
    assert not index.lease("j", "m", 0, "w2", 30)
    index.release("j", "m", 0, "w1")
    assert index.in_flight("m") == set()
    assert index.lease("j", "m", 0, "w2", 30)

    redis.delete(keys.lease("j", 0))  # it ran out
    assert index.lease("j", "m", 0, "w1", 30)


def test_a_job_runs_while_a_worker_holds_a_shard_of_it_and_before_the_first_is_committed(jobs: Jobs) -> None:
    job, other = submit(jobs), submit(jobs)
    changes = jobs.index.changes()

    assert jobs.index.lease(job.id, "m", 1, "w1", 10)

    assert jobs.view(job.id).status == "in_progress"
    assert {view.job.id: view.status for view in jobs.list("me", after=None, limit=5)[0]} == {
        job.id: "in_progress",
        other.id: "queued",
    }
    told = [changes.get_message(timeout=1) for _ in range(2)]
    assert told[1] is not None
    assert told[1]["data"] == job.id.encode(), "those who watch it look again"
    changes.close()

    jobs.index.release(job.id, "m", 1, "w1")
    assert jobs.view(job.id).status == "queued"


def test_what_was_sent_counts_as_in_flight_until_it_is_lost_or_renewed(jobs: Jobs) -> None:
    index = jobs.index
    index.sent("m", [("j", 0), ("j", 1), ("j", 2)], time.time() + 60, {})
    index.sent("m", [("j", 3), ("j", 4)], time.time() - 1, {})
    index.renew([("j", "m", 4)], "w", 30)
    index.not_sent("m", "j", 2)

    assert index.in_flight("m") == {("j", 0), ("j", 1), ("j", 4)}
    assert index.in_flight("other") == set()


@pytest.mark.parametrize("protocol", [2, 3])
def test_the_dealer_sees_what_is_pending_and_keeps_positions(jobs: Jobs, redis_url: str, protocol: int) -> None:
    with connect(f"{redis_url}?protocol={protocol}") as redis:
        index = JobIndex(redis)
        first, second = submit(jobs, shards=5), submit(jobs, shards=2, priority="high")
        index.committed(first.id, 1, COUNTS)

        running = index.for_dealing(index.running(), "m", {(first.id, 0)}, 2)
        assert [(job.id, job.position, list(job.pending)) for job in running] == [
            (first.id, None, [2, 3]),
            (second.id, None, [0, 1]),
        ]
        dealt = deal(running, 3)
        index.sent("m", dealt.sends, time.time() + 60, dealt.positions)

        again = index.for_dealing(index.running(), "m", index.in_flight("m"), 10)
        assert {job.id: job.position for job in again} == dealt.positions
        assert sum(len(job.pending) for job in again) == 4 + 2 - 3 + 0
        assert index.for_dealing([], "m", set(), 3) == []


def test_the_dealer_goes_back_to_a_shard_that_turned_out_not_to_be_there(jobs: Jobs) -> None:
    index, job = jobs.index, submit(jobs, shards=9)
    pending = lambda: [list(one.pending) for one in index.for_dealing([job.id], "m", set(), 2)]  # noqa: E731
    for shard in (0, 1, 2, 4):
        index.committed(job.id, shard, COUNTS)
    assert pending() == [[3, 5]]

    index.uncommitted(job.id, [1])

    assert pending() == [[1, 3]]
    for shard in range(9):
        index.committed(job.id, shard, COUNTS)
    assert pending() == [[]]


@pytest.mark.parametrize("change", ["pause", "cancel", "delete"])
def test_a_job_that_was_stopped_is_not_dealt(jobs: Jobs, change: str) -> None:
    job = submit(jobs)
    assert jobs.index.for_dealing([job.id], "m", set(), 2)
    assert not jobs.index.for_dealing([job.id], "another", set(), 2)

    getattr(jobs, change)(jobs.view(job.id))

    assert not jobs.index.for_dealing([job.id], "m", set(), 2)


def test_what_redis_knows_only_in_part_is_not_dealt_until_storage_told_it(jobs: Jobs, redis: Redis) -> None:
    job = submit(jobs)
    redis.delete(keys.shards(job.id))
    jobs.index.committed(job.id, 1, COUNTS)  # a worker that was at it
    assert not jobs.index.for_dealing([job.id], "m", set(), 2)
    assert not jobs.index.is_unfinished(job.id)

    jobs.view(job.id)

    assert [one.pending for one in jobs.index.for_dealing([job.id], "m", set(), 1)] == [[0]]
    assert jobs.index.is_unfinished(job.id)


def test_after_a_shard_of_thousands_redis_is_read_no_more_than_after_one_of_ten(jobs: Jobs, redis: Redis) -> None:
    def read(shards: int) -> int:
        job = submit(jobs, shards=1)
        job = job.model_copy(update={"shards": (2,) * shards})
        jobs.index.put(JobView(job=job, marks=Marks(), committed=dict.fromkeys(range(shards // 2), COUNTS)))
        jobs.index.for_dealing([job.id], "m", set(), 5)
        finish(jobs, job)
        before = redis.info("stats")["total_net_output_bytes"]  # type: ignore[index]
        jobs.index.committed(job.id, shards // 2, COUNTS)
        assert not finish(jobs, job)
        (one,) = jobs.index.for_dealing([job.id], "m", set(), 3)
        assert one.pending == [shards // 2 + 1, shards // 2 + 2, shards // 2 + 3]
        return int(redis.info("stats")["total_net_output_bytes"]) - before  # type: ignore[index]

    few = read(10)

    assert read(3000) < few + 200


def test_a_glance_at_a_job_is_a_view_without_the_counts(jobs: Jobs, redis: Redis) -> None:
    job = submit(jobs)
    jobs.index.committed(job.id, 1, COUNTS)

    assert jobs.glance(job.id) == JobView(job=job, marks=Marks())
    redis.flushdb()
    assert jobs.glance(job.id).job == job
    with pytest.raises(NotFound):
        jobs.glance("job_nothing")


def test_a_paused_job_comes_back_without_a_claim_to_what_it_missed(jobs: Jobs) -> None:
    job = submit(jobs)
    jobs.index.sent("m", [], 0, {job.id: 5.0})

    jobs.resume(jobs.pause(jobs.view(job.id)))

    assert [one.position for one in jobs.index.for_dealing([job.id], "m", set(), 2)] == [None]


# The leader


def test_one_worker_leads_until_it_stops(jobs: Jobs, redis: Redis) -> None:
    index = jobs.index
    assert index.lead("w1", 30)
    assert index.lead("w1", 30)
    assert not index.lead("w2", 30)

    index.stop_leading("w2")
    assert not index.lead("w2", 30)
    index.stop_leading("w1")
    assert index.lead("w2", 30)
    redis.delete(keys.lock("leader"))
    assert index.lead("w1", 30)


@pytest.mark.parametrize("protocol", [2, 3])
def test_the_leader_hears_what_should_be_dealt(jobs: Jobs, redis_url: str, protocol: int) -> None:
    submit(jobs, model="a")
    submit(jobs, model="b")
    submit(jobs, model="a")

    with connect(f"{redis_url}?protocol={protocol}") as redis:
        assert JobIndex(redis).wait_for_deal(1.0) == {"a", "b"}
        assert JobIndex(redis).wait_for_deal(0.01) == set()
