// Points on a plane, with labels where one looks: to hover over, to walk through by arrow keys, to zoom into and to drag.

import { h, svg } from "../dom.js";

/** Of so many points at most: each is an element. */
export const MAX_POINTS = 2000;
// Up to so many points all labels are written.
const MAX_LABELS = 24;
const [WIDTH, HEIGHT, MARGIN] = [640, 420, 34];
const MOST_ZOOM = 40;
const CHARACTERS = 40;
// On the screen, in pixels.
const [RADIUS, LETTERS, GAP] = [5, 12, 8];
// How wide a letter is beside its height, about; those of Japanese are as wide as high.
const NARROW = 0.56;

/** `points` is Float32Array [n x 2]; `label(i)` a name; `onLook(i)` is called for the point that is looked at. */
export function map({ points, label, kindOf = () => "", onLook, words }) {
  const count = points.length / 2;
  const at = fit(points);
  const hasLabels = count <= MAX_LABELS;
  const nodes = Array.from({ length: count }, (_, i) =>
    svg("circle", { class: `point ${kindOf(i)}`, cx: at[i * 2], cy: at[i * 2 + 1], tabindex: i === 0 ? "0" : "-1", role: "img", "aria-label": label(i), "data-point": i }),
  );
  const names = hasLabels ? nodes.map((_, i) => svg("text", { class: "name", "aria-hidden": "true" }, short(label(i)))) : [];
  const hint = svg("text", { class: "name looked", "aria-hidden": "true" });
  const drawing = svg("svg", { class: "map", role: "group", "aria-label": words.label }, names, nodes, hint);
  const view = { x: 0, y: 0, zoom: 1, pixel: 1 };
  let looked = null;

  const draw = () => {
    drawing.setAttribute("viewBox", `${view.x} ${view.y} ${WIDTH / view.zoom} ${HEIGHT / view.zoom}`);
    // The drawing's units of a pixel: points and letters are as large on a phone as on a wall.
    view.unit = view.pixel / view.zoom;
    drawing.style.setProperty("--unit", view.unit);
    for (const node of nodes) node.setAttribute("r", RADIUS * view.unit);
    const taken = names.map((_, i) => dot(i, at, view));
    for (const [i, name] of names.entries()) write(name, i, at, view, taken);
    if (looked !== null) write(hint, looked, at, view);
  };
  const look = (i) => {
    if (looked !== null) nodes[looked].classList.remove("looked");
    looked = i;
    nodes[i].classList.add("looked");
    const isWritten = hasLabels && names[i].textContent !== "" && !names[i].hasAttribute("visibility");
    hint.textContent = isWritten ? "" : short(label(i));
    write(hint, i, at, view);
    onLook(i);
  };
  const zoom = (factor, [x, y] = [view.x + WIDTH / view.zoom / 2, view.y + HEIGHT / view.zoom / 2]) => {
    const next = Math.min(MOST_ZOOM, Math.max(1, view.zoom * factor));
    // What lies under the pointer stays there.
    view.x = x - ((x - view.x) * view.zoom) / next;
    view.y = y - ((y - view.y) * view.zoom) / next;
    view.zoom = next;
    if (next === 1) view.x = view.y = 0;
    draw();
  };

  drawing.addEventListener("pointerover", (event) => event.target.dataset.point !== undefined && look(Number(event.target.dataset.point)));
  drawing.addEventListener("focusin", (event) => event.target.dataset.point !== undefined && look(Number(event.target.dataset.point)));
  drawing.addEventListener("keydown", (event) => step(event, at, nodes, zoom));
  // Plain scrolling belongs to the page; with a pinch or the control key it zooms.
  drawing.addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      zoom(event.deltaY < 0 ? 1.25 : 0.8, inside(drawing, event));
    },
    { passive: false },
  );
  drag(drawing, view, draw);
  new ResizeObserver(() => {
    view.pixel = WIDTH / (drawing.clientWidth || WIDTH);
    draw();
  }).observe(drawing);
  draw();
  const button = (sign, name, factor) => h("button", { type: "button", "aria-label": name, title: name, onclick: () => zoom(factor) }, sign);
  const controls = h("div", { class: "zoom" }, button("+", words.in, 1.6), button("−", words.out, 1 / 1.6), button("⟲", words.all, 1 / MOST_ZOOM));
  return h("div", { class: "map-frame" }, controls, drawing);
}

/** Right of its point, or left of it, above or below, wherever there is room; where `taken` leaves none, it is not shown. */
function write(name, i, at, view, taken = null) {
  const [x, y] = [at[i * 2], at[i * 2 + 1]];
  const height = LETTERS * view.unit;
  const width = [...name.textContent].reduce((sum, letter) => sum + (letter > "\u2e80" ? 1 : NARROW), 0) * height;
  const gap = GAP * view.unit;
  const beside = (anchor, dx, begin) => ({ anchor, dx, dy: 0, left: begin, right: begin + width, top: y - height / 2, bottom: y + height / 2 });
  // Moved aside where the edge is near, but no further than its point.
  const left = Math.max(x - width, Math.min(x, Math.max(view.x, Math.min(x - width / 2, view.x + WIDTH / view.zoom - width))));
  const over = (dy) => ({ anchor: "start", dx: left - x, dy, left, right: left + width, top: y + dy - height / 2, bottom: y + dy + height / 2 });
  const sides = [beside("start", gap, x + gap), beside("end", -gap, x - gap - width), over(-gap - height / 2), over(gap + height / 2)];
  const isInside = (box) => box.left >= view.x && box.right <= view.x + WIDTH / view.zoom && box.top >= view.y && box.bottom <= view.y + HEIGHT / view.zoom;
  const isFree = (box) => taken === null || taken.every((other) => box.right < other.left || box.left > other.right || box.bottom < other.top || box.top > other.bottom);
  const side = sides.find((box) => isInside(box) && isFree(box)) ?? (taken === null ? sides[0] : null);
  if (side === null) return name.setAttribute("visibility", "hidden");
  taken?.push(side);
  name.removeAttribute("visibility");
  for (const [key, value] of Object.entries({ x, y, dx: side.dx, dy: side.dy + height * 0.35, "font-size": height, "text-anchor": side.anchor })) name.setAttribute(key, value);
}

/** The room that a point itself takes. */
function dot(i, at, view) {
  const [x, y, radius] = [at[i * 2], at[i * 2 + 1], RADIUS * view.unit];
  return { left: x - radius, right: x + radius, top: y - radius, bottom: y + radius };
}

/** The points in the drawing's units, with the same scale on both axes, so that distances are told truly. */
function fit(points) {
  const [xs, ys] = [points.filter((_, i) => i % 2 === 0), points.filter((_, i) => i % 2 === 1)];
  const range = (values) => values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
  const [[left, right], [low, high]] = [range(xs), range(ys)];
  const scale = Math.min((WIDTH - 2 * MARGIN) / (right - left || 1), (HEIGHT - 2 * MARGIN) / (high - low || 1));
  return points.map((value, i) => (i % 2 === 0 ? WIDTH / 2 + (value - (left + right) / 2) * scale : HEIGHT / 2 - (value - (low + high) / 2) * scale));
}

const WAYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** To the nearest point in the arrow's direction; + and - zoom. */
function step(event, at, nodes, zoom) {
  if (event.key === "+" || event.key === "-") return zoom(event.key === "+" ? 1.6 : 1 / 1.6);
  const way = WAYS[event.key];
  const here = Number(event.target.dataset.point);
  if (way === undefined || Number.isNaN(here)) return;
  event.preventDefault();
  let best = [Infinity, null];
  for (let i = 0; i < nodes.length; i++) {
    const [x, y] = [at[i * 2] - at[here * 2], at[i * 2 + 1] - at[here * 2 + 1]];
    const ahead = x * way[0] + y * way[1];
    const aside = Math.abs(x * way[1]) + Math.abs(y * way[0]);
    if (i !== here && ahead > 0.01 && ahead + 2 * aside < best[0]) best = [ahead + 2 * aside, i];
  }
  if (best[1] === null) return;
  nodes[here].setAttribute("tabindex", "-1");
  nodes[best[1]].setAttribute("tabindex", "0");
  nodes[best[1]].focus();
}

function inside(drawing, event) {
  const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(drawing.getScreenCTM().inverse());
  return [point.x, point.y];
}

function drag(drawing, view, draw) {
  let from = null;
  drawing.addEventListener("pointerdown", (event) => {
    if (view.zoom === 1) return;
    from = inside(drawing, event);
    drawing.setPointerCapture(event.pointerId);
  });
  drawing.addEventListener("pointermove", (event) => {
    if (from === null) return;
    const here = inside(drawing, event);
    view.x += from[0] - here[0];
    view.y += from[1] - here[1];
    draw();
  });
  for (const name of ["pointerup", "pointercancel"]) drawing.addEventListener(name, () => (from = null));
}

function short(text) {
  return text.length > CHARACTERS ? `${text.slice(0, CHARACTERS)}…` : text;
}
