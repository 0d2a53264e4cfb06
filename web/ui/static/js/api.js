// The server's API as views use it: JSON, uploads with progress, event streams that mend themselves, and the key.

const KEY = "umekomi.key";
// How long until a stream that broke is tried again: doubled each time, up to the last.
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 5000;
// A server sends something at least every 15 s; a stream that is silent for longer is dead, whatever TCP believes.
const SILENCE_MS = 40_000;

/** What the server said against it; `status` 0: nobody answered. `param` names the field that is wrong. */
export class ApiError extends Error {
  constructor(message, { status = 0, code = null, param = null, requestId = null, retryAfterMs = null } = {}) {
    super(message);
    this.name = "ApiError";
    Object.assign(this, { status, code, param, requestId, retryAfterMs });
  }
}

/**
 * `askForKey(message)` resolves with a key, once the server has said 401. `lost()` words a server that does not answer.
 */
export function makeApi({ askForKey, lost = () => "the server does not answer" }) {
  let asking = null;

  const headers = (more = {}) => {
    const key = readKey();
    return { ...(key ? { Authorization: `Bearer ${key}` } : {}), ...more };
  };

  const noAnswer = (error) => (error?.name === "AbortError" ? error : new ApiError(lost(), { code: "no_answer" }));

  /** Somebody else may have been asked meanwhile: then the key is another one, and worth a try. */
  async function newKey(tried, message) {
    if (readKey() !== tried && readKey() !== null) return;
    asking ??= askForKey(message).finally(() => (asking = null));
    writeKey(await asking);
  }

  /** The response as it is, for what is no JSON; its body is a stream. Raises ApiError unless it is a success. */
  async function raw(path, { method = "GET", params, body, headers: more, signal } = {}) {
    for (;;) {
      const tried = readKey();
      let response;
      try {
        response = await fetch(address(path, params), { method, body, headers: headers(more), signal, cache: "no-store" });
      } catch (error) {
        throw noAnswer(error);
      }
      if (response.ok) return response;
      const error = await errorOf(response);
      if (response.status !== 401) throw error;
      await newKey(tried, error.message);
    }
  }

  async function json(path, options) {
    const response = await raw(path, options);
    if (response.status === 204) return null;
    try {
      return await response.json();
    } catch (error) {
      throw noAnswer(error);
    }
  }

  return {
    raw,
    /** GET, as JSON. */
    get: (path, options) => json(path, options),
    /** POST an object as JSON, or nothing; the answer as JSON. */
    post: (path, body, options = {}) =>
      json(path, {
        ...options,
        method: "POST",
        body: body === undefined || body === null ? undefined : JSON.stringify(body),
        headers: { ...(body === undefined || body === null ? {} : { "Content-Type": "application/json" }), ...options.headers },
      }),
    /** DELETE. */
    del: (path, options = {}) => json(path, { ...options, method: "DELETE" }),

    /**
     * POST a File or Blob as the body, read from the disk while it is sent. `onProgress({sent, total})` in bytes. The answer as
     * JSON. `contentType` is the file's own if it is not given.
     */
    async upload(path, file, { params, contentType, headers: more, onProgress, signal } = {}) {
      for (;;) {
        const tried = readKey();
        try {
          return await send(address(path, params), file, {
            headers: headers({ "Content-Type": contentType || file.type || "application/octet-stream", ...more }),
            onProgress,
            signal,
            lost,
          });
        } catch (error) {
          if (error.status !== 401) throw error;
          await newKey(tried, error.message);
        }
      }
    },

    /**
     * An event stream until the returned function is called: `onEvent(name, data)`, with data parsed.
     * `onState("connecting" | "open" | "lost" | "ended", {error, waitMs})`; a lost one is opened again by itself, with longer and
     * longer pauses. It ends when `onEvent` returns false, or the server says that what is asked for is wrong.
     */
    events(path, onEvent, onState = () => {}) {
      const controller = new AbortController();
      follow({ path, onEvent, onState, signal: controller.signal });
      return () => controller.abort();
    },
  };

  async function follow({ path, onEvent, onState, signal }) {
    let waitMs = FIRST_WAIT_MS;
    onState("connecting", {});
    while (!signal.aborted) {
      let error = null;
      try {
        const response = await raw(path, { signal, headers: { Accept: "text/event-stream" } });
        onState("open", {});
        const isOver = await readEvents(response.body, signal, (name, data) => {
          waitMs = FIRST_WAIT_MS;
          return onEvent(name, data);
        });
        if (isOver) return signal.aborted || onState("ended", {});
        error = new ApiError(lost(), { code: "no_answer" });
      } catch (failure) {
        error = failure instanceof ApiError ? failure : noAnswer(failure);
      }
      if (signal.aborted) return;
      if (!isWorthATry(error)) return onState("ended", { error });
      waitMs = Math.max(waitMs, Math.min(error.retryAfterMs ?? 0, LONGEST_WAIT_MS));
      onState("lost", { error, waitMs });
      await pause(waitMs * (0.8 + 0.4 * Math.random()), signal);
      waitMs = Math.min(LONGEST_WAIT_MS, waitMs * 2);
    }
  }
}

/**
 * The answer of `act()`, asked for again with longer and longer pauses while nobody answers or the server has no time;
 * `onError(error)` hears of each failure. What else goes wrong is raised, as is what failed when the signal came.
 */
export async function persist(act, { signal, onError }) {
  for (let waitMs = FIRST_WAIT_MS; ; waitMs = Math.min(LONGEST_WAIT_MS, waitMs * 2)) {
    try {
      return await act();
    } catch (error) {
      if (signal.aborted || !isWorthATry(error)) throw error;
      onError(error);
      await pause(waitMs, signal);
      if (signal.aborted) throw error;
    }
  }
}

/** Whether the same may succeed later: nobody answered, or the server has no time or no room now. */
export function isWorthATry(error) {
  return error instanceof ApiError && (!(error.status >= 400 && error.status < 500) || error.status === 408 || error.status === 429);
}

/** The key of this tab, or null. */
export function readKey() {
  return sessionStorage.getItem(KEY);
}

/** Keep it as long as the tab is open; null forgets it. */
export function writeKey(key) {
  if (key === null) sessionStorage.removeItem(KEY);
  else sessionStorage.setItem(KEY, key);
}

/** Below wherever the page lies: a proxy may have put a prefix before it. */
export function address(path, params) {
  const url = new URL(path.replace(/^\/+/, ""), document.baseURI.replace(/[?#].*$/, ""));
  for (const [name, value] of Object.entries(params ?? {})) {
    if (value !== null && value !== undefined && value !== "") url.searchParams.set(name, String(value));
  }
  return url;
}

async function errorOf(response) {
  let said = null;
  try {
    said = (await response.json()).error;
  } catch {
    // No JSON: a proxy's own page, say.
  }
  return wordError(response.status, said, (name) => response.headers.get(name));
}

function wordError(status, said, header) {
  const wait = Number(header("retry-after-ms")) || 1000 * Number(header("Retry-After")) || null;
  return new ApiError(said?.message ?? `HTTP ${status}`, {
    status,
    code: said?.code ?? null,
    param: said?.param ?? null,
    requestId: header("x-request-id"),
    retryAfterMs: wait,
  });
}

// fetch tells nothing of how much was sent; XMLHttpRequest does, and reads the file as it goes.
function send(url, file, { headers, onProgress, signal, lost }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const abort = () => request.abort();
    const over = (act, value) => {
      signal?.removeEventListener("abort", abort);
      act(value);
    };
    request.open("POST", url);
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => onProgress?.({ sent: event.loaded, total: event.total || file.size });
    request.onload = () => {
      let body = null;
      try {
        body = JSON.parse(request.responseText);
      } catch {
        // Below.
      }
      if (request.status >= 200 && request.status < 300 && body !== null) over(resolve, body);
      else over(reject, wordError(request.status, body?.error, (name) => request.getResponseHeader(name)));
    };
    request.onerror = () => over(reject, new ApiError(lost(), { code: "no_answer" }));
    request.onabort = () => over(reject, new DOMException("given up", "AbortError"));
    if (signal?.aborted) return over(reject, new DOMException("given up", "AbortError"));
    signal?.addEventListener("abort", abort);
    request.send(file);
  });
}

/** True if `onEvent` returned false; false if the stream ended by itself. */
async function readEvents(body, signal, onEvent) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let timer = null;
  const heard = () => {
    clearTimeout(timer);
    timer = setTimeout(() => reader.cancel().catch(() => {}), SILENCE_MS);
  };
  try {
    for (;;) {
      heard();
      const { value, done } = await reader.read();
      if (done || signal.aborted) return signal.aborted;
      rest += value;
      let end;
      while ((end = rest.indexOf("\n\n")) >= 0) {
        const event = parse(rest.slice(0, end));
        rest = rest.slice(end + 2);
        if (event !== null && onEvent(event.name, event.data) === false) return true;
      }
    }
  } finally {
    clearTimeout(timer);
    reader.cancel().catch(() => {});
  }
}

function parse(block) {
  let name = "message";
  const data = [];
  for (const line of block.split("\n")) {
    if (line.startsWith("event:")) name = line.slice(6).trim();
    else if (line.startsWith("data:")) data.push(line.slice(5).trim());
  }
  if (!data.length) return null;
  try {
    return { name, data: JSON.parse(data.join("\n")) };
  } catch {
    return null;
  }
}

function pause(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}
