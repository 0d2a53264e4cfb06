// What a chosen file holds, as far as its beginning tells: format, columns, and the first rows.

import { beginsWith, readHead } from "./head.js";
import { splitLines } from "./lines.js";
import { readFooter } from "./parquet.js";
import { readSeparated } from "./separated.js";

export const MAX_ROWS = 5;
// The server's own table, in shared/intake.
const ENDINGS = {
  ".ndjson": "ndjson",
  ".jsonl": "ndjson",
  ".csv": "csv",
  ".tsv": "csv",
  ".txt": "text",
  ".text": "text",
  ".parquet": "parquet",
  ".pq": "parquet",
};
const PACKED = [".gz", ".gzip", ".zst", ".zstd"];
const PARQUET = [0x50, 0x41, 0x52, 0x31];

/** The format that a name's ending says; null where it says none. */
export function formatOfName(name) {
  let lower = name.toLowerCase();
  const packed = PACKED.find((ending) => lower.endsWith(ending));
  if (packed !== undefined) lower = lower.slice(0, -packed.length);
  const ending = Object.keys(ENDINGS).find((each) => lower.endsWith(each));
  return ending === undefined ? null : ENDINGS[ending];
}

/**
 * {format, compression, columns, rows, totalRows, isEmpty, why}: `columns` are names, null if they are not known;
 * `types` are those of a Parquet file's columns; `rows` are arrays of strings; `why` is a word for what cannot be shown:
 * "packed" (this browser cannot unpack it), "damaged", "parquet" (rows are not read), "unknown" (no format can be told).
 */
export async function preview(file, { format = null, delimiter = null, textColumn = "text" } = {}) {
  const nothing = { columns: null, types: null, rows: [], totalRows: null, isEmpty: file.size === 0, why: null, delimiter: null };
  let head;
  try {
    head = await readHead(file);
  } catch {
    return { ...nothing, format: format ?? formatOfName(file.name), compression: null, why: "damaged" };
  }
  const { bytes, compression, isWhole } = head;
  const said = format ?? formatOfName(file.name) ?? (bytes === null ? null : formatOfBytes(bytes));
  const known = { ...nothing, format: said, compression };
  if (bytes === null) return { ...known, why: "packed" };
  if (said === null) return { ...known, why: "unknown" };
  if (said === "parquet") return compression === null ? { ...known, ...(await ofParquet(file)) } : { ...known, why: "packed" };
  const text = new TextDecoder().decode(bytes);
  if (said === "csv") {
    const given = delimiter ?? (/\.tsv(\.\w+)?$/i.test(file.name) ? "\t" : null);
    return { ...known, ...readSeparated(text, { isWhole, delimiter: given, textColumn, maxRows: MAX_ROWS }) };
  }
  const lines = splitLines(text, isWhole).filter((line) => line.trim() !== "").slice(0, MAX_ROWS);
  if (said === "text") return { ...known, columns: ["text"], rows: lines.map((line) => [line]) };
  return { ...known, ...ofObjects(lines) };
}

/** Only what a beginning leaves no doubt about. */
function formatOfBytes(bytes) {
  if (beginsWith(bytes, PARQUET)) return "parquet";
  return /^\ufeff?\s*\{/.test(new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes.subarray(0, 4096))) ? "ndjson" : null;
}

async function ofParquet(file) {
  try {
    const { columns, rows } = await readFooter(file);
    return { columns: columns.map((column) => column.name), types: columns.map((column) => column.type), totalRows: rows, why: "parquet" };
  } catch {
    return { why: "damaged" };
  }
}

/** id, text and metadata of each line; what is no object stands in the column of texts as it is. */
function ofObjects(lines) {
  const rows = lines.map((line) => {
    try {
      const value = JSON.parse(line);
      if (value !== null && typeof value === "object") return [shown(value.id), shown(value.text), shown(value.metadata)];
    } catch {
      // Told by the server, as an error row.
    }
    return ["", line, ""];
  });
  const columns = ["id", "text", "metadata"];
  const used = columns.map((name, column) => name === "text" || rows.some((row) => row[column] !== ""));
  return { columns: columns.filter((_, column) => used[column]), rows: rows.map((row) => row.filter((_, column) => used[column])) };
}

function shown(value) {
  return value === undefined || value === null ? "" : typeof value === "string" ? value : JSON.stringify(value);
}
