// HW6: garments of the kind that is asked for.

import { cardOf, stream } from "../lib/api.js";
import { bench, foot } from "../lib/bench.js";
import { h } from "../lib/dom.js";
import { button, choice, numberField } from "../lib/inputs.js";
import { pngUrl } from "../lib/media.js";
import { t } from "../lib/words.js";

const COUNT = 12;

export default async function garments(context) {
  const [model] = context.part.models;
  const { labels } = await cardOf(model);
  const kind = choice(t("garments.kind"), labels.map((label) => [label, label]), "dress", () => run());
  const seed = numberField(t("seed"), 1, { on: { change: () => run() } });
  const { ask } = bench(context, [h("div", { class: "stack" }, kind.node, seed.node, button(t("garments.draw"), () => run()))]);

  const run = () =>
    ask(async (signal) => {
      const started = performance.now();
      const images = [];
      let answer = {};
      for await (const one of stream("GenerateService.GenerateImages", { model, label: kind.control.value, seed: seed.control.value || "0", count: COUNT }, signal)) {
        answer = one;
        images.push(h("img", { src: pngUrl(one.image), alt: `${one.label ?? ""} ${one.seed ?? 0}`, class: "picture crisp" }));
      }
      return [h("div", { class: "sheet" }, images), foot({ answer, ms: performance.now() - started })];
    });
  run();
}
