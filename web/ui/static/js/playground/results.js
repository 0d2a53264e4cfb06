// What the playground shows of vectors: the heatmap, the neighbours of a question, the map, and the lines that do the same.

import { heatmap, MAX_SIDE } from "../charts/heatmap.js";
import { map, MAX_POINTS } from "../charts/map.js";
import { h, replace } from "../dom.js";
import { field } from "../fields.js";
import { products } from "../math/vectors.js";
import { copy, curlLines, MAX_WRITTEN, pythonLines } from "./code.js";

const NEIGHBOURS = 10;
const TABLE_ROWS = 200;
const MAX_METADATA = 8;
// A pointer that only passes over asks nothing of the server.
const LOOK_MS = 150;

export function similarity(ctx, rows, columns) {
  const { t } = ctx;
  const scores = products(rows.matrix, columns.matrix, rows.dimensions);
  const isCut = rows.count > MAX_SIDE || columns.count > MAX_SIDE;
  return h(
    "section",
    { class: "card", "aria-labelledby": "similarity-title" },
    h("h2", { id: "similarity-title" }, t("playground.similarity")),
    heatmap({
      rows: rows.texts,
      columns: columns.texts,
      scores,
      caption: t("playground.similarity.caption"),
      format: (score) => figure(score, 2),
      cellWords: ({ row, column, score }) => `${figure(score, 4)} · ${cut(row)} ↔ ${cut(column)}`,
    }),
    rows === columns ? null : h("ol", { class: "columns-key" }, columns.texts.slice(0, MAX_SIDE).map((text) => h("li", {}, cut(text)))),
    h("p", { class: "scale", "aria-hidden": "true" }, "0", h("span", { class: "ramp" }), "1"),
    isCut ? h("p", { class: "soft" }, t("playground.similarity.cut", { n: MAX_SIDE })) : null,
  );
}

/** `embedQuestion(text)` gives a vector; `onAsked(text)` is told what was asked. */
export function neighbours(ctx, corpus, { embedQuestion, onAsked = () => {} }) {
  const { t, fmt } = ctx;
  const question = field(t("playground.question"), h("input", { id: "question", autocomplete: "off" }));
  const list = h("div", { "aria-live": "polite" });
  const button = h("button", { type: "submit", class: "main" }, t("playground.find"));
  const find = async (event) => {
    event.preventDefault();
    const text = question.control.value.trim();
    question.say(text === "" ? t("playground.no_question") : null);
    if (text === "") return question.control.focus();
    button.disabled = true;
    try {
      const found = await corpus.nearest(await embedQuestion(text), NEIGHBOURS);
      replace(list, h("ol", { class: "neighbours" }, found.map(({ row, score }) => hit(ctx, corpus, row, score))));
      onAsked(text);
    } catch (error) {
      question.say(error.message);
    } finally {
      button.disabled = false;
    }
  };
  return h(
    "section",
    { class: "card", "aria-labelledby": "neighbours-title" },
    h("h2", { id: "neighbours-title" }, t("playground.neighbours")),
    h("form", { onsubmit: find }, question.node, button),
    corpus.failed ? h("p", { class: "soft" }, t("playground.failed", { n: fmt.number(corpus.failed) })) : null,
    list,
  );
}

function hit({ t }, corpus, row, score) {
  const words = h("div", { class: "words" }, corpus.label(row));
  corpus.describe(row).then(
    (row) => replace(words, description(row)),
    (error) => words.append(h("p", { class: "soft" }, t("playground.no_words", { message: error.message }))),
  );
  return h("li", {}, h("div", { class: "score" }, h("span", { class: "bar", "aria-hidden": "true" }, h("span", { style: { "--share": `${Math.max(0, score) * 100}%` } })), figure(score, 3)), words);
}

function description({ id, text, metadata }) {
  const pairs = Object.entries(metadata).slice(0, MAX_METADATA);
  return [
    h("p", {}, text ?? id),
    h(
      "p",
      { class: "soft" },
      text !== null && id !== null ? h("span", { class: "mono" }, id) : null,
      pairs.map(([name, value]) => h("span", { class: "pair" }, `${name}: ${cut(typeof value === "string" ? value : JSON.stringify(value), 80)}`)),
    ),
  ];
}

/** The map is drawn when it is asked for: of many vectors it takes a moment. */
export function plane(ctx, corpus, { kindOf = () => "" } = {}) {
  const { t, fmt } = ctx;
  const readout = h("p", { class: "readout", "aria-live": "polite" });
  const body = h("div", {}, h("p", { class: "soft" }, t("playground.map.working")));
  let timer = null;
  const look = (row) => {
    readout.textContent = cut(corpus.label(row));
    clearTimeout(timer);
    timer = setTimeout(async () => {
      try {
        const { id, text } = await corpus.describe(row);
        if (text !== null) readout.textContent = id === null ? cut(text, 300) : `${id} · ${cut(text, 300)}`;
      } catch {
        // Its name stands there.
      }
    }, LOOK_MS);
  };
  corpus.project(MAX_POINTS).then(
    ({ points, rows, shares }) => {
      const words = { label: t("playground.map.label"), in: t("playground.map.in"), out: t("playground.map.out"), all: t("playground.map.all") };
      replace(
        body,
        map({ points, label: (i) => corpus.label(rows[i]), kindOf: (i) => kindOf(rows[i]), onLook: (i) => look(rows[i]), words }),
        readout,
        h("p", { class: "soft" }, t("playground.map.shares", { share: fmt.percent(shares[0] + shares[1]) }), " ", t("playground.map.how")),
        rows.length < corpus.count - corpus.failed ? h("p", { class: "soft" }, t("playground.map.cut", { n: rows.length, total: corpus.count - corpus.failed })) : null,
        pointTable(ctx, corpus, points, rows),
      );
    },
    (error) => replace(body, h("p", { class: "error" }, error.message)),
  );
  return h("section", { class: "card", "aria-labelledby": "map-title" }, h("h2", { id: "map-title" }, t("playground.map")), body);
}

function pointTable({ t, fmt }, corpus, points, rows) {
  const table = () =>
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, t("playground.map.name")), h("th", { scope: "col", class: "n" }, "x"), h("th", { scope: "col", class: "n" }, "y"))),
      h("tbody", {}, rows.slice(0, TABLE_ROWS).map((row, i) => h("tr", {}, h("th", { scope: "row" }, cut(corpus.label(row))), [0, 1].map((axis) => h("td", { class: "n" }, fmt.number(points[i * 2 + axis], 3)))))),
    );
  const details = h("details", {}, h("summary", {}, t("playground.map.table")));
  details.addEventListener("toggle", () => details.open && details.children.length === 1 && details.append(h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": t("playground.map") }, table())));
  return details;
}

/** `done` says what was done, as playground/code.js takes it. */
export function code(ctx, done) {
  const { t } = ctx;
  const longest = Math.max(0, ...[done.texts, done.queries, done.documents].map((texts) => texts?.length ?? 0));
  const block = (name, text) => {
    const press = async (event) => {
      const button = event.target;
      try {
        await copy(text);
        button.textContent = t("playground.copied");
      } catch (error) {
        ctx.notify(error.message, "error");
      }
    };
    return [
      h("div", { class: "head" }, h("h3", { class: "grow" }, name), h("button", { type: "button", onclick: press, "aria-label": t("playground.copy.what", { name }) }, t("playground.copy"))),
      h("pre", { tabindex: "0", role: "region", "aria-label": name }, h("code", {}, text)),
    ];
  };
  return h(
    "section",
    { class: "card code", "aria-labelledby": "code-title" },
    h("h2", { id: "code-title" }, t("playground.code")),
    h("p", { class: "soft" }, t("playground.code.key")),
    block("curl", curlLines(done)),
    block("Python", pythonLines(done)),
    longest > MAX_WRITTEN ? h("p", { class: "soft" }, t("playground.code.cut", { n: MAX_WRITTEN })) : null,
  );
}

/** With as many digits as its neighbours; never a zero with a sign. */
function figure(score, digits) {
  const text = score.toFixed(digits);
  return Number(text) === 0 ? text.replace("-", "") : text;
}

function cut(text, characters = 90) {
  return text.length > characters ? `${text.slice(0, characters)}…` : text;
}
