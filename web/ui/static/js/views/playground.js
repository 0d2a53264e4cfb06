// The playground: texts, two columns of them, or a job's vectors; how like they are, what is nearest, and where they lie.

import { persist } from "../api.js";
import { h, replace } from "../dom.js";
import { field, fill, modelOptions, promptOptions, promptParameter, select, showError } from "../fields.js";
import { Corpus, mostRows } from "../math/corpus.js";
import { code, neighbours, plane, similarity } from "../playground/results.js";
import { embed, splitTexts, Texts } from "../playground/texts.js";

const SOURCES = ["texts", "pairs", "job"];
// Of pasted texts; more are a job.
const MAX_TEXTS = 200;
const JOBS = 100;
const USUAL_DIMENSIONS = 1024;

// What was written stays when another view or language is looked at.
const draft = { source: "texts", texts: "", queries: "", documents: "" };

export default {
  path: "playground",
  mount(root, ctx) {
    return new Playground(root, ctx).start();
  },
};

class Playground {
  models = [];
  jobs = [];
  corpus = null;
  controller = null;
  leaving = new AbortController();

  constructor(root, ctx) {
    Object.assign(this, { root, ctx, t: ctx.t });
    // A link from a job's page: #/playground?job=ID.
    this.wanted = ctx.query?.get("job") ?? null;
    if (this.wanted !== null) draft.source = "job";
  }

  start() {
    this.results = h("div", { class: "results" });
    this.root.append(h("div", { class: "head" }, h("h1", {}, this.t("playground.title"))), h("p", { class: "soft" }, this.t("playground.intro")), this.form(), this.results);
    this.load();
    return () => {
      this.root = null;
      this.leaving.abort();
      this.controller?.abort();
      this.corpus?.close();
    };
  }

  form() {
    const { t } = this;
    const area = (name, rows) => field(t(`playground.${name}`), h("textarea", { id: name, rows, value: draft[name], oninput: (event) => (draft[name] = event.target.value) }));
    const count = h("input", { id: "dimensions", inputmode: "numeric", autocomplete: "off" });
    this.fields = {
      texts: area("texts", 8),
      queries: area("queries", 6),
      documents: area("documents", 6),
      job: field(t("playground.job"), select("job", [["", t("playground.jobs.loading")]], { onchange: () => this.drawJob() })),
      model: field(t("fields.model"), select("model", [], { onchange: () => this.drawModel() })),
      input_type: field(t("fields.input_type"), select("input-type", promptOptions(t, null)), { hint: t("fields.input_type.hint") }),
      dimensions: field(t("fields.dimensions"), count, { hint: t("fields.dimensions.hint") }),
      asked: field(t("playground.pairs.types"), h("input", { id: "asked", type: "checkbox", checked: true }), { isInline: true, hint: t("playground.pairs.types.hint") }),
    };
    this.fields.prompt_name = this.fields.input_type;
    const f = this.fields;
    this.facts = h("p", { class: "soft", "aria-live": "polite" });
    this.said = h("p", { class: "error", role: "alert" });
    this.button = h("button", { type: "submit", class: "main" });
    this.status = h("span", { class: "soft", role: "status" });
    this.options = h("div", { class: "grid" }, f.model.node, f.input_type.node, f.dimensions.node);
    this.parts = {
      texts: h("div", {}, f.texts.node),
      pairs: h("div", {}, h("div", { class: "grid two" }, f.queries.node, f.documents.node), f.asked.node),
      job: h("div", {}, f.job.node, this.facts),
    };
    const example = h("button", { type: "button", class: "quiet", onclick: () => this.fillExample() }, t("playground.example"));
    this.example = example;
    const form = h(
      "form",
      { class: "card playground", novalidate: true, onsubmit: (event) => this.run(event) },
      this.sourceChoice(),
      Object.values(this.parts),
      this.options,
      this.said,
      h("div", { class: "row" }, this.button, example, this.status),
    );
    this.drawSource();
    return form;
  }

  sourceChoice() {
    const change = (value) => () => {
      draft.source = value;
      this.drop();
      this.drawSource();
    };
    const radio = (value) => h("label", { class: "choice" }, h("input", { type: "radio", name: "source", value, checked: draft.source === value, onchange: change(value) }), this.t(`playground.source.${value}`));
    return h("fieldset", { class: "choices" }, h("legend", { class: "hidden-text" }, this.t("playground.source")), SOURCES.map(radio));
  }

  drawSource() {
    for (const source of SOURCES) this.parts[source].hidden = draft.source !== source;
    const isJob = draft.source === "job";
    this.options.hidden = isJob;
    this.example.hidden = isJob;
    this.fields.input_type.node.hidden = draft.source === "pairs";
    this.button.textContent = this.t(isJob ? "playground.load" : "playground.embed");
    this.clear();
  }

  fillExample() {
    for (const name of draft.source === "pairs" ? ["queries", "documents"] : ["texts"]) {
      draft[name] = this.t(`playground.example.${name}`);
      this.fields[name].control.value = draft[name];
    }
    this.clear();
  }

  async load() {
    try {
      const both = () => Promise.all([this.ctx.models(), this.ctx.api.get("v1/embeddings/jobs", { params: { limit: JOBS } })]);
      const [models, jobs] = await persist(both, { signal: this.leaving.signal, onError: (error) => (this.said.textContent = error.message) });
      if (this.root === null) return;
      this.said.textContent = "";
      this.models = models;
      this.jobs = jobs.data.filter((job) => job.counts.completed > 0);
      await this.addWanted();
    } catch (error) {
      if (this.root !== null) this.said.textContent = error.message;
      return;
    }
    if (this.root === null) return;
    fill(this.fields.model.control, modelOptions(this.models));
    this.drawModel();
    const options = this.jobs.map((job) => [job.id, this.jobWords(job)]);
    fill(this.fields.job.control, options.length ? options : [["", this.t("playground.jobs.none")]], this.wanted ?? "");
    this.drawJob();
    if (this.wanted === null || !this.jobs.some((job) => job.id === this.wanted)) return;
    await this.run();
    // Who came by a job's link came to ask.
    this.root?.querySelector("#question")?.focus();
  }

  /** The job of the link may be older than those of the list. */
  async addWanted() {
    if (this.wanted === null || this.jobs.some((job) => job.id === this.wanted)) return;
    const job = await this.ctx.api.get(`v1/embeddings/jobs/${encodeURIComponent(this.wanted)}`);
    if (job.counts.completed > 0) this.jobs.unshift(job);
    else if (this.root !== null) this.fields.job.say(this.t("playground.job.empty"));
  }

  jobWords(job) {
    const name = job.metadata?.file ?? job.id;
    return this.t("playground.job.words", { name, n: job.counts.completed, model: job.model, at: this.ctx.fmt.moment(job.created_at) });
  }

  drawModel() {
    const model = this.models.find((each) => each.id === this.fields.model.control.value);
    fill(this.fields.input_type.control, promptOptions(this.t, model));
    this.fields.dimensions.control.placeholder = model?.dimensions ?? "";
  }

  drawJob() {
    const job = this.job();
    const rows = job === undefined ? 0 : this.rowsOf(job);
    this.facts.textContent = job !== undefined && job.counts.total > rows ? this.t("playground.job.cut", { n: rows, total: job.counts.total }) : "";
  }

  job() {
    return this.jobs.find((each) => each.id === this.fields.job.control.value);
  }

  rowsOf(job) {
    const model = this.models.find((each) => each.id === job.model);
    return mostRows(job.parameters.dimensions ?? model?.dimensions ?? USUAL_DIMENSIONS);
  }

  parameters() {
    const f = this.fields;
    const dimensions = f.dimensions.control.value.trim();
    return {
      model: f.model.control.value,
      // What is no number goes to the server as it is, which says so.
      ...(dimensions === "" ? {} : { dimensions: /^\d+$/.test(dimensions) ? Number(dimensions) : dimensions }),
      ...(draft.source === "texts" ? promptParameter(f.input_type.control.value) : {}),
    };
  }

  async run(event) {
    event?.preventDefault();
    this.clear();
    this.drop();
    this.controller = new AbortController();
    const { signal } = this.controller;
    this.button.disabled = true;
    this.status.textContent = this.t("playground.working");
    try {
      const act = { texts: () => this.runTexts(signal), pairs: () => this.runPairs(signal), job: () => this.runJob(signal) }[draft.source];
      await act();
    } catch (error) {
      if (error.name !== "AbortError" && this.root !== null) this.say(error);
    } finally {
      this.button.disabled = false;
      this.status.textContent = "";
    }
  }

  async runTexts(signal) {
    const texts = this.read("texts", 2);
    if (texts === null) return;
    const parameters = this.parameters();
    const corpus = new Texts(texts, await embed(this.ctx.api, texts, parameters, signal));
    const embedQuestion = async (text) => (await embed(this.ctx.api, [text], { ...parameters, ...(parameters.input_type === "document" ? { input_type: "query" } : {}) }, signal))[0];
    this.show(
      corpus,
      signal,
      [similarity(this.ctx, corpus, corpus), neighbours(this.ctx, corpus, { embedQuestion })],
      [plane(this.ctx, corpus), code(this.ctx, { kind: "texts", texts, parameters })],
    );
  }

  async runPairs(signal) {
    const [queries, documents] = [this.read("queries", 1), this.read("documents", 1)];
    if (queries === null || documents === null) return;
    const parameters = this.parameters();
    const isTyped = this.fields.asked.control.checked;
    const ofQueries = isTyped ? { ...parameters, input_type: "query" } : parameters;
    const ofDocuments = isTyped ? { ...parameters, input_type: "document" } : parameters;
    const [left, right] = await Promise.all([embed(this.ctx.api, queries, ofQueries, signal), embed(this.ctx.api, documents, ofDocuments, signal)]);
    const [asked, told] = [new Texts(queries, left), new Texts(documents, right)];
    const both = new Texts([...queries, ...documents], [...left, ...right]);
    const embedQuestion = async (text) => (await embed(this.ctx.api, [text], ofQueries, signal))[0];
    const kindOf = (row) => (row < queries.length ? "query" : "document");
    this.show(
      told,
      signal,
      [similarity(this.ctx, asked, told), neighbours(this.ctx, told, { embedQuestion })],
      [plane(this.ctx, both, { kindOf }), code(this.ctx, { kind: "pairs", queries, documents, ofQueries, ofDocuments })],
    );
  }

  async runJob(signal) {
    const job = this.job();
    if (job === undefined) return this.fields.job.say(this.t("playground.job.none"));
    const rows = this.rowsOf(job);
    const onProgress = (received) => (this.status.textContent = this.t("playground.received", { bytes: this.ctx.fmt.bytes(received) }));
    const corpus = await Corpus.fetch(this.ctx.api, job.id, { rows, textColumn: job.metadata?.text_column ?? "text", signal, onProgress });
    if (signal.aborted) return corpus.close();
    if (corpus.count === corpus.failed) {
      corpus.close();
      return this.fields.job.say(this.t("playground.job.empty"));
    }
    // A question is embedded as the rows were, but as a question.
    const { dimensions, input_type } = job.parameters;
    const parameters = { model: job.model, ...(dimensions ? { dimensions } : {}), ...(input_type === "document" ? { input_type: "query" } : {}) };
    const lines = h("div", {});
    const onAsked = (question) => replace(lines, code(this.ctx, { kind: "job", id: job.id, question, parameters, rows }));
    const embedQuestion = async (text) => (await embed(this.ctx.api, [text], parameters, signal))[0];
    this.show(corpus, signal, [neighbours(this.ctx, corpus, { embedQuestion, onAsked })], [plane(this.ctx, corpus), lines]);
  }

  /** The texts of a field; null, and the field says why, if they are too few or too many. */
  read(name, least) {
    const texts = splitTexts(draft[name]);
    const message = texts.length < least ? this.t(`playground.too_few.${least}`) : texts.length > MAX_TEXTS ? this.t("playground.too_many", { n: MAX_TEXTS, given: texts.length }) : null;
    if (message === null) return texts;
    this.fields[name].say(message);
    this.fields[name].control.focus();
    return null;
  }

  show(corpus, signal, left, right) {
    if (signal.aborted) return corpus.close();
    this.corpus = corpus;
    replace(this.results, h("div", {}, left), h("div", {}, right));
    this.results.scrollIntoView({ block: "nearest" });
  }

  say(error) {
    if (!showError({ ...this.fields, input: this.fields[draft.source === "pairs" ? "documents" : "texts"] }, error)) this.said.textContent = error.message;
  }

  clear() {
    this.said.textContent = "";
    for (const each of Object.values(this.fields)) each.say(null);
  }

  /** What was found is of something else now. */
  drop() {
    this.controller?.abort();
    this.corpus?.close();
    this.corpus = null;
    replace(this.results);
  }
}
