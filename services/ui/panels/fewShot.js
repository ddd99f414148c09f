// HW15: classes that the page itself shows by a picture or two each, and a character to sort into them.

import { call } from "../lib/api.js";
import { bars, bench, foot } from "../lib/bench.js";
import { h, show } from "../lib/dom.js";
import { drawing } from "../lib/draw.js";
import { button, choice, pictureInput, textField } from "../lib/inputs.js";
import { InputError, exampleFile, readPicture } from "../lib/media.js";
import { t } from "../lib/words.js";

const CLASSES = ["A", "B", "C", "D", "E"];
const METHODS = ["FEW_SHOT_METHOD_PROTOTYPES", "FEW_SHOT_METHOD_MAML", "FEW_SHOT_METHOD_FIRST_ORDER_MAML"];

export default async function fewShot(context) {
  const [model] = context.part.models;
  let support = await Promise.all(CLASSES.map(async (label) => ({ label, picture: await readPicture(await exampleFile(`characters/${label}/1.png`)) })));
  let query = null;
  let drawn = null;
  const shelf = h("div", { class: "sheet" });
  const method = choice(t("method"), METHODS.map((name) => [name, t(name)]), METHODS[0], () => run());
  const name = textField(t("fewShot.name"), "★", { maxlength: 40 });
  const board = drawing({ width: 14, use: (one) => ask(async () => answerTo((query = drawn = one))), label: t("fewShot.draw") });
  const add = button(
    t("fewShot.add"),
    () => {
      if (!drawn || !name.control.value.trim()) return ask(() => Promise.reject(new InputError(t("fewShot.first"))));
      support = [...support, { label: name.control.value.trim(), picture: drawn }];
      board.clear();
      drawShelf();
      return run();
    },
    { kind: "quiet" },
  );
  const input = pictureInput(context, { examples: ["character.png"], use: (one) => ask(async () => answerTo((query = one))) });
  const { ask } = bench(context, [h("div", { class: "stack" }, h("h2", {}, t("fewShot.classes")), shelf, h("h2", {}, t("fewShot.query")), input.node, board.node, h("div", { class: "columns" }, name.node, add), method.node)]);

  function drawShelf() {
    const drop = (place) => {
      support = support.filter((_, i) => i !== place);
      drawShelf();
      run();
    };
    show(
      shelf,
      support.map((one, i) =>
        h(
          "figure",
          {},
          h("img", { src: one.picture.url, alt: t("fewShot.example", { label: one.label }), class: "picture large" }),
          h("figcaption", {}, one.label, " ", h("button", { type: "button", class: "chip", "aria-label": t("fewShot.remove", { label: one.label }), on: { click: () => drop(i) } }, "×")),
        ),
      ),
    );
  }

  const run = () => query && ask(async () => answerTo(query));

  async function answerTo(one) {
    const request = { model, support: support.map(({ label, picture }) => ({ label, image: picture.data })), queries: [one.data], method: method.control.value };
    const reply = await call("ClassifyService.ClassifyFewShot", request, context.signal);
    const [{ classes }] = reply.answer.results;
    return [
      h("img", { src: one.url, alt: t("picture.yours", { name: one.name }), class: "picture small-size" }),
      h("p", { class: "verdict" }, classes[0].label),
      bars(classes),
      foot(reply),
    ];
  }
  drawShelf();
}
