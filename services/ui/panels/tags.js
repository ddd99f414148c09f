// RNN and BERT: labels of words.

import { call } from "../lib/api.js";
import { bars, bench, foot, notices } from "../lib/bench.js";
import { h, percent } from "../lib/dom.js";
import { button, choice, textExamples, textField, textIn } from "../lib/inputs.js";
import { t } from "../lib/words.js";

const EXAMPLES = ["book a table for four tomorrow", "play Nina Simone on Spotify", "will it rain in Taipei on Friday", "rate this book five stars"];

export default function tags(context) {
  const [slots, speech] = context.part.models;
  const model = choice(t("tags.what"), [[slots, t("tags.slots")], [speech, t("tags.speech")]], slots, () => run());
  const text = textField(t("tags.text"), EXAMPLES[0], { lang: "en", on: { keydown: (event) => event.key === "Enter" && run() } });
  const examples = textExamples(EXAMPLES, (one) => {
    text.control.value = one;
    run();
  });
  const { ask } = bench(context, [h("div", { class: "stack" }, model.node, text.node, examples, button(t("tags.run"), () => run()))]);

  const run = () =>
    ask(async (signal) => {
      const written = textIn(text);
      const reply = await call("TagService.TagText", { model: model.control.value, texts: [written], topK: 5 }, signal);
      const [{ spans = [], classes = [], notices: doubts = [] }] = reply.answer.results;
      const letters = [...written];
      const nodes = [];
      let at = 0;
      for (const { start = 0, end = 0, label, probability } of spans) {
        nodes.push(letters.slice(at, start).join(""), h("span", { class: "span", title: percent(probability) }, letters.slice(start, end).join(""), h("small", {}, label)));
        at = end;
      }
      nodes.push(letters.slice(at).join(""));
      return [notices(doubts), classes.length > 0 && [h("h2", { class: "sub" }, t("tags.intent")), bars(classes, { most: 5 })], h("h2", { class: "sub" }, t("tags.spans")), h("p", { class: "tagged", lang: "en" }, nodes), foot(reply)];
    });
  run();
}
