// HW13: the large network, the small one, and the small one in 8 bits, on the same photo.

import { call, cardOf, isReady, listModels } from "../lib/api.js";
import { bars, bench, foot, table } from "../lib/bench.js";
import { figure, h } from "../lib/dom.js";
import { pictureInput } from "../lib/inputs.js";
import { t } from "../lib/words.js";

const PHOTOS = ["cat.png", "ship.png", "horse.png", "truck.png", "photos/dog/1.png", "photos/bird/1.png"];

export default async function compact(context) {
  const [model, teacher] = context.part.models;
  const [card, models] = await Promise.all([cardOf(model), listModels()]);
  const versions = (models.get(model).versions ?? []).filter(isReady).map((one) => one.version).sort((a, b) => a - b);
  const titles = await Promise.all(versions.map(async (version) => (await cardOf(model, version)).title));
  const networks = [[teacher, "0", t("compact.teacher")], ...versions.map((version, i) => [model, version, titles[i]])].filter(([name]) => models.has(name));
  const input = pictureInput(context, { examples: PHOTOS, use: (one) => run(one) });
  const { ask } = bench(context, [input.node]);
  const sizes = (card.tables ?? []).slice(0, 1).map((one) => table(one.title, one.columns, one.rows.map((row) => row.map((cell) => (typeof cell === "number" ? figure(cell) : cell)))));
  context.root.append(h("section", { class: "card after", "aria-label": t("compact.sizes") }, h("h2", {}, t("compact.sizes")), sizes));

  const run = (one) =>
    ask(async (signal) => {
      const columns = [];
      for (const [name, version, title] of networks) {
        const reply = await call("ClassifyService.ClassifyImage", { model: name, version, images: [one.data], topK: 3 }, signal);
        columns.push(h("div", {}, h("h2", { class: "sub" }, title), bars(reply.answer.results[0].classes, { most: 3 }), foot(reply)));
      }
      return h("div", { class: "stack" }, columns);
    });
}
