// The lines that do the same as the page, for a terminal and for Python. The key is never in them: they read $UMEKOMI_API_KEY.

import { address } from "../api.js";

/** So many texts are written out. */
export const MAX_WRITTEN = 20;
const KEY = '-H "Authorization: Bearer $UMEKOMI_API_KEY"';

/** curl lines for {kind: "texts", texts} | {kind: "pairs", queries, documents} | {kind: "job", id, question}, with `parameters`. */
export function curlLines(done) {
  if (done.kind === "texts") return curlOf(done.texts, done.parameters);
  if (done.kind === "pairs") return `${curlOf(done.queries, done.ofQueries)}\n${curlOf(done.documents, done.ofDocuments)}`;
  const results = address(`v1/embeddings/jobs/${done.id}/results`, { format: "npz", dtype: "float16", limit: done.rows });
  return `curl -o vectors.npz ${shell(results.href)} ${KEY}\n${curlOf([done.question], done.parameters)}`;
}

function curlOf(texts, parameters) {
  const body = JSON.stringify({ ...parameters, input: texts.slice(0, MAX_WRITTEN) });
  return `curl ${shell(address("v1/embeddings").href)} ${KEY} \\\n  -H 'Content-Type: application/json' \\\n  -d ${shell(body)}`;
}

/** The same with the openai package and numpy. */
export function pythonLines(done) {
  const first = ["import os", "", ...(done.kind === "job" ? ["import httpx"] : []), "import numpy as np", "from openai import OpenAI", ""];
  const client = [
    'key = os.environ.get("UMEKOMI_API_KEY", "unused")',
    `client = OpenAI(base_url=${python(address("v1").href)}, api_key=key)`,
    "",
    "",
    "def embed(texts, **parameters):",
    "    answer = client.embeddings.create(input=texts, **parameters)",
    "    vectors = np.array([each.embedding for each in answer.data])",
    "    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)",
    "",
    "",
  ];
  return [...(done.kind === "job" ? ["import io"] : []), ...first, ...client, ...ending[done.kind](done)].join("\n");
}

const ending = {
  texts: ({ texts, parameters }) => [`vectors = embed(${list(texts)}, ${keywords(parameters)})`, "print((vectors @ vectors.T).round(3))"],
  pairs: ({ queries, documents, ofQueries, ofDocuments }) => [
    `queries = embed(${list(queries)}, ${keywords(ofQueries)})`,
    `documents = embed(${list(documents)}, ${keywords(ofDocuments)})`,
    "print((queries @ documents.T).round(3))",
  ],
  job: ({ id, question, parameters, rows }) => [
    `results = ${python(address(`v1/embeddings/jobs/${id}/results`, { format: "npz", limit: rows }).href)}`,
    'answer = httpx.get(results, headers={"Authorization": f"Bearer {key}"}, timeout=600).raise_for_status()',
    "arrays = np.load(io.BytesIO(answer.content))",
    'good = ~np.isnan(arrays["vectors"]).any(axis=1)  # a row that failed has no vector',
    'ids, vectors = arrays["ids"][good], arrays["vectors"][good]',
    "vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)",
    `scores = vectors @ embed(${list([question])}, ${keywords(parameters)})[0]`,
    "for row in np.argsort(-scores)[:10]:",
    "    print(round(float(scores[row]), 3), ids[row])",
  ],
};

/** What OpenAI's client does not know goes into extra_body. */
function keywords({ input_type, prompt_name, ...known }) {
  const extra = Object.entries({ input_type, prompt_name }).filter(([, value]) => value !== undefined);
  const words = Object.entries(known).map(([name, value]) => `${name}=${python(value)}`);
  if (extra.length) words.push(`extra_body={${extra.map(([name, value]) => `${python(name)}: ${python(value)}`).join(", ")}}`);
  return words.join(", ");
}

function list(texts) {
  const written = texts.slice(0, MAX_WRITTEN).map(python);
  return written.join(", ").length < 80 ? `[${written.join(", ")}]` : `[\n${written.map((each) => `    ${each},\n`).join("")}]`;
}

/** Numbers and strings of JSON are Python's, too. */
function python(value) {
  return JSON.stringify(value);
}

/** One word for a shell, whatever is in it. */
function shell(text) {
  return `'${text.replaceAll("'", String.raw`'\''`)}'`;
}

/** Copy a text: over plain http, where browsers lend no clipboard, by way of a selection. */
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "hidden-text";
  document.body.append(area);
  area.select();
  const isDone = document.execCommand("copy");
  area.remove();
  if (!isDone) throw new Error("the browser does not let this page copy");
}
