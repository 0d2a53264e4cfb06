// Words, numbers and times in the reader's language. The messages lie in locales/LANGUAGE/VIEW.js.

export const LANGUAGES = { en: "English", ja: "日本語" };
const PARTS = ["common", "live", "jobs", "job", "submit", "playground"];
const CHOSEN = "umekomi.language";

let language = "en";
// Its numbers and dates, as the reader's own country writes them.
let locale = "en";
let messages = {};

/** The language chosen here before, else the browser's first that we have, else English. */
export function preferredLanguage() {
  let chosen = null;
  try {
    chosen = localStorage.getItem(CHOSEN);
  } catch {
    // Storage is off.
  }
  const wishes = [chosen, ...(navigator.languages ?? [navigator.language])].filter(Boolean);
  return wishes.map((wish) => wish.slice(0, 2).toLowerCase()).find((wish) => wish in LANGUAGES) ?? "en";
}

/** Load a language's messages; `keep` remembers the choice. */
export async function useLanguage(name, { keep = false } = {}) {
  const parts = await Promise.all(PARTS.map((part) => import(`../locales/${name}/${part}.js`)));
  messages = Object.assign({}, ...parts.map((part) => part.default));
  language = name;
  locale = (navigator.languages ?? []).find((each) => each.slice(0, 2).toLowerCase() === name) ?? name;
  document.documentElement.lang = name;
  if (keep) {
    try {
      localStorage.setItem(CHOSEN, name);
    } catch {
      // Storage is off: it lasts as long as the page.
    }
  }
}

/** The language in use. */
export function currentLanguage() {
  return language;
}

/** The message, with {name} replaced by values. With `count` the form KEY.one or KEY.other is taken where there is one. */
export function t(key, values = {}) {
  let message = messages[key];
  if ("count" in values) {
    const form = new Intl.PluralRules(language).select(Number(values.count));
    message = messages[`${key}.${form}`] ?? messages[`${key}.other`] ?? message;
  }
  if (message === undefined) return key;
  return message.replace(/\{(\w+)\}/g, (whole, name) => {
    const value = values[name];
    return value === undefined ? whole : typeof value === "number" ? fmt.number(value) : String(value);
  });
}

const NONE = "–";

/** Figures for people; null and undefined are a dash. */
export const fmt = {
  /** At most `digits` behind the point. */
  number: (value, digits = 0) =>
    value === null || value === undefined ? NONE : new Intl.NumberFormat(locale, { maximumFractionDigits: digits }).format(value),
  /** 12.3k, 4.5M. */
  short: (value) =>
    value === null || value === undefined
      ? NONE
      : new Intl.NumberFormat(locale, { notation: "compact", ...(value < 1000 ? { maximumFractionDigits: value < 10 ? 1 : 0 } : { maximumSignificantDigits: 3 }) }).format(value),
  /** A share of 1, rounded down: 100 % is said when it is. */
  percent: (value) =>
    value === null || value === undefined
      ? NONE
      : new Intl.NumberFormat(locale, { style: "percent" }).format(Math.floor(value * 100) / 100),
  bytes(value) {
    if (value === null || value === undefined) return NONE;
    const units = ["B", "kB", "MB", "GB", "TB"];
    let unit = 0;
    for (; value >= 1000 && unit < units.length - 1; unit++) value /= 1000;
    return `${fmt.number(value, unit && value < 100 ? 1 : 0)} ${units[unit]}`;
  },
  /** Seconds: 340 ms, 4.2 s, 3 min 20 s, 2 h 5 min. */
  duration(seconds) {
    if (seconds === null || seconds === undefined) return NONE;
    if (seconds < 0.9995) return t("time.ms", { n: fmt.number(Math.max(0, seconds) * 1000, seconds < 0.01 ? 1 : 0) });
    if (seconds < 59.5) return t("time.s", { n: fmt.number(seconds, seconds < 10 ? 1 : 0) });
    const minutes = Math.floor(seconds / 60);
    if (minutes < 60) return t("time.min", { m: minutes, s: Math.floor(seconds % 60) });
    const hours = Math.floor(minutes / 60);
    return hours < 48 ? t("time.h", { h: hours, m: minutes % 60 }) : t("time.d", { d: Math.floor(hours / 24), h: hours % 24 });
  },
  /** A moment in unix seconds, to the second or, "short", to the minute. */
  moment: (at, timeStyle = "medium") =>
    at === null || at === undefined
      ? NONE
      : new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle }).format(new Date(at * 1000)),
};
