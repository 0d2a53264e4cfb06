// The jobs of this key: a table, newest first, a page at a time; what is unfinished is looked at again every few seconds.

import { h, patch } from "../dom.js";
import { fileOf, oneLine, shareBar, shortId, table, tag } from "../widgets.js";

const PAGE = 20;
const LOOK_EVERY_MS = 3000;
const LONGEST_WAIT_MS = 5000;
const STATUSES = ["queued", "in_progress", "paused", "completed", "failed", "cancelled", "validating"];
const FINISHED = new Set(["completed", "failed", "cancelled", "expired"]);

export default {
  path: "jobs",
  mount(root, ctx) {
    const { t, api, query } = ctx;
    const state = { list: null, error: null };
    const status = STATUSES.includes(query.get("status")) ? query.get("status") : "";
    const after = query.get("after") ?? "";
    const controller = new AbortController();
    let timer = null;
    let waitMs = LOOK_EVERY_MS;

    const filter = h(
      "select",
      { id: "status", onchange: (event) => ctx.go(`jobs${event.target.value ? `?status=${event.target.value}` : ""}`) },
      h("option", { value: "" }, t("jobs.all")),
      STATUSES.map((each) => h("option", { value: each, selected: each === status }, t(`status.${each}`))),
    );
    const body = h("div", { class: "card" });
    root.append(
      h("div", { class: "head" }, h("h1", { class: "grow" }, t("jobs.title")), h("label", { for: "status" }, t("jobs.status")), filter, h("a", { class: "button main", href: ctx.link("submit") }, t("jobs.submit"))),
      body,
    );

    const draw = () => patch(body, state.error ? h("p", { class: "error", role: "alert", "data-key": "error" }, state.error.message) : null, content(state.list, { status, after }, ctx));

    async function look() {
      try {
        state.list = await api.get("v1/embeddings/jobs", { params: { limit: PAGE, status, after }, signal: controller.signal });
        state.error = null;
        waitMs = LOOK_EVERY_MS;
      } catch (error) {
        if (controller.signal.aborted) return;
        state.error = error;
        waitMs = Math.min(LONGEST_WAIT_MS, waitMs * 2);
      }
      if (controller.signal.aborted) return;
      draw();
      // Nobody looks at a page in the background, and what is finished stays as it is; new ones come on the first page.
      const mayChange = state.error || after === "" || state.list.data.some((job) => !FINISHED.has(job.status));
      if (mayChange) timer = setTimeout(again, waitMs);
    }
    const again = () => (document.hidden ? document.addEventListener("visibilitychange", look, { once: true, signal: controller.signal }) : look());

    draw();
    look();
    return () => {
      controller.abort();
      clearTimeout(timer);
    };
  },
};

function content(list, { status, after }, ctx) {
  const { t, fmt, link } = ctx;
  if (list === null) return h("p", { class: "empty" }, t("loading"));
  const rows = list.data.map((job) => ({
    key: job.id,
    cells: [
      fileOf(job) === null
        ? h("a", { href: link(`job/${job.id}`) }, shortId(job.id))
        : [h("a", { href: link(`job/${job.id}`) }, oneLine(fileOf(job))), h("div", { class: "under" }, shortId(job.id))],
      tag(job.status, t(`status.${job.status}`), job.reason),
      shareBar(job.progress, t("jobs.progress.of", { id: job.id }), fmt.percent(job.progress), {
        state: job.status,
        failed: job.counts.total ? job.counts.failed / job.counts.total : 0,
      }),
      { n: fmt.number(job.counts.total) },
      { n: job.counts.failed ? h("span", { class: "error" }, fmt.number(job.counts.failed)) : fmt.number(0) },
      { n: fmt.short(job.texts_per_second) },
      { n: fmt.duration(job.eta_seconds) },
      [oneLine(job.model), h("div", { class: "under" }, t(`priority.${job.priority}`))],
      h("span", { class: "nowrap", title: fmt.moment(job.created_at) }, fmt.moment(job.created_at, "short")),
    ],
  }));
  const heads = [t("jobs.job"), t("job.status"), t("jobs.progress"), { n: t("jobs.rows") }, { n: t("jobs.failed") }, { n: t("jobs.rate") }, { n: t("jobs.eta") }, t("jobs.model"), t("jobs.created")];
  const filtered = status ? `status=${status}&` : "";
  return [
    table(t("jobs.title"), heads, rows, status || after ? t("jobs.none.such") : t("jobs.none")),
    h(
      "nav",
      { class: "row end", "aria-label": t("jobs.pages"), "data-key": "pages" },
      after ? h("a", { class: "button", href: link(`jobs${status ? `?status=${status}` : ""}`) }, t("jobs.first")) : null,
      list.has_more ? h("a", { class: "button", href: link(`jobs?${filtered}after=${encodeURIComponent(list.last_id)}`) }, t("jobs.next")) : null,
    ),
  ];
}
