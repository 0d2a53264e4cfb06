// Submit a corpus: choose a file or paste texts, say what is what, and send it off.

import { persist } from "../api.js";
import { h, replace } from "../dom.js";
import { field, fill, modelOptions, promptOptions, promptParameter, select, showError } from "../fields.js";
import { preview } from "../preview/preview.js";
import { MAX_BOXES, choosable, guessText, keepsText, metadataParameter } from "../submit/columns.js";
import { columnBoxes, makeFields } from "../submit/fields.js";
import { asLines } from "../submit/paste.js";
import { showUpload } from "../submit/progress.js";
import { previewTable } from "../submit/table.js";
import { Upload } from "../submit/upload.js";

const ENDINGS = ".ndjson,.jsonl,.csv,.tsv,.txt,.text,.parquet,.pq,.gz,.zst";
// The address of a request has room for so much of a name.
const MAX_NAME_CHARACTERS = 100;
// What cannot be read, and what is too large.
const OF_INPUT = new Set([400, 413, 422]);

// What was chosen stays when another view or language is looked at; so does what is being sent.
const draft = { source: "file", file: null, pasted: "" };
let upload = null;
let untell = null;

export default {
  path: "submit",
  mount(root, ctx) {
    return new Form(root, ctx).start();
  },
};

class Form {
  seen = null;
  /** Names of the ticked columns. */
  ticked = new Set();
  models = [];
  unwatch = null;
  /** Fields of the columns, while the file has some. */
  text = null;
  id = null;
  boxes = null;
  looking = null;
  leaving = new AbortController();

  constructor(root, ctx) {
    Object.assign(this, { root, ctx, t: ctx.t });
  }

  start() {
    this.progress = h("div", {});
    this.root.append(h("div", { class: "head" }, h("h1", {}, this.t("submit.title"))), h("p", { class: "soft" }, this.t("submit.intro")), this.progress, this.form());
    this.loadModels();
    this.choose(draft.file);
    untell?.();
    untell = null;
    if (upload !== null) this.watch();
    const stay = (event) => upload?.state === "sending" && event.preventDefault();
    addEventListener("beforeunload", stay);
    return () => {
      removeEventListener("beforeunload", stay);
      this.unwatch?.();
      this.leaving.abort();
      this.root = null;
      if (upload !== null) untell = tellLater(upload, this.ctx);
    };
  }

  form() {
    const { t } = this;
    this.fields = makeFields(t, { onModel: () => this.drawModel(), onLook: () => this.look() });
    this.file = field(t("submit.file"), h("input", { id: "file", type: "file", accept: ENDINGS, onchange: (event) => this.choose(event.target.files[0] ?? draft.file) }));
    this.pasted = field(t("submit.paste"), h("textarea", { id: "pasted", rows: "8", value: draft.pasted, oninput: (event) => this.paste(event.target.value) }), { hint: t("submit.paste.hint") });
    this.kept = field(t("submit.keep_text"), h("input", { id: "keep", type: "checkbox", checked: true }), { isInline: true, hint: t("submit.keep_text.hint") });
    this.shown = h("div", { "aria-live": "polite" });
    this.columns = h("div", { class: "grid" });
    this.said = h("p", { class: "error", role: "alert" });
    this.button = h("button", { type: "submit", class: "main" }, t("submit.send"));
    const f = this.fields;
    this.ofFile = h("div", {}, this.dropZone(), this.shown, this.columns);
    this.ofPaste = h("div", {}, this.pasted.node, this.kept.node);
    const form = h(
      "form",
      { class: "submit", novalidate: true, onsubmit: (event) => this.submit(event) },
      h("section", { class: "card", "aria-labelledby": "input-title" }, h("h2", { id: "input-title" }, t("submit.input")), this.sourceChoice(), this.ofFile, this.ofPaste),
      h(
        "section",
        { class: "card", "aria-labelledby": "how-title" },
        h("h2", { id: "how-title" }, t("submit.how")),
        h("div", { class: "grid" }, f.model.node, f.input_type.node, f.dimensions.node, f.priority.node),
        h("div", { class: "grid" }, f.dedupe.node, f.cache.node),
        h("details", {}, h("summary", {}, t("submit.more")), h("div", { class: "grid" }, f.format.node, f.delimiter.node, f.truncate.node, f.on_duplicate.node)),
        this.said,
        h("div", { class: "row" }, this.button),
      ),
    );
    this.drawSource();
    return form;
  }

  sourceChoice() {
    const radio = (value) =>
      h(
        "label",
        { class: "choice" },
        h("input", { type: "radio", name: "source", value, checked: draft.source === value, onchange: () => ((draft.source = value), this.drawSource()) }),
        this.t(`submit.source.${value}`),
      );
    return h("fieldset", { class: "choices" }, h("legend", { class: "hidden-text" }, this.t("submit.source")), radio("file"), radio("paste"));
  }

  drawSource() {
    this.ofFile.hidden = draft.source !== "file";
    this.ofPaste.hidden = draft.source !== "paste";
    for (const name of ["format", "delimiter"]) this.fields[name].node.hidden = draft.source !== "file";
  }

  dropZone() {
    const zone = h("div", { class: "drop" }, this.file.node, h("p", { class: "hint" }, this.t("submit.drop")));
    const mark = (isOver) => (event) => {
      event.preventDefault();
      zone.classList.toggle("over", isOver);
    };
    zone.addEventListener("dragover", mark(true));
    zone.addEventListener("dragleave", mark(false));
    zone.addEventListener("drop", (event) => {
      mark(false)(event);
      const { files } = event.dataTransfer;
      if (files.length > 1) this.ctx.notify(this.t("submit.one_file"));
      if (files.length) this.choose(files[0]);
    });
    return zone;
  }

  paste(text) {
    draft.pasted = text;
    this.pasted.say(null);
  }

  async loadModels() {
    const { model } = this.fields;
    try {
      this.models = await persist(() => this.ctx.models(), { signal: this.leaving.signal, onError: (error) => model.say(error.message) });
    } catch (error) {
      if (this.root !== null) model.say(error.message);
      return;
    }
    if (this.root === null) return;
    model.say(null);
    fill(this.fields.model.control, modelOptions(this.models));
    this.drawModel();
  }

  drawModel() {
    const model = this.models.find((each) => each.id === this.fields.model.control.value);
    fill(this.fields.input_type.control, promptOptions(this.t, model));
    this.fields.dimensions.control.placeholder = model?.dimensions ?? "";
  }

  /** Another file: what was chosen for the last one means nothing for it. */
  choose(file) {
    draft.file = file ?? null;
    this.name(draft.file);
    this.file.say(null);
    this.clear();
    this.look();
  }

  /** What was dropped, or chosen before another view was looked at, stands in the field as if it had been chosen there. */
  name(file) {
    const input = this.file.control;
    if (file === null || input.files[0] === file) return;
    const transfer = new DataTransfer();
    transfer.items.add(file);
    input.files = transfer.files;
  }

  look() {
    this.looking = this.readAndShow();
  }

  /** The file's beginning. */
  async readAndShow() {
    const { file } = draft;
    this.seen = null;
    if (file === null) return;
    replace(this.columns);
    const { format, delimiter } = this.fields;
    const found = await preview(file, { format: format.control.value || null, delimiter: delimiter.control.value || null });
    if (file !== draft.file || this.root === null) return;
    this.seen = found;
    this.drawColumns();
    this.drawPreview();
  }

  drawColumns() {
    const { seen, t } = this;
    this.text = this.id = null;
    this.boxes = null;
    for (const name of ["text_column", "id_column", "metadata_columns"]) delete this.fields[name];
    if (seen.format !== "csv" && seen.format !== "parquet") return replace(this.columns);
    const redraw = () => this.drawPreview();
    if (seen.columns === null) {
      // The columns are not known: they are written rather than chosen.
      this.text = field(t("submit.text_column"), h("input", { id: "text-column", value: "text", autocomplete: "off" }));
      this.id = field(t("submit.id_column"), h("input", { id: "id-column", autocomplete: "off" }), { hint: t("submit.id_column.hint") });
    } else {
      const names = choosable(seen.columns);
      const text = guessText(seen);
      const ids = names.includes("id") ? [] : [["", t("submit.id_column.none")]];
      this.text = field(t("submit.text_column"), select("text-column", names.map((name) => [name, name]), { value: text, onchange: redraw }));
      this.id = field(t("submit.id_column"), select("id-column", [...ids, ...names.map((name) => [name, name])], { value: names.includes("id") ? "id" : "", onchange: redraw }));
      this.ticked = new Set(names.filter((name) => name !== "id" && (name !== text || keepsText(seen, text, draft.file.size))));
      if (names.length <= MAX_BOXES) this.boxes = columnBoxes(t, names, this.ticked);
    }
    Object.assign(this.fields, { text_column: this.text, id_column: this.id });
    if (this.boxes !== null) this.fields.metadata_columns = this.boxes;
    replace(this.columns, this.text.node, this.id.node, this.boxes?.node ?? (seen.columns === null ? null : h("p", { class: "soft" }, t("submit.metadata.many", { n: MAX_BOXES }))));
  }

  drawPreview() {
    const { seen, t } = this;
    const { file } = draft;
    const facts = [this.ctx.fmt.bytes(file.size), seen.format ? t(`submit.format.${seen.format}`) : null, seen.compression];
    if (seen.totalRows !== null) facts.push(t("submit.preview.rows", { n: seen.totalRows }));
    const caption = [file.name, ...facts.filter(Boolean)].join(" · ");
    const roles = new Map();
    if (this.id?.control.value) roles.set(this.id.control.value, t("submit.role.id"));
    roles.set(this.text?.control.value || "text", t("submit.role.text"));
    const why = seen.isEmpty ? t("submit.why.empty") : seen.why === null ? null : t(`submit.why.${seen.why}`);
    replace(
      this.shown,
      seen.columns === null ? h("p", { class: "file-facts" }, caption) : previewTable(t, seen, caption, roles),
      why === null ? null : h("p", { class: seen.why === "damaged" || seen.isEmpty ? "error" : "soft" }, why),
    );
  }

  parameters() {
    const f = this.fields;
    const given = {
      model: f.model.control.value,
      ...promptParameter(f.input_type.control.value),
      dimensions: f.dimensions.control.value.trim(),
      priority: f.priority.control.value,
      dedupe: f.dedupe.control.checked || null,
      cache: f.cache.control.checked || null,
      truncate: f.truncate.control.value,
      on_duplicate: f.on_duplicate.control.value,
    };
    if (draft.source === "paste") return { ...given, format: "ndjson" };
    const { seen } = this;
    given.format = f.format.control.value || seen?.format;
    // Whoever looks at the job later knows it by its file, and its texts by their column.
    const metadata = { file: draft.file.name };
    if (given.format === "csv") {
      const delimiter = f.delimiter.control.value || seen?.delimiter;
      given.delimiter = delimiter === "\t" ? "tab" : delimiter;
    }
    if (this.text !== null) {
      const [text, id] = [this.text.control.value, this.id.control.value];
      Object.assign(given, { text_column: text, id_column: id });
      metadata.text_column = text;
      if (this.boxes !== null) given.metadata_columns = metadataParameter(seen.columns, { text, id, ticked: [...this.ticked] });
    }
    const shortened = Object.entries(metadata).map(([name, value]) => [name, [...value].slice(0, MAX_NAME_CHARACTERS).join("")]);
    return { ...given, metadata: JSON.stringify(Object.fromEntries(shortened)) };
  }

  async submit(event) {
    event.preventDefault();
    this.clear();
    await this.looking;
    if (upload !== null || this.root === null) return;
    if (draft.source === "file" && draft.file === null) return this.refuse(this.file, this.t("submit.no_file"));
    if (draft.source === "paste" && draft.pasted.trim() === "") return this.refuse(this.pasted, this.t("submit.no_text"));
    const [file, name] = draft.source === "file" ? [draft.file, draft.file.name] : [asLines(draft.pasted, this.kept.control.checked), this.t("submit.pasted")];
    upload = new Upload(this.ctx.api, file, name, this.parameters());
    this.watch();
    upload.send();
    this.progress.scrollIntoView({ block: "nearest" });
  }

  refuse(wrong, message) {
    wrong.say(message);
    wrong.control.focus();
  }

  /** Follow what is being sent until it is accepted, refused or given up. */
  watch() {
    this.button.disabled = true;
    const over = () => {
      this.unwatch?.();
      this.unwatch = null;
      upload = null;
      this.button.disabled = false;
    };
    const onOver = (done) => {
      over();
      if (done.state === "accepted") {
        if (draft.source === "paste") draft.pasted = "";
        else draft.file = null;
        this.ctx.go(`job/${done.job.id}`);
      } else this.showRefusal(done.error);
    };
    this.unwatch = showUpload(this.progress, upload, { t: this.t, fmt: this.ctx.fmt, onOver, onGone: over });
  }

  showRefusal(error) {
    const named = { ...this.fields, input: draft.source === "paste" ? this.pasted : this.file, file: this.file };
    // What is wrong with no parameter is wrong with what was sent.
    const param = error.param ?? (OF_INPUT.has(error.status) ? "input" : null);
    if (!showError(named, { param, message: error.message })) {
      this.said.textContent = error.message;
      this.button.focus();
    }
  }

  clear() {
    this.said.textContent = "";
    for (const each of [...Object.values(this.fields), this.file, this.pasted]) each.say(null);
  }
}

/** The form is gone, the upload goes on: say what became of it, until the returned function is called. */
function tellLater(left, ctx) {
  const stop = () => left.removeEventListener("change", tell);
  const tell = () => {
    if (left.state === "sending") return;
    if (left.state === "lost") return ctx.notify(ctx.t("submit.lost", { message: left.error.message }), "error");
    stop();
    upload = null;
    if (left.state === "accepted") ctx.notify(ctx.t("submit.accepted", { name: left.name, id: left.job.id }));
    else if (left.state === "refused") ctx.notify(left.error.message, "error");
  };
  left.addEventListener("change", tell);
  return stop;
}
