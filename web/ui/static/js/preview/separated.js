// CSV as the server reads it: UTF-8 with a header, the delimiter told from that, quotes doubled.

export const DELIMITERS = [",", ";", "\t", "|"];

/** {columns, rows, delimiter} of a beginning; a row that was cut off by its end is left out. */
export function readSeparated(text, { isWhole, delimiter = null, textColumn = "text", maxRows }) {
  const content = text.replace(/^\ufeff/, "").replace(/^(\s*\n)+/, "");
  const chosen = delimiter ?? tellDelimiter(content, textColumn);
  const records = [];
  for (const record of splitRecords(content, chosen, isWhole)) {
    records.push(record);
    if (records.length > maxRows) break;
  }
  const columns = (records.shift() ?? []).map((name) => name.trim());
  return { columns, rows: records, delimiter: chosen };
}

/** The one that makes the text's column a column, else the most columns; the first where several fit as well. */
export function tellDelimiter(content, textColumn = "text") {
  let best = [-1, DELIMITERS[0]];
  for (const delimiter of DELIMITERS) {
    const header = splitRecords(content, delimiter, true).next().value ?? [];
    const hasText = header.some((name) => name.trim() === textColumn);
    const fitness = (hasText ? 1e6 : 0) + header.length;
    if (fitness > best[0]) best = [fitness, delimiter];
  }
  return best[1];
}

/** Arrays of fields; blank lines are passed over. */
export function* splitRecords(text, delimiter, isWhole) {
  let fields = [];
  let field = "";
  let isQuoted = false;
  let wasQuoted = false;
  let position = 0;
  while (position < text.length) {
    const character = text[position++];
    if (isQuoted) {
      if (character !== '"') field += character;
      else if (text[position] === '"') {
        field += '"';
        position++;
      } else isQuoted = false;
    } else if (character === '"' && field === "" && !wasQuoted) {
      isQuoted = true;
      wasQuoted = true;
    } else if (character === delimiter) {
      fields.push(field);
      field = "";
      wasQuoted = false;
    } else if (character === "\n") {
      if (field.endsWith("\r")) field = field.slice(0, -1);
      fields.push(field);
      if (fields.length > 1 || field !== "" || wasQuoted) yield fields;
      fields = [];
      field = "";
      wasQuoted = false;
    } else field += character;
  }
  if (isWhole && !isQuoted && (field !== "" || fields.length > 0)) {
    fields.push(field);
    yield fields;
  }
}
