// The live view: what runs, what waits, and why; one stream of snapshots.

import { chart } from "../chart.js";
import { h, patch } from "../dom.js";
import { figure, oneLine, shareBar, shortId, table, tag } from "../widgets.js";

const WINDOW_S = 600;
// A worker is heard every second; one that is silent for longer is about to count as dead.
const QUIET_S = 2.5;

export default {
  path: "live",
  mount(root, ctx) {
    const { t } = ctx;
    const state = { overview: null, receivedAt: 0, error: null };
    const body = h("div", {});
    const said = h("p", { class: "hidden-text", role: "status" });
    root.append(h("div", { class: "head" }, h("h1", {}, t("live.title"))), said, body);

    const draw = () => {
      if (state.error) patch(body, h("p", { class: "error", role: "alert" }, state.error.message));
      else if (state.overview === null) patch(body, h("p", { class: "empty" }, t("loading")));
      else patch(body, whole(state.overview, ctx));
      // What changes each second is not read out; what somebody would act on is.
      const sentence = state.overview ? summary(state.overview, ctx) : "";
      if (said.textContent !== sentence) said.textContent = sentence;
    };
    const stop = ctx.api.events(
      "v1/overview/events",
      (name, data) => {
        if (name !== "overview") return;
        state.overview = data;
        state.error = null;
        draw();
      },
      (kind, { error }) => {
        if (kind === "ended" && error) {
          state.error = error;
          draw();
        }
      },
    );
    draw();
    return stop;
  },
};

/** What an operator would say aloud: whether anything is wrong. */
function summary(overview, { t }) {
  if (overview.redis === "away") return t("live.redis_away");
  if (overview.scope === "all" && !overview.workers.length) return t("live.no_worker");
  const failed = overview.models.filter((model) => model.state === "failed").map((model) => model.name);
  return failed.length ? t("live.failed_models", { names: failed.join(", ") }) : "";
}

function whole(overview, ctx) {
  const { t } = ctx;
  const warning = summary(overview, ctx);
  return [
    warning ? h("p", { class: "card error", "data-key": "warning" }, warning) : null,
    overview.problems.length
      ? h("div", { class: "card", "data-key": "problems" }, h("h2", {}, t("live.problems")), h("ul", {}, overview.problems.map((problem) => h("li", {}, problem))))
      : null,
    overview.scope === "own" ? h("p", { class: "soft", "data-key": "scope" }, t("live.own")) : figures(overview, ctx),
    overview.scope === "all" ? h("div", { class: "columns", "data-key": "charts" }, throughput(overview, "texts", ctx), throughput(overview, "tokens", ctx)) : null,
    card("jobs", t("live.jobs"), jobs(overview, ctx)),
    overview.scope === "all"
      ? h("div", { class: "columns wide", "data-key": "lanes" }, card("interactive", t("live.interactive"), interactive(overview, ctx), t("live.interactive.why")), card("bulk", t("live.bulk"), bulk(overview, ctx), t("live.bulk.why")))
      : null,
    card("models", t("live.models"), models(overview, ctx)),
    overview.scope === "all" ? card("workers", t("live.workers"), workers(overview, ctx)) : null,
  ];
}

function card(key, title, content, why) {
  return h("section", { class: "card", "data-key": key, "aria-labelledby": `live-${key}` }, h("h2", { id: `live-${key}`, title: why ?? null }, title), content);
}

function figures(overview, { t, fmt }) {
  const { lanes, throughput: done } = overview;
  const last = (by) => Object.values(by).reduce((sum, series) => sum + (series.at(-1) ?? 0), 0);
  // A step that is old tells nothing of now.
  const isFresh = done.at.length > 0 && overview.at - done.at.at(-1) < 3 * Math.max(5, done.step_seconds);
  const asks = lanes.interactive.reduce((sum, lane) => sum + lane.asks, 0);
  const oldest = Math.max(0, ...lanes.interactive.map((lane) => lane.oldest_seconds ?? 0));
  const answered = lanes.interactive.reduce((sum, lane) => sum + lane.answered, 0);
  const slowest = Math.max(0, ...lanes.interactive.map((lane) => lane.p99_seconds ?? 0));
  const shards = lanes.bulk.reduce((sum, lane) => sum + lane.shards_waiting + lane.shards_in_flight, 0);
  const running = overview.jobs.filter((job) => job.status === "in_progress").length;
  return h(
    "dl",
    { class: "figures", "data-key": "figures" },
    figure(t("live.figure.workers"), fmt.number(overview.workers.length), [...new Set(overview.workers.map((worker) => worker.device))].join(", ")),
    figure(t("live.figure.texts"), isFresh ? fmt.short(last(done.texts_per_second)) : fmt.number(0), t("live.figure.tokens", { n: isFresh ? fmt.short(last(done.tokens_per_second)) : "0" })),
    figure(t("live.figure.asks"), fmt.number(asks), asks ? t("live.figure.oldest", { age: fmt.duration(oldest) }) : t("live.figure.none_waits")),
    figure(t("live.figure.p99"), answered ? fmt.duration(slowest) : "–", t("live.figure.answered", { count: answered, n: fmt.number(answered) })),
    figure(t("live.figure.jobs"), fmt.number(overview.unfinished_jobs), t("live.figure.running", { n: running, shards: fmt.number(shards) })),
  );
}

function throughput(overview, what, { t, fmt }) {
  const done = overview.throughput;
  const series = done[`${what}_per_second`];
  const highest = Math.max(0, ...done.at.map((_, i) => Object.values(series).reduce((sum, each) => sum + each[i], 0)));
  const words = {
    label: t(`live.chart.${what}.label`, { highest: fmt.short(highest) }),
    format: fmt.short,
    ago: (seconds) => (seconds ? t("live.chart.ago", { m: Math.round(seconds / 60) }) : t("live.chart.now")),
  };
  return h(
    "section",
    { class: "card", "data-key": what, "aria-labelledby": `live-chart-${what}` },
    h("div", { class: "row" }, h("h2", { id: `live-chart-${what}`, class: "grow" }, t(`live.chart.${what}`)), h("ul", { class: "legend" }, ["interactive", "bulk"].map((lane) => h("li", {}, h("span", { class: `swatch ${lane}` }), t(`lane.${lane}`))))),
    chart({ at: done.at, lanes: { bulk: series.bulk, interactive: series.interactive }, stepSeconds: done.step_seconds || 5, windowSeconds: WINDOW_S, now: overview.at }, words),
  );
}

function jobs(overview, { t, fmt, link }) {
  const rows = overview.jobs.map((job) => {
    const share = job.shards ? job.shards_done / job.shards : 0;
    const id = shortId(job.id);
    return {
      key: job.id,
      cells: [
        job.is_yours && job.kind === "job" ? h("a", { href: link(`job/${job.id}`) }, id) : id,
        tag(job.status, t(`status.${job.status}`)),
        shareBar(share, t("live.job.progress", { id: job.id }), fmt.percent(share), { state: job.status }),
        { n: fmt.number(job.rows) },
        { n: t("live.job.shards", { done: fmt.number(job.shards_done), total: fmt.number(job.shards), running: job.shards_in_flight }) },
        oneLine(job.model),
        t(`priority.${job.priority}`),
        { n: fmt.duration(Math.max(0, overview.at - job.created_at)) },
      ],
    };
  });
  const more = overview.unfinished_jobs - overview.jobs.length;
  // Whoever is here for the first time learns where to begin.
  const none = [t("live.jobs.none"), " ", h("a", { href: link("submit") }, t("jobs.submit")), " · ", h("a", { href: link("playground") }, t("live.try"))];
  return [
    table(t("live.jobs"), [t("live.job"), t("job.status"), t("live.progress"), { n: t("live.rows") }, { n: t("live.shards") }, t("live.model"), t("live.priority"), { n: t("live.age") }], rows, none),
    more > 0 ? h("p", { class: "soft" }, t("live.jobs.more", { count: more, n: fmt.number(more) })) : null,
  ];
}

function interactive(overview, { t, fmt }) {
  const rows = overview.lanes.interactive.map((lane) => ({
    key: lane.model,
    cells: [
      oneLine(lane.model),
      { n: fmt.number(lane.asks) },
      { n: fmt.duration(lane.oldest_seconds) },
      { n: fmt.duration(lane.p50_seconds) },
      { n: fmt.duration(lane.p99_seconds) },
      { n: fmt.number(lane.answered) },
      { n: lane.failed ? h("strong", { class: "error" }, fmt.number(lane.failed)) : fmt.number(0) },
    ],
  }));
  const heads = [t("live.model"), { n: t("live.waiting") }, { n: t("live.oldest") }, { n: "p50" }, { n: "p99" }, { n: t("live.answered") }, { n: t("live.failed") }];
  return table(t("live.interactive"), heads, rows, t("live.models.none"));
}

function bulk(overview, { t, fmt }) {
  const rows = overview.lanes.bulk.map((lane) => ({
    key: lane.model,
    cells: [oneLine(lane.model), { n: fmt.number(lane.jobs) }, { n: fmt.number(lane.paused) }, { n: fmt.number(lane.shards_in_flight) }, { n: fmt.number(lane.shards_waiting) }, { n: fmt.duration(lane.oldest_seconds) }],
  }));
  const heads = [t("live.model"), { n: t("live.jobs.short") }, { n: t("live.paused") }, { n: t("live.in_flight") }, { n: t("live.waiting") }, { n: t("live.oldest") }];
  return table(t("live.bulk"), heads, rows, t("live.bulk.none"));
}

function models(overview, { t, fmt }) {
  const rows = overview.models.map((model) => {
    const { download } = model;
    const share = download ? download.done_bytes / Math.max(1, download.total_bytes) : 0;
    return {
      key: model.name,
      cells: [
        oneLine(model.name),
        h(
          "div",
          {},
          tag(model.state, t(`model.${model.state}`)),
          model.pinned ? [" ", tag("", t("live.pinned"))] : null,
          model.reason ? h("div", { class: model.state === "failed" ? "error" : "soft" }, model.reason) : null,
          download ? shareBar(share, t("live.download", { name: model.name }), `${fmt.percent(share)} · ${fmt.bytes(download.total_bytes)}`) : null,
        ),
        model.device ?? "–",
        [model.dtype, model.engine].filter(Boolean).join(" · "),
        { n: fmt.number(model.dimensions) },
        { n: fmt.number(model.max_tokens) },
        { n: fmt.bytes(model.memory_bytes) },
        { n: fmt.short(model.tokens_per_second) },
        { n: fmt.number(model.workers) },
      ],
    };
  });
  const heads = [t("live.model"), t("live.state"), t("live.device"), t("live.dtype"), { n: t("live.dimensions") }, { n: t("live.max_tokens") }, { n: t("live.memory") }, { n: t("live.tokens_per_second") }, { n: t("live.workers.short") }];
  return table(t("live.models"), heads, rows, t("live.models.none"));
}

function workers(overview, { t, fmt, link }) {
  const own = new Set(overview.jobs.filter((job) => job.is_yours && job.kind === "job").map((job) => job.id));
  const rows = overview.workers.map((worker) => ({
    key: worker.id,
    cells: [
      h("span", { title: worker.id }, `${worker.host} · ${worker.pid}`),
      worker.device,
      { n: h("span", { class: worker.heard_seconds_ago > QUIET_S ? "error" : null }, fmt.duration(worker.heard_seconds_ago)) },
      worker.shards.length
        ? h("ul", { class: "plain" }, worker.shards.map((shard) => h("li", {}, own.has(shard.job) ? h("a", { href: link(`job/${shard.job}`) }, shortId(shard.job)) : shortId(shard.job), ` ${shardName(shard.shard, t)} · ${shard.model} · `, h("span", { class: "nowrap" }, fmt.duration(shard.seconds)))))
        : h("span", { class: "soft" }, t("live.idle")),
      { n: fmt.number(worker.waiting_tokens.interactive ?? 0) },
      { n: fmt.number(worker.waiting_tokens.bulk ?? 0) },
      worker.models.join(", ") || "–",
      { n: fmt.bytes(worker.memory_bytes) },
      { n: fmt.duration(Math.max(0, overview.at - worker.started_at)) },
    ],
  }));
  const heads = [t("live.worker"), t("live.device"), { n: t("live.heard") }, t("live.runs"), { n: t("live.waiting.interactive") }, { n: t("live.waiting.bulk") }, t("live.loaded"), { n: t("live.memory") }, { n: t("live.up") }];
  return table(t("live.workers"), heads, rows, t("live.no_worker"));
}

function shardName(shard, t) {
  if (shard === -1) return t("live.shard.prepare");
  return shard === -2 ? t("live.shard.finalize") : t("live.shard", { n: shard });
}
