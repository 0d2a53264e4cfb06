"""What the worker's tests share."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def frozen() -> Iterator[None]:
    """Each close of a model collects garbage, for which the libraries' many objects need not be looked at every time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
