// Form fields that say what is wrong with them: a label, a control, a hint, and the server's own sentence beside it.

import { h } from "./dom.js";

/** A select of [value, words] pairs, or of {group, options}. */
export function select(id, options, { value, onchange } = {}) {
  const node = h("select", { id, onchange });
  fill(node, options, value);
  return node;
}

/** Put other options in; what was chosen stays chosen if it is still there. */
export function fill(node, options, value = node.value) {
  const option = ([each, words]) => h("option", { value: each }, words);
  node.replaceChildren(
    ...options.map((each) => (Array.isArray(each) ? option(each) : h("optgroup", { label: each.group }, each.options.map(option)))),
  );
  node.value = value ?? "";
  if (node.selectedIndex < 0) node.selectedIndex = 0;
}

/** A labelled control; its `say(message)` shows what is wrong with it, and null takes that back. */
export function field(label, control, { hint = null, isInline = false } = {}) {
  const id = control.id;
  const error = h("p", { class: "error", id: `${id}-error`, role: "alert" });
  const hinted = hint === null ? null : h("p", { class: "hint", id: `${id}-hint` }, hint);
  control.setAttribute("aria-describedby", `${hinted === null ? "" : `${id}-hint `}${id}-error`);
  const words = h("label", { for: id }, label);
  const node = h("div", { class: isInline ? "field inline" : "field" }, isInline ? [control, words] : [words, control], hinted, error);
  const say = (message) => {
    error.textContent = message ?? "";
    if (message) control.setAttribute("aria-invalid", "true");
    else control.removeAttribute("aria-invalid");
  };
  return { node, control, say };
}

/** Show an error of the server's beside the field that it names, and go there; false if there is no such field. */
export function showError(fields, error) {
  const found = fields[error.param];
  if (!found || found.node.hidden) return false;
  const folded = found.node.closest("details");
  if (folded) folded.open = true;
  found.say(error.message);
  found.control.focus();
  return true;
}

/** Models that make vectors, as options; one that does not serve now says how it stands. */
export function modelOptions(models) {
  return models.filter(isEmbedder).map((model) => [model.id, model.state === "ready" ? model.id : `${model.id} (${model.state})`]);
}

/** Whether a model makes vectors, rather than scores of pairs. */
export function isEmbedder(model) {
  return model.kind !== "rerank";
}

const INPUT_TYPES = ["query", "document", "classification", "clustering"];

/** What a text is embedded as: input types, and the names of the model's own prompts. Values are "PARAMETER:NAME", or "". */
export function promptOptions(t, model) {
  const types = INPUT_TYPES.map((each) => [`input_type:${each}`, t(`fields.input_type.${each}`)]);
  const prompts = (model?.prompts ?? []).map((name) => [`prompt_name:${name}`, name]);
  return [["", t("fields.input_type.none")], ...types, ...(prompts.length ? [{ group: t("fields.prompts"), options: prompts }] : [])];
}

/** {input_type} or {prompt_name} of such a value, or nothing. */
export function promptParameter(value) {
  const at = value.indexOf(":");
  return at < 0 ? {} : { [value.slice(0, at)]: value.slice(at + 1) };
}
