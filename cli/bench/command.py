"""`umekomi bench`: latency and throughput of any OpenAI-compatible server."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

import click
import orjson
from rich.console import Console

from cli.bench import load
from cli.bench.result import BenchResult, JobResult, RunResult, read_result
from cli.bench.table import show
from cli.bench.target import find_target
from cli.bench.texts import Texts, of_file, of_words, parse_words
from cli.client import ApiClient, Refused, TryAgain, api_command
from cli.completion import complete_models
from cli.corpus import CONTENT_TYPES, Corpus
from cli.terminal import Terminal

INTERRUPTED = 130
MAX_CLIENTS = 1024
# The job's texts are those of a client that nobody is.
JOB_CLIENT = -1


def _clients(_context: click.Context, _option: click.Parameter, given: str) -> list[int]:
    try:
        counts = [int(part) for part in given.split(",") if part.strip()]
    except ValueError:
        counts = []
    if not counts or any(not 1 <= count <= MAX_CLIENTS for count in counts):
        raise click.BadParameter(f"{given!r} is not a list of numbers from 1 to {MAX_CLIENTS} such as 1,16,64")
    return counts


@click.command()
@click.option(
    "-m", "--model", shell_complete=complete_models, help="The model; without it the server's only one, or its default."
)
@click.option(
    "--clients", default="1,16,64", show_default=True, callback=_clients, metavar="N,…", help="Clients at a time, a run for each."
)
@click.option("--seconds", type=click.FloatRange(min=0.1, max=86_400), default=10, show_default=True, help="How long a run is.")
@click.option(
    "--warm-up",
    type=click.FloatRange(min=0, max=3600),
    default=1,
    show_default=True,
    help="Seconds before each that do not count.",
)
@click.option(
    "--texts", "file", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The texts, one a line."
)
@click.option("--words", metavar="N..M", help="Texts of so many common words instead.  [default: 3..40]")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed sends the same texts.")
@click.option("--batch", type=click.IntRange(1, 10_000), default=1, show_default=True, help="Texts in a request.")
@click.option(
    "--encoding", type=click.Choice(["base64", "float"]), default="base64", show_default=True, help="Form of the vectors."
)
@click.option(
    "--timeout", type=click.FloatRange(min=0.1, max=3600), default=60, show_default=True, help="Seconds for one answer."
)
@click.option(
    "--jobs", "job_texts", type=click.IntRange(min=1), metavar="N", help="umekomi only: measure again beside a job of N texts."
)
@click.option("--label", help="What to call it.  [default: the model]")
@click.option(
    "--json",
    "json_file",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the result there too; - is standard output, then without the table.",
)
@click.option(
    "--compare",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What --json wrote of another server: show it beside, with ratios.",
)
@api_command
def bench(
    model: str | None,
    clients: list[int],
    seconds: float,
    warm_up: float,
    file: Path | None,
    words: str | None,
    seed: int,
    batch: int,
    encoding: str,
    timeout: float,
    job_texts: int | None,
    label: str | None,
    json_file: Path | None,
    compare: Path | None,
    client: ApiClient,
) -> None:
    """Measure latency and throughput of any server with OpenAI's embeddings API.

    umekomi, LocalAI, infinity, Text Embeddings Inference, OpenAI: --url says which, with or without /v1. Each client sends its
    next request when its last one is answered, on a connection that it keeps; every text is another one, so that no cache
    answers. A client that got an error waits 0.1 s. With --jobs a job runs beside, and is deleted afterwards.

    Ctrl-C shows what was measured until then. The exit code is 1 if nothing was answered.

    \b
    umekomi bench --clients 1,16,64 --json ours.json
    umekomi bench --url http://localhost:7997 --model BAAI/bge-small-en-v1.5 --compare ours.json
    umekomi bench --batch 32 --words 100..300 --clients 4
    umekomi bench --jobs 50000 --clients 1
    """
    if file is not None and words is not None:
        raise click.UsageError("--texts and --words: give one of them")
    least, most = parse_words(words or "3..40")
    texts = of_words(least, most, seed) if file is None else of_file(file, seed)
    other = read_result(compare) if compare is not None else None
    _see_that_it_can_be_written(json_file)
    terminal = Terminal()
    terminal.status(f"Asking {client.url} for a first vector")
    try:
        target = find_target(client, model, encoding)
    finally:
        terminal.status("")
    requests = load.Requests(
        url=target.url,
        headers=client.headers,
        model=target.model,
        encoding=encoding,
        batch=batch,
        texts=texts,
        timeout_s=timeout,
    )
    started_at, runs, job = time.time(), list[RunResult](), None

    def measure(*, beside_job: bool) -> bool:
        """False: Ctrl-C."""
        for count in clients:
            terminal.status(f"{count} client{'s' if count > 1 else ''}{' beside the job' if beside_job else ''}, {seconds:g} s")
            runs.append(load.run(requests, count, warm_up_s=warm_up, seconds=seconds, beside_job=beside_job))
            terminal.status("")
            if not runs[-1].is_whole:
                return False
        return True

    is_whole = measure(beside_job=False)
    if is_whole and job_texts is not None:
        with _running_job(client, target.model, texts, job_texts) as running:
            is_whole = measure(beside_job=True)
            terminal.status("Waiting for the job to end" if is_whole else "")
            job = running.follow(wait=is_whole)
            terminal.status("")
            is_whole = is_whole and job.is_whole
    result = BenchResult(
        label=label or target.shown_model,
        url=client.url,
        model=target.shown_model,
        started_at=started_at,
        texts=f"{least} to {most} words" if file is None else f"lines of {file.name}",
        seed=seed,
        batch=batch,
        encoding=encoding,
        dimensions=target.dimensions,
        runs=runs,
        job=job,
    )
    _write(result, other, json_file)
    if not is_whole:
        sys.exit(INTERRUPTED)
    if not any(run.requests for run in runs):
        raise click.ClickException("no request was answered")


class _RunningJob:
    def __init__(self, client: ApiClient, job_id: str, texts: int) -> None:
        self._client, self._id, self._texts = client, job_id, texts
        self._began = time.monotonic()

    def follow(self, *, wait: bool) -> JobResult:
        """How it stands, at its end if `wait`; Ctrl-C ends the waiting."""
        job = self._client.job(self._id)
        try:
            while wait and not job.is_finished:
                time.sleep(0.2)
                with suppress(TryAgain):
                    job = self._client.job(self._id)
        except KeyboardInterrupt:
            pass
        created, finished = job.created_at, job.wire.get("finished_at")
        seconds = float(finished) - created if finished else time.monotonic() - self._began
        return JobResult(
            texts=self._texts, completed=job.completed, tokens=job.tokens, seconds=seconds, is_whole=job.status == "completed"
        )


@contextmanager
def _running_job(client: ApiClient, model: str | None, texts: Texts, count: int) -> Iterator[_RunningJob]:
    """A job of so many texts, deleted at the end."""
    with tempfile.NamedTemporaryFile(suffix=".ndjson") as file:
        for text in islice(texts(JOB_CLIENT), count):
            file.write(orjson.dumps({"text": text}) + b"\n")
        file.flush()
        corpus = Corpus(Path(file.name), {"Content-Type": CONTENT_TYPES[".ndjson"]})
        try:
            job = client.submit(corpus, {"model": model, "metadata": '{"made_by": "umekomi bench"}'}, None, lambda _sent: None)
        except Refused as refused:
            raise Refused(f"--jobs: {refused.message}; is it an umekomi?") from None
    try:
        yield _RunningJob(client, job.id, count)
    finally:
        with suppress(click.ClickException):
            client.delete(job.id)


def _see_that_it_can_be_written(json_file: Path | None) -> None:
    """Before minutes go into what cannot be kept."""
    if json_file is not None and str(json_file) != "-":
        try:
            json_file.open("ab").close()
        except OSError as error:
            raise click.UsageError(f"--json {json_file}: {error.strerror}") from None


def _write(result: BenchResult, other: BenchResult | None, json_file: Path | None) -> None:
    if str(json_file) == "-":
        click.echo(result.to_json().decode(), nl=False)
        return
    show(result, other, Console(width=None if sys.stdout.isatty() else 200))
    if json_file is not None:
        json_file.write_bytes(result.to_json())
