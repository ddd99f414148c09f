// HW9: the words that lead to an answer about a text, or to the answer of a question.

import { call } from "../lib/api.js";
import { bench, foot } from "../lib/bench.js";
import { h, percent } from "../lib/dom.js";
import { colouredWords, signedBars } from "../lib/heat.js";
import { button, choice, textExamples, textField, textIn } from "../lib/inputs.js";
import { exampleText, floatsOf } from "../lib/media.js";
import { t } from "../lib/words.js";

const METHODS = ["kernelShap", "occlusion", "lime", "attention"];
const REVIEW = "The chairs were hard, but what a wonderful film!";
const QUESTION = "Who was the captain of the Beagle?";

export default function explainText(context) {
  const text = textField(t("opinion.text"), REVIEW, { rows: 6, lang: "en" });
  const question = textField(t("explain.question"), "", { lang: "en", placeholder: QUESTION });
  const method = choice(t("method"), METHODS.map((name) => [name, t(`method.${name}`)]), METHODS[0], () => run());
  const use = async (one) => {
    text.control.value = one === QUESTION ? (await exampleText("beagle.txt")).replace(/(\S)\n(?=\S)/g, "$1 ") : one;
    question.control.value = one === QUESTION ? QUESTION : "";
    run();
  };
  const examples = textExamples([REVIEW, QUESTION], (one) => ask(() => use(one)));
  const { ask } = bench(context, [h("div", { class: "stack" }, text.node, question.node, examples, method.node, button(t("explain.run"), () => run()))]);

  const run = () =>
    ask(async (signal) => {
      const written = textIn(text);
      const input = { text: { text: written, question: question.control.value } };
      const reply = await call("ExplainService.Explain", { input, method: { [method.control.value]: {} } }, signal);
      const { prediction, words = [], attribution } = reply.answer;
      const values = [...floatsOf(attribution.values)];
      const inText = words.map((word, i) => [word, values[i]]).filter(([word]) => !word.inQuestion);
      const share = prediction.probability === undefined ? "" : ` · ${percent(prediction.probability)}`;
      return [
        h("p", { class: "verdict" }, `${prediction.label}${share}`),
        h("p", { class: "small" }, t(`method.${method.control.value}.note`)),
        colouredWords(written, inText.map(([word]) => word), inText.map(([, value]) => value), attribution.signed ?? false),
        h("h2", { class: "sub" }, t("explain.words")),
        signedBars(words.map((word) => word.text), values, 8),
        foot(reply),
      ];
    });
  run();
}
