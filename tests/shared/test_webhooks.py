"""Where a webhook may go, what it says, and when it is tried again."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from shared.errors import InvalidParameter
from shared.jobs.job import Counts, Delivery, Done, Job, JobView, Marks
from shared.settings import Settings
from shared.webhooks import PAUSES_S, after, check_submitted, event_of, is_public, next_try_at

PRIVATE = [
    *("127.0.0.1", "127.9.9.9", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1"),
    *("224.0.0.1", "239.1.1.1", "255.255.255.255", "240.0.0.1", "192.0.2.1", "198.18.0.1", "::", "::1", "fe80::1", "fc00::1"),
    *("fd12::1", "fec0::1", "ff02::1", "2001:db8::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254"),
    *("2002:7f00:1::", "2002:a00:1::1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2001::1", "fe80::1%eth0"),
]
PUBLIC = ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101", "2002:101:101::1"]


def settings(tmp_path: Path, **given: Any) -> Settings:
    return Settings(**{"data_dir": tmp_path, "webhook_secret": "s"} | given)


@pytest.mark.parametrize("address", PRIVATE)
def test_what_only_this_network_can_reach_is_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_the_internet_is_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "url",
    [
        *(
            "ftp://example.com/",
            "file:///etc/passwd",
            "gopher://example.com",
            "//example.com/x",
            "example.com/x",
            "http://",
            "http:",
        ),
        *("http://user@example.com/", "http://user:word@example.com/", "http://example.com/#x", "http://example.com:0/"),
        *(
            "http://example.com:99999/",
            "http://example.com:x/",
            "http://[::1/",
            "http://exa mple.com/",
            "http://example.com/\r\nX: y",
        ),
        *("http://example.com/\x00", "http://bücher.example/", "http://example.com\\@10.0.0.1/"),
        *("http://127.0.0.1/", "http://127.1/", "http://0x7f000001/", "http://2130706433/", "http://017700000001/", "http://0/"),
        *("http://[::1]/", "http://[::ffff:127.0.0.1]/", "http://[fe80::1%25eth0]/", "http://169.254.169.254/latest/meta-data"),
        *("http://10.0.0.1:8080/", "https://localhost/", "https://LOCALHOST./", "https://a.localhost/x"),
    ],
)
def test_a_url_that_may_not_be_called_is_refused_at_submission(tmp_path: Path, url: str) -> None:
    with pytest.raises(InvalidParameter) as raised:
        check_submitted(url, settings(tmp_path))
    assert raised.value.param == "webhook_url"


@pytest.mark.parametrize(
    "url",
    ["https://example.com/hook?token=a%20b", "http://example.com:8080", "https://1.1.1.1/", "https://[2606:4700::1111]:443/x"],
)
def test_a_url_on_the_internet_is_taken(tmp_path: Path, url: str) -> None:
    check_submitted(url, settings(tmp_path))


def test_private_addresses_are_taken_where_the_operator_allows_them_but_not_every_scheme(tmp_path: Path) -> None:
    allowed = settings(tmp_path, webhook_allow_private=True)
    check_submitted("http://127.0.0.1:9000/hook", allowed)
    check_submitted("http://localhost/hook", allowed)
    with pytest.raises(InvalidParameter):
        check_submitted("file:///hook", allowed)


def test_without_a_secret_no_webhook_is_taken_and_the_refusal_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter, match="UMEKOMI_WEBHOOK_SECRET"):
        check_submitted("https://example.com/", settings(tmp_path, webhook_secret=None))


def ended(**fields: Any) -> JobView:
    job = Job(id="job_1", owner="o", model="m", created_at=1.0, shards=(1,), webhook_url="https://example.com/", **fields)
    return JobView(job=job, marks=Marks(done=Done(status="completed", finished_at=1000.0, counts=Counts(total=1, completed=1))))


def test_an_event_says_what_happened_to_which_job_and_is_the_same_at_every_try() -> None:
    view = ended()
    event = event_of(view, expire_after_s=10)
    told = orjson.loads(event.body)
    assert (told["type"], told["id"], told["created_at"]) == ("embedding.job.completed", event.id, 1000)
    assert (told["data"]["id"], told["data"]["status"], told["data"]["expires_at"]) == ("job_1", "completed", 1010)
    tried = replace(view, delivery=after(view.delivery, at=1001, status=500, error=None))
    assert event_of(tried, expire_after_s=10) == event


def test_the_end_after_a_retry_is_another_event() -> None:
    assert event_of(ended(), expire_after_s=0).id != event_of(ended(rounds=(1,)), expire_after_s=0).id


def test_tries_go_on_for_about_a_day_and_then_end() -> None:
    view, tries = ended(), 0
    while (at := next_try_at(view)) is not None:
        view = replace(view, delivery=after(view.delivery, at=at, status=None, error="timeout"))
        tries += 1
    assert tries == len(PAUSES_S) + 1
    assert view.delivery.given_up_at == view.delivery.attempts[-1].at
    assert 20 * 3600 < view.delivery.attempts[-1].at - 1000 < 30 * 3600


def test_the_time_of_the_next_try_needs_no_memory_and_differs_between_jobs() -> None:
    view = ended()
    first, second = (
        replace(one, delivery=after(Delivery(), at=2000, status=503, error=None))
        for one in (view, replace(view, job=view.job.model_copy(update={"id": "job_2"})))
    )
    assert next_try_at(first) == next_try_at(first) != next_try_at(second)


@pytest.mark.parametrize(("status", "is_over"), [(200, True), (204, True), (410, True), (302, False), (404, False), (500, False)])
def test_only_success_and_gone_end_the_tries(status: int, is_over: bool) -> None:
    delivery = after(Delivery(), at=5, status=status, error=None)
    assert delivery.is_over == is_over
    assert (delivery.delivered_at is not None) == (200 <= status < 300)


def test_a_job_that_asked_for_nothing_or_has_not_ended_is_not_told() -> None:
    view = ended()
    assert next_try_at(replace(view, job=view.job.model_copy(update={"webhook_url": None}))) is None
    assert next_try_at(replace(view, marks=Marks())) is None
