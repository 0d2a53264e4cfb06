"""Unpacking gzip and zstd as a stream: bounded memory, however well something was packed, and no end that is not the end."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Literal

import zstandard

from shared.intake.records import UnreadableInput

Compression = Literal["gzip", "zstd"]

# zlib hands out at most so much at a time.
BLOCK_BYTES = 2**20
# RFC 9659: what a receiver of zstd over HTTP must be able to keep, and need not go beyond.
MAX_ZSTD_WINDOW_BYTES = 8 * 2**20
# zstandard unpacks all that it is given: 4 bytes may say "128 KiB of this one", so that a slice becomes 16 MiB at most.
_ZSTD_SLICE_BYTES = 512

_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"  # after 0x50 to 0x5f


def detect(first: bytes) -> Compression | None:
    """How a file that begins with these bytes is packed; no text and no Parquet begins so."""
    if first.startswith(_GZIP_MAGIC):
        return "gzip"
    if first.startswith(_ZSTD_MAGIC) or (first[:1] and 0x50 <= first[0] <= 0x5F and first[1:4] == _ZSTD_SKIPPABLE):
        return "zstd"
    return None


def unpack(blocks: Iterable[bytes], compression: Compression, *, param: str | None = None) -> Iterator[bytes]:
    """The content of one or more gzip members or zstd frames. `param` is what an error names.

    Raises UnreadableInput: `incomplete_body` if it ends before it is whole, `invalid_compression` if it is damaged.
    """
    return _UNPACK[compression](iter(blocks), param)


def unpack_detected(blocks: Iterable[bytes], expected: Compression | None = None) -> Iterator[bytes]:
    """The content, unpacked if it begins as a packed file does. Raises UnreadableInput as `unpack` does, and if it does not
    begin as it is expected to."""
    blocks = iter(blocks)
    begin = b""
    for block in blocks:
        begin += block
        if len(begin) >= 4:
            break
    found = detect(begin)
    if expected is not None and found != expected:
        raise UnreadableInput(f"the input is not {expected}, though it is said to be", code="invalid_compression")
    whole = chain([begin], blocks) if begin else blocks
    return whole if found is None else unpack(whole, found)


def inflate(blocks: Iterator[bytes], window_bits: int, name: str, param: str | None) -> Iterator[bytes]:
    """zlib or gzip by zlib's window bits, members one after the other too."""
    inflater = zlib.decompressobj(window_bits)
    is_begun = False
    try:
        for block in blocks:
            packed = block
            while packed or inflater.unconsumed_tail:
                is_begun = True
                if inflater.eof:
                    inflater = zlib.decompressobj(window_bits)
                unpacked = inflater.decompress(packed, BLOCK_BYTES)
                if unpacked:
                    yield unpacked
                packed = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
        if is_begun and not inflater.eof:
            while unpacked := inflater.decompress(b"", BLOCK_BYTES):
                yield unpacked
    except zlib.error:
        raise _damaged(name, param) from None
    if is_begun and not inflater.eof:
        raise _ends_early(name, param)


def _inflate_gzip(blocks: Iterator[bytes], param: str | None) -> Iterator[bytes]:
    return inflate(blocks, 16 + zlib.MAX_WBITS, "gzip", param)


def _unpack_zstd(blocks: Iterator[bytes], param: str | None) -> Iterator[bytes]:
    unpacker = zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW_BYTES)
    frame = unpacker.decompressobj()
    is_whole = True  # between frames
    try:
        for block in blocks:
            for start in range(0, len(block), _ZSTD_SLICE_BYTES):
                packed = block[start : start + _ZSTD_SLICE_BYTES]
                while packed:
                    if frame.eof:
                        frame = unpacker.decompressobj()
                    unpacked = frame.decompress(packed)
                    if unpacked:
                        yield unpacked
                    is_whole = frame.eof
                    packed = frame.unused_data if frame.eof else b""
    except zstandard.ZstdError as error:
        if "too much memory" in str(error):
            most = MAX_ZSTD_WINDOW_BYTES // 2**20
            message = f"the zstd window is over {most} MiB; pack it again without --long and --ultra"
            raise UnreadableInput(message, code="invalid_compression", param=param) from None
        raise _damaged("zstd", param) from None
    if not is_whole:
        raise _ends_early("zstd", param)


def _damaged(name: str, param: str | None) -> UnreadableInput:
    return UnreadableInput(f"the input cannot be unpacked as {name}", code="invalid_compression", param=param)


def _ends_early(name: str, param: str | None) -> UnreadableInput:
    return UnreadableInput(f"the {name} input ended before it was whole", code="incomplete_body", param=param)


_UNPACK: dict[Compression, Callable[[Iterator[bytes], str | None], Iterator[bytes]]] = {
    "gzip": _inflate_gzip,
    "zstd": _unpack_zstd,
}
