"""`umekomi jobs`: submit a corpus, watch it, fetch its vectors, and decide about it."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from cli.client import ApiClient, JobStatus, api_command
from cli.completion import complete_jobs, complete_models
from cli.corpus import FORMATS, read_corpus
from cli.download import append_rows, replace_file, stream
from cli.watch import describe_pace, describe_seconds, upload_bar, watch_job

INTERRUPTED = 130
# A result file's ending -> its format.
ENDINGS = {".jsonl": "jsonl", ".parquet": "parquet", ".arrows": "arrow", ".arrow": "arrow", ".npy": "npy", ".npz": "npz"}


@click.group()
def jobs() -> None:
    """Submit a corpus, watch it, fetch its vectors.

    A job outlives the server, the worker and this command: what was accepted is done. Its results can be read while
    they are made.

    \b
    umekomi jobs submit corpus.ndjson --watch
    umekomi jobs results JOB -o vectors.parquet
    umekomi jobs errors JOB
    """


def _pairs(_context: click.Context, _option: click.Parameter, given: tuple[str, ...]) -> dict[str, str] | None:
    pairs = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{pair!r} is not NAME=VALUE")
        pairs[name] = value
    return pairs or None


@jobs.command()
@click.argument("file", type=click.Path())
@click.option("--format", "format_name", type=click.Choice(list(FORMATS)), help="What FILE is, where its ending does not tell.")
@click.option("--text-column", metavar="NAME", help="The column of the texts in csv and parquet.  [default: text]")
@click.option("--id-column", metavar="NAME", help="The column of the ids.  [default: id, if there is one]")
@click.option("--metadata-columns", metavar="NAME,…", help="Columns to keep as metadata.  [default: all the others]")
@click.option("--delimiter", help="Between the fields of csv, a character or `tab`; else told from the header.")
@click.option("--on-duplicate", type=click.Choice(["error", "keep"]), help="What becomes of an id that comes twice.")
@click.option("-m", "--model", shell_complete=complete_models, help="The model; without it the server's default.")
@click.option("--dimensions", type=click.IntRange(min=1), help="Cut the vectors to so many dimensions.")
@click.option("--input-type", type=click.Choice(["query", "document"]), help="Which of the model's prompts to put in front.")
@click.option("--prompt-name", help="The same by the prompt's name.")
@click.option("--truncate", type=click.Choice(["end", "error"]), help="What becomes of a text that is too long.")
@click.option("--priority", type=click.Choice(["high", "normal", "low"]), help="Its share beside other jobs.")
@click.option("--dedupe", is_flag=True, default=None, help="Embed equal texts of the file once.")
@click.option("--cache", is_flag=True, default=None, help="Take the vectors of texts that earlier such jobs embedded.")
@click.option("--metadata", multiple=True, callback=_pairs, metavar="NAME=VALUE", help="A note on the job; may be repeated.")
@click.option(
    "--idempotency-key", metavar="KEY", help="The same key with the same file is the same job, also tomorrow; else one is made."
)
@click.option("--watch/--no-watch", help="Show a progress bar until the job is finished.")
@api_command
def submit(
    file: str,
    format_name: str | None,
    watch: bool,
    idempotency_key: str | None,
    metadata: dict[str, str] | None,
    client: ApiClient,
    **parameters: Any,
) -> None:
    """Submit FILE as a job and print the job's id.

    FILE is .ndjson or .jsonl, a line {"id": …, "text": …, "metadata": {…}} for each text (id and metadata may be left out);
    .csv, .tsv or .parquet with a column of texts; .txt, a text a line; or .json, the whole request {"model": …,
    "input": [...]}. With .gz or .zst after it, it is packed. `-` is standard input. It is streamed, so its size does not
    matter. A row that is wrong fails alone: see `umekomi jobs errors`.

    Ctrl-C while watching stops the watching, not the job.

    \b
    umekomi jobs submit corpus.ndjson --watch
    umekomi jobs submit corpus.ndjson.gz --model multilingual-e5-small --input-type document --priority low
    umekomi jobs submit articles.csv.zst --text-column body --id-column url
    JOB=$(zcat corpus.txt.gz | umekomi jobs submit - --format text)
    """
    if metadata is not None:
        parameters["metadata"] = json.dumps(metadata)
    corpus = read_corpus(file, format_name)
    given = [name for name, value in parameters.items() if value is not None]
    if given and corpus.is_request:
        raise click.UsageError(f"--{given[0].replace('_', '-')}: a .json file names its parameters itself, beside `input`")
    with upload_bar(corpus.name, corpus.size_bytes) as on_sent:
        job = client.submit(corpus, parameters, idempotency_key, on_sent)
    click.echo(job.id)
    sys.stdout.flush()
    if watch:
        _watch(client, job.id)


@jobs.command("watch")
@click.argument("job", shell_complete=complete_jobs)
@api_command
def watch_command(job: str, client: ApiClient) -> None:
    """Show a progress bar until JOB is finished.

    Ctrl-C stops the watching, not the job. The exit code is 0 if the job completed, 1 if it failed or was cancelled.

    \b
    umekomi jobs watch job_0123…
    """
    _watch(client, job)


def _watch(client: ApiClient, job_id: str) -> None:
    try:
        job = watch_job(client, job_id)
    except KeyboardInterrupt:
        click.echo(f"\nThe job goes on. Watch it again: umekomi jobs watch {job_id}", err=True)
        sys.exit(INTERRUPTED)
    click.echo(_summary(job), err=True)
    if job.status != "completed":
        sys.exit(1)


def _summary(job: JobStatus) -> str:
    pace = f", {job.texts_per_second:,.0f} texts/s" if job.texts_per_second else ""
    lines = [f"{job.status}: {job.completed:,} of {_texts(job.total)}, {job.tokens:,} tokens{pace}"]
    if job.reason:
        lines.append(job.reason)
    if job.truncated:
        lines.append(f"too long for the model and cut: {_texts(job.truncated)}")
    if job.failed:
        lines.append(f"{_texts(job.failed)} failed; see why: umekomi jobs errors {job.id}")
    if job.completed:
        lines.append(f"Fetch the vectors: umekomi jobs results {job.id} -o vectors.parquet")
    return "\n".join(lines)


def _texts(count: int) -> str:
    return f"{count:,} text" if count == 1 else f"{count:,} texts"


@jobs.command("list")
@click.option("--status", help="Only jobs that are queued, in_progress, paused, completed, failed or cancelled.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="At most so many, the newest first.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object a line instead of a table.")
@api_command
def list_jobs(status: str | None, limit: int, as_json: bool, client: ApiClient) -> None:
    """List your jobs, the newest first.

    \b
    umekomi jobs list --status in_progress
    """
    found = client.jobs(status, limit)
    if as_json:
        for job in found:
            click.echo(json.dumps(job.wire, ensure_ascii=False))
        return
    table = Table(box=None, header_style="bold")
    table.add_column("job", no_wrap=True)
    for title in ("status", "model", "created", "texts", "pace"):
        table.add_column(title)
    for job in found:
        done = f"{job.completed + job.failed:,}/{job.total:,}"
        table.add_row(job.id, job.status, job.model, _local_time(job.created_at), done, describe_pace(job))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


@jobs.command()
@click.argument("job", shell_complete=complete_jobs)
@click.option("--json", "as_json", is_flag=True, help="The server's JSON as it is.")
@api_command
def status(job: str, as_json: bool, client: ApiClient) -> None:
    """Show how JOB stands.

    \b
    umekomi jobs status job_0123…
    umekomi jobs status job_0123… --json | jq .counts
    """
    _show(client.job(job), as_json)


def _show(job: JobStatus, as_json: bool = False) -> None:
    if as_json:
        click.echo(json.dumps(job.wire, ensure_ascii=False))
        return
    lines = [
        ("job", job.id),
        ("status", job.status),
        ("model", job.model),
        ("created", _local_time(job.created_at)),
        ("texts", f"{job.completed:,} completed, {job.failed:,} failed, of {job.total:,}"),
        ("tokens", f"{job.tokens:,}" + (f", {_texts(job.truncated)} cut" if job.truncated else "")),
        ("pace", f"{job.texts_per_second:,.0f} texts/s" if job.texts_per_second is not None else ""),
        ("left", describe_seconds(job.eta_s) if job.eta_s is not None else ""),
        ("reason", job.reason or ""),
    ]
    for name, value in lines:
        if value:
            click.echo(f"{name:<8} {value}")


def _local_time(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s).astimezone().strftime("%Y-%m-%d %H:%M:%S")


@jobs.command()
@click.argument("job", shell_complete=complete_jobs)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="The file; without it standard output.")
@click.option(
    "--format",
    "form",
    type=click.Choice(list(dict.fromkeys(ENDINGS.values()))),
    help="Without it by the ending of -o, else jsonl.",
)
@click.option("--dtype", type=click.Choice(["float32", "float16"]), help="The numbers; float16 takes half the room.")
@click.option("-c", "--continue", "goes_on", is_flag=True, help="FILE was begun by an earlier call: fetch only what it lacks.")
@api_command
def results(job: str, output: Path | None, form: str | None, dtype: str | None, goes_on: bool, client: ApiClient) -> None:
    """Fetch the vectors of JOB, in the order of its texts; also before it is finished: then what is there so far.

    jsonl has a line {id, index, embedding, tokens, truncated} for each text, or {id, index, line, error} for one that
    failed. parquet and arrow have the same as columns. npy is the matrix alone, a row of NaN for a text that failed;
    npz, also for numpy.load, has vectors, ids, index, tokens and truncated.

    A download that breaks off is taken up again; one that was stopped goes on with -c: a jsonl file with the rows that it
    lacks, also while the job runs, the others with the bytes they lack, once the job is finished.

    \b
    umekomi jobs results job_0123… -o vectors.parquet
    umekomi jobs results job_0123… -o vectors.npy --dtype float16
    umekomi jobs results job_0123… -o vectors.jsonl -c
    umekomi jobs results job_0123… | jq -c .id
    """
    form = form or ENDINGS.get("" if output is None else output.suffix.lower(), "jsonl")
    if goes_on and output is None:
        raise click.UsageError("-c: only a file (-o) can be gone on with")
    if output is None:
        if form != "jsonl" and sys.stdout.isatty():
            raise click.UsageError(f"{form} is not for a terminal; name a file with -o")
        is_all = stream(client, job, "results", sys.stdout.buffer, format=form, dtype=dtype)
    else:
        if output.exists() and output.stat().st_size and not (goes_on and form == "jsonl"):
            hint = "; -c adds the rows that it lacks" if form == "jsonl" else ""
            raise click.UsageError(f"{output} is there already{hint}")
        try:
            if form == "jsonl":
                is_all = append_rows(client, job, "results", output, dtype=dtype)
            else:
                is_all = replace_file(client, job, output, goes_on=goes_on, format=form, dtype=dtype)
        except OSError as error:
            raise click.ClickException(f"{output} cannot be written: {error.strerror}") from None
    if not is_all:
        again = f"umekomi jobs results {job} -o {output} -c" if output is not None and form == "jsonl" else "fetch it anew later"
        click.echo(f"The job is not finished; this is what is there so far. For the rest: {again}", err=True)


@jobs.command()
@click.argument("job", shell_complete=complete_jobs)
@api_command
def errors(job: str, client: ApiClient) -> None:
    """Print the texts of JOB that failed: a line {id, index, line, error} each; `line` is that of the submitted file.

    \b
    umekomi jobs errors job_0123… | jq -r '"line \\(.line): \\(.error.message)"'
    """
    stream(client, job, "errors", sys.stdout.buffer)


@jobs.command()
@click.argument("job", shell_complete=complete_jobs)
@api_command
def cancel(job: str, client: ApiClient) -> None:
    """Stop JOB for good. What was embedded so far can be fetched."""
    _show(client.act(job, "cancel"))


@jobs.command()
@click.argument("job", shell_complete=complete_jobs)
@api_command
def pause(job: str, client: ApiClient) -> None:
    """Stop JOB for now; `umekomi jobs resume` lets it go on."""
    _show(client.act(job, "pause"))


@jobs.command()
@click.argument("job", shell_complete=complete_jobs)
@api_command
def resume(job: str, client: ApiClient) -> None:
    """Let a paused JOB go on."""
    _show(client.act(job, "resume"))


@jobs.command()
@click.argument("job", shell_complete=complete_jobs)
@api_command
def retry(job: str, client: ApiClient) -> None:
    """Run the failed texts of a completed JOB again; the others stay as they are.

    The results then have the new rows in the places of the failed ones: fetch them anew.

    \b
    umekomi jobs retry job_0123… && umekomi jobs watch job_0123…
    """
    _show(client.act(job, "retry"))


@jobs.command()
@click.argument("job", shell_complete=complete_jobs)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@api_command
def delete(job: str, yes: bool, client: ApiClient) -> None:
    """Delete JOB with its texts and vectors, also while it runs."""
    if not yes:
        click.confirm(f"Delete {job} with all its vectors?", abort=True)
    client.delete(job)
    click.echo(f"deleted {job}")
