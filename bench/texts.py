"""Texts for the benches: seeded, all different, of known length distributions in tokens of an English WordPiece vocabulary."""

from __future__ import annotations

import math
import random

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


def tokens_of(kind: str, rng: random.Random) -> int:
    """Tokens of one text: short 8-20, long about 400, mixed log-normal with median 60, up to 400."""
    if kind == "short":
        return rng.randint(8, 20)
    if kind == "long":
        return rng.randint(380, 420)
    return max(4, min(400, round(math.exp(rng.gauss(math.log(60), 0.8)))))


def make_texts(kind: str, count: int, seed: int = 0) -> list[str]:
    """`count` texts; the two special tokens of a BERT are counted as theirs."""
    rng = random.Random(f"{kind}/{seed}")
    return [" ".join(rng.choices(WORDS, k=max(1, tokens_of(kind, rng) - 2))) for _ in range(count)]
