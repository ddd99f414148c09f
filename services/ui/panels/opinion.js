// HW7: is a review glad or not, is a message spam; and which words say so.

import { call, explains } from "../lib/api.js";
import { bars, bench, foot, notices } from "../lib/bench.js";
import { h } from "../lib/dom.js";
import { colouredWords } from "../lib/heat.js";
import { button, choice, textExamples, textField, textIn } from "../lib/inputs.js";
import { exampleText, floatsOf } from "../lib/media.js";
import { t } from "../lib/words.js";

const REVIEWS = ["What a lovely film!", "The chairs were hard, but what a wonderful film!", "The plot makes no sense at all."];

export default function opinion(context) {
  const [sentiment, spam] = context.part.models;
  const model = choice(t("opinion.what"), [[sentiment, t("opinion.sentiment")], [spam, t("opinion.spam")]], sentiment, () => run());
  const text = textField(t("opinion.text"), REVIEWS[1], { rows: 5, lang: "en" });
  const use = (one) => {
    text.control.value = one;
    run();
  };
  const useMail = async () => {
    const mail = await exampleText("mail.txt");
    model.control.value = spam;
    use(mail.trim());
  };
  const examples = textExamples([...REVIEWS, t("opinion.mail")], (one) => (one === t("opinion.mail") ? ask(useMail) : use(one)));
  const { ask } = bench(context, [h("div", { class: "stack" }, model.node, text.node, examples, button(t("opinion.judge"), () => run()))]);

  const run = () =>
    ask(async (signal) => {
      const name = model.control.value;
      const written = textIn(text);
      const reply = await call("ClassifyService.ClassifyText", { model: name, texts: [written] }, signal);
      const [result] = reply.answer.results;
      const best = result.classes[0];
      const why = (await explains(name)) && (await reasons(name, written, best, signal));
      return [notices(result.notices), h("p", { class: "verdict" }, best.label), bars(result.classes), why, foot(reply)];
    });
  run();
}

async function reasons(model, text, best, signal) {
  const { answer } = await call("ExplainService.Explain", { model, input: { text: { text } }, method: { kernelShap: {} }, targetIndex: best.index ?? 0 }, signal);
  const words = (answer.words ?? []).filter((one) => !one.inQuestion);
  return [h("h2", { class: "sub" }, t("opinion.why", { label: best.label })), colouredWords(text, words, [...floatsOf(answer.attribution.values)])];
}
