"""Unpacking: whole, bounded, and never more than was packed."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from shared.intake.compression import BLOCK_BYTES, MAX_ZSTD_WINDOW_BYTES, Compression, detect, unpack, unpack_detected
from shared.intake.records import UnreadableInput
from tests.shared.intake.support import pack

BOTH: list[Compression] = ["gzip", "zstd"]


def blocks_of(body: bytes, size: int) -> Iterator[bytes]:
    return (body[start : start + size] for start in range(0, len(body), size))


@given(st.lists(st.binary(max_size=3000), min_size=1, max_size=4), st.integers(1, 700), st.sampled_from(BOTH))
def test_members_one_after_the_other_are_one_content(members: list[bytes], size: int, compression: Compression) -> None:
    packed = b"".join(pack(member, compression) for member in members)
    assert b"".join(unpack(blocks_of(packed, size), compression)) == b"".join(members)
    assert b"".join(unpack_detected(blocks_of(packed, size))) == b"".join(members)


@pytest.mark.parametrize("compression", BOTH)
@pytest.mark.parametrize("packed", [pack(os.urandom(100), "gzip"), b""])
def test_wherever_it_is_cut_off_it_is_not_whole(compression: Compression, packed: bytes) -> None:
    packed = pack(b"some text and more of it" * 20, compression)
    for end in range(1, len(packed)):
        with pytest.raises(UnreadableInput) as raised:
            list(unpack([packed[:end]], compression, param="p"))
        assert (raised.value.reason, raised.value.param) == ("incomplete_body", "p")
        twice = packed + packed[:end]
        with pytest.raises(UnreadableInput):
            list(unpack([twice], compression))


@pytest.mark.parametrize("compression", BOTH)
def test_what_is_damaged_says_so(compression: Compression) -> None:
    packed = pack(b"some text and more of it" * 20, compression)
    for body in (b"no such thing at all", packed + b"garbage that follows", packed[:-1] + bytes([packed[-1] ^ 1])):
        if compression == "zstd" and body[:-1] == packed[:-1]:
            continue  # this frame has no checksum
        with pytest.raises(UnreadableInput) as raised:
            list(unpack([body], compression))
        assert raised.value.reason == "invalid_compression"


@pytest.mark.parametrize("compression", BOTH)
def test_a_bomb_comes_out_in_bounded_pieces(compression: Compression) -> None:
    zeros = b"\0" * 50_000_000
    packed = gzip.compress(zeros) if compression == "gzip" else zstandard.ZstdCompressor(level=19).compress(zeros)
    pieces = [len(piece) for piece in unpack([packed], compression)]
    assert sum(pieces) == len(zeros)
    assert max(pieces) <= (BLOCK_BYTES if compression == "gzip" else 16 * 2**20)


def test_a_zstd_window_that_is_too_large_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=True)
    packed = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    body = packed.compress(os.urandom(2 * MAX_ZSTD_WINDOW_BYTES)) + packed.flush()
    with pytest.raises(UnreadableInput, match="the zstd window is over 8 MiB"):
        list(unpack(blocks_of(body, 10_000), "zstd"))


def test_zstd_frames_to_be_skipped_are_skipped() -> None:
    skipped = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"
    assert b"".join(unpack_detected([skipped + pack(b"a", "zstd") + skipped])) == b"a"


@pytest.mark.parametrize("first", [b"", b"{", b"text", b"PAR1", b"\xef\xbb\xbf", b"P"])
def test_what_is_not_packed_passes_as_it_is(first: bytes) -> None:
    assert detect(first) is None
    assert b"".join(unpack_detected([first, b"more"] if first else [])) == (first + b"more" if first else b"")


@pytest.mark.parametrize("compression", BOTH)
def test_what_is_said_to_be_packed_must_be(compression: Compression) -> None:
    other = pack(b"a", "zstd" if compression == "gzip" else "gzip")
    for body in (b"text", other, b""):
        with pytest.raises(UnreadableInput):
            list(unpack_detected([body], compression))


def test_zlib_is_not_taken_for_gzip() -> None:
    assert detect(zlib.compress(b"a")) is None
