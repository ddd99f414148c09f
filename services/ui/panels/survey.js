// HW1: the fifth day of a survey, from the four before; and which of its answers led to the number.

import { call, cardOf } from "../lib/api.js";
import { bench, errorBox, foot, table } from "../lib/bench.js";
import { featureRows } from "../lib/csv.js";
import { figure, h, settled, show } from "../lib/dom.js";
import { lineChart, signedBars } from "../lib/heat.js";
import { button, dropZone, slider } from "../lib/inputs.js";
import { InputError, exampleFile, floatsOf } from "../lib/media.js";
import { t } from "../lib/words.js";

const POSITIVE = ["tested_positive", "tested_positive.1", "tested_positive.2", "tested_positive.3"];
const STATES = /^[A-Z]{2}$/;
const MOST_ROWS = 4096;
const SHOWN = 30;

export default async function survey(context) {
  const model = context.part.models[0];
  const card = await cardOf(model);
  const { features } = card.preprocessing;
  const problem = h("div");
  const rowsBox = h("div");
  const { ask } = bench(context, [
    h(
      "div",
      { class: "stack" },
      dropZone(context, t("table.csv"), ".csv,text/csv", (file) => take(file)),
      button(t("example.survey"), async () => take(await exampleFile("survey.csv")), { kind: "quiet" }),
      problem,
      rowsBox,
    ),
  ]);

  async function take(file) {
    try {
      const rows = featureRows(await file.text(), features);
      if (rows.length > MOST_ROWS) throw new InputError(t("csv.many", { n: rows.length, most: MOST_ROWS }));
      show(problem);
      const { answer } = await call("PredictService.Predict", { model, rows: rows.map((row) => ({ features: row })) }, context.signal);
      const predicted = answer.results.map((one) => one.values[0]);
      drawRows(rows, predicted);
      run(rows[0]);
    } catch (error) {
      show(problem, errorBox(error));
    }
  }

  function drawRows(rows, predicted) {
    const stateOf = (row) => features.find((name, i) => STATES.test(name) && row[i] === 1) ?? "—";
    const day4 = features.indexOf(POSITIVE[3]);
    const pick = (row, i) => h("button", { type: "button", class: "chip", on: { click: () => run(row) } }, t("row", { n: i + 1 }));
    show(
      rowsBox,
      table(
        rows.length > SHOWN ? t("survey.some", { shown: SHOWN, all: rows.length }) : t("survey.pick"),
        [t("survey.row"), t("survey.state"), t("survey.day", { n: 4 }), t("survey.predicted")],
        rows.slice(0, SHOWN).map((row, i) => [pick(row, i), stateOf(row), `${row[day4].toFixed(2)} %`, `${predicted[i].toFixed(2)} %`]),
      ),
    );
  }

  const run = (row) =>
    ask(async (signal) => {
      const question = { model, rows: [{ features: row }] };
      const reply = await call("PredictService.Predict", question, signal);
      const why = await call("ExplainService.Explain", { model, input: { row: { features: row } }, method: { integratedGradients: {} } }, signal);
      const values = floatsOf(why.answer.attribution.values);
      return [
        whatIf(row, reply.answer.results[0].values[0], signal),
        h("h2", { class: "sub" }, t("survey.why")),
        h("p", { class: "small" }, t("survey.whyNote")),
        signedBars(features, [...values]),
        foot(reply),
      ];
    });

  // The chart, with a slider that changes the fourth day and asks again.
  function whatIf(row, predicted, signal) {
    const days = POSITIVE.map((name) => features.indexOf(name));
    const chart = h("div");
    const verdict = h("p", { class: "verdict" });
    const draw = (values, next) => {
      verdict.textContent = t("survey.verdict", { value: figure(next) });
      show(chart, lineChart(verdict.textContent, days.map((i) => values[i]), { next, names: [1, 2, 3, 4, 5].map((n) => t("survey.day", { n })), unit: " %" }));
    };
    const again = settled(async (value) => {
      const changed = row.with(days[3], value);
      const { answer } = await call("PredictService.Predict", { model, rows: [{ features: changed }] }, signal);
      draw(changed, answer.results[0].values[0]);
    }, 60);
    const what = slider(t("survey.whatIf"), { min: 0, max: 60, step: 0.5, value: row[days[3]], text: (n) => `${n.toFixed(1)} %`, on: again });
    draw(row, predicted);
    return h("div", { class: "stack" }, verdict, chart, what.node);
  }
}
