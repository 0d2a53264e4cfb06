// Bars over time, stacked by lane: what was done a second in each step of some seconds.

import { svg } from "./dom.js";

const WIDTH = 600;
const HEIGHT = 150;
const LEFT = 44;
const BOTTOM = 18;
const TOP = 8;

/**
 * `at`: ends of the steps, unix seconds; `lanes`: {name: [a figure a second for each step]}, drawn one upon another.
 * `words`: {label, format(value), ago(seconds)}.
 */
export function chart({ at, lanes, stepSeconds, windowSeconds, now }, words) {
  const names = Object.keys(lanes);
  const sums = at.map((_, i) => names.reduce((sum, name) => sum + lanes[name][i], 0));
  const top = ceiling(Math.max(1, ...sums));
  const x = (moment) => LEFT + ((moment - (now - windowSeconds)) / windowSeconds) * (WIDTH - LEFT);
  const y = (value) => TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM);
  const width = Math.max(1, (stepSeconds / windowSeconds) * (WIDTH - LEFT) - 1);
  const bars = [];
  at.forEach((end, i) => {
    if (end - stepSeconds < now - windowSeconds) return;
    let below = 0;
    for (const name of names) {
      const value = lanes[name][i];
      if (value > 0) bars.push(svg("rect", { class: name, x: round(x(end - stepSeconds)), width: round(width), y: round(y(below + value)), height: round(Math.max(0.5, y(below) - y(below + value))) }));
      below += value;
    }
  });
  const lines = [0, top / 2, top].map((value) => [
    svg("line", { class: "grid", x1: LEFT, x2: WIDTH, y1: round(y(value)), y2: round(y(value)) }),
    svg("text", { x: LEFT - 6, y: round(y(value)) + 4, "text-anchor": "end" }, words.format(value)),
  ]);
  const times = [1, 0.5, 0].map((share, i) =>
    svg("text", { x: round(x(now - share * windowSeconds)), y: HEIGHT - 3, "text-anchor": ["start", "middle", "end"][i] }, words.ago(share * windowSeconds)),
  );
  return svg("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": words.label }, lines, bars, times);
}

/** The next round figure: 1, 2 or 5 times a power of ten. */
export function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((each) => each * power).find((each) => each >= value);
}

const round = (value) => Math.round(value * 10) / 10;
