// The beginning of a file: only so many bytes of it are read, however large it is, and unpacked if it is packed.

export const HEAD_BYTES = 256 * 1024;
const GZIP = [0x1f, 0x8b];
const ZSTD = [0x28, 0xb5, 0x2f, 0xfd];

/** {bytes: Uint8Array, isWhole, compression}; bytes is null if this browser cannot unpack it. Throws if it is damaged. */
export async function readHead(file) {
  const first = new Uint8Array(await file.slice(0, HEAD_BYTES).arrayBuffer());
  const compression = beginsWith(first, GZIP) ? "gzip" : beginsWith(first, ZSTD) ? "zstd" : null;
  if (compression === null) return { bytes: first, isWhole: first.length === file.size, compression };
  const unpacker = openUnpacker(compression);
  if (unpacker === null) return { bytes: null, isWhole: false, compression };
  const { bytes, isWhole } = await unpackHead(file.slice(0, HEAD_BYTES), unpacker, file.size <= HEAD_BYTES);
  return { bytes, isWhole, compression };
}

function openUnpacker(compression) {
  try {
    return new DecompressionStream(compression);
  } catch {
    return null;
  }
}

/** At most HEAD_BYTES of what comes out. That the packed bytes end in the middle is no error unless they are all there are. */
async function unpackHead(packed, unpacker, isAll) {
  const reader = packed.stream().pipeThrough(unpacker).getReader();
  const pieces = [];
  let size = 0;
  let isWhole = false;
  try {
    while (size < HEAD_BYTES) {
      const { done, value } = await reader.read();
      if (done) {
        isWhole = isAll;
        break;
      }
      pieces.push(value);
      size += value.length;
    }
    reader.cancel().catch(() => {});
  } catch (error) {
    if (isAll || size === 0) throw error;
  }
  const bytes = new Uint8Array(size);
  let position = 0;
  for (const piece of pieces) {
    bytes.set(piece, position);
    position += piece.length;
  }
  return { bytes: bytes.subarray(0, HEAD_BYTES), isWhole: isWhole && size <= HEAD_BYTES };
}

/** Whether these bytes are the first ones. */
export function beginsWith(bytes, magic) {
  return magic.every((byte, position) => bytes[position] === byte);
}
