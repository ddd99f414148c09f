// HW9: what a network has learned, whatever the picture.

import { call, cardOf } from "../lib/api.js";
import { bench, foot, picture } from "../lib/bench.js";
import { h } from "../lib/dom.js";
import { button, choice } from "../lib/inputs.js";
import { pngUrl } from "../lib/media.js";
import { t } from "../lib/words.js";

export default async function explainModel(context) {
  const [model] = context.part.models;
  const card = await cardOf(model);
  const layers = card.explanation.layers.filter((layer) => layer.map);
  const kinds = [["probes", t("model.probes")], ["classes", t("model.classes")], ...layers.map((layer) => [layer.name, t("model.layer", { name: layer.name })])];
  const kind = choice(t("model.what"), kinds, "probes", () => run());
  const { ask } = bench(context, [h("div", { class: "stack" }, kind.node, button(t("model.show"), () => run()), h("p", { class: "small" }, t("model.note")))]);

  const run = () =>
    ask(async (signal) => {
      const what = kind.control.value;
      const asked = what === "probes" ? { probes: {} } : what === "classes" ? { activationMaximisation: {} } : { filterVisualisation: { layer: what } };
      const reply = await call("ExplainService.ExplainModel", { model, ...asked }, signal);
      const images = (reply.answer.preferred ?? []).map((one) => picture(pngUrl(one.image), one.label, { caption: one.label, size: "large" }));
      return [
        h("p", { class: "small" }, t(what === "probes" ? "model.probesNote" : "model.imagesNote")),
        images.length ? h("div", { class: "sheet" }, images) : picture(pngUrl(reply.answer.picture), t("model.probes"), { size: "large", crisp: false }),
        foot(reply),
      ];
    });
  run();
}
