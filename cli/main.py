"""`umekomi`: the commands by name; a command's module is imported when the command is run, so that --help is quick."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem

# section -> name -> (module:command, its line in `umekomi --help`)
SECTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "Run it": {
        "serve": ("cli.serve:serve", "Run everything on this machine: Valkey, a worker and the API."),
        "run": ("cli.serve:serve", "Run everything on this machine: Valkey, a worker and the API."),
        "web": ("cli.web:web", "Run the API alone."),
        "worker": ("cli.worker:worker", "Run one worker alone."),
    },
    "Embed": {
        "embed": ("cli.embed:embed", "Embed texts now, on a running server."),
        "jobs": ("cli.jobs:jobs", "Submit a corpus, watch it, fetch its vectors."),
    },
    "Set it up": {
        "models": ("cli.models:models", "See what a running server serves; fetch models of the hub."),
        "keys": ("cli.keys:keys", "Make, list and revoke API keys."),
        "config": ("cli.config:config", "Check models.yaml."),
    },
    "Look after it": {
        "top": ("cli.top.command:top", "Watch a running server: models, workers, what waits, jobs."),
        "doctor": ("cli.doctor.command:doctor", "Check this machine, Redis, storage and models, and say what to change."),
        "bench": ("cli.bench.command:bench", "Measure latency and throughput of any server with OpenAI's embeddings API."),
        "completion": ("cli.completion:completion", "Print what makes a shell complete umekomi's commands."),
    },
}
COMMANDS = {name: command for section in SECTIONS.values() for name, command in section.items()}

INTERRUPTED = 130


class LazyGroup(click.Group):
    """Knows its commands by SECTIONS; imports one only to run it or to show its help."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """In the order of the table."""
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """None if there is no such command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """From the table, without importing them."""
        for title, section in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, line) for name, (_, line) in section.items()], col_max=14)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """From the table too: a key press must not wait for every command's imports."""
        names = [CompletionItem(name, help=line) for name, (_, line) in COMMANDS.items() if name.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def invoke(self, ctx: click.Context) -> Any:
        """Whatever ends a command is told in a sentence; the whole story is there with UMEKOMI_LOG_LEVEL=debug."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("", err=True)
            ctx.exit(INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            if os.environ.get("UMEKOMI_LOG_LEVEL", "").lower() == "debug":
                raise
            said = f"{type(error).__name__}: {error}".rstrip(": ")
            raise click.ClickException(f"{said} (a mistake of ours; UMEKOMI_LOG_LEVEL=debug shows where)") from error


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="umekomi", message="umekomi %(version)s")
def main() -> None:
    """An embedding service with a queue: OpenAI's embeddings API, synchronous and in bulk, on your own hardware.

    \b
    umekomi serve                              start it; it prints the address and a curl line
    umekomi embed "a text"                     one vector, now
    umekomi jobs submit corpus.ndjson --watch  a whole corpus, with a progress bar
    umekomi jobs results JOB -o vectors.parquet
    umekomi doctor                             what is wrong here, if something is

    serve, web and worker take every setting as a flag and as a UMEKOMI_* variable; the flag wins. The other commands
    talk to a running server: --url (UMEKOMI_URL) and --api-key (UMEKOMI_API_KEY) say which.

    \b
    Exit codes: 0 done · 1 refused, or the job failed · 2 wrong command line or setting
                3 the server cannot be reached or is busy, try again · 130 stopped by Ctrl-C
    """


if __name__ == "__main__":
    main(prog_name="umekomi")
