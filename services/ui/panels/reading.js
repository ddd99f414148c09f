// HW7: the span of a text that answers a question.

import { call } from "../lib/api.js";
import { bars, bench, foot } from "../lib/bench.js";
import { h, percent } from "../lib/dom.js";
import { button, textExamples, textField, textIn } from "../lib/inputs.js";
import { exampleText } from "../lib/media.js";
import { t } from "../lib/words.js";

const QUESTIONS = ["Who was the captain of the Beagle?", "Where did the ship anchor?", "What did Darwin collect?", "Who was the cook?"];

export default async function reading(context) {
  const [model] = context.part.models;
  const passage = textField(t("reading.text"), (await exampleText("beagle.txt")).replace(/(\S)\n(?=\S)/g, "$1 "), { rows: 9, lang: "en" });
  const question = textField(t("reading.question"), QUESTIONS[0], { lang: "en", on: { keydown: (event) => event.key === "Enter" && run() } });
  const examples = textExamples(QUESTIONS, (one) => {
    question.control.value = one;
    run();
  });
  const { ask } = bench(context, [h("div", { class: "stack" }, passage.node, question.node, examples, button(t("reading.ask"), () => run()))]);

  const run = () =>
    ask(async (signal) => {
      const text = textIn(passage);
      const reply = await call("AnswerService.Answer", { model, context: text, questions: [textIn(question)], topK: 5 }, signal);
      const [result] = reply.answer.results;
      const answers = result.answers ?? [];
      const best = answers[0];
      const sure = result.hasAnswer && best;
      return [
        h("p", { class: "verdict" }, sure ? best.text : t("reading.none")),
        h("p", { class: "small" }, t("reading.noneProbability", { share: percent(result.noAnswerProbability) })),
        h("h2", { class: "sub" }, t("reading.where")),
        marked(text, sure ? [best] : []),
        h("h2", { class: "sub" }, t("reading.others")),
        bars(answers.map((one) => ({ label: one.text, probability: one.probability }))),
        foot(reply),
      ];
    });
  run();
}

// The text with spans marked; places are in code points.
function marked(text, spans) {
  const letters = [...text];
  const nodes = [];
  let at = 0;
  for (const { start = 0, end = 0 } of spans) {
    nodes.push(letters.slice(at, start).join(""), h("mark", {}, letters.slice(start, end).join("")));
    at = end;
  }
  return h("p", { class: "passage", lang: "en" }, nodes, letters.slice(at).join(""));
}
