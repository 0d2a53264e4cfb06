// numpy's files in the browser: the arrays of an .npz that is not compressed, as the server writes it.

const NPY = "NUMPY"; // behind one byte that is no letter
const LOCAL = 0x04034b50;
const CENTRAL = 0x02014b50;
const LATIN = new TextDecoder("latin1");

/** {name: {shape, dtype, bytes}} of an .npz. Throws Error if it is none, or ends in the middle. */
export function readNpz(buffer) {
  const view = new DataView(buffer);
  const arrays = {};
  for (const entry of entries(view)) {
    const name = entry.name.replace(/\.npy$/, "");
    const start = entry.offset + 30 + view.getUint16(entry.offset + 26, true) + view.getUint16(entry.offset + 28, true);
    if (view.getUint32(entry.offset, true) !== LOCAL || start + entry.size > buffer.byteLength) throw new Error("the archive is damaged");
    arrays[name] = readNpy(new Uint8Array(buffer, start, entry.size));
  }
  return arrays;
}

/** From the directory at the end: the sizes before the files themselves may be left open. */
function* entries(view) {
  let end = view.byteLength - 22;
  while (end >= 0 && view.getUint32(end, true) !== 0x06054b50) end--;
  if (end < 0) throw new Error("the archive has no end");
  let position = view.getUint32(end + 16, true);
  for (let left = view.getUint16(end + 10, true); left > 0; left--) {
    if (view.getUint32(position, true) !== CENTRAL || view.getUint16(position + 10, true) !== 0) throw new Error("the archive is not as expected");
    const lengths = [28, 30, 32].map((at) => view.getUint16(position + at, true));
    const name = LATIN.decode(new Uint8Array(view.buffer, position + 46, lengths[0]));
    yield { name, size: view.getUint32(position + 20, true), offset: view.getUint32(position + 42, true) };
    position += 46 + lengths[0] + lengths[1] + lengths[2];
  }
}

function readNpy(bytes) {
  if (LATIN.decode(bytes.subarray(1, 6)) !== NPY) throw new Error("no numpy array");
  const length = bytes[8] + 256 * bytes[9];
  const header = LATIN.decode(bytes.subarray(10, 10 + length));
  const dtype = /'descr': '([^']+)'/.exec(header)?.[1];
  const shape = /'shape': \(([^)]*)\)/.exec(header)?.[1].split(",").map((each) => each.trim()).filter(Boolean).map(Number);
  if (dtype === undefined || shape === undefined) throw new Error("no numpy header");
  return { dtype, shape, bytes: bytes.slice(10 + length) };
}

/** Float32Array of an array of "<f2" or "<f4". */
export function toFloats({ dtype, bytes }) {
  if (dtype === "<f4") return new Float32Array(bytes.buffer);
  if (dtype !== "<f2") throw new Error(`no floats: ${dtype}`);
  const halves = new Uint16Array(bytes.buffer);
  const known = halfTable();
  return Float32Array.from(halves, (half) => known[half]);
}

/** Strings of an array of "<U8" and the like: so many code points each, zeros behind. */
export function toStrings({ dtype, shape, bytes }) {
  const width = Number(dtype.replace("<U", ""));
  const points = new Uint32Array(bytes.buffer);
  return Array.from({ length: shape[0] }, (_, row) => {
    let end = (row + 1) * width;
    while (end > row * width && points[end - 1] === 0) end--;
    let text = "";
    for (let at = row * width; at < end; at++) text += String.fromCodePoint(points[at]);
    return text;
  });
}

/** Numbers of an array of "<i8". */
export function toIntegers({ bytes }) {
  return Array.from(new BigInt64Array(bytes.buffer), Number);
}

let table = null;

/** All 65,536 numbers of half precision. */
function halfTable() {
  if (table !== null) return table;
  table = new Float32Array(65536);
  for (let half = 0; half < 65536; half++) {
    const exponent = (half >> 10) & 31;
    const fraction = half & 1023;
    const size = exponent === 0 ? fraction * 2 ** -24 : exponent === 31 ? (fraction ? NaN : Infinity) : (1 + fraction / 1024) * 2 ** (exponent - 15);
    table[half] = half >> 15 ? -size : size;
  }
  return table;
}
