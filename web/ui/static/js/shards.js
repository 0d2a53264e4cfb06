// The shard map: a cell a shard, coloured by its state; on a canvas, so that ten thousands are as quick as ten.

const STATES = { w: "waiting", s: "sent", r: "running", d: "done", f: "failed" };
const LARGEST = 16;
const SMALLEST = 3;
const MAX_HEIGHT = 260;

/** The states of all shards, of "d120f1w3": a letter each. */
export function unpack(runs) {
  return [...runs.matchAll(/([wsrdf])(\d+)/g)].map(([, letter, count]) => letter.repeat(Number(count))).join("");
}

/** How large a cell is, with its gap, and how many stand in a row, so that `count` of them find room. */
export function layout(count, width) {
  for (let size = LARGEST; ; size--) {
    const columns = Math.max(1, Math.floor(width / size));
    const rows = Math.ceil(count / columns);
    if (rows * size <= MAX_HEIGHT || size <= SMALLEST) return { size, columns, rows };
  }
}

/** Draw them; returns where each cell is, for a pointer: cellAt(x, y) -> number of the shard or null. */
export function drawShards(canvas, states) {
  const width = canvas.clientWidth || 600;
  const { size, columns, rows } = layout(states.length, width);
  const ratio = window.devicePixelRatio || 1;
  canvas.style.setProperty("--height", `${rows * size}px`);
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(rows * size * ratio);
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  const colours = Object.fromEntries(Object.entries(STATES).map(([letter, name]) => [letter, colour(canvas, `--cell-${name}`)]));
  const gap = size > 5 ? 2 : size > 3 ? 1 : 0;
  for (let i = 0; i < states.length; i++) {
    pen.fillStyle = colours[states[i]];
    pen.fillRect((i % columns) * size, Math.floor(i / columns) * size, size - gap, size - gap);
  }
  return (x, y) => {
    const column = Math.floor(x / size);
    const number = Math.floor(y / size) * columns + column;
    return column >= 0 && column < columns && number >= 0 && number < states.length ? number : null;
  };
}

// As the element has it now: a variable alone is the light one and the dark one, of which a canvas knows nothing.
function colour(canvas, variable) {
  canvas.style.setProperty("color", `var(${variable})`);
  return getComputedStyle(canvas).color;
}

/** The word of a state's letter. */
export function stateOf(letter) {
  return STATES[letter];
}

export const STATE_NAMES = Object.values(STATES);
