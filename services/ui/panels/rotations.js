// HW14: one digit in the five rotations that were learned one after the other.

import { call } from "../lib/api.js";
import { bench, foot } from "../lib/bench.js";
import { h, percent } from "../lib/dom.js";
import { drawing } from "../lib/draw.js";
import { pictureInput } from "../lib/inputs.js";
import { imageOf, pictureOf } from "../lib/media.js";
import { t } from "../lib/words.js";

const DEGREES = [0, 36, 72, 108, 144];
const SIDE = 112;

export default function rotations(context) {
  const [model] = context.part.models;
  const board = drawing({ ink: ["#ffffff"], paper: "#000000", width: 22, use: (one) => run(one), label: t("draw.digit") });
  const input = pictureInput(context, { examples: ["seven.png"], use: (one) => run(one) });
  const { ask } = bench(context, [h("div", { class: "stack" }, board.node, input.node)]);

  const run = (one) =>
    ask(async (signal) => {
      const image = await imageOf(one.url);
      const turned = DEGREES.map((degrees) => turn(image, degrees));
      const reply = await call("ClassifyService.ClassifyImage", { model, images: turned.map((picture) => picture.data), topK: 1 }, signal);
      const shown = reply.answer.results.map(({ classes: [best] }, i) =>
        h("figure", {}, h("img", { src: turned[i].url, alt: t("rotations.turned", { degrees: DEGREES[i] }), class: "picture large" }), h("figcaption", {}, `${DEGREES[i]}°`), h("p", { class: "big" }, best.label), h("p", { class: "small" }, percent(best.probability))),
      );
      return [h("p", { class: "small" }, t("rotations.note")), h("div", { class: "sheet" }, shown), foot(reply)];
    });
}

// The picture turned about its middle, counterclockwise as in the homework.
function turn(image, degrees) {
  const canvas = h("canvas", { width: SIDE, height: SIDE });
  const context = canvas.getContext("2d");
  context.fillStyle = "#000";
  context.fillRect(0, 0, SIDE, SIDE);
  context.translate(SIDE / 2, SIDE / 2);
  context.rotate((-degrees * Math.PI) / 180);
  context.drawImage(image, -SIDE / 2, -SIDE / 2, SIDE, SIDE);
  return pictureOf(canvas, `${degrees}`);
}
