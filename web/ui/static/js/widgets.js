// What several views draw: a state as a tag, a bar of progress, figures, and a copy of an address.

import { h } from "./dom.js";

const KINDS = {
  ready: "good",
  completed: "good",
  in_progress: "busy",
  loading: "busy",
  downloading: "busy",
  validating: "busy",
  paused: "warn",
  cancelled: "warn",
  expired: "warn",
  unknown: "warn",
  failed: "bad",
};

/** A word in the colour of what it says; the word is there for whoever sees no colours. */
export function tag(state, word, title) {
  return h("span", { class: `tag ${KINDS[state] ?? ""}`, title: title ?? null }, word);
}

/** A bar of progress; `share` of 1. */
export function bar(share, label, { state = "busy", failed = 0 } = {}) {
  const kind = { completed: "good", failed: "bad", cancelled: "idle", paused: "idle", expired: "idle" }[state] ?? "";
  const percent = Math.floor(share * 100);
  const bad = share > 0 ? Math.min(share, failed) : 0;
  return h(
    "div",
    { class: "bar", role: "progressbar", "aria-label": label, "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": percent },
    h("span", { class: kind, style: { "--share": `${(share - bad) * 100}%` } }),
    bad > 0 ? h("span", { class: "bad", style: { "--share": `${bad * 100}%` } }) : null,
  );
}

/** The same with its percents beside it. */
export function shareBar(share, label, percents, options) {
  return h("div", { class: "share" }, bar(share, label, options), h("span", {}, percents));
}

/** A number that tells something at a glance. */
export function figure(label, value, note) {
  return h("div", { class: "figure" }, h("dt", {}, label), h("dd", {}, value), note ? h("dd", { class: "note" }, note) : null);
}

/** A table with a head; rows are lists of cells, a cell is what h takes or {n: …} for a figure. */
export function table(caption, heads, rows, empty) {
  if (!rows.length) return h("p", { class: "empty" }, empty);
  return h(
    "div",
    // What scrolls can be scrolled by the keyboard too.
    { class: "scroll", tabindex: 0, role: "group", "aria-label": caption },
    h(
      "table",
      {},
      h("caption", { class: "hidden-text" }, caption),
      h("thead", {}, h("tr", {}, heads.map((head) => (typeof head === "string" ? h("th", { scope: "col" }, head) : h("th", { scope: "col", class: "n" }, head.n))))),
      h("tbody", {}, rows.map(({ key, cells }) => h("tr", { "data-key": key }, cells.map(cell)))),
    ),
  );
}

function cell(content, place) {
  const [inside, kind] = content !== null && typeof content === "object" && "n" in content ? [content.n, "n"] : [content, null];
  return place === 0 ? h("th", { scope: "row", class: kind }, inside) : h("td", { class: kind }, inside);
}

/** The file that a job was made of, as this page notes it in the metadata; null if nobody did. */
export function fileOf(job) {
  return job.metadata?.file ? String(job.metadata.file) : null;
}

/** A name on one line of a table: cut off for the eye if it is long, whole for everything else. */
export function oneLine(name) {
  return h("span", { class: "cut", title: name }, name);
}

/** A long id, shortened for the eye and whole for everything else. */
export function shortId(id) {
  return h("code", { title: id }, id.length > 14 ? `${id.slice(0, 14)}…` : id);
}
