"""`umekomi`: the commands by name; a command's module is imported when the command is run, so that --help is quick."""

from __future__ import annotations

from importlib import import_module

import click

# name -> (module:command, its line in `umekomi --help`)
COMMANDS: dict[str, tuple[str, str]] = {
    "serve": ("cli.serve:serve", "Run everything on this machine: Valkey, a worker and the API."),
    "web": ("cli.web:web", "Run the API alone."),
    "worker": ("cli.worker:worker", "Run one worker alone."),
    "embed": ("cli.embed:embed", "Embed texts now, on a running server."),
    "jobs": ("cli.jobs:jobs", "Submit a corpus, watch it, fetch its vectors."),
    "models": ("cli.models:models", "See what a running server serves."),
    "config": ("cli.config:config", "Check models.yaml."),
}


class LazyGroup(click.Group):
    """Knows its commands by COMMANDS; imports one only to run it or to show its help."""

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
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="umekomi", message="umekomi %(version)s")
def main() -> None:
    """An embedding service with a queue: OpenAI's embeddings API, synchronous and in bulk, on your own hardware.

    \b
    umekomi serve                              start it; it prints the address and a curl line
    umekomi embed "a text"                     one vector, now
    umekomi jobs submit corpus.ndjson --watch  a whole corpus, with a progress bar
    umekomi jobs results JOB -o vectors.parquet

    serve, web and worker take every setting as a flag and as a UMEKOMI_* variable; the flag wins. The other commands
    talk to a running server: --url (UMEKOMI_URL) and --api-key (UMEKOMI_API_KEY) say which.

    \b
    Exit codes: 0 done · 1 refused, or the job failed · 2 wrong command line or setting
                3 the server cannot be reached or is busy, try again · 130 stopped by Ctrl-C
    """


if __name__ == "__main__":
    main(prog_name="umekomi")
