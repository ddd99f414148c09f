// HW6: faces out of noise, and a path from one to another under a slider.

import { stream } from "../lib/api.js";
import { asker, foot, hint } from "../lib/bench.js";
import { h, show } from "../lib/dom.js";
import { button, numberField, slider } from "../lib/inputs.js";
import { pngUrl } from "../lib/media.js";
import { t } from "../lib/words.js";

const COUNT = 24;
const STEPS = 32;

export default function faces(context) {
  const [model] = context.part.models;
  const seed = numberField(t("seed"), 7);
  const truncation = slider(t("faces.truncation"), { min: 0.2, max: 1, step: 0.05, value: 1, text: (n) => n.toFixed(2) });
  const sheet = h("div", { class: "answer-body" }, hint(t("answer.empty")));
  const path = h("div", { class: "answer-body" }, hint(t("faces.choose")));
  let ends = [];
  const draw = asker(sheet, context.signal);
  const walk = asker(path, context.signal);
  context.root.append(
    h(
      "div",
      { class: "bench" },
      h(
        "section",
        { class: "card", "aria-label": t("input") },
        h(
          "div",
          { class: "stack" },
          h("div", { class: "columns" }, seed.node, truncation.node),
          h("div", { class: "row" }, button(t("faces.draw"), () => run()), button(t("faces.random"), () => {
            seed.control.value = String(Math.floor(Math.random() * 1e6));
            run();
          }, { kind: "quiet" })),
          sheet,
        ),
      ),
      h("section", { class: "card answer", "aria-label": t("faces.path") }, h("h2", {}, t("faces.path")), h("p", { class: "small" }, t("faces.pathNote")), path),
    ),
  );

  const run = () =>
    draw(async (signal) => {
      const first = Number(seed.control.value);
      const grid = h("div", { class: "sheet", role: "group", "aria-label": t("faces.sheet") });
      show(sheet, grid);
      ends = [];
      walk(async () => hint(t("faces.choose")));
      const question = { model, seed: String(first), count: COUNT, truncation: Number(truncation.control.value) };
      for await (const one of stream("GenerateService.GenerateImages", question, signal)) {
        const own = String(one.seed ?? 0);
        const pick = h("button", { type: "button", class: "thumb", "aria-pressed": "false", "aria-label": t("faces.seed", { seed: own }), title: own }, h("img", { src: pngUrl(one.image), alt: "", class: "crisp" }));
        pick.addEventListener("click", () => choose(own, pick, grid));
        grid.append(pick);
      }
      const [from, to] = grid.children;
      choose(from.title, from, grid);
      choose(to.title, to, grid);
    });

  // The last two that were chosen are the ends of the path.
  function choose(own, pick, grid) {
    ends = [...ends.filter((one) => one !== own), own].slice(-2);
    for (const one of grid.children) one.setAttribute("aria-pressed", String(ends.includes(one.title)));
    if (ends.length === 2) interpolate(...ends);
  }

  const interpolate = (from, to) =>
    walk(async (signal) => {
      const frames = [];
      const image = h("img", { class: "picture medium crisp", alt: t("faces.between", { from, to }) });
      const position = slider(t("faces.position"), {
        min: 0,
        max: STEPS - 1,
        value: STEPS / 2,
        text: (n) => `${Math.round((n / (STEPS - 1)) * 100)} %`,
        on: (n) => frames[n] && (image.src = frames[n]),
      });
      const started = performance.now();
      let answer = {};
      const question = { model, seed: from, interpolation: { toSeed: to, steps: STEPS }, truncation: Number(truncation.control.value) };
      for await (const one of stream("GenerateService.GenerateImages", question, signal)) {
        answer = one;
        frames.push(pngUrl(one.image));
        if (frames.length <= STEPS / 2 + 1) image.src = frames.at(-1);
      }
      const shown = [0, 6, 12, 19, 25, 31].map((n) => h("img", { src: frames[n], alt: "", class: "crisp picture" }));
      return [
        image,
        position.node,
        h("div", { class: "row small" }, h("span", {}, t("faces.seed", { seed: from })), "→", h("span", {}, t("faces.seed", { seed: to }))),
        h("div", { class: "sheet" }, shown),
        foot({ answer, ms: performance.now() - started }),
      ];
    });
  run();
}
