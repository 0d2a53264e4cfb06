from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import snapshot_download, try_to_load_from_cache

from shared.hub import DownloadCancelled, DownloadFailed, Fetching, Hub, Progress, cached, fetch
from tests.support.hub import COMMIT, FakeHub, model_files
from tests.support.valkey import free_port
from tests.support.waiting import wait_until

ID = "org/model"
WISH = Fetching(hub_id=ID)
NEEDED = ["1_Pooling/config.json", "config.json", "model.safetensors", "modules.json", "tokenizer.json"]


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and ".umekomi" not in path.parts)


def left_of(hub: Hub) -> int:
    """Bytes of the weights that did not come whole."""
    part = (
        hub.cache
        / "models--org--model"
        / "blobs"
        / f"{hashlib.sha256(model_files()['model.safetensors']).hexdigest()}.incomplete"
    )
    return part.stat().st_size if part.exists() else 0


def test_only_what_the_model_needs_is_fetched(server: FakeHub, hub: Hub) -> None:
    server.add(ID, model_files())

    folder = fetch(hub, WISH)

    assert files_of(folder) == NEEDED
    assert (folder / "model.safetensors").read_bytes() == model_files()["model.safetensors"]


def test_other_clients_of_the_hub_find_the_files(server: FakeHub, hub: Hub) -> None:
    server.add(ID, model_files())

    folder = fetch(hub, WISH)

    assert try_to_load_from_cache(ID, "config.json", cache_dir=hub.cache) == str(folder / "config.json")
    assert Path(snapshot_download(ID, cache_dir=hub.cache, local_files_only=True)).samefile(folder)


def test_what_another_client_fetched_is_not_fetched_again(server: FakeHub, hub: Hub) -> None:
    server.add(ID, model_files())
    snapshot_download(ID, cache_dir=hub.cache, endpoint=server.url, token=False)
    server.asked.clear()

    folder = fetch(hub, WISH)

    assert folder.name == COMMIT
    assert [request.path for request in server.asked] == [f"/api/models/{ID}"]


def test_of_a_new_commit_only_what_it_changed_is_fetched(server: FakeHub, hub: Hub) -> None:
    server.add(ID, model_files())
    before = fetch(hub, WISH)
    server.add(ID, model_files() | {"config.json": b'{"model_type": "bert", "changed": true}'}, commit="b" * 40)
    server.asked.clear()

    folder = fetch(hub, replace(WISH, is_fresh=True))

    assert folder != before
    assert files_of(folder) == NEEDED
    assert (folder / "model.safetensors").samefile(before / "model.safetensors")
    assert [request.path.rpartition("/")[2] for request in server.asked if "/resolve/" in request.path] == ["config.json"]


def test_a_model_that_is_there_is_taken_without_asking_the_hub(server: FakeHub, hub: Hub) -> None:
    server.add(ID, model_files())
    folder = fetch(hub, WISH)
    server.asked.clear()

    assert fetch(hub, WISH) == folder
    assert cached(hub, ID) == folder
    assert server.asked == []


def test_a_fresh_wish_follows_the_branch(server: FakeHub, hub: Hub) -> None:
    server.add(ID, model_files())
    fetch(hub, WISH)
    server.add(ID, model_files(b"new"), commit="d" * 40)

    folder = fetch(hub, replace(WISH, is_fresh=True))

    assert folder.name == "d" * 40
    assert (folder / "model.safetensors").read_bytes() == b"new"
    assert cached(hub, ID) == folder
    assert cached(hub, ID, COMMIT) is not None


def test_a_break_in_the_middle_is_taken_up_at_the_byte(server: FakeHub, hub: Hub) -> None:
    server.add(ID, model_files(), cut={"model.safetensors": [100_000, 50_000]})

    folder = fetch(hub, WISH)

    assert [request.range for request in server.downloads("model.safetensors")] == [None, "bytes=100000-", "bytes=150000-"]
    assert (folder / "model.safetensors").read_bytes() == model_files()["model.safetensors"]


def test_a_hub_that_does_not_know_ranges_sends_all_of_it_again(server: FakeHub, hub: Hub) -> None:
    server.add(ID, model_files(), cut={"model.safetensors": [100_000]}, knows_ranges=False)

    assert (fetch(hub, WISH) / "model.safetensors").read_bytes() == model_files()["model.safetensors"]


def test_the_next_try_goes_on_from_what_a_failed_one_left(server: FakeHub, hub: Hub) -> None:
    repository = server.add(ID, model_files(), cut={"model.safetensors": [100_000, 0, 0, 0]})
    with pytest.raises(DownloadFailed, match=r"model.safetensors of org/model could not be fetched from .* tried 3 times"):
        fetch(hub, WISH)
    repository.cut.clear()
    server.asked.clear()

    fetch(hub, WISH)

    assert [request.range for request in server.downloads("model.safetensors")] == ["bytes=100000-"]


def test_a_killed_process_leaves_what_the_next_one_goes_on_from(server: FakeHub, hub: Hub) -> None:
    repository = server.add(ID, model_files(), gate=threading.Event())
    script = "from shared.hub import *; from pathlib import Path; import sys\n"
    script += "fetch(Hub(endpoint=sys.argv[1], token=None, cache=Path(sys.argv[2])), Fetching(hub_id='org/model'))"
    process = subprocess.Popen([sys.executable, "-c", script, server.url, str(hub.cache)])
    wait_until(lambda: server.downloads("model.safetensors") and left_of(hub) == 1000, within_s=60)
    process.kill()
    process.wait()
    assert repository.gate is not None
    repository.gate.set()
    server.asked.clear()

    folder = fetch(hub, WISH)

    assert server.downloads("model.safetensors")[0].range == "bytes=1000-"
    assert (folder / "model.safetensors").read_bytes() == model_files()["model.safetensors"]


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"], ids=["sha256", "git"])
def test_a_file_with_a_wrong_checksum_is_fetched_anew_once(server: FakeHub, hub: Hub, name: str) -> None:
    files = model_files() | {"tokenizer.json": b'{"like": "no other"}'}
    server.add(ID, files, lies={name: 1})

    folder = fetch(hub, WISH)

    assert (folder / name).read_bytes() == files[name]
    assert len(server.downloads(name)) == 2


def test_a_file_that_stays_wrong_is_an_error_and_no_file(server: FakeHub, hub: Hub) -> None:
    server.add(ID, model_files(), lies={"model.safetensors": 9})

    with pytest.raises(DownloadFailed, match=r"model.safetensors of org/model .* checksum was wrong twice"):
        fetch(hub, WISH)

    assert not list(hub.cache.rglob("model.safetensors"))
    assert cached(hub, ID) is None


@pytest.mark.parametrize(
    ("faults", "sentence"),
    [
        ({"token": "secret"}, r"org/model is gated \(403\): accept its conditions at .*/org/model and set HF_TOKEN.*is not set"),
        ({"status": 401}, r"without the right token \(401\).*HF_TOKEN is not set"),
        ({"status": 403}, r"without the right token \(403\)"),
        ({"status": 404, "error_code": "RepoNotFound"}, r"there is no repository org/model at http.* \(404\)"),
        ({"status": 503}, r"org/model could not be fetched .* the hub answered 503; tried 2 times"),
    ],
)
def test_what_the_hub_refuses_is_a_sentence(server: FakeHub, hub: Hub, faults: dict[str, object], sentence: str) -> None:
    server.add(ID, model_files(), **faults)

    with pytest.raises(DownloadFailed, match=sentence):
        fetch(hub, WISH)


def test_the_token_opens_a_gated_repository_and_stands_in_no_message(server: FakeHub, hub: Hub) -> None:
    server.add(ID, model_files(), token="secret")

    assert files_of(fetch(replace(hub, token="secret"), WISH)) == NEEDED
    with pytest.raises(DownloadFailed, match="may not read it") as refused:
        fetch(replace(hub, token="other-one"), replace(WISH, is_fresh=True))
    assert "other-one" not in str(refused.value) + repr(replace(hub, token="other-one"))


def test_a_revision_that_is_not_there_is_named(server: FakeHub, hub: Hub) -> None:
    server.add(ID, model_files())

    with pytest.raises(DownloadFailed, match="org/model has no revision v9"):
        fetch(hub, replace(WISH, revision="v9"))
    with pytest.raises(DownloadFailed, match="no branch"):
        fetch(hub, replace(WISH, revision="../../etc"))


def test_a_hub_that_is_away_is_told_at_once_with_what_was_tried(hub: Hub) -> None:
    away = replace(hub, endpoint=f"http://127.0.0.1:{free_port()}")

    with pytest.raises(DownloadFailed, match=r"could not be fetched from http.*ConnectError.*tried 2 times in 0 s. HF_ENDPOINT"):
        fetch(away, WISH)


def test_a_hub_that_is_away_does_not_matter_to_a_model_that_another_client_fetched(server: FakeHub, hub: Hub) -> None:
    server.add(ID, model_files())
    there = snapshot_download(ID, cache_dir=hub.cache, endpoint=server.url, token=False)
    away = replace(hub, endpoint=f"http://127.0.0.1:{free_port()}")

    assert str(fetch(away, WISH)) == there
    assert str(fetch(replace(away, is_offline=True), WISH)) == there


def test_offline_asks_nobody(server: FakeHub, hub: Hub) -> None:
    server.add(ID, model_files())

    with pytest.raises(DownloadFailed, match=r"org/model is not in .*offline mode.*umekomi models pull org/model"):
        fetch(replace(hub, is_offline=True), WISH)

    assert server.asked == []


def test_a_slow_hub_is_waited_for_only_so_long(server: FakeHub, hub: Hub) -> None:
    server.add(ID, model_files(), gate=threading.Event())

    with pytest.raises(DownloadFailed, match=r"ReadTimeout.*tried \d times"):
        fetch(replace(hub, read_timeout_s=0.05), WISH)


def test_a_full_disk_is_a_sentence(server: FakeHub, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.add(ID, model_files())
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100, 100, 0))

    with pytest.raises(DownloadFailed, match=r"org/model needs .* GB more, and the disk of .* has 0.00 GB free"):
        fetch(hub, WISH)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_disk_that_fills_up_on_the_way_is_a_sentence(server: FakeHub, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from shared.hub.folders import CacheFolder

    server.add(ID, model_files())
    monkeypatch.setattr(CacheFolder, "part", lambda *_: Path("/dev/full"))

    with pytest.raises(DownloadFailed, match=r"the disk of .* is full; what came so far is kept"):
        fetch(hub, WISH)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_cannot_be_written_is_a_sentence(server: FakeHub, hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(mode=0o500)
    server.add(ID, model_files())

    with pytest.raises(DownloadFailed, match="cannot be written: Permission denied"):
        fetch(hub, WISH)


def test_a_repository_cannot_name_files_outside_of_itself(server: FakeHub, hub: Hub, tmp_path: Path) -> None:
    server.add(ID, model_files() | {"../../evil.json": b"{}"})

    with pytest.raises(DownloadFailed, match="outside of itself"):
        fetch(hub, WISH)


def test_a_repository_without_weights_is_refused(server: FakeHub, hub: Hub) -> None:
    server.add(ID, {"config.json": b"{}", "model.gguf": b"gguf"})

    with pytest.raises(DownloadFailed, match="no weights that can be read here"):
        fetch(hub, WISH)


def test_many_who_want_a_model_download_it_once(server: FakeHub, hub: Hub) -> None:
    repository = server.add(ID, model_files(), gate=threading.Event())
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(fetch(hub, WISH))) for _ in range(6)]
    for thread in threads:
        thread.start()
    wait_until(lambda: server.downloads("model.safetensors"))
    assert repository.gate is not None
    repository.gate.set()
    for thread in threads:
        thread.join()

    assert len(set(found)) == 1
    assert len(found) == 6
    assert len(server.downloads("model.safetensors")) == 1


def test_progress_is_told_from_nothing_to_everything(server: FakeHub, hub: Hub) -> None:
    server.add(ID, model_files())
    told: list[Progress] = []

    fetch(hub, replace(WISH, on_progress=told.append))

    total = sum(len(content) for name, content in model_files().items() if name in NEEDED)
    assert {each.total_bytes for each in told} == {total}
    assert [each.done_bytes for each in told] == sorted(each.done_bytes for each in told)
    assert (told[-1].done_bytes, told[-1].done_files, told[-1].total_files) == (total, 5, 5)
    assert "model.safetensors" in {each.file for each in told}


def test_a_cancelled_download_ends_and_is_taken_up_later(server: FakeHub, hub: Hub) -> None:
    server.add(ID, model_files(b"w" * 1_000_000))
    told: list[Progress] = []

    with pytest.raises(DownloadCancelled):
        fetch(hub, replace(WISH, on_progress=told.append, is_cancelled=lambda: any(each.file_done_bytes > 1000 for each in told)))
    server.asked.clear()

    fetch(hub, WISH)
    begin = server.downloads("model.safetensors")[0].range
    assert begin is not None
    assert int(begin.removeprefix("bytes=").removesuffix("-")) > 1000


def test_a_directory_of_ones_own_gets_the_files_themselves(server: FakeHub, hub: Hub, tmp_path: Path) -> None:
    server.add(ID, model_files())

    folder = fetch(hub, replace(WISH, to=tmp_path / "model"))

    assert folder == tmp_path / "model"
    assert files_of(folder) == NEEDED
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    assert not hub.cache.exists()


def test_in_such_a_directory_only_what_is_missing_or_wrong_is_fetched(server: FakeHub, hub: Hub, tmp_path: Path) -> None:
    server.add(ID, model_files())
    folder = fetch(hub, replace(WISH, to=tmp_path / "model"))
    (folder / "config.json").write_bytes(b"?" * len(model_files()["config.json"]))
    server.asked.clear()

    fetch(hub, replace(WISH, to=folder))

    assert [request.path.rpartition("/")[2] for request in server.asked] == ["model", "config.json"]


def test_a_damaged_file_in_the_cache_is_mended_by_a_fresh_wish(server: FakeHub, hub: Hub) -> None:
    server.add(ID, model_files())
    folder = fetch(hub, WISH)
    (folder / "model.safetensors").resolve().write_bytes(b"cut")

    assert cached(replace(hub, is_offline=True), ID) is not None  # it has weights, as far as names tell
    assert (fetch(hub, WISH) / "model.safetensors").read_bytes() == model_files()["model.safetensors"]
