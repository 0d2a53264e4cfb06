// Embeddings and a batch by OpenAI's Node SDK; prints what came back as JSON.
// node openai_embeddings.mjs '{"base_url": …, "refusing_url": …, "model": …, "texts": […], "batch": …}'

import OpenAI, { toFile } from "openai";

const given = JSON.parse(process.argv[2]);
const { model, texts } = given;
const client = new OpenAI({ baseURL: given.base_url, apiKey: "unused", timeout: 60_000 });
const refused = new OpenAI({ baseURL: given.refusing_url, apiKey: given.name, timeout: 60_000 });

const create = async (request, by = client) => (await by.embeddings.create({ model, ...request })).data.map((each) => each.embedding);
const errorOf = (request) =>
  create(request).then(
    () => ["nothing was wrong"],
    (error) => [error.constructor.name, error.code, error.param, String(error.requestID).slice(0, 4)],
  );
const listed = async (pages) => {
  const ids = [];
  for await (const each of pages) ids.push(each.id);
  return ids;
};

const packed = await client.embeddings.create({ model, input: texts });
const file = await client.files.create({ file: await toFile(Buffer.from(given.batch), "in.jsonl"), purpose: "batch" });
let batch = await client.batches.create({ input_file_id: file.id, endpoint: "/v1/embeddings", completion_window: "24h" });
for (const deadline = Date.now() + 60_000; !["completed", "failed", "expired"].includes(batch.status) && Date.now() < deadline; ) {
  await new Promise((resolve) => setTimeout(resolve, 50));
  batch = await client.batches.retrieve(batch.id);
}
const output = batch.output_file_id ? await (await client.files.content(batch.output_file_id)).text() : "";

console.log(
  JSON.stringify({
    one: (await create({ input: texts[0] }))[0],
    many: packed.data.map((each) => each.embedding),
    async: await Promise.all(texts.map(async (input) => (await create({ input, encoding_format: "float" }))[0])),
    cut: (await create({ input: texts[0], dimensions: 64 }))[0],
    usage: packed.usage,
    retried: (await create({ input: texts[0] }, refused))[0],
    models: await listed(client.models.list()),
    errors: {
      model: await errorOf({ model: "nothing", input: "x" }),
      input: await errorOf({ input: "" }),
      dimensions: await errorOf({ input: "x", dimensions: 100_000 }),
    },
    batch: { status: batch.status, file: (await client.files.list({ purpose: "batch" })).data.some((each) => each.id === file.id) },
    output: output.trim().split("\n").map((line) => JSON.parse(line)),
  }),
);
