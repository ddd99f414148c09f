// Maps of what speaks for an answer, laid over a picture; words coloured by the same.

import { h, s } from "./dom.js";
import { floatsOf } from "./media.js";
import { slider } from "./inputs.js";
import { t } from "./words.js";

const MOST_LABELS = 6; // of a line's points
const SIGNED = [[43, 108, 184], [242, 242, 242], [196, 55, 43]];
const HEAT = [[32, 18, 77], [138, 47, 122], [229, 104, 60], [251, 224, 138]];

function colour(stops, share) {
  const at = Math.max(0, Math.min(1, share)) * (stops.length - 1);
  const low = Math.min(Math.floor(at), stops.length - 2);
  return stops[low].map((value, i) => Math.round(value + (stops[low + 1][i] - value) * (at - low)));
}

// One value a pixel: [height, width], channels added up.
export function valuesOf(attribution) {
  const [height, width, channels = 1] = attribution.shape;
  const all = floatsOf(attribution.values);
  const values = Float32Array.from({ length: height * width }, (_, i) => {
    let sum = 0;
    for (let c = 0; c < channels; c++) sum += all[i * channels + c];
    return sum;
  });
  return { values, height, width, signed: attribution.signed ?? false };
}

function mapCanvas({ values, height, width, signed }, label) {
  const largest = quantile(values.map(Math.abs), 0.995) || 1;
  const canvas = h("canvas", { width, height, role: "img", "aria-label": label });
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  values.forEach((value, i) => {
    const share = signed ? 0.5 + value / largest / 2 : Math.abs(value) / largest;
    const strength = Math.min(1, Math.abs(value) / largest);
    pixels.data.set([...colour(signed ? SIGNED : HEAT, share), Math.round(255 * (signed ? 0.25 + 0.75 * strength : 1))], 4 * i);
  });
  context.putImageData(pixels, 0, 0);
  return canvas;
}

function quantile(values, share) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
}

// The picture with the map over it, and a slider for how much it covers.
export function overlaid(url, alt, attribution) {
  const map = valuesOf(attribution);
  const canvas = mapCanvas(map, t("map"));
  const image = h("img", { src: url, alt, class: "crisp" });
  const frame = h("div", { class: "overlay" }, image, canvas);
  const cover = slider(t("cover"), { min: 0, max: 100, value: 60, text: (n) => `${n} %`, on: (n) => canvas.style.setProperty("opacity", n / 100) });
  canvas.style.setProperty("opacity", "0.6");
  const scale = h(
    "div",
    { class: "scale" },
    h("span", {}, map.signed ? t("against") : t("little")),
    h("i", { class: map.signed ? "signed" : "heat" }),
    h("span", {}, map.signed ? t("for") : t("much")),
  );
  return h("div", { class: "stack" }, frame, scale, cover.node);
}

// A text whose words are coloured by their values, `words` in code points of the text.
export function colouredWords(text, words, values, signed = true) {
  const letters = [...text];
  const largest = Math.max(...values.map(Math.abs), 1e-9);
  const nodes = [];
  let at = 0;
  words.forEach((word, i) => {
    const { start = 0, end = 0 } = word;
    nodes.push(letters.slice(at, start).join(""));
    const share = values[i] / largest;
    const hue = share > 0 ? "196 55 43" : "43 108 184";
    nodes.push(
      h(
        "span",
        { class: "word", title: `${values[i] >= 0 ? "+" : ""}${values[i].toPrecision(2)}`, style: { "background-color": `rgb(${hue} / ${(Math.abs(share) * 0.55).toFixed(2)})` } },
        letters.slice(start, end).join(""),
      ),
    );
    at = end;
  });
  nodes.push(letters.slice(at).join(""));
  const scale = signed && h("div", { class: "scale" }, h("span", {}, t("against")), h("i", { class: "signed" }), h("span", {}, t("for")));
  return h("div", { class: "stack" }, h("p", { class: "passage" }, nodes), scale);
}

// Names with signed bars from the middle, largest first.
export function signedBars(names, values, most = 10) {
  const order = values.map((_, i) => i).sort((a, b) => Math.abs(values[b]) - Math.abs(values[a])).slice(0, most);
  const largest = Math.max(...order.map((i) => Math.abs(values[i])), 1e-9);
  return h(
    "ol",
    { class: "bars" },
    order.map((i) =>
      h(
        "li",
        {},
        h("span", { class: "bar-label" }, names[i]),
        h("span", { class: "bar signed", "aria-hidden": "true" }, h("i", { class: values[i] < 0 ? "minus" : null, style: { width: `${(Math.abs(values[i]) / largest) * 100}%` } })),
        h("span", { class: "bar-value" }, `${values[i] >= 0 ? "+" : "−"}${Math.abs(values[i]).toPrecision(2)}`),
      ),
    ),
  );
}

// A line through points [[x, y], ...] with a dashed step to a predicted one.
export function lineChart(label, values, { next = null, names = [], unit = "" } = {}) {
  const all = next === null ? values : [...values, next];
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const span = Math.max(high - low, Math.abs(high) * 0.05, 1e-9);
  const [width, height, left, right, top, bottom] = [460, 210, 46, 20, 24, 34];
  const x = (i) => left + (i * (width - left - right)) / Math.max(1, all.length - 1);
  const y = (value) => top + (1 - (value - low) / span) * (height - top - bottom);
  const points = values.map((value, i) => `${x(i)},${y(value)}`).join(" ");
  const last = values.length - 1;
  return s(
    "svg",
    { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
    s("line", { class: "axis", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom }),
    s("polyline", { class: "line", points }),
    next !== null && s("line", { class: "guess", x1: x(last), y1: y(values[last]), x2: x(last + 1), y2: y(next) }),
    all.map((value, i) => s("circle", { class: i > last ? "new" : "dot", cx: x(i), cy: y(value), r: i > last ? 6 : 4 })),
    all.map((value, i) => (all.length <= MOST_LABELS || i === 0 || i === all.length - 1) && s("text", { x: x(i), y: y(value) - 10, "text-anchor": "middle" }, `${value.toFixed(1)}${unit}`)),
    names.map((name, i) => s("text", { x: x(i), y: height - 12, "text-anchor": "middle" }, name)),
  );
}

