// Pasted texts as an input of a job.

// A text that is kept beside its vector must find room in the metadata.
const MAX_KEPT_CHARACTERS = 4000;

/** A text a line as NDJSON; what is kept comes back with the vector. */
export function asLines(pasted, isKept) {
  const texts = pasted.split(/\r?\n/).filter((line) => line.trim() !== "");
  const lines = texts.map((text) => JSON.stringify(isKept && text.length <= MAX_KEPT_CHARACTERS ? { text, metadata: { text } } : { text }));
  return new Blob([lines.join("\n"), "\n"]);
}
