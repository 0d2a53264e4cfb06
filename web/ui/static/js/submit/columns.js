// Which columns of a table hold the texts, the ids and what is kept beside them: the server's rules, and a guess where it has none.

// Of more the page shows no boxes; the server then takes all the others.
export const MAX_BOXES = 60;
// The texts themselves are kept if they are short and few; a row's metadata has room for 16 KiB.
const SHORT_CHARACTERS = 2000;
const SMALL_BYTES = 32 * 1024 * 1024;
const LIKELY = ["text", "body", "content", "document", "passage", "sentence", "description", "abstract", "question", "title", "本文", "テキスト"];

/** Names that can be chosen: each that there is once. */
export function choosable(columns) {
  return columns.filter((name) => name !== "" && columns.indexOf(name) === columns.lastIndexOf(name));
}

/** The column that most likely holds the texts: by name, by type, by length. */
export function guessText({ columns, rows, types }) {
  const names = choosable(columns);
  const lower = new Map(names.map((name) => [name.toLowerCase(), name]));
  const named = LIKELY.find((name) => lower.has(name));
  if (named !== undefined) return lower.get(named);
  if (types !== null) return names.find((name) => types[columns.indexOf(name)] === "text") ?? names[0] ?? "";
  const length = (name) => rows.reduce((sum, row) => sum + (row[columns.indexOf(name)]?.length ?? 0), 0);
  return names.reduce((best, name) => (best === "" || length(name) > length(best) ? name : best), "");
}

/** Whether the texts are worth keeping beside their vectors, so that results can be read. */
export function keepsText({ columns, rows }, text, fileBytes) {
  const at = columns.indexOf(text);
  return fileBytes <= SMALL_BYTES && rows.length > 0 && rows.every((row) => (row[at]?.length ?? 0) <= SHORT_CHARACTERS);
}

/** `metadata_columns` for what is ticked; null if that is what the server does by itself. */
export function metadataParameter(columns, { text, id, ticked }) {
  const usual = choosable(columns).filter((name) => name !== text && name !== id);
  const isUsual = usual.length === ticked.length && usual.every((name) => ticked.includes(name));
  return isUsual ? null : JSON.stringify(ticked);
}
