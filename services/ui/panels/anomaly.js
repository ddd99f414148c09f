// HW8: does a picture look like clothes, and where it does not.

import { call } from "../lib/api.js";
import { bench, foot, picture } from "../lib/bench.js";
import { figure, h, percent } from "../lib/dom.js";
import { drawing } from "../lib/draw.js";
import { pictureInput, slider } from "../lib/inputs.js";
import { pngUrl } from "../lib/media.js";
import { t } from "../lib/words.js";

export default function anomaly(context) {
  const [model] = context.part.models;
  let chosen = null;
  const use = (one) => run((chosen = one));
  const rate = slider(t("anomaly.rate"), { min: 0.5, max: 50, step: 0.5, value: 5, text: (n) => `${n} %`, on: () => chosen && run(chosen) });
  const input = pictureInput(context, { examples: ["boot.png", "seven.png", "digit.png", "cat.png"], use });
  const board = drawing({ ink: ["#ffffff"], paper: "#000000", use, label: t("draw.clothes") });
  const { ask } = bench(context, [h("div", { class: "stack" }, input.node, rate.node, board.node)]);

  const run = (one) =>
    ask(async (signal) => {
      const reply = await call(
        "DetectAnomalyService.DetectAnomaly",
        { model, images: [one.data], falsePositiveRate: Number(rate.control.value) / 100, includeReconstruction: true, includeHeatMap: true },
        signal,
      );
      const [result] = reply.answer.results;
      const { score = 0, threshold = 0, anomalous = false } = result;
      const longest = Math.max(score, threshold) * 1.15;
      const at = (value) => `${(value / longest) * 100}%`;
      return [
        h("p", { class: `verdict ${anomalous ? "bad" : "good"}` }, t(anomalous ? "anomaly.strange" : "anomaly.normal")),
        h("p", {}, t("anomaly.probability", { share: percent(result.probability) })),
        h("div", { class: "meter", role: "img", "aria-label": t("anomaly.score", { score: figure(score), threshold: figure(threshold) }) }, h("i", { style: { width: at(score) } }), h("b", { style: { left: at(threshold) } }), h("span", { style: { left: at(threshold) } }, `${t("threshold")} ${figure(threshold)}`)),
        h("p", { class: "small" }, t("anomaly.score", { score: figure(score), threshold: figure(threshold) })),
        h(
          "div",
          { class: "trio" },
          picture(one.url, t("picture.yours", { name: one.name }), { caption: t("picture") }),
          picture(pngUrl(result.reconstruction), t("anomaly.rebuilt"), { caption: t("anomaly.rebuilt") }),
          picture(pngUrl(result.heatMap), t("anomaly.where"), { caption: t("anomaly.where") }),
        ),
        foot(reply),
      ];
    });
}
