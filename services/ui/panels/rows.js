// A table model of one's own: rows of its features in, a value for each of its targets out.

import { call, cardOf } from "../lib/api.js";
import { bench, foot, notices, table } from "../lib/bench.js";
import { featureRows } from "../lib/csv.js";
import { figure, h } from "../lib/dom.js";
import { button, dropZone, textField, textIn } from "../lib/inputs.js";
import { t } from "../lib/words.js";

const MOST_NOTICES = 5;

export default async function rows(context) {
  const [model] = context.part.models;
  const { features, targets } = (await cardOf(model)).preprocessing;
  const text = textField(t("rows.text"), `${features.join(",")}\n${features.map(() => 0).join(",")}\n`, { rows: 6 });
  const take = async (file) => {
    text.control.value = await file.text();
    run();
  };
  const { ask } = bench(context, [h("div", { class: "stack" }, text.node, dropZone(context, t("table.csv"), ".csv,text/csv", (file) => ask(() => take(file))), button(t("rows.run"), () => run()))]);

  const run = () =>
    ask(async (signal) => {
      const asked = featureRows(textIn(text), features);
      const reply = await call("PredictService.Predict", { model, rows: asked.map((row) => ({ features: row })) }, signal);
      const predicted = reply.answer.results.map((one, i) => [t("row", { n: i + 1 }), ...one.values.map(figure)]);
      return [notices(reply.answer.results.flatMap((one) => one.notices ?? []).slice(0, MOST_NOTICES)), table(t("rows.result"), [t("survey.row"), ...targets], predicted), foot(reply)];
    });
}
