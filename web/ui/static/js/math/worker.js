// A Web Worker that holds a job's vectors, so that looking through them never stops the page.
// Asked {id, ask: "load" | "nearest" | "project", …}; answers {id, answer} or {id, error}.

import { readNpz, toFloats, toIntegers, toStrings } from "./arrays.js";
import { nearest, normalize, project } from "./vectors.js";

let held = null;

const asks = {
  /** An .npz as the server writes it; tells {ids, indexes, dimensions, failed}. */
  load({ buffer }) {
    const arrays = readNpz(buffer);
    const dimensions = arrays.vectors.shape[1] ?? 0;
    const matrix = dimensions ? toFloats(arrays.vectors) : new Float32Array();
    const isThere = Array.from({ length: arrays.vectors.shape[0] }, (_, row) => dimensions > 0 && !Number.isNaN(matrix[row * dimensions]));
    held = { matrix: normalize(matrix, dimensions || 1), dimensions, isThere };
    const failed = isThere.filter((each) => !each).length;
    return { ids: toStrings(arrays.ids), indexes: toIntegers(arrays.index), dimensions, failed };
  },

  nearest({ question, count }) {
    return nearest(held.matrix, normalize(Float32Array.from(question), held.dimensions), held.dimensions, count, (row) => held.isThere[row]);
  },

  /** The rows that have a vector, at most so many, evenly out of all: {points, rows, shares}. */
  project({ most }) {
    const there = held.isThere.flatMap((each, row) => (each ? [row] : []));
    const step = Math.max(1, there.length / most);
    const rows = Array.from({ length: Math.min(there.length, most) }, (_, i) => there[Math.floor(i * step)]);
    const picked = new Float32Array(rows.length * held.dimensions);
    rows.forEach((row, i) => picked.set(held.matrix.subarray(row * held.dimensions, (row + 1) * held.dimensions), i * held.dimensions));
    return { ...project(picked, held.dimensions), rows };
  },
};

self.onmessage = ({ data }) => {
  try {
    self.postMessage({ id: data.id, answer: asks[data.ask](data) });
  } catch (error) {
    self.postMessage({ id: data.id, error: String(error.message ?? error) });
  }
};
