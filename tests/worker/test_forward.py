"""A batch through a model that fails in all the ways that models fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from shared.errors import EngineFailed
from shared.models import ModelConfig, ModelSource, Parameters
from worker.backends import DeviceBroken, LoadOptions, OutOfMemory, TokenizedText
from worker.backends.fake import FakeBackend
from worker.forward import embed_rows

Embed = Callable[[FakeBackend, Sequence[TokenizedText]], np.ndarray]


def backend(embed: Embed) -> FakeBackend:
    """A fake that embeds in another way."""

    class Changed(FakeBackend):
        def embed(self, rows: Sequence[TokenizedText]) -> np.ndarray:
            return embed(self, rows)

    config = ModelConfig(name="m", backend="fake", parameters=Parameters(model="fake"))
    return Changed(config, ModelSource(), LoadOptions(device="cpu", threads=1))


def nothing(_: int) -> None:
    raise AssertionError("there was room")


def test_a_batch_with_infinities_gives_errors_for_those_rows_alone() -> None:
    def embed(fake: FakeBackend, rows: Sequence[TokenizedText]) -> np.ndarray:
        vectors = FakeBackend.embed(fake, rows)
        vectors[[len(row) == 4 for row in rows]] = [np.inf, -np.inf] * 4
        return vectors

    fake = backend(embed)
    outcomes = embed_rows(fake, fake.tokenize(["a", "b b", "c c c"]), nothing)

    assert [type(outcome) for outcome in outcomes] == [np.ndarray, EngineFailed, np.ndarray]


def test_a_row_that_is_wrong_only_in_company_is_right_alone() -> None:
    def embed(fake: FakeBackend, rows: Sequence[TokenizedText]) -> np.ndarray:
        vectors = FakeBackend.embed(fake, rows)
        if len(rows) > 1:
            vectors[0] = np.nan
        return vectors

    fake = backend(embed)
    rows = fake.tokenize(["a", "b"])

    np.testing.assert_array_equal(np.stack(embed_rows(fake, rows, nothing)), FakeBackend.embed(fake, rows))


def test_too_few_vectors_are_no_answer() -> None:
    fake = backend(lambda fake, rows: FakeBackend.embed(fake, rows)[:-1])

    outcomes = embed_rows(fake, fake.tokenize(["a", "b"]), nothing)

    assert [type(outcome) for outcome in outcomes] == [EngineFailed, EngineFailed]


def test_halves_are_put_together_in_order() -> None:
    too_many: list[int] = []

    def embed(fake: FakeBackend, rows: Sequence[TokenizedText]) -> np.ndarray:
        if len(rows) > 2:
            raise OutOfMemory
        return FakeBackend.embed(fake, rows)

    fake = backend(embed)
    rows = fake.tokenize([f"text {number}" for number in range(7)])

    np.testing.assert_array_equal(np.stack(embed_rows(fake, rows, too_many.append)), FakeBackend.embed(fake, rows))
    assert too_many == [7, 3, 4]


def test_a_broken_device_is_nobodys_row() -> None:
    def embed(*_: object) -> np.ndarray:
        raise DeviceBroken("illegal memory access")

    fake = backend(embed)
    with pytest.raises(DeviceBroken):
        embed_rows(fake, fake.tokenize(["a", "b"]), nothing)
