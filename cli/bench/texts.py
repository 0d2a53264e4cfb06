"""The texts of a bench: seeded, so that two servers get the same ones; of a file, or of common words."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path

import click

# One client's texts, for ever, by its number.
Texts = Callable[[int], Iterator[str]]

WORDS = """the of and to in is was for on that with as by at from it an be this are were which or had has not also its have one
been first after two they but who new when there into can time over only all between most may such about other some
would city state world year part known people high school war family group music film series national university
company team game house life river north south east west government public system water power land line station road
church book story paper art science history language field number form area region country town village population
local general order law court case right side end head hand eye man woman child father mother son daughter king queen
battle ship air train car engine machine design model method result study research analysis test process program
computer network software service user customer account answer search index document text word sentence meaning idea
theory example problem solution point level value rate price cost market business industry product food health medical
patient doctor hospital treatment disease cell body brain heart blood plant animal tree flower fish bird dog cat horse
summer winter spring day night week month morning evening light dark red blue green white large small long short old
young good best great little important different several many each every another same next last""".split()

_RANGE = re.compile(r"(\d{1,5})(?:\.\.|-)(\d{1,5})|(\d{1,5})")


def parse_words(given: str) -> tuple[int, int]:
    """3..40 or 12: the fewest and the most words of a text. Raises BadParameter."""
    found = _RANGE.fullmatch(given.strip())
    if found is None:
        raise click.BadParameter(f"{given!r} is not a number of words such as 12 or 3..40", param_hint="--words")
    least, most = int(found[1] or found[3]), int(found[2] or found[3])
    if not 1 <= least <= most:
        raise click.BadParameter(f"{given!r}: from 1 word on, the smaller number first", param_hint="--words")
    return least, most


def of_words(least: int, most: int, seed: int) -> Texts:
    """Texts of so many words, each as likely; no two clients have the same."""

    def texts(client: int) -> Iterator[str]:
        rng = random.Random(f"{seed}/{client}")
        while True:
            yield " ".join(rng.choices(WORDS, k=rng.randint(least, most)))

    return texts


def of_file(path: Path, seed: int) -> Texts:
    """The lines of the file that are not empty, each client from another one on, over and over. Raises UsageError."""
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise click.UsageError(f"--texts {path}: is not UTF-8 text") from None
    except OSError as error:
        raise click.UsageError(f"--texts {path}: {error.strerror}") from None
    if not lines:
        raise click.UsageError(f"--texts {path}: has no line with text")

    def texts(client: int) -> Iterator[str]:
        first = random.Random(f"{seed}/{client}").randrange(len(lines))
        return islice(cycle(lines), first, None)

    return texts
