// Bars over time, stacked by lane: what was done a second in each step of some seconds.

import { h, svg } from "./dom.js";

// The bars are stretched to whatever room there is; the figures stand beside them, and keep their shape.
const WIDTH = 600;
const HEIGHT = 120;

/**
 * `at`: ends of the steps, unix seconds; `lanes`: {name: [a figure a second for each step]}, drawn one upon another.
 * `words`: {label, format(value), ago(seconds)}.
 */
export function chart({ at, lanes, stepSeconds, windowSeconds, now }, words) {
  const names = Object.keys(lanes);
  const sums = at.map((_, i) => names.reduce((sum, name) => sum + lanes[name][i], 0));
  const top = ceiling(Math.max(1, ...sums));
  const x = (moment) => ((moment - (now - windowSeconds)) / windowSeconds) * WIDTH;
  const y = (value) => (1 - value / top) * HEIGHT;
  const width = Math.max(1, (stepSeconds / windowSeconds) * WIDTH - 1);
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
  const values = [top, top / 2, 0];
  const lines = values.map((value) => svg("line", { class: "grid", x1: 0, x2: WIDTH, y1: round(y(value)), y2: round(y(value)) }));
  return h(
    "div",
    { class: "chart", role: "img", "aria-label": words.label },
    h("div", { class: "values" }, values.map((value) => h("span", {}, words.format(value)))),
    svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none" }, lines, bars),
    h("div", { class: "times" }, [1, 0.5, 0].map((share) => h("span", {}, words.ago(share * windowSeconds)))),
  );
}

/** The next round figure: 1, 2 or 5 times a power of ten. */
export function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((each) => each * power).find((each) => each >= value);
}

const round = (value) => Math.round(value * 10) / 10;
