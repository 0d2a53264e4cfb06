"""`umekomi embed`: vectors of a few texts, now."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice

import click

from cli.client import ApiClient, api_command
from cli.completion import complete_models

# Texts of standard input go in so many at a time: enough for a full batch, far below what one request may hold.
TEXTS_A_REQUEST = 256


@click.command()
@click.argument("texts", nargs=-1, required=True, metavar="TEXT…")
@click.option("-m", "--model", shell_complete=complete_models, help="The model; without it the server's default.")
@click.option("--dimensions", type=click.IntRange(min=1), help="Cut the vectors to so many dimensions.")
@click.option("--input-type", type=click.Choice(["query", "document"]), help="Which of the model's prompts to put in front.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "json"]),
    default="jsonl",
    show_default=True,
    help="jsonl: a line {index, text, embedding} for each text. json: one list of vectors.",
)
@api_command
def embed(
    texts: tuple[str, ...],
    model: str | None,
    dimensions: int | None,
    input_type: str | None,
    form: str,
    client: ApiClient,
) -> None:
    """Embed texts now, on a running server, and print their vectors in order.

    `-` stands for the lines of standard input; empty ones are left out. For many thousands use `umekomi jobs submit`.

    \b
    umekomi embed "How do I reset my password?"
    umekomi embed --format json "a text" "another"
    cat texts.txt | umekomi embed - > vectors.jsonl
    """
    truncated = 0
    index = 0
    everything: list[list[float]] = []
    for chunk in _chunks(_all_texts(texts)):
        vectors, usage = client.embed(chunk, model=model, dimensions=dimensions, input_type=input_type)
        truncated += int(usage.get("truncated") or 0)
        if form == "json":
            everything += vectors
            continue
        for text, vector in zip(chunk, vectors, strict=True):
            click.echo(json.dumps({"index": index, "text": text, "embedding": vector}, ensure_ascii=False))
            index += 1
    if form == "json":
        click.echo(json.dumps(everything))
    if truncated:
        click.echo(f"{truncated} of the texts were too long for the model and were cut", err=True)


def _all_texts(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        if text == "-":
            with click.open_file("-", encoding="utf-8") as lines:
                yield from (line.rstrip("\r\n") for line in lines if line.strip())
        else:
            yield text


def _chunks(texts: Iterator[str]) -> Iterator[list[str]]:
    while chunk := list(islice(texts, TEXTS_A_REQUEST)):
        yield chunk
