// HW11: a drawing, as a network of photos sees it, and as the same network adapted to drawings does.

import { call } from "../lib/api.js";
import { bars, bench, foot } from "../lib/bench.js";
import { h } from "../lib/dom.js";
import { drawing } from "../lib/draw.js";
import { pictureInput } from "../lib/inputs.js";
import { t } from "../lib/words.js";

const INKS = ["#1d1d1d", "#c0392b", "#2e7d32", "#1f5fbf", "#c98a00", "#7a5230"];

export default function drawings(context) {
  const input = pictureInput(context, { examples: ["flamingo.png", "photos/bird/1.png", "photos/ship/1.png"], use: (one) => run(one) });
  const board = drawing({ ink: INKS, width: 12, use: (one) => run(one), label: t("draw.animal") });
  const { ask } = bench(context, [h("div", { class: "stack" }, board.node, input.node)]);

  const run = (one) =>
    ask(async (signal) => {
      const replies = await Promise.all(context.part.models.map((model) => call("ClassifyService.ClassifyImage", { model, images: [one.data], topK: 5 }, signal)));
      const column = (reply, place) =>
        h("div", {}, h("h2", { class: "sub" }, t(place ? "drawing.photos" : "drawing.adapted")), h("p", { class: "verdict" }, reply.answer.results[0].classes[0].label), bars(reply.answer.results[0].classes, { most: 5 }), foot(reply));
      return h("div", { class: "stack" }, h("img", { src: one.url, alt: t("picture.yours", { name: one.name }), class: "picture small-size crisp" }), h("div", { class: "stack" }, replies.map(column)));
    });
}
