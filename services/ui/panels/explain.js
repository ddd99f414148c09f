// HW9: several explanations of one answer about a photo, beside each other.

import { call, cardOf } from "../lib/api.js";
import { bench, foot, picture } from "../lib/bench.js";
import { h, show } from "../lib/dom.js";
import { overlaid } from "../lib/heat.js";
import { button, choice, pictureInput } from "../lib/inputs.js";
import { pngUrl } from "../lib/media.js";
import { t } from "../lib/words.js";

const METHODS = ["gradCam", "integratedGradients", "smoothGrad", "saliency", "gradientTimesInput", "occlusion", "lime", "rise", "kernelShap"];

export default async function explain(context) {
  const [model] = context.part.models;
  const { labels } = await cardOf(model);
  let chosen = null;
  const again = () => chosen && run(chosen);
  const input = pictureInput(context, { examples: ["cat.png", "horse.png", "ship.png", "truck.png", "photos/dog/1.png", "photos/frog/1.png"], use: (one) => run((chosen = one)) });
  const method = choice(t("method"), METHODS.map((name) => [name, t(`method.${name}`)]), "integratedGradients", again);
  const target = choice(t("explain.target"), [["", t("explain.best")], ...labels.map((one) => [one, one])], "", again);
  const compare = button(t("explain.compare"), () => chosen && all(chosen), { kind: "quiet" });
  const { ask, answer } = bench(context, [h("div", { class: "stack" }, input.node, method.node, target.node, compare, h("p", { class: "small" }, t("explain.doubt")))]);
  const asked = () => (target.control.value ? { targetLabel: target.control.value } : {});

  const run = (one) =>
    ask(async (signal) => {
      const reply = await call("ExplainService.Explain", { model, input: { image: one.data }, method: { [method.control.value]: {} }, ...asked() }, signal);
      const { prediction, attribution, completenessGap } = reply.answer;
      return [
        h("p", { class: "verdict" }, t("explain.verdict", { label: prediction.label, share: `${((prediction.probability ?? 0) * 100).toFixed(1)} %` })),
        h("p", { class: "small" }, t(`method.${method.control.value}.note`)),
        overlaid(one.url, one.name, attribution),
        completenessGap !== undefined && h("p", { class: "small" }, t("explain.gap", { share: `${(completenessGap * 100).toFixed(1)} %` })),
        foot(reply),
      ];
    });

  const all = (one) =>
    ask(async (signal) => {
      show(answer, h("p", { class: "hint" }, t("explain.wait")));
      const reply = await call("ExplainService.Compare", { model, input: { image: one.data }, ...asked() }, signal);
      return [h("p", { class: "small" }, t("explain.sheetNote")), picture(pngUrl(reply.answer.picture), t("explain.sheet"), { size: "large", crisp: false }), foot(reply)];
    });
}
