// Model cards: what a model is for, what it reaches and where it fails, what it learned from. A model that has no tab
// can be tried beside its card.

import { CallError, cardOf, isReady, listModels } from "../lib/api.js";
import { hint, table } from "../lib/bench.js";
import { figure, h, s, show } from "../lib/dom.js";
import { t } from "../lib/words.js";
import { TABS, addressOf } from "../tabs.js";

// In these a higher value is not better, or there is no scale from 0 to 1.
const SHARES = /accuracy|auc|auroc|f1|exact|recall|precision|rate|share|error/;

// The panels that take any model of a capability and a kind of input.
const TRIALS = { "classify/image": "photo", "predict/tabular": "rows", "embed/text": "searching" };

export default async function models(context) {
  if (context.rest) return page(context);
  const all = [...(await listModels({ fresh: true })).values()];
  const order = (model) => Number(/^HW(\d+)/.exec(model.lecture)?.[1] ?? 99);
  all.sort((a, b) => order(a) - order(b) || a.name.localeCompare(b.name));
  const tile = (model) => {
    const ready = model.versions.filter(isReady);
    const state = ready.length ? t("models.versions", { list: ready.map((one) => one.version).join(", ") }) : `${t("models.unavailable")} ${model.versions[0]?.reason ?? ""}`;
    return h("li", {}, h("a", { href: `#models/${model.name}` }, h("span", { class: "number" }, model.lecture), h("b", {}, model.title || model.name), h("p", {}, h("code", {}, model.name)), h("p", {}, state)));
  };
  context.root.append(h("ul", { class: "tiles" }, all.map(tile)));
  return undefined;
}

async function page(context) {
  const { root, rest: name } = context;
  const versions = (await listModels({ fresh: true })).get(name)?.versions ?? [];
  const one = await cardOf(name).catch((error) => {
    if (error instanceof CallError && versions.some(isReady)) return null; // it has none
    throw error;
  });
  const trial = h("div", { class: "after" });
  show(root, h("p", {}, h("a", { href: "#models" }, `← ${t("models.all")}`)), heading(one ?? { name, title: name }, versions), trial, one && card(one));
  if (versions.some(isReady)) await offer(context, trial, one);
}

function heading(one, versions) {
  const names = [one.lecture, one.name, one.version && t("version", { n: one.version })].filter(Boolean).join(" · ");
  const state = versions.some(isReady) ? null : h("p", { class: "notice warn" }, `${t("models.unavailable")} ${versions[0]?.reason ?? ""}`);
  return h("section", { class: "card after", "aria-label": one.title }, h("h2", {}, `${one.title} `, h("span", { class: "small" }, names)), h("p", { class: "lead" }, one.description), state);
}

// Where a model can be tried: in its tabs, or else here, or else by what calls.
async function offer(context, trial, one) {
  const { rest: name } = context;
  const links = TABS.flatMap((tab) => tab.parts.filter((part) => part.models.includes(name)).map((part) => h("a", { href: addressOf(tab, part) }, tab.lecture || t(`${tab.id}.short`))));
  if (links.length) return show(trial, h("p", { class: "about-models" }, t("models.try"), links));
  const panel = one && TRIALS[`${one.capability}/${one.preprocessing.kind}`];
  if (!panel) return show(trial, hint(t(one ? "models.call" : "models.bare", { name })));
  show(trial, h("h2", {}, t("models.tryHere")));
  const { default: draw } = await import(`./${panel}.js`);
  return draw({ ...context, root: trial, part: { ...context.part, models: [name] } });
}

function card(one) {
  const section = (title, ...nodes) => h("section", { class: "card after", "aria-label": title }, h("h2", {}, title), ...nodes);
  return [
    one.limits && section(t("card.limits"), h("h3", {}, t("card.intended")), h("p", {}, one.limits.intended), h("h3", {}, t("card.failures")), h("ul", {}, one.limits.failures.map((text) => h("li", {}, text)))),
    one.metrics.length > 0 && section(t("card.metrics"), h("p", { class: "small" }, t("card.metricsNote")), metrics(one), baselines(one)),
    one.per_class?.length > 0 && section(t("card.perClass"), perClass(one)),
    one.calibration && section(t("card.calibration"), h("p", { class: "small" }, t("card.calibrationNote", { error: figure(one.calibration.error) })), calibration(one.calibration.bins)),
    one.robustness?.length > 0 && section(t("card.robustness"), robustness(one)),
    (one.tables ?? []).map((each) => section(each.title, table(each.title, each.columns, each.rows.map((row) => row.map((cell) => (typeof cell === "number" ? figure(cell) : cell))), { quiet: true }))),
    one.data.length > 0 && section(t("card.data"), table(t("card.data"), [t("card.source"), t("card.licence"), t("card.train"), t("card.validation"), t("card.test")], one.data.map((each) => [`${each.source} ${each.version ?? ""}`, each.licence, ...["train", "validation", "test"].map((split) => figure(each[split] ?? 0))]), { quiet: true })),
    one.training && section(t("card.training"), training(one)),
  ];
}

function metrics({ metrics: list }) {
  const rows = list.map((one) => {
    const [low, high] = one.interval ?? [null, null];
    const drawn = SHARES.test(one.name) && one.value >= 0 && one.value <= 1;
    const place = (value) => `${value * 100}%`;
    const line = drawn && h("span", { class: "interval", "aria-hidden": "true" }, low !== null && h("i", { style: { left: place(low), width: place(high - low) } }), h("b", { style: { left: `calc(${place(one.value)} - 1px)` } }));
    return [one.name.replaceAll("_", " "), one.split, figure(one.value), low === null ? "—" : `${figure(low)} – ${figure(high)}`, line || "", figure(one.n), one.target === null || one.target === undefined ? "—" : `${one.at_most ? "≤" : "≥"} ${figure(one.target)}`];
  });
  return table(t("card.metrics"), [t("card.metric"), t("card.split"), t("card.value"), t("card.interval"), "0 … 1", "n", t("card.goal")], rows, { quiet: true });
}

function baselines({ baselines: list }) {
  if (!list?.length) return null;
  return [h("h3", {}, t("card.baselines")), table(t("card.baselines"), [t("card.baseline"), t("card.metric"), t("card.value")], list.map((one) => [one.name, one.metric.replaceAll("_", " "), figure(one.value)]), { quiet: true })];
}

function perClass({ per_class: list }) {
  const names = Object.keys(list[0]).filter((name) => name !== "label" && list.some((one) => one[name] !== null));
  return table(t("card.perClass"), [t("card.class"), ...names.map((name) => name.replaceAll("_", " "))], list.map((one) => [one.label, ...names.map((name) => (one[name] === null ? "—" : figure(one[name])))]), { quiet: true });
}

function robustness({ robustness: list }) {
  const rows = list.map((one) => [one.corruption.replaceAll("_", " "), one.severity, one.metric.replaceAll("_", " "), figure(one.value)]);
  return table(t("card.robustness"), [t("card.corruption"), t("card.severity"), t("card.metric"), t("card.value")], rows, { quiet: true });
}

// How often the model is right, by how sure it says it is.
function calibration(bins) {
  const [side, left] = [240, 40];
  const x = (value) => left + value * (side - left - 12);
  const y = (value) => side - 36 - value * (side - 52);
  return s(
    "svg",
    { class: "chart square", viewBox: `0 0 ${side} ${side}`, role: "img", "aria-label": t("card.calibration") },
    s("line", { class: "axis", x1: x(0), y1: y(0), x2: x(1), y2: y(1) }),
    s("line", { class: "axis", x1: x(0), y1: y(0), x2: x(1), y2: y(0) }),
    s("line", { class: "axis", x1: x(0), y1: y(0), x2: x(0), y2: y(1) }),
    s("polyline", { class: "line", points: bins.map((one) => `${x(one.confidence)},${y(one.accuracy)}`).join(" ") }),
    bins.map((one) => s("circle", { class: "dot", cx: x(one.confidence), cy: y(one.accuracy), r: 3 })),
    [0, 0.5, 1].map((value) => s("text", { x: x(value), y: y(0) + 16, "text-anchor": "middle" }, value)),
    [0, 0.5, 1].map((value) => s("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, value)),
    s("text", { x: x(0.5), y: side - 4, "text-anchor": "middle" }, t("card.confidence")),
  );
}

function training({ training: one, parity }) {
  const facts = [
    [t("card.command"), h("code", {}, one.command)],
    [t("card.device"), one.device],
    [t("card.seconds"), figure(Math.round(one.seconds))],
    [t("card.parameters"), figure(one.parameters)],
    [t("card.parity"), parity?.max_abs_diff === undefined || parity.max_abs_diff === null ? "—" : Number(parity.max_abs_diff).toExponential(1)],
  ];
  return h("dl", { class: "facts" }, facts.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}
