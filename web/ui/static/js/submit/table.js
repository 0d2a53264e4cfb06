// The first rows of a file, as a table; whatever they hold is text.

import { h } from "../dom.js";

const MAX_COLUMNS = 12;
const MAX_CHARACTERS = 280;

/** `roles` maps a column's name to the word for what it is used as. */
export function previewTable(t, { columns, rows, types }, caption, roles) {
  const shown = columns.slice(0, MAX_COLUMNS);
  const head = shown.map((name, at) =>
    h(
      "th",
      { scope: "col", class: roles.has(name) ? "used" : null },
      name === "" ? t("submit.column.unnamed") : name,
      roles.has(name) ? h("span", { class: "tag busy" }, roles.get(name)) : null,
      types === null ? null : h("span", { class: "soft" }, types[at]),
    ),
  );
  const body = rows.map((row) => h("tr", {}, shown.map((name, at) => h("td", { class: roles.has(name) ? "used" : null }, h("div", { class: "clamp" }, short(row[at] ?? ""))))));
  return [
    h(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
      h("table", { class: "preview" }, h("caption", {}, caption), h("thead", {}, h("tr", {}, head)), h("tbody", {}, body)),
    ),
    columns.length > MAX_COLUMNS ? h("p", { class: "soft" }, t("submit.preview.more_columns", { n: columns.length - MAX_COLUMNS })) : null,
  ];
}

function short(text) {
  return text.length > MAX_CHARACTERS ? `${text.slice(0, MAX_CHARACTERS)}…` : text;
}
