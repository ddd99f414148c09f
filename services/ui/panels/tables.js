// In-context learning: a table whose classes are known, and rows to name by it.

import { call } from "../lib/api.js";
import { bench, foot, hint, notices, table } from "../lib/bench.js";
import { labelledTable } from "../lib/csv.js";
import { h, percent } from "../lib/dom.js";
import { button, dropZone, textField } from "../lib/inputs.js";
import { exampleText } from "../lib/media.js";
import { t } from "../lib/words.js";

export default async function tables(context) {
  const [model] = context.part.models;
  const examples = textField(t("tables.examples"), "", { rows: 9 });
  const queries = textField(t("tables.queries"), "", { rows: 6 });
  const fill = async () => {
    [examples.control.value, queries.control.value] = await Promise.all([exampleText("fruits.csv"), exampleText("basket.csv")]);
    run();
  };
  const into = (field) => (file) =>
    ask(async () => {
      field.control.value = await file.text();
      return hint(t("answer.empty")); // the old answer is of another table
    });
  const { ask } = bench(context, [
    h(
      "div",
      { class: "stack" },
      button(t("tables.fruits"), () => ask(fill), { kind: "quiet" }),
      examples.node,
      dropZone(context, t("tables.examplesFile"), ".csv,text/csv", into(examples)),
      queries.node,
      dropZone(context, t("tables.queriesFile"), ".csv,text/csv", into(queries)),
      button(t("tables.run"), () => run()),
    ),
  ]);

  const run = () =>
    ask(async (signal) => {
      const read = labelledTable(examples.control.value, queries.control.value);
      const reply = await call("PredictService.PredictFromExamples", { model, examples: read.examples, queries: read.queries, columns: read.columns }, signal);
      const doubts = reply.answer.results.flatMap((one, i) => (one.notices ?? []).map((notice) => ({ ...notice, text: `${t("row", { n: i + 1 })}: ${notice.text}` })));
      const rows = reply.answer.results.map(({ classes: [best] }, i) => [...read.asked[i], h("strong", {}, best.label), percent(best.probability)]);
      return [notices(reply.answer.notices), table(t("tables.result"), [...read.queryHeader, read.label, t("probability")], rows), h("div", { class: "after" }, notices(doubts.slice(0, 5))), foot(reply)];
    });
  ask(fill);
}
