// HW1: the fifth day of a survey, from the four before; and which of its answers led to the number.

import { call, cardOf, explains } from "../lib/api.js";
import { asker, bench, foot, notices, table } from "../lib/bench.js";
import { featureRows } from "../lib/csv.js";
import { figure, h, settled, show } from "../lib/dom.js";
import { lineChart, signedBars } from "../lib/heat.js";
import { button, dropZone, fileOf, slider } from "../lib/inputs.js";
import { floatsOf } from "../lib/media.js";
import { t } from "../lib/words.js";

const POSITIVE = ["tested_positive", "tested_positive.1", "tested_positive.2", "tested_positive.3"];
const STATES = /^[A-Z]{2}$/;
const SHOWN = 30;

export default async function survey(context) {
  const model = context.part.models[0];
  const card = await cardOf(model);
  const { features } = card.preprocessing;
  const rowsBox = h("div");
  const { ask } = bench(context, [
    h(
      "div",
      { class: "stack" },
      dropZone(context, t("table.csv"), ".csv,text/csv", (file) => take(file)),
      button(t("example.survey"), () => take("survey.csv"), { kind: "quiet" }),
      rowsBox,
    ),
  ]);

  const take = (source) =>
    ask(async (signal) => {
      show(rowsBox);
      const file = await fileOf(source);
      const rows = featureRows(await file.text(), features);
      const { answer } = await call("PredictService.Predict", { model, rows: rows.map((row) => ({ features: row })) }, signal);
      drawRows(rows, answer.results.map((one) => one.values[0]));
      run(rows[0]);
    });

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
      const why = (await explains(model)) && (await reasons(row, signal));
      return [whatIf(row, reply.answer.results[0], signal), why, foot(reply)];
    });

  async function reasons(row, signal) {
    const { answer } = await call("ExplainService.Explain", { model, input: { row: { features: row } }, method: { integratedGradients: {} } }, signal);
    const values = floatsOf(answer.attribution.values);
    return [h("h2", { class: "sub" }, t("survey.why")), h("p", { class: "small" }, t("survey.whyNote")), signedBars(features, [...values])];
  }

  // The chart, with a slider that changes the fourth day and asks again.
  function whatIf(row, predicted, signal) {
    const days = POSITIVE.map((name) => features.indexOf(name));
    const drawn = (values, result) => {
      const [next] = result.values;
      const verdict = t("survey.verdict", { value: figure(next) });
      return [h("p", { class: "verdict" }, verdict), notices(result.notices), lineChart(verdict, days.map((i) => values[i]), { next, names: [1, 2, 3, 4, 5].map((n) => t("survey.day", { n })), unit: " %" })];
    };
    const shown = h("div", {}, drawn(row, predicted));
    const redraw = asker(shown, signal);
    const predict = async (value, until) => {
      const changed = row.with(days[3], value);
      const { answer } = await call("PredictService.Predict", { model, rows: [{ features: changed }] }, until);
      return drawn(changed, answer.results[0]);
    };
    const again = settled((value) => redraw((until) => predict(value, until)), 60);
    const what = slider(t("survey.whatIf"), { min: 0, max: 60, step: 0.5, value: row[days[3]], text: (n) => `${n.toFixed(1)} %`, on: again });
    return h("div", { class: "stack" }, shown, what.node);
  }
}
