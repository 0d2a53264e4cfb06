// The page: header, router, the dialog for the key, notices, and what every view is handed (`ctx`).

import { ApiError, makeApi, readKey, writeKey } from "./api.js";
import { h, replace } from "./dom.js";
import { LANGUAGES, currentLanguage, fmt, preferredLanguage, t, useLanguage } from "./i18n.js";
import job from "./views/job.js";
import jobs from "./views/jobs.js";
import live from "./views/live.js";
import playground from "./views/playground.js";
import submit from "./views/submit.js";

/**
 * A view: `{path, mount(root, ctx)}`; mount draws into root and returns what ends its streams and timers.
 * `#/PATH/ARG…?QUERY` shows the view of that path; its title is the message `PATH.title`.
 */
const VIEWS = [live, jobs, job, submit, playground];
const MENU = ["live", "jobs", "submit", "playground"];
const UNDER = { job: "jobs" };
const NOTICE_MS = 8000;
const MODELS_KEEP_MS = 5000;
const THEMES = ["system", "light", "dark"];

const api = makeApi({ askForKey, lost: () => t("connection.no_answer") });
let unmount = null;
let notices = null;
let banner = null;
let modelsAt = -Infinity;
let modelsFound = null;
// Streams that are broken now: while there is one the page says so.
const broken = new Map();

start();

async function start() {
  await useLanguage(preferredLanguage());
  drawFrame();
  addEventListener("hashchange", () => show({ isMove: true }));
  // What a view did not catch is shown too, rather than lost in a console.
  addEventListener("unhandledrejection", (event) => {
    if (event.reason instanceof ApiError) notify(event.reason.message, "error");
  });
  show({ isMove: false });
}

function drawFrame() {
  banner = h("p", { class: "banner", role: "status", hidden: true });
  notices = h("div", { class: "notices", role: "region", "aria-label": t("notices.label") });
  replace(
    document.getElementById("app"),
    h("a", { class: "skip", href: "#main", onclick: skip }, t("skip")),
    h(
      "header",
      { class: "top" },
      h("a", { class: "brand", href: "#/live" }, "umekomi"),
      h("nav", { "aria-label": t("nav.label") }, h("ul", {}, MENU.map((path) => h("li", {}, h("a", { href: `#/${path}`, "data-path": path }, t(`nav.${path}`)))))),
      h("div", { class: "settings" }, keyButton(), languageSelect(), themeSelect()),
    ),
    banner,
    h("main", { id: "main", tabindex: "-1" }),
    notices,
  );
}

// The address belongs to the router: the jump is made here.
function skip(event) {
  event.preventDefault();
  document.getElementById("main").focus();
}

function keyButton() {
  const forget = () => {
    writeKey(null);
    drawFrame();
    show({ isMove: false });
  };
  return readKey() === null ? null : h("button", { class: "quiet", type: "button", onclick: forget, title: t("key.forget.why") }, t("key.forget"));
}

function languageSelect() {
  const options = Object.entries(LANGUAGES).map(([code, name]) => h("option", { value: code, lang: code, selected: code === currentLanguage() }, name));
  const choose = async (event) => {
    await useLanguage(event.target.value, { keep: true });
    drawFrame();
    show({ isMove: false });
    document.querySelector(".settings select")?.focus();
  };
  return h("select", { "aria-label": t("language.label"), onchange: choose }, options);
}

function themeSelect() {
  const chosen = document.documentElement.dataset.theme ?? "system";
  const choose = (event) => {
    const theme = event.target.value;
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    try {
      localStorage.setItem("umekomi.theme", theme);
    } catch {
      // Storage is off: it lasts as long as the page.
    }
  };
  return h("select", { "aria-label": t("theme.label"), onchange: choose }, THEMES.map((theme) => h("option", { value: theme, selected: theme === chosen }, t(`theme.${theme}`))));
}

function show({ isMove }) {
  const { path, args, query } = place();
  const view = VIEWS.find((each) => each.path === path) ?? live;
  unmount?.();
  unmount = null;
  broken.clear();
  drawBanner();
  const root = replace(document.getElementById("main"));
  document.title = `${t(`${view.path}.title`)} · umekomi`;
  for (const link of document.querySelectorAll("nav a")) {
    const isHere = link.dataset.path === (UNDER[view.path] ?? view.path);
    if (isHere) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  // For the keyboard and for screen readers a new view begins at its head, as a new page would.
  if (isMove) {
    root.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
  unmount = view.mount(root, context(args, query)) ?? null;
}

function place() {
  const [whole, search = ""] = location.hash.replace(/^#\/?/, "").split("?", 2);
  const [path, ...args] = whole.split("/").map(decoded);
  return { path: path || "live", args, query: new URLSearchParams(search) };
}

function decoded(piece) {
  try {
    return decodeURIComponent(piece);
  } catch {
    return piece;
  }
}

/** What a view is handed. */
function context(args, query) {
  return {
    /** See api.js. Streams that break are told in the banner of the page. */
    api: { ...api, events },
    /** The words and figures of the language. */
    t,
    fmt,
    /** What stands behind the view's path in the address: pieces, and URLSearchParams. */
    args,
    query,
    /** Show another view: go("job/ID"). */
    go: (path) => (location.hash = `#/${path}`),
    /** The address of another view, for links. */
    link: (path) => `#/${path}`,
    /** Say something for a while; kind "error" stays until it is closed, "info" is the default. */
    notify,
    /** The served models, as GET /v1/models has them; asked again when they are older than a few seconds. */
    models,
    /** A question to be answered with yes or no, by a dialog: confirm(text, {yes: "Delete"}) -> Promise<boolean>. */
    confirm: ask,
  };
}

async function models() {
  if (modelsFound === null || performance.now() - modelsAt > MODELS_KEEP_MS) {
    modelsAt = performance.now();
    modelsFound = api.get("v1/models").then((list) => list.data);
    modelsFound.catch(() => (modelsFound = null));
  }
  return modelsFound;
}

function events(path, onEvent, onState = () => {}) {
  const id = Symbol(path);
  const stop = api.events(path, onEvent, (state, detail) => {
    if (state === "lost") broken.set(id, detail.error.message);
    else if (state === "open" || state === "ended") broken.delete(id);
    drawBanner();
    onState(state, detail);
  });
  return () => {
    stop();
    broken.delete(id);
    drawBanner();
  };
}

function drawBanner() {
  if (banner === null) return;
  banner.hidden = broken.size === 0;
  const text = broken.size ? t("connection.lost", { message: [...broken.values()][0] }) : "";
  if (banner.textContent !== text) banner.textContent = text;
}

function notify(text, kind = "info") {
  const close = () => notice.remove();
  const notice = h(
    "div",
    { class: `notice ${kind}`, role: kind === "error" ? "alert" : "status" },
    h("p", {}, text),
    h("button", { class: "quiet", type: "button", "aria-label": t("notices.close"), onclick: close }, "×"),
  );
  notices.append(notice);
  if (kind !== "error") setTimeout(close, NOTICE_MS);
}

/** The key that somebody types in; the page waits for it. */
function askForKey(message) {
  const input = h("input", { id: "key", type: "password", name: "key", autocomplete: "off", spellcheck: "false", required: true, "aria-describedby": "key-why" });
  const text = h("p", { id: "key-why" }, t("key.why"));
  const said = h("p", { class: "error", role: "alert" }, readKey() === null ? "" : message);
  const form = h(
    "form",
    { method: "dialog" },
    h("h2", { id: "key-title" }, t("key.title")),
    text,
    said,
    h("label", { for: "key" }, t("key.label")),
    input,
    h("div", { class: "row end" }, h("button", { type: "submit", class: "main" }, t("key.use"))),
  );
  const dialog = h("dialog", { "aria-labelledby": "key-title", class: "key" }, form);
  // Without a key there is nothing to go back to.
  dialog.addEventListener("cancel", (event) => event.preventDefault());
  document.body.append(dialog);
  dialog.showModal();
  input.focus();
  return new Promise((resolve) => {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const key = input.value.trim();
      if (!key) return;
      dialog.close();
      dialog.remove();
      resolve(key);
      setTimeout(addKeyButton);
    });
  });
}

function addKeyButton() {
  const settings = document.querySelector(".settings");
  const button = keyButton();
  if (button && !settings.querySelector("button")) settings.prepend(button);
}

function ask(text, { yes = t("confirm.yes"), no = t("confirm.no"), isDanger = false } = {}) {
  return new Promise((resolve) => {
    const answer = (value) => () => {
      dialog.close();
      dialog.remove();
      resolve(value);
    };
    const dialog = h(
      "dialog",
      { "aria-labelledby": "confirm-text" },
      h("p", { id: "confirm-text" }, text),
      h(
        "div",
        { class: "row end" },
        h("button", { type: "button", autofocus: true, onclick: answer(false) }, no),
        h("button", { type: "button", class: isDanger ? "danger" : "main", onclick: answer(true) }, yes),
      ),
    );
    dialog.addEventListener("cancel", answer(false));
    document.body.append(dialog);
    dialog.showModal();
  });
}
