// HW6: a digit redrawn as if printed, or as if written by hand.

import { call } from "../lib/api.js";
import { bench, foot, picture } from "../lib/bench.js";
import { h } from "../lib/dom.js";
import { drawing } from "../lib/draw.js";
import { choice, pictureInput } from "../lib/inputs.js";
import { pngUrl } from "../lib/media.js";
import { t } from "../lib/words.js";

export default function restyle(context) {
  const [model] = context.part.models;
  let chosen = null;
  const style = choice(t("restyle.style"), [["printed", t("restyle.printed")], ["handwritten", t("restyle.handwritten")]], "printed", () => chosen && run(chosen));
  const use = (one) => run((chosen = one));
  const board = drawing({ ink: ["#ffffff"], paper: "#000000", use, label: t("draw.digit") });
  const input = pictureInput(context, { examples: ["digit.png", "seven.png"], use });
  const { ask } = bench(context, [h("div", { class: "stack" }, style.node, board.node, input.node)]);

  const run = (one) =>
    ask(async (signal) => {
      const reply = await call("GenerateService.TransformImage", { model, image: one.data, style: style.control.value }, signal);
      return [
        h(
          "div",
          { class: "columns" },
          picture(one.url, t("picture.yours", { name: one.name }), { caption: t("before") }),
          picture(pngUrl(reply.answer.image), t("restyle.redrawn", { style: reply.answer.style }), { caption: t("after") }),
        ),
        foot(reply),
      ];
    });
}
