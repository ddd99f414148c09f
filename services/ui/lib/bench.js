// A panel's two halves, what is asked and what was answered, and all that answers have in common.

import { CallError } from "./api.js";
import { h, percent, show } from "./dom.js";
import { InputError } from "./media.js";
import { has, t } from "./words.js";

// Input on the left, answer on the right (below each other where it is narrow).
export function bench(context, inputs, { wide = false } = {}) {
  const answer = h("div", { class: "answer-body" }, hint(t("answer.empty")));
  const section = h("section", { class: "card answer", "aria-label": t("answer"), "aria-live": "polite" }, answer);
  context.root.append(
    h("div", { class: wide ? "bench wide" : "bench" }, h("section", { class: "card", "aria-label": t("input") }, inputs), section),
    jumpTo(section, context.signal),
  );
  context.ask = asker(answer, context.signal); // inputs that fail tell so in the answer's place
  return { answer, ask: context.ask };
}

// Where it is narrow, the answer may be below what is seen: a button leads there.
function jumpTo(section, signal) {
  const jump = h("button", { type: "button", class: "jump", on: { click: () => section.scrollIntoView({ block: "start" }) } }, `${t("answer")} ↓`);
  const seen = new IntersectionObserver(([entry]) => jump.classList.toggle("away", !entry.isIntersecting && entry.boundingClientRect.top > 0));
  seen.observe(section);
  signal.addEventListener("abort", () => seen.disconnect());
  return jump;
}

// Runs one question at a time: a new one ends the one before, and errors are shown where the answer would be.
export function asker(answer, signal) {
  let current = null;
  return async (work) => {
    current?.abort();
    const mine = new AbortController();
    current = mine;
    signal.addEventListener("abort", () => mine.abort(), { once: true });
    answer.setAttribute("aria-busy", "true");
    try {
      const nodes = await work(mine.signal);
      if (nodes && !mine.signal.aborted) show(answer, nodes);
    } catch (error) {
      if (!mine.signal.aborted) show(answer, errorBox(error));
    } finally {
      if (current === mine) answer.removeAttribute("aria-busy");
    }
  };
}

// Where a request has a row, as the page counts rows: `rows[3].features[1]` is in row 4.
function placeOf(field) {
  const [, place] = /^(?:rows|examples|queries)\[(\d+)\]/.exec(field) ?? [];
  return place === undefined ? h("code", {}, field) : t("row", { n: Number(place) + 1 });
}

// An error in words, with the request's id for whoever reads the server's log.
export function errorBox(error) {
  if (error instanceof InputError) return h("div", { class: "notice bad", role: "alert" }, h("strong", {}, t("error.input")), h("p", {}, error.message));
  if (!(error instanceof CallError)) {
    return h("div", { class: "notice bad", role: "alert" }, h("strong", {}, t("error.page")), h("p", {}, String(error?.message ?? error)));
  }
  const title = has(`error.${error.code}`) ? t(`error.${error.code}`) : error.code;
  return h(
    "div",
    { class: "notice bad", role: "alert" },
    h("strong", {}, title),
    error.message && error.fields.length === 0 && h("p", {}, error.message),
    error.fields.length > 0 && h("ul", {}, error.fields.map((one) => h("li", {}, placeOf(one.field), " ", one.description))),
    error.requestId && h("p", { class: "small" }, `${t("requestId")} `, h("code", {}, error.requestId)),
  );
}

export const hint = (text) => h("p", { class: "hint" }, text);

// Which model answered, and how long that took.
export function foot({ answer, ms, requestId }) {
  return h(
    "p",
    { class: "foot" },
    answer.model && h("a", { href: `#models/${answer.model}` }, answer.model),
    answer.version && ` ${t("version", { n: answer.version })}`,
    ms !== undefined && ` · ${Math.round(ms)} ms`,
    requestId && [" · ", h("code", { title: t("requestId") }, requestId.slice(0, 8))],
  );
}

// Reasons to doubt an answer.
export function notices(list = []) {
  return list.map((one) =>
    h("div", { class: "notice warn" }, h("strong", {}, has(`notice.${one.code}`) ? t(`notice.${one.code}`) : t("notice")), h("p", {}, one.text)),
  );
}

// Classes with their probabilities, best first.
export function bars(classes = [], { most = 10, tones = {} } = {}) {
  return h(
    "ol",
    { class: "bars" },
    classes.slice(0, most).map((one, place) =>
      h(
        "li",
        { class: place === 0 ? "best" : null },
        h("span", { class: "bar-label" }, one.label),
        h("span", { class: `bar ${tones[one.label] ?? ""}`, "aria-hidden": "true" }, h("i", { style: { width: `${Math.max(0.5, (one.probability ?? 0) * 100)}%` } })),
        h("span", { class: "bar-value" }, percent(one.probability)),
      ),
    ),
  );
}

// A table with a caption, which `quiet` leaves to screen readers where a heading says the same.
export function table(caption, columns, rows, { quiet = false } = {}) {
  const cell = (value) => h("td", {}, value);
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "group", "aria-label": caption },
    h(
      "table",
      {},
      h("caption", { class: quiet ? "visually-hidden" : null }, caption),
      h("thead", {}, h("tr", {}, columns.map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map(cell)))),
    ),
  );
}

export function picture(url, alt, { caption = "", size = "medium", crisp = true } = {}) {
  const image = h("img", { src: url, alt, class: `picture ${size}${crisp ? " crisp" : ""}` });
  return caption ? h("figure", {}, image, h("figcaption", {}, caption)) : image;
}

export const heading = (text) => h("h2", { class: "sub" }, text);
