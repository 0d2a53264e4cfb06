// A job's vectors in a worker of the browser: fetched once, asked often.

// What a page should hold: 20,000 rows of 384 dimensions are 15 MB on the way and 31 MB here; of longer vectors fewer.
const MAX_ROWS = 20_000;
const MAX_BYTES = 32_000_000;
const HALF_BYTES = 2;

/** How many rows of so many dimensions are fetched at most. */
export function mostRows(dimensions) {
  return Math.min(MAX_ROWS, Math.floor(MAX_BYTES / HALF_BYTES / Math.max(1, dimensions)));
}

export class Corpus {
  /** Fetch what is committed of a job, up to `rows`; its texts, if it keeps them, are the metadata called `textColumn`. `onProgress(received bytes)`. Raises ApiError, or Error for what is no archive. */
  static async fetch(api, jobId, { rows, textColumn, signal, onProgress = () => {} }) {
    const response = await api.raw(`v1/embeddings/jobs/${jobId}/results`, {
      params: { format: "npz", dtype: "float16", limit: rows },
      signal,
    });
    const pieces = [];
    let received = 0;
    const reader = response.body.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      pieces.push(value);
      received += value.length;
      onProgress(received);
    }
    const buffer = await new Blob(pieces).arrayBuffer();
    const corpus = new Corpus({ api, id: jobId, textColumn });
    try {
      Object.assign(corpus, await corpus.#ask({ ask: "load", buffer }, [buffer]));
    } catch (error) {
      corpus.close();
      throw error;
    }
    return corpus;
  }

  ids = [];
  indexes = [];
  dimensions = 0;
  failed = 0;
  #worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  #waiting = new Map();
  #asked = 0;

  #described = new Map();

  constructor(job) {
    this.job = job;
    this.#worker.onmessage = ({ data }) => {
      const { resolve, reject } = this.#waiting.get(data.id);
      this.#waiting.delete(data.id);
      if (data.error === undefined) resolve(data.answer);
      else reject(new Error(data.error));
    };
    this.#worker.onerror = (event) => {
      for (const { reject } of this.#waiting.values()) reject(new Error(event.message || "the worker ended"));
      this.#waiting.clear();
    };
  }

  /** [{row, score}], the best first; `question` is a vector. */
  nearest(question, count) {
    return this.#ask({ ask: "nearest", question, count });
  }

  /** {points: Float32Array [n x 2], rows, shares} of at most `most` rows. */
  project(most) {
    return this.#ask({ ask: "project", most });
  }

  get count() {
    return this.ids.length;
  }

  /** What a row is called: its id, or its index if it has none. */
  label(row) {
    return this.ids[row] || `#${this.indexes[row]}`;
  }

  /** What the job keeps beside a row's vector: {id, text, metadata}; asked of the server, once each. */
  describe(row) {
    if (!this.#described.has(row)) {
      const asked = this.#fetchRow(row);
      asked.catch(() => this.#described.delete(row));
      this.#described.set(row, asked);
    }
    return this.#described.get(row);
  }

  async #fetchRow(row) {
    const { api, id } = this.job;
    const params = { format: "jsonl", limit: 1, after: this.indexes[row] - 1 };
    const response = await api.raw(`v1/embeddings/jobs/${id}/results`, { params });
    const found = JSON.parse(await response.text());
    const { [this.job.textColumn]: text, ...metadata } = found.metadata ?? {};
    return { id: this.label(row), text: typeof text === "string" ? text : null, metadata };
  }

  /** The vectors are gone. */
  close() {
    this.#worker.terminate();
  }

  #ask(message, transfer = []) {
    const id = ++this.#asked;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ id, ...message }, transfer);
    });
  }
}
