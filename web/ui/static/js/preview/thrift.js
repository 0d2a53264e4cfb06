// Thrift's compact protocol, as much of it as a Parquet footer needs: structures as maps from field number to value.

const [TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
const MAX_DEPTH = 32;

/** Reads one structure; throws RangeError for bytes that are none. */
export class CompactReader {
  constructor(bytes) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.position = 0;
    this.depth = 0;
  }

  struct() {
    if (++this.depth > MAX_DEPTH) throw new RangeError("nested too deeply");
    const fields = new Map();
    let id = 0;
    for (;;) {
      const head = this.byte();
      if (head === 0) break;
      id = head >> 4 ? id + (head >> 4) : this.integer();
      fields.set(id, this.value(head & 15, true));
    }
    this.depth--;
    return fields;
  }

  /** Of a field a boolean's value is its type; of a list's element it is a byte. */
  value(type, isField) {
    switch (type) {
      case TRUE:
      case FALSE:
        return isField ? type === TRUE : this.byte() === TRUE;
      case BYTE:
        return this.byte();
      case I16:
      case I32:
      case I64:
        return this.integer();
      case DOUBLE: {
        const at = this.skip(8);
        return this.view.getFloat64(at, true);
      }
      case BINARY: {
        const length = this.varint();
        const at = this.skip(length);
        return this.bytes.subarray(at, at + length);
      }
      case LIST:
      case SET:
        return this.list();
      case MAP:
        return this.map();
      case STRUCT:
        return this.struct();
      default:
        throw new RangeError(`there is no thrift type ${type}`);
    }
  }

  list() {
    const head = this.byte();
    const length = head >> 4 === 15 ? this.varint() : head >> 4;
    this.expect(length);
    return Array.from({ length }, () => this.value(head & 15, false));
  }

  map() {
    const length = this.varint();
    if (length === 0) return [];
    const types = this.byte();
    this.expect(length);
    return Array.from({ length }, () => [this.value(types >> 4, false), this.value(types & 15, false)]);
  }

  byte() {
    return this.view.getUint8(this.skip(1));
  }

  /** Not by shifts, which end at 32 bits. */
  varint() {
    let value = 0;
    for (let factor = 1; factor < 2 ** 64; factor *= 128) {
      const byte = this.byte();
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
    throw new RangeError("a number has no end");
  }

  /** Zigzag. */
  integer() {
    const value = this.varint();
    return value % 2 ? -(value + 1) / 2 : value / 2;
  }

  skip(length) {
    const at = this.position;
    if (at + length > this.bytes.length) throw new RangeError("it ends in the middle");
    this.position = at + length;
    return at;
  }

  /** Every element takes a byte at least: no list can be longer than what is left. */
  expect(length) {
    if (length > this.bytes.length - this.position) throw new RangeError("a list is longer than the file");
  }
}
