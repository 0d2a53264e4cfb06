// Saving a job's file: to disk while it comes where the browser lets us, else by a link that is good once; never in memory.

import { readKey } from "./api.js";

/**
 * Fetch `path` and save it as `name`. `onProgress(bytes)` where the page itself writes the file. Resolves with "saved", "begun" (the
 * browser goes on by itself) or "given up" (nobody chose a file); raises ApiError.
 */
export async function save(api, { path, linkPath, params, name, onProgress, signal }) {
  if ("showSaveFilePicker" in window && window.isSecureContext) {
    let file;
    try {
      file = await window.showSaveFilePicker({ suggestedName: name });
    } catch (error) {
      if (error.name === "AbortError") return "given up";
      return byLink(api, { path, linkPath, params, name });
    }
    const response = await api.raw(path, { params, signal });
    let bytes = 0;
    const counted = new TransformStream({
      transform(chunk, controller) {
        bytes += chunk.byteLength;
        onProgress?.(bytes);
        controller.enqueue(chunk);
      },
    });
    await response.body.pipeThrough(counted).pipeTo(await file.createWritable(), { signal });
    return "saved";
  }
  return byLink(api, { path, linkPath, params, name });
}

async function byLink(api, { path, linkPath, params, name }) {
  // Without keys the plain address does.
  const url = readKey() === null ? withParams(path, params) : (await api.post(linkPath, null, { params })).url;
  const link = document.createElement("a");
  link.href = new URL(url.replace(/^\/+/, ""), document.baseURI.replace(/[?#].*$/, ""));
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
  return "begun";
}

function withParams(path, params) {
  const query = new URLSearchParams(params ?? {}).toString();
  return query ? `${path}?${query}` : path;
}
