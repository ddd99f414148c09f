// BERT: does a sentence follow from another.

import { call } from "../lib/api.js";
import { bars, bench, foot, notices } from "../lib/bench.js";
import { h } from "../lib/dom.js";
import { button, textExamples, textField, textIn } from "../lib/inputs.js";
import { t } from "../lib/words.js";

const EXAMPLES = [
  ["A man is playing a guitar on the street.", "A man is making music."],
  ["A man is playing a guitar on the street.", "The street is empty."],
  ["Two children run across a field.", "The children are brothers."],
];

export default function entailment(context) {
  const [model] = context.part.models;
  const premise = textField(t("entailment.premise"), EXAMPLES[0][0], { rows: 2, lang: "en" });
  const hypothesis = textField(t("entailment.hypothesis"), EXAMPLES[0][1], { rows: 2, lang: "en" });
  const examples = textExamples(EXAMPLES.map(([a, b]) => [`${a} → ${b}`, a, b]), ([, a, b]) => {
    premise.control.value = a;
    hypothesis.control.value = b;
    run();
  });
  const { ask } = bench(context, [h("div", { class: "stack" }, premise.node, hypothesis.node, examples, button(t("entailment.run"), () => run()))]);

  const run = () =>
    ask(async (signal) => {
      const reply = await call("ClassifyService.ClassifyPair", { model, pairs: [{ premise: textIn(premise), hypothesis: textIn(hypothesis) }] }, signal);
      const [result] = reply.answer.results;
      const best = result.classes[0].label;
      return [notices(result.notices), h("p", { class: "verdict" }, t(`entailment.${best}`)), bars(result.classes.map((one) => ({ ...one, label: t(`entailment.${one.label}.short`) }))), foot(reply)];
    });
  run();
}
