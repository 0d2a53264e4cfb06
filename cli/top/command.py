"""`umekomi top`: how a running server stands, live."""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import replace
from queue import SimpleQueue

import click
from rich.console import Console
from rich.live import Live

from cli.client import ApiClient, Refused, api_command
from cli.top.choosing import Action, Choice, press
from cli.top.feed import PATH, Feed
from cli.top.keyboard import keys
from cli.top.overview import Overview, read_overview
from cli.top.pace import Pace
from cli.top.screen import picture

QUIT = frozenset({"q", "Q", "\x04"})


@click.command()
@click.option("--once", is_flag=True, help="Print it once; so it is too where there is no terminal.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object a line, whenever something changed; with --once one.")
@api_command
def top(once: bool, as_json: bool, client: ApiClient) -> None:
    """Watch a running server: models, workers, what waits, jobs.

    It is told of changes, at most once a second, and goes on when a server that was away is back. Keys: q quits; the arrows,
    or j and k, select a job; c cancels it, p pauses it, r lets it go on, each after a y. An API key of the role `embed` sees
    the models and its own jobs.

    \b
    umekomi top
    umekomi top --once
    umekomi top --json | jq -c '[.at, .lanes.waiting_tokens]'
    """
    try:
        wire = client.call("GET", PATH)
    except Refused as refused:
        if refused.status == 404:
            raise Refused(f"{client.url} has no {PATH}; is it an umekomi of this version?") from None
        raise
    overview = read_overview(wire)
    if as_json:
        click.echo(json.dumps(wire, ensure_ascii=False))
        if not once:
            _print_changes(client)
    elif once or not sys.stdout.isatty():
        console = Console(width=None if sys.stdout.isatty() else 160)
        pace = Pace()
        pace.tell(overview)
        console.print(picture(overview, pace, Choice(), width=console.width, height=None, url=client.url))
    else:
        _Watch(client, overview).run()


def _print_changes(client: ApiClient) -> None:
    """Until Ctrl-C, or until nobody reads it."""
    heard: SimpleQueue[str] = SimpleQueue()
    feed = Feed(client, lambda wire: heard.put(json.dumps(wire, ensure_ascii=False)), lambda why: click.echo(why, err=True))
    feed.start()
    try:
        while True:
            click.echo(heard.get())
    finally:
        feed.stop()


class _Watch:
    """The live view. Feed, keyboard and what was asked of the server say in a queue what happened; the main thread draws."""

    def __init__(self, client: ApiClient, overview: Overview) -> None:
        self._client = client
        self._overview = overview
        self._pace = Pace()
        self._pace.tell(overview)
        self._choice = Choice()
        self._lost = ""
        self._heard: SimpleQueue[tuple[str, object]] = SimpleQueue()
        self._console = Console()

    def run(self) -> None:
        """Until q or Ctrl-C."""
        feed = Feed(
            self._client,
            lambda wire: self._heard.put(("overview", wire)),
            lambda why: self._heard.put(("lost", why)),
        )
        feed.start()
        try:
            with (
                keys(lambda key: self._heard.put(("key", key))),
                Live(console=self._console, screen=True, auto_refresh=False) as live,
            ):
                while True:
                    width, height = self._console.size
                    live.update(
                        picture(
                            self._overview,
                            self._pace,
                            self._choice,
                            width=width,
                            height=height,
                            url=self._client.url,
                            lost=self._lost,
                        ),
                        refresh=True,
                    )
                    if not self._take(*self._heard.get()):
                        return
        except KeyboardInterrupt:
            return  # as q: it is how people leave such a view
        finally:
            feed.stop()

    def _take(self, what: str, said: object) -> bool:
        """False: quit."""
        if what == "overview":
            assert isinstance(said, dict)
            self._overview, self._lost = read_overview(said), ""
            self._pace.tell(self._overview)
        elif what == "lost":
            self._lost = str(said)
        elif what == "done":
            self._choice = replace(self._choice, message=str(said))
        elif what == "key":
            if said in QUIT and self._choice.asked is None:
                return False
            self._choice, action = press(self._choice, str(said), self._overview.jobs)
            if action is not None:
                self._choice = replace(self._choice, message=f"{action.name} {action.job_id} …")
                threading.Thread(target=self._act, args=(action,), name="action", daemon=True).start()
        return True

    def _act(self, action: Action) -> None:
        try:
            job = self._client.act(action.job_id, action.name)
            self._heard.put(("done", f"{job.id} is {job.status}"))
        except click.ClickException as error:
            self._heard.put(("done", error.message))
