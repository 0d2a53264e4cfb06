// How far an upload is: bytes, rate and time left, and what can be done about it.

import { h, patch } from "../dom.js";

/** Draw `upload` into `node` whenever it changes, until the returned function is called. `onOver` is told when it is accepted or refused. */
export function showUpload(node, upload, { t, fmt, onOver, onGone }) {
  const draw = () => {
    if (upload.state === "accepted" || upload.state === "refused") {
      node.replaceChildren();
      return onOver(upload);
    }
    if (upload.state === "cancelled") {
      node.replaceChildren();
      return onGone(upload);
    }
    patch(node, card(upload, t, fmt));
  };
  upload.addEventListener("change", draw);
  draw();
  return () => upload.removeEventListener("change", draw);
}

function card(upload, t, fmt) {
  const isLost = upload.state === "lost";
  const isSent = upload.sent >= upload.total && upload.total > 0;
  const share = upload.total ? upload.sent / upload.total : 0;
  return h(
    "section",
    { class: "card upload", "aria-labelledby": "upload-title" },
    h("h2", { id: "upload-title" }, t("submit.sending", { name: upload.name })),
    h("progress", { max: "1", value: share, "aria-labelledby": "upload-title" }),
    h(
      "p",
      { class: "figures-line" },
      t("submit.bytes", { sent: fmt.bytes(upload.sent), total: fmt.bytes(upload.total) }),
      " · ",
      fmt.percent(share),
      !isLost && !isSent && upload.rate ? [" · ", t("submit.rate", { rate: fmt.bytes(upload.rate) }), " · ", t("submit.left", { time: fmt.duration(upload.secondsLeft) })] : null,
    ),
    h("p", { role: "status", class: isLost ? "error" : "soft" }, isLost ? t("submit.lost", { message: upload.error.message }) : isSent ? t("submit.waiting") : ""),
    h(
      "div",
      { class: "row" },
      isLost ? h("button", { type: "button", class: "main", "data-key": "again", onclick: () => upload.send() }, t("submit.again")) : null,
      h("button", { type: "button", "data-key": "cancel", onclick: () => upload.cancel() }, t(isLost ? "submit.give_up" : "submit.cancel")),
    ),
  );
}
