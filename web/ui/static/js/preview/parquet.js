// A Parquet file's columns, from its footer: the rows themselves are not read.

import { CompactReader } from "./thrift.js";

const MAGIC = "PAR1";
// A footer tells of every column of every row group; one above this is left to the server.
const MAX_FOOTER_BYTES = 16 * 1024 * 1024;
const PHYSICAL = ["boolean", "int32", "int64", "int96", "float", "double", "bytes", "bytes"];
// Fields by number: FileMetaData, SchemaElement.
const FILE = { schema: 2, rows: 3 };
const ELEMENT = { type: 1, name: 4, children: 5, converted: 6, logical: 10 };
const UTF8 = 0;
const STRING = 1;

/** {columns: [{name, type}], rows}: type is "text", "nested" or what Parquet calls it. Throws Error if it is no such file. */
export async function readFooter(file) {
  const tail = new Uint8Array(await file.slice(Math.max(0, file.size - 8)).arrayBuffer());
  if (tail.length < 8 || new TextDecoder("latin1").decode(tail.subarray(4)) !== MAGIC) throw new Error("no Parquet footer");
  const length = new DataView(tail.buffer).getUint32(0, true);
  if (length > MAX_FOOTER_BYTES || length + 12 > file.size) throw new Error("the footer is too large");
  const footer = new Uint8Array(await file.slice(file.size - 8 - length, file.size - 8).arrayBuffer());
  const metadata = new CompactReader(footer).struct();
  const elements = metadata.get(FILE.schema);
  if (!Array.isArray(elements) || !elements.every((element) => element instanceof Map)) throw new Error("the footer has no schema");
  return { columns: topColumns(elements), rows: metadata.get(FILE.rows) ?? null };
}

/** The schema is a tree, written depth first: the root, then its children, each with its own before the next. */
function topColumns(elements) {
  const columns = [];
  let position = 1;
  while (position < elements.length) {
    const element = elements[position];
    columns.push({ name: nameOf(element), type: typeOf(element) });
    position = behind(elements, position);
  }
  return columns;
}

function behind(elements, position) {
  let open = 1;
  while (open > 0 && position < elements.length) open += (elements[position++].get(ELEMENT.children) ?? 0) - 1;
  return position;
}

function nameOf(element) {
  return new TextDecoder().decode(element.get(ELEMENT.name) ?? new Uint8Array());
}

function typeOf(element) {
  if ((element.get(ELEMENT.children) ?? 0) > 0) return "nested";
  if (element.get(ELEMENT.converted) === UTF8 || element.get(ELEMENT.logical)?.has(STRING)) return "text";
  return PHYSICAL[element.get(ELEMENT.type)] ?? "unknown";
}
