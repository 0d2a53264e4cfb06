// The fields of a submission, by the names of the API's parameters.

import { h } from "../dom.js";
import { field, promptOptions, select } from "../fields.js";

const FORMATS = ["ndjson", "csv", "text", "parquet"];
const DELIMITERS = [",", ";", "\t", "|"];

/** `onModel` is called when another model is chosen, `onLook` when the file is to be read another way. */
export function makeFields(t, { onModel, onLook }) {
  const fields = {
    model: field(t("fields.model"), select("model", [], { onchange: () => onModel() })),
    input_type: field(t("fields.input_type"), select("input-type", promptOptions(t, null)), { hint: t("fields.input_type.hint") }),
    dimensions: field(t("fields.dimensions"), h("input", { id: "dimensions", inputmode: "numeric", autocomplete: "off" }), { hint: t("fields.dimensions.hint") }),
    priority: field(t("submit.priority"), select("priority", ["normal", "high", "low"].map((each) => [each, t(`priority.${each}`)]))),
    dedupe: field(t("submit.dedupe"), h("input", { id: "dedupe", type: "checkbox" }), { isInline: true, hint: t("submit.dedupe.hint") }),
    cache: field(t("submit.cache"), h("input", { id: "cache", type: "checkbox" }), { isInline: true, hint: t("submit.cache.hint") }),
    truncate: field(t("submit.truncate"), select("truncate", ["", "end", "error"].map((each) => [each, t(`submit.truncate.${each || "usual"}`)]))),
    on_duplicate: field(t("submit.on_duplicate"), select("on-duplicate", ["", "keep"].map((each) => [each, t(`submit.on_duplicate.${each || "error"}`)]))),
    format: field(t("submit.format"), select("format", [["", t("submit.format.auto")], ...FORMATS.map((each) => [each, t(`submit.format.${each}`)])], { onchange: () => onLook() })),
    delimiter: field(t("submit.delimiter"), select("delimiter", [["", t("submit.delimiter.auto")], ...DELIMITERS.map((each) => [each, t(`submit.delimiter.${DELIMITERS.indexOf(each)}`)])], { onchange: () => onLook() })),
  };
  return { ...fields, prompt_name: fields.input_type };
}

/** A set of boxes, one for each column; those that are ticked are in `ticked`. */
export function columnBoxes(t, names, ticked) {
  const box = (name) => {
    const tick = (event) => (event.target.checked ? ticked.add(name) : ticked.delete(name));
    return h("label", { class: "choice" }, h("input", { type: "checkbox", checked: ticked.has(name), onchange: tick }), name);
  };
  const error = h("p", { class: "error", role: "alert" });
  const node = h(
    "fieldset",
    { class: "wide", id: "metadata-columns" },
    h("legend", {}, t("submit.metadata")),
    h("div", { class: "choices" }, names.map(box)),
    h("p", { class: "hint" }, t("submit.metadata.hint")),
    error,
  );
  return { node, control: node.querySelector("input") ?? node, say: (message) => (error.textContent = message ?? "") };
}
