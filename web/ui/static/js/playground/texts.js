// Pasted texts with their vectors: the same questions as a job's corpus answers (math/corpus.js).

import { nearest, normalize, project, stack } from "../math/vectors.js";

export class Texts {
  failed = 0;

  /** `vectors`: Float32Arrays of one length, one for each text. */
  constructor(texts, vectors) {
    this.texts = texts;
    this.dimensions = vectors[0]?.length ?? 0;
    this.matrix = normalize(stack(vectors), this.dimensions);
  }

  get count() {
    return this.texts.length;
  }

  label(row) {
    return this.texts[row];
  }

  async describe(row) {
    return { id: null, text: this.texts[row], metadata: {} };
  }

  async nearest(question, count) {
    return nearest(this.matrix, normalize(Float32Array.from(question), this.dimensions), this.dimensions, count);
  }

  async project() {
    return { ...project(this.matrix, this.dimensions), rows: this.texts.map((_, row) => row) };
  }

  close() {}
}

/** One text a line, blank lines left out. */
export function splitTexts(pasted) {
  return pasted.split(/\r?\n/).filter((line) => line.trim() !== "");
}

/** Vectors of texts, in order: Float32Arrays. Raises ApiError. */
export async function embed(api, texts, parameters, signal) {
  const answer = await api.post("v1/embeddings", { ...parameters, input: texts, encoding_format: "base64" }, { signal });
  return answer.data.map(({ embedding }) => new Float32Array(Uint8Array.from(atob(embedding), (character) => character.charCodeAt(0)).buffer));
}
