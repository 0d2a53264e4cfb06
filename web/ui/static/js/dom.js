// Elements out of words. Whatever a server says becomes a text node or an attribute, never markup: there is no innerHTML here.

const SVG = "http://www.w3.org/2000/svg";
const PROPERTIES = new Set(["value", "checked", "disabled", "hidden", "selected", "indeterminate", "open", "readOnly"]);
const HANDLERS = Symbol("handlers");
const GIVEN = Symbol("given properties");

/** An element: h("button", {class: "quiet", onclick: f, "aria-label": "…"}, "text", child, [more], null). */
export function h(tag, props, ...children) {
  return build(document.createElement(tag), props, children);
}

/** The same for drawings. */
export function svg(tag, props, ...children) {
  return build(document.createElementNS(SVG, tag), props, children);
}

function build(node, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) set(node, name, value);
  append(node, children);
  return node;
}

function append(node, children) {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    if (Array.isArray(child)) append(node, child);
    else node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
}

function set(node, name, value) {
  if (value === null || value === undefined) return;
  if (name.startsWith("on")) return listen(node, name.slice(2), value);
  // By property, one at a time: the page's policy allows no style attribute.
  if (name === "style") for (const [key, each] of Object.entries(value)) node.style.setProperty(key, each);
  else if (PROPERTIES.has(name) && name in node) (node[GIVEN] ??= {})[name] = node[name] = value;
  else if (value === false) return;
  else if ((name === "href" || name === "src") && /^\s*javascript:/i.test(value)) throw new Error("no script in an address");
  else node.setAttribute(name, value === true ? "" : String(value));
}

// One listener an event; what it calls can be replaced when the element is drawn anew.
function listen(node, type, handler) {
  node[HANDLERS] ??= {};
  if (!(type in node[HANDLERS])) node.addEventListener(type, (event) => node[HANDLERS][type]?.(event));
  node[HANDLERS][type] = handler;
}

/** Put these children in place of all others. */
export function replace(node, ...children) {
  node.replaceChildren();
  append(node, children);
  return node;
}

/**
 * Make what `node` holds look like `children`, keeping the elements that are there: focus, scroll, selection and open menus
 * survive a redraw each second. Elements with a `data-key` are found again by it.
 */
export function patch(node, ...children) {
  const wanted = document.createDocumentFragment();
  append(wanted, children);
  morphChildren(node, wanted);
  return node;
}

function morphChildren(from, to) {
  const keyed = new Map();
  for (const child of from.children) if (child.dataset?.key) keyed.set(child.dataset.key, child);
  let here = from.firstChild;
  for (const wanted of [...to.childNodes]) {
    const key = wanted.dataset?.key;
    const found = key ? keyed.get(key) : here && !here.dataset?.key ? here : null;
    if (found && isSameKind(found, wanted)) {
      if (found !== here) from.insertBefore(found, here);
      else here = here.nextSibling;
      if (key) keyed.delete(key);
      morph(found, wanted);
    } else {
      from.insertBefore(wanted, here);
    }
  }
  while (here) {
    const next = here.nextSibling;
    here.remove();
    here = next;
  }
}

function isSameKind(a, b) {
  return a.nodeType === b.nodeType && a.nodeName === b.nodeName;
}

function morph(from, to) {
  if (from.nodeType === Node.TEXT_NODE) {
    if (from.data !== to.data) from.data = to.data;
    return;
  }
  for (const { name } of [...from.attributes]) if (name !== "style" && !to.hasAttribute(name)) from.removeAttribute(name);
  for (const { name, value } of to.attributes)
    if (name !== "style" && from.getAttribute(name) !== value) from.setAttribute(name, value);
  if (from.style && from.style.cssText !== to.style.cssText) {
    for (const name of [...from.style]) if (!to.style.getPropertyValue(name)) from.style.removeProperty(name);
    for (const name of [...to.style]) from.style.setProperty(name, to.style.getPropertyValue(name));
  }
  morphChildren(from, to);
  // After the children, for a select's value is one of its options. What somebody is typing or choosing is theirs.
  for (const [name, value] of Object.entries(to[GIVEN] ?? {})) {
    if (from[name] !== value && (from !== document.activeElement || name === "disabled" || name === "hidden")) from[name] = value;
  }
  if (to[HANDLERS] || from[HANDLERS]) {
    for (const type of Object.keys(from[HANDLERS] ?? {})) if (!to[HANDLERS]?.[type]) from[HANDLERS][type] = null;
    for (const [type, handler] of Object.entries(to[HANDLERS] ?? {})) listen(from, type, handler);
  }
}
