// The frame around the panels: navigation by hash, language, colours, and whether the server answers.

import { isReady, listModels, serverFacts, watchers, latencies } from "./lib/api.js";
import { errorBox } from "./lib/bench.js";
import { h, show } from "./lib/dom.js";
import { LANGUAGES, currentLanguage, keep, keepLanguage, kept, preferredLanguage, t, useLanguage } from "./lib/words.js";
import { BEHIND, HOMEWORKS, MORE, TABS, addressOf } from "./tabs.js";

const THEME = "lectern.theme";
const SCHEMES = ["auto", "light", "dark"];
const HEALTH_MILLISECONDS = 15_000;

const nav = document.getElementById("nav");
const main = document.getElementById("main");
const tools = document.getElementById("tools");
const skip = document.getElementById("skip");
const health = h("a", { class: "health", href: "#server" }, h("span", {}));
let leaving = new AbortController();
let missing = new Map(); // tab's part -> why the server does not serve it, and what to do

function applyTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

function drawTools() {
  const theme = kept(THEME) ?? "auto";
  const themes = h(
    "select",
    {
      "aria-label": t("theme"),
      on: {
        change: (event) => {
          keep(THEME, event.target.value === "auto" ? null : event.target.value);
          applyTheme(event.target.value);
        },
      },
    },
    SCHEMES.map((one) => h("option", { value: one, selected: one === theme }, t(`theme.${one}`))),
  );
  const languages = h(
    "select",
    {
      "aria-label": t("language"),
      on: {
        change: async (event) => {
          keepLanguage(event.target.value);
          await useLanguage(event.target.value);
          drawAll();
        },
      },
    },
    Object.entries(LANGUAGES).map(([key, name]) => h("option", { value: key, lang: key, selected: key === currentLanguage() }, name)),
  );
  const menu = h("button", { type: "button", class: "menu", "aria-expanded": "false", "aria-controls": "nav", "aria-label": t("menu") }, "☰");
  menu.addEventListener("click", () => menu.setAttribute("aria-expanded", String(nav.classList.toggle("open"))));
  show(tools, health, languages, themes, menu);
  skip.textContent = t("skip");
}

function drawNav() {
  const [current] = route();
  const link = (tab) =>
    h(
      "li",
      {},
      h(
        "a",
        {
          href: `#${tab.id}`,
          class: [tab.lecture ? "" : "plain", tab.parts.every((part) => missing.has(part)) ? "absent" : ""].join(" ").trim() || null,
          "aria-current": current?.id === tab.id ? "page" : null,
        },
        tab.lecture && h("b", {}, tab.lecture),
        h("span", {}, t(`${tab.id}.short`)),
      ),
    );
  const group = (title, tabs) => [h("h2", {}, title), h("ul", {}, tabs.map(link))];
  show(nav, group(t("nav.homeworks"), HOMEWORKS), group(t("nav.more"), MORE), group(t("nav.behind"), BEHIND));
  nav.setAttribute("aria-label", t("nav"));
}

// The text of a percent-encoded one, or the same where it is none: a link may end in anything.
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

// The tab and part that the address names, and what follows: `#hw7/poem`, `#models/image_classifier`.
function route() {
  const [id, rest = ""] = decoded(location.hash.slice(1)).split("/");
  const tab = TABS.find((one) => one.id === id);
  const part = tab?.parts.find((one) => one.id === rest) ?? tab?.parts[0];
  return [tab, part, rest];
}

async function drawPanel({ focus = true } = {}) {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const [tab, part, rest] = route();
  const title = tab ? t(`${tab.id}.title`) : "Lectern";
  document.title = tab ? `${title} · Lectern` : "Lectern";
  nav.classList.remove("open");
  tools.querySelector(".menu")?.setAttribute("aria-expanded", "false");
  const heading = h("h1", { tabindex: "-1" }, tab ? title : t("home.title"));
  const root = h("div");
  show(
    main,
    h("div", { class: "head" }, tab?.lecture && h("span", { class: "number" }, tab.lecture), heading),
    h("p", { class: "lead" }, t(tab ? `${tab.id}.lead` : "home.lead")),
    tab && modelLinks(part),
    tab && tab.parts.length > 1 && partLinks(tab, part),
    root,
  );
  if (focus) {
    scrollTo(0, 0);
    heading.focus({ preventScroll: true });
  }
  try {
    const panel = await import(`./panels/${part?.panel ?? "home"}.js`);
    if (signal.aborted) return;
    if (part && missing.has(part)) show(root, h("div", { class: "notice warn", role: "status" }, h("strong", {}, t("absent")), h("p", {}, missing.get(part).join(" "))));
    else await panel.default({ root, signal, tab, part, rest, missing });
  } catch (error) {
    if (!signal.aborted) show(root, errorBox(error));
  }
}

function modelLinks(part) {
  if (!part.models.length) return null;
  return h("p", { class: "about-models" }, t("models.read"), part.models.map((name) => h("a", { href: `#models/${name}` }, name)));
}

function partLinks(tab, part) {
  const link = (one) =>
    h("li", {}, h("a", { href: addressOf(tab, one), class: missing.has(one) ? "absent" : null, "aria-current": one === part ? "page" : null }, t(`${tab.id}.${one.id || "first"}`)));
  return h("nav", { "aria-label": t(`${tab.id}.title`) }, h("ul", { class: "parts" }, tab.parts.map(link)));
}

// Which parts this server cannot answer, and why.
async function findMissing() {
  const [models, facts] = await Promise.all([listModels({ fresh: true }), serverFacts()]);
  missing = new Map();
  for (const tab of TABS) {
    for (const part of tab.parts.filter((one) => one.service)) {
      const unready = part.models.slice(0, 1).filter((name) => !(models.get(name)?.versions ?? []).some(isReady));
      if (!facts.services.includes(`lectern.v1.${part.service}`)) missing.set(part, [t("absent.service", { service: part.service }), t("absent.start")]);
      else if (unready.length) missing.set(part, [t("absent.model", { model: unready[0] })]);
    }
  }
}

function tellHealth(good) {
  health.className = `health ${good ? "good" : "bad"}`;
  const last = latencies.at(-1);
  const words = good ? t("health.good") : t("health.bad");
  health.firstChild.textContent = good && last ? `${words} · ${Math.round(last.ms)} ms` : words;
  health.setAttribute("aria-label", `${words}. ${t("server.short")}`);
}

async function look() {
  try {
    await findMissing();
    tellHealth(true);
  } catch {
    tellHealth(false);
  }
}

function drawAll() {
  drawTools();
  drawNav();
  drawPanel({ focus: false });
}

applyTheme(kept(THEME) ?? "auto");
await useLanguage(preferredLanguage());
drawTools();
drawNav();
await look();
drawNav();
drawPanel({ focus: false });
addEventListener("hashchange", () => {
  drawNav();
  drawPanel();
});
skip.addEventListener("click", (event) => {
  event.preventDefault(); // the address names a tab
  main.focus();
});
watchers.addEventListener("call", () => tellHealth(true));
setInterval(() => document.visibilityState === "visible" && look(), HEALTH_MILLISECONDS);
