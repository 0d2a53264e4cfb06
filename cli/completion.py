"""`umekomi completion`: what a shell needs to complete commands, flags, and names that a running server knows."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from typing import TypeVar

import click
from click.shell_completion import CompletionItem, get_completion_class

from cli.client import DEFAULT_URL, ApiClient

Found = TypeVar("Found")

# A key press waits for no longer; a server that is away completes nothing.
TIMEOUT_S = 1.0
MAX_JOBS = 50
PROGRAM, VARIABLE = "umekomi", "_UMEKOMI_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what makes a shell complete umekomi's commands.

    Flags, file formats, and what a running server knows: names of models and ids of jobs. UMEKOMI_URL and UMEKOMI_API_KEY
    say which server; it is waited for one second. Add the line of your shell to the file that it reads at start:

    \b
    bash  ~/.bashrc                     eval "$(umekomi completion bash)"
    zsh   ~/.zshrc, behind compinit     eval "$(umekomi completion zsh)"
    fish  once, in a shell              umekomi completion fish > ~/.config/fish/completions/umekomi.fish
    """
    made = get_completion_class(shell)
    assert made is not None, "click has these three"
    click.echo(made(ctx.find_root().command, {}, PROGRAM, VARIABLE).source())


def complete_models(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The names of the served models."""
    models = _ask(ctx, lambda client: client.models())
    names = [(str(model.get("id", "")), str(model.get("state", ""))) for model in models or []]
    return [CompletionItem(name, help=state) for name, state in names if name and name.startswith(incomplete)]


def complete_jobs(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The ids of the newest jobs."""
    jobs = _ask(ctx, lambda client: client.jobs(None, MAX_JOBS))
    return [CompletionItem(job.id, help=f"{job.status}, {job.model}") for job in jobs or [] if job.id.startswith(incomplete)]


def _ask(ctx: click.Context, question: Callable[[ApiClient], Found]) -> Found | None:
    """None whatever goes wrong: nothing may be printed into a line that is being typed."""
    url = ctx.params.get("url") or os.environ.get("UMEKOMI_URL") or DEFAULT_URL
    key = ctx.params.get("api_key") or os.environ.get("UMEKOMI_API_KEY")
    try:
        with closing(ApiClient(url, key, timeout_s=TIMEOUT_S)) as client:
            return question(client)
    except Exception:
        return None
