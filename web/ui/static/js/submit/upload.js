// A corpus on its way to the server. It goes on while other views are looked at, and can be sent again after the connection broke.

import { isWorthATry } from "../api.js";

// The rate is that of the last seconds: an upload that got slower says so.
const RATE_OVER_MS = 5000;

export class Upload extends EventTarget {
  sent = 0;
  /** Bytes a second, once it can be told. */
  rate = null;
  /** "sending", "lost" (nobody answered: try again), "refused" (the server said why), "cancelled" or "accepted". */
  state = "sending";
  error = null;
  job = null;
  #samples = [];
  #controller = null;
  #key = randomKey();

  /** `file` is a File or Blob; `params` and the file stay what they are, so that a second try is the same submission. */
  constructor(api, file, name, params) {
    super();
    Object.assign(this, { api, file, name, params, total: file.size });
  }

  get secondsLeft() {
    return this.rate ? Math.max(0, this.total - this.sent) / this.rate : null;
  }

  /** Send it, for the first time or again: the same key makes one job of both. Never throws: see `state`. */
  async send() {
    this.#controller = new AbortController();
    Object.assign(this, { state: "sending", error: null, sent: 0, rate: null });
    this.#samples = [];
    this.#tell();
    try {
      this.job = await this.api.upload("v1/embeddings/jobs", this.file, {
        params: this.params,
        contentType: "application/octet-stream",
        headers: { "Idempotency-Key": this.#key },
        onProgress: (progress) => this.#measure(progress),
        signal: this.#controller.signal,
      });
      this.state = "accepted";
    } catch (error) {
      this.error = error;
      this.state = error.name === "AbortError" ? "cancelled" : isWorthATry(error) ? "lost" : "refused";
    }
    this.#tell();
  }

  cancel() {
    if (this.state === "sending") this.#controller.abort();
    else {
      this.state = "cancelled";
      this.#tell();
    }
  }

  #measure({ sent, total }) {
    const now = performance.now();
    Object.assign(this, { sent, total });
    this.#samples.push({ at: now, sent });
    while (this.#samples.length > 2 && now - this.#samples[0].at > RATE_OVER_MS) this.#samples.shift();
    const first = this.#samples[0];
    if (now - first.at > 200) this.rate = (1000 * (sent - first.sent)) / (now - first.at);
    this.#tell();
  }

  #tell() {
    this.dispatchEvent(new Event("change"));
  }
}

// crypto.randomUUID is only there over https and on localhost.
function randomKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return `page-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}
