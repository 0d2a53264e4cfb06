// The lines of a file's beginning as the server splits them: at line feeds; one that was cut off by the end is left out.

/** Lines without their ends. `isWhole`: the text is all there is, so its last line counts. */
export function splitLines(text, isWhole) {
  const lines = text.replace(/^\ufeff/, "").split("\n");
  const last = lines.pop();
  if (isWhole && last !== "") lines.push(last);
  return lines.map((line) => (line.endsWith("\r") ? line.slice(0, -1) : line));
}
