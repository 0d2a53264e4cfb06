// Similarities as a table whose cells are coloured: read by eyes, by arrow keys and by screen readers alike.

import { h } from "../dom.js";

/** Of so many rows and columns at most. */
export const MAX_SIDE = 40;
// Up to so many columns the figures stand in the cells.
const MAX_FIGURES = 14;
const MAX_CHARACTERS = 60;

/**
 * {node, readout}: `scores` are cosines [rows x columns]. Less than 0 is coloured as 0. `words`: {caption, cell({row, column, score})}.
 */
export function heatmap({ rows, columns, scores, caption, cellWords, format }) {
  const shown = { rows: Math.min(rows.length, MAX_SIDE), columns: Math.min(columns.length, MAX_SIDE) };
  const hasFigures = shown.columns <= MAX_FIGURES;
  const readout = h("p", { class: "readout", "aria-hidden": "true" });
  const table = h("table", { class: hasFigures ? "heatmap" : "heatmap small", role: "grid" }, h("caption", { class: "hidden-text" }, caption));
  const head = h("tr", {}, h("td", {}), columns.slice(0, shown.columns).map((text, at) => h("th", { scope: "col", title: text }, h("span", { "aria-hidden": "true" }, String(at + 1)), h("span", { class: "hidden-text" }, short(text)))));
  const body = h("tbody", {});
  for (let row = 0; row < shown.rows; row++) {
    const line = h("tr", {}, h("th", { scope: "row", title: rows[row] }, h("span", { class: "number" }, String(row + 1)), h("span", { class: "words" }, short(rows[row]))));
    for (let column = 0; column < shown.columns; column++) line.append(cell(row, column, scores[row * columns.length + column], hasFigures, format));
    body.append(line);
  }
  table.append(h("thead", {}, head), body);
  const say = (cell) => {
    const [row, column] = [Number(cell.dataset.row), Number(cell.dataset.column)];
    readout.textContent = cellWords({ row: rows[row], column: columns[column], score: scores[row * columns.length + column] });
  };
  table.addEventListener("pointerover", (event) => event.target.closest("[data-row]") && say(event.target.closest("[data-row]")));
  table.addEventListener("focusin", (event) => event.target.closest("[data-row]") && say(event.target));
  table.addEventListener("keydown", (event) => move(event, body, shown));
  body.querySelector("[data-row]")?.setAttribute("tabindex", "0");
  return h("div", {}, h("div", { class: "scroll" }, table), readout);
}

function cell(row, column, score, hasFigures, format) {
  const share = Math.min(1, Math.max(0, score));
  // Between these shares and 1 the other colour of letters can be read on it (playground.css).
  const tones = `${share > 0.57 ? " over-57" : ""}${share > 0.69 ? " over-69" : ""}`;
  return h(
    "td",
    { class: `cell${tones}`, tabindex: "-1", "data-row": row, "data-column": column, style: { "--share": `${(share * 100).toFixed(1)}%` } },
    h("span", { class: hasFigures ? null : "hidden-text" }, format(score)),
  );
}

const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

/** One cell is in the order of the tab key; the arrows go from cell to cell. */
function move(event, body, shown) {
  const here = event.target.closest("[data-row]");
  if (here === null) return;
  let [row, column] = [Number(here.dataset.row), Number(here.dataset.column)];
  if (event.key in STEPS) [row, column] = [row + STEPS[event.key][0], column + STEPS[event.key][1]];
  else if (event.key === "Home") column = 0;
  else if (event.key === "End") column = shown.columns - 1;
  else return;
  event.preventDefault();
  const next = body.querySelector(`[data-row="${row}"][data-column="${column}"]`);
  if (next === null) return;
  here.setAttribute("tabindex", "-1");
  next.setAttribute("tabindex", "0");
  next.focus();
}

function short(text) {
  return text.length > MAX_CHARACTERS ? `${text.slice(0, MAX_CHARACTERS)}…` : text;
}
