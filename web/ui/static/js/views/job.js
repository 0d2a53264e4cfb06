// One job: how far it is, what became of its rows, its shards, and what can be done with it; live by its own event stream.

import { h, patch, replace } from "../dom.js";
import { save } from "../saving.js";
import { STATE_NAMES, drawShards, stateOf, unpack } from "../shards.js";
import { bar, figure, fileOf, table, tag } from "../widgets.js";

const FINISHED = new Set(["completed", "failed", "cancelled", "expired"]);
const ERRORS_OF_A_PAGE = 20;
const FORMATS = { parquet: "Parquet", jsonl: "JSONL", arrow: "Arrow", npy: "npy", npz: "npz" };
// The map follows the job's events, but not each of them: it is made of two looks at Redis.
const MAP_EVERY_MS = 1000;

export default {
  path: "job",
  mount(root, ctx) {
    const { t, api } = ctx;
    const id = ctx.args[0] ?? "";
    const path = `v1/embeddings/jobs/${encodeURIComponent(id)}`;
    const controller = new AbortController();
    const { signal } = controller;
    const state = { job: null, gone: null, acting: null };

    const head = h("div", {});
    const said = h("p", { class: "hidden-text", role: "status" });
    const acted = h("p", { class: "error", role: "alert" });
    const facts = h("div", {});
    const shards = shardCard(ctx, path, signal);
    const errors = errorCard(ctx, path, signal);
    const files = downloads(path, id, ctx, signal);
    const about = h("div", {});
    root.append(h("p", {}, h("a", { href: ctx.link("jobs") }, `← ${t("jobs.title")}`)), head, said, acted, facts, files.node, shards.node, errors.node, about);

    const act = async (verb) => {
      state.acting = verb;
      acted.textContent = "";
      draw();
      try {
        if (verb === "delete") {
          if (!(await ctx.confirm(t("job.delete.sure"), { yes: t("job.delete"), isDanger: true }))) return;
          await api.del(path);
          ctx.notify(t("job.deleted"));
          return ctx.go("jobs");
        }
        if (verb === "cancel" && !(await ctx.confirm(t("job.cancel.sure"), { yes: t("job.cancel"), no: t("job.cancel.not"), isDanger: true }))) return;
        take(await api.post(`${path}/${verb}`));
        if (verb === "retry") follow();
      } catch (error) {
        acted.textContent = error.message;
      } finally {
        state.acting = null;
        draw();
      }
    };

    function take(job) {
      const isNew = state.job === null;
      const before = state.job?.status;
      state.job = job;
      if (!isNew && before !== job.status) said.textContent = t("job.is_now", { status: t(`status.${job.status}`) });
      draw();
      shards.refresh(FINISHED.has(job.status));
      if (isNew || job.counts.failed !== errors.failed || before !== job.status) errors.refresh(job);
    }

    function draw() {
      const { job } = state;
      const file = job ? fileOf(job) : null;
      document.title = `${file ?? id} · umekomi`;
      patch(
        head,
        h("div", { class: "head" }, file === null ? h("h1", {}, t("job.title"), " ", h("code", {}, id)) : h("h1", {}, file), job ? tag(job.status, t(`status.${job.status}`)) : null, file === null ? null : h("code", { class: "under" }, id)),
      );
      for (const part of [shards.node, files.node, about]) part.hidden = state.job === null || state.gone !== null;
      if (state.gone) {
        errors.node.hidden = true;
        return patch(facts, h("p", { class: "card error", role: "alert" }, state.gone));
      }
      if (!job) return patch(facts, h("p", { class: "empty" }, t("loading")));
      patch(facts, buttons(job, state, act, ctx), progress(job, ctx));
      patch(about, told(job, ctx));
      files.refresh(job);
    }

    let stop = () => {};
    function follow() {
      stop();
      stop = api.events(`${path}/events`, heard, (kind, { error }) => {
        // What failed while the server was away is told no longer than that.
        if (kind === "open") acted.textContent = "";
        if (kind === "ended" && error) {
          state.gone = error.message;
          draw();
        }
      });
    }
    function heard(name, data) {
      if (name === "deleted") {
        state.gone = t("job.deleted");
        draw();
        return false;
      }
      take(data);
      return name !== "done";
    }

    draw();
    follow();
    return () => {
      stop();
      shards.stop();
      controller.abort();
    };
  },
};

function buttons(job, state, act, { t }) {
  const isOver = FINISHED.has(job.status);
  const may = {
    pause: !isOver && job.status !== "paused",
    resume: job.status === "paused",
    cancel: !isOver,
    retry: job.status === "completed" && job.counts.failed > 0,
    delete: true,
  };
  return h(
    "div",
    { class: "row actions", role: "group", "aria-label": t("job.actions"), "data-key": "actions" },
    Object.entries(may).map(([verb, isPossible]) =>
      isPossible ? h("button", { type: "button", class: verb === "delete" ? "danger" : verb === "resume" || verb === "retry" ? "main" : "", disabled: state.acting !== null, onclick: () => act(verb), "data-key": verb }, t(`job.${verb}`)) : null,
    ),
  );
}

function progress(job, { t, fmt }) {
  const { counts } = job;
  return h(
    "div",
    { "data-key": "progress" },
    h("div", { class: "card" }, h("div", { class: "share" }, bar(job.progress, t("job.progress"), { state: job.status, failed: counts.total ? counts.failed / counts.total : 0 }), h("strong", {}, fmt.percent(job.progress)), job.eta_seconds === null ? null : h("span", { class: "soft" }, t("job.eta", { time: fmt.duration(job.eta_seconds) }))), job.reason ? h("p", { class: job.status === "failed" ? "error" : "soft", "data-key": "reason" }, job.reason) : null),
    h(
      "dl",
      { class: "figures" },
      figure(t("job.completed"), fmt.number(counts.completed), t("job.of", { n: counts.total })),
      figure(t("job.failed"), fmt.number(counts.failed), counts.failed ? t("job.failed.see") : null),
      figure(t("job.rate"), fmt.short(job.texts_per_second)),
      figure(t("job.tokens"), fmt.short(job.tokens), counts.truncated ? t("job.truncated", { count: counts.truncated, n: fmt.number(counts.truncated) }) : null),
      counts.deduplicated ? figure(t("job.deduplicated"), fmt.number(counts.deduplicated)) : null,
    ),
  );
}

function told(job, { t, fmt }) {
  const facts = [
    [t("job.model"), job.model],
    [t("jobs.priority"), t(`priority.${job.priority}`)],
    [t("jobs.created"), fmt.moment(job.created_at)],
    job.started_at !== null && [t("job.started"), fmt.moment(job.started_at)],
    job.finished_at !== null && [t("job.finished"), `${fmt.moment(job.finished_at)}${job.started_at === null ? "" : ` (${fmt.duration(job.finished_at - job.started_at)})`}`],
    job.expires_at !== null && [t("job.expires"), fmt.moment(job.expires_at)],
    job.retries > 0 && [t("job.retries"), fmt.number(job.retries)],
    ...Object.entries(job.parameters).map(([name, value]) => [h("code", {}, name), String(value)]),
    job.webhook && [t("job.webhook"), [job.webhook.url, " · ", job.webhook.delivered_at ? t("job.webhook.told") : job.webhook.given_up_at ? t("job.webhook.given_up") : t("job.webhook.not_yet")]],
    ...Object.entries(job.metadata ?? {}).map(([name, value]) => [h("code", {}, name), value]),
  ].filter(Boolean);
  return h(
    "section",
    { class: "card", "aria-labelledby": "job-facts", "data-key": "facts" },
    h("h2", { id: "job-facts" }, t("job.facts")),
    h("dl", { class: "facts" }, facts.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
    job.errors.data.length ? [h("h3", {}, t("job.input_errors")), h("ul", { class: "error" }, job.errors.data.map((error) => h("li", {}, error.line ? `${t("job.line", { n: error.line })}: ` : "", error.message)))] : null,
  );
}

function shardCard({ t, fmt, api }, path, signal) {
  const canvas = h("canvas", { class: "shards", role: "img", "aria-label": t("loading") });
  const legend = h("ul", { class: "legend" });
  const pointed = h("p", { class: "soft" }, t("job.shards.point"));
  const problem = h("p", { class: "error", role: "alert" });
  const node = h("section", { class: "card", "aria-labelledby": "job-shards" }, h("h2", { id: "job-shards" }, t("job.shards")), legend, problem, canvas, pointed);
  let map = null;
  let states = "";
  let cellAt = () => null;
  let timer = null;
  let lookedAt = -Infinity;
  let isWanted = false;

  const draw = () => {
    if (map === null || !canvas.isConnected) return;
    cellAt = drawShards(canvas, states);
  };
  async function look() {
    timer = null;
    isWanted = false;
    lookedAt = performance.now();
    try {
      map = await api.get(`${path}/shards`, { signal });
      problem.textContent = "";
    } catch (error) {
      if (!signal.aborted) problem.textContent = error.message;
      return;
    }
    states = unpack(map.runs);
    const parts = STATE_NAMES.map((name) => `${t(`shard.${name}`)} ${fmt.number(map.counts[name])}`);
    canvas.setAttribute("aria-label", t("job.shards.label", { count: map.total, n: fmt.number(map.total), parts: parts.join(", ") }));
    patch(legend, STATE_NAMES.map((name) => h("li", {}, h("span", { class: `swatch ${name}` }), `${t(`shard.${name}`)} ${fmt.number(map.counts[name])}`)));
    draw();
    if (isWanted) refresh();
  }
  // At most one look a time, the last event is always followed by one.
  function refresh() {
    isWanted = true;
    if (timer === null) timer = setTimeout(look, Math.max(0, lookedAt + MAP_EVERY_MS - performance.now()));
  }
  canvas.addEventListener("pointermove", (event) => {
    const number = cellAt(event.offsetX, event.offsetY);
    if (number === null) pointed.textContent = t("job.shards.point");
    else pointed.textContent = t(number >= map.retried_from ? "job.shards.retry" : "job.shards.one", { n: number, state: t(`shard.${stateOf(states[number])}`) });
  });
  const resized = new ResizeObserver(draw);
  resized.observe(node);
  const theme = new MutationObserver(draw);
  theme.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw, { signal });
  return {
    node,
    refresh,
    stop() {
      clearTimeout(timer);
      resized.disconnect();
      theme.disconnect();
    },
  };
}

function errorCard(ctx, path, signal) {
  const { t, api } = ctx;
  const content = h("div", {});
  const node = h("section", { class: "card", "aria-labelledby": "job-errors", hidden: true }, h("h2", { id: "job-errors" }, t("job.errors")), content);
  const card = { node, failed: null, refresh };
  // Where each page begins.
  let starts = [-1];

  function refresh(job) {
    card.failed = job.counts.failed;
    node.hidden = job.counts.failed === 0;
    if (job.counts.failed) look();
  }

  async function look() {
    try {
      // One more than a page tells whether there is another.
      const response = await api.raw(`${path}/errors`, { params: { after: starts.at(-1) }, signal });
      const rows = await firstLines(response, ERRORS_OF_A_PAGE + 1);
      draw(rows);
    } catch (error) {
      if (!signal.aborted) replace(content, h("p", { class: "error", role: "alert" }, error.message));
    }
  }

  function draw(rows) {
    const shown = rows.slice(0, ERRORS_OF_A_PAGE);
    const heads = [{ n: t("job.error.row") }, { n: t("job.error.line") }, t("job.error.id"), t("job.error.code"), t("job.error.message")];
    const cells = shown.map((row) => ({ key: String(row.index), cells: [{ n: row.index }, { n: row.line ?? "–" }, row.id ?? "–", row.error?.code ?? "–", row.error?.message ?? "–"] }));
    const turn = (change) => () => {
      change();
      look();
    };
    patch(
      content,
      table(t("job.errors"), heads, cells, t("job.errors.none")),
      h(
        "div",
        { class: "row end", "data-key": "pages" },
        starts.length > 1 ? h("button", { type: "button", onclick: turn(() => starts.pop()) }, t("job.errors.before")) : null,
        rows.length > ERRORS_OF_A_PAGE ? h("button", { type: "button", onclick: turn(() => starts.push(shown.at(-1).index)) }, t("jobs.next")) : null,
      ),
    );
  }
  return card;
}

/** The first lines of a stream of JSON lines; the rest is not read. */
async function firstLines(response, count) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const rows = [];
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    rest += value ?? "";
    const lines = rest.split("\n");
    rest = done ? "" : lines.pop();
    for (const line of lines) if (line && rows.length < count) rows.push(JSON.parse(line));
    if (done) return rows;
    if (rows.length >= count) {
      await reader.cancel().catch(() => {});
      return rows;
    }
  }
}

function downloads(path, id, { t, fmt, api, notify, link }, signal) {
  const progress = h("p", { class: "soft", role: "status" });
  const problem = h("p", { class: "error", role: "alert" });
  const get = async (what, format) => {
    problem.textContent = "";
    const extension = what === "errors" ? "jsonl" : format;
    try {
      const outcome = await save(api, {
        path: `${path}/${what}`,
        linkPath: `${path}/${what}/link`,
        params: what === "errors" ? {} : { format },
        name: `${id}-${what}.${extension}`,
        onProgress: (bytes) => (progress.textContent = t("job.saved_so_far", { bytes: fmt.bytes(bytes) })),
        signal,
      });
      if (outcome === "saved") notify(t("job.saved"));
    } catch (error) {
      if (!signal.aborted) problem.textContent = error.message;
    }
  };
  const why = h("p", { class: "soft" }, t("job.files.why"));
  const asked = h("a", { class: "button main", href: link(`playground?job=${id}`) }, t("job.playground"));
  const ofErrors = h("button", { type: "button", onclick: () => get("errors"), "aria-label": t("job.download.label", { format: t("job.download.errors") }) }, t("job.download.errors"));
  const node = h(
    "section",
    { class: "card", "aria-labelledby": "job-files", hidden: true },
    h("h2", { id: "job-files" }, t("job.files")),
    why,
    h(
      "div",
      { class: "row" },
      asked,
      h("span", { class: "soft" }, t("job.download")),
      Object.entries(FORMATS).map(([format, name]) => h("button", { type: "button", onclick: () => get("results", format), "aria-label": t("job.download.label", { format: name }) }, name)),
      ofErrors,
    ),
    progress,
    problem,
  );
  const refresh = (job) => {
    why.hidden = FINISHED.has(job.status);
    asked.hidden = job.counts.completed === 0;
    ofErrors.hidden = job.counts.failed === 0;
  };
  return { node, refresh };
}
