"""LocalAI's command line: its flags become ours, what has no meaning here is passed over with one line that says so."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass, field

import click

from shared.localai import OPTIONS, Option, from_variables, is_true

# Honoured without a setting: umekomi never does otherwise.
ALWAYS_SO = {"parallel-requests": False, "use-subtle-key-comparison": False, "localai-config-dir-poll-interval": True}

# Without meaning here: switches, and flags that bring a value.
SWITCHES_WITHOUT_MEANING = frozenset(
    """autoload-backend-galleries autoload-galleries csrf disable-api-key-requirement-for-http-get disable-csrf
    disable-gallery-endpoint disable-predownload-scan disable-runtime-settings enable-memory-reclaimer enable-tracing federated
    force-eviction-when-busy opaque-errors p2p""".split()
)
VALUES_WITHOUT_MEANING = frozenset(
    """agent-job-retention-days backend-dev-suffix backend-galleries backend-images-branch-tag backend-images-release-tag
    backends-path backends-system-path external-backends external-grpc-backends galleries generated-content-path
    http-get-exempted-endpoints library-path lru-eviction-max-retries lru-eviction-retry-interval memory-reclaimer-threshold
    models open-responses-store-ttl p2p-dht-interval p2p-otp-interval p2ptoken peer2-peer-network-id preload-models-config
    tracing-max-items upload-path watchdog-interval""".split()
)

_BY_FLAG = {flag: option for option in OPTIONS for flag in option.flags}


class LocalAICommand(click.Command):
    """A command that understands LocalAI's flags too, and says which of them, and of its variables, it passes over."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See click."""
        found = translate(args)
        ignored = [*found.without_meaning, *from_variables(os.environ).without_meaning]
        if ignored:
            click.echo(f"Warning: LocalAI's {', '.join(ignored)} mean nothing to umekomi and are passed over", err=True)
        return super().parse_args(ctx, found.arguments)


@dataclass(slots=True)
class Translated:
    """A command line in our spelling. Ours stand behind theirs: of two the last one counts."""

    theirs: list[str] = field(default_factory=list)
    ours: list[str] = field(default_factory=list)
    lists: dict[str, list[str]] = field(default_factory=dict)
    without_meaning: list[str] = field(default_factory=list)

    @property
    def arguments(self) -> list[str]:
        """For click."""
        lists = [part for flag, values in self.lists.items() for part in (flag, ",".join(values))]
        return [*self.theirs, *lists, *self.ours]


def translate(arguments: list[str]) -> Translated:
    """LocalAI's flags become ours; what is neither LocalAI's nor without meaning stays as it is, for click to judge."""
    found = Translated()
    left = deque(arguments)
    while left:
        argument = left.popleft()
        if argument == "--":
            found.ours += [argument, *left]
            break
        if argument[:2] == "-t" and (argument == "-t" or argument[2:].isdecimal()):
            left.extendleft(reversed(["--threads", argument[2:]] if argument[2:] else ["--threads"]))
            continue
        flag, equals, value = argument.removeprefix("--").partition("=")
        is_flag = argument.startswith("--")
        if is_flag and flag in _BY_FLAG:
            _take(found, _BY_FLAG[flag], argument, left)
        elif is_flag and flag == "debug":
            found.theirs += ["--log-level", "debug"] if is_true(value if equals else "true") else []
        elif is_flag and (flag in ALWAYS_SO or flag in VALUES_WITHOUT_MEANING or _is_switch_without_meaning(flag)):
            if not equals and left and (flag in VALUES_WITHOUT_MEANING or ALWAYS_SO.get(flag)):
                left.popleft()
            if flag not in ALWAYS_SO and f"--{flag}" not in found.without_meaning:
                found.without_meaning.append(f"--{flag}")
        else:
            found.ours.append(argument)
    return found


def _is_switch_without_meaning(flag: str) -> bool:
    return flag.removeprefix("no-") in SWITCHES_WITHOUT_MEANING


def _take(found: Translated, option: Option, argument: str, left: deque[str]) -> None:
    """One flag that LocalAI has, and the value behind it."""
    flag, equals, value = argument.removeprefix("--").partition("=")
    own = option.setting.replace("_", "-")
    place = found.ours if flag == own else found.theirs
    if option.is_switch:
        place.append(f"--{own}" if is_true(value if equals else "true") else f"--no-{own}")
        return
    if not equals:
        if not left:
            found.ours.append(f"--{own}")  # its value is missing, as click says
            return
        value = left.popleft()
    if option.is_list:
        found.lists.setdefault(f"--{own}", []).append(option.convert(value))
    else:
        place += [f"--{own}", option.convert(value)]
