// Word vectors: which words are near, and sums such as king - man + woman.

import { call } from "../lib/api.js";
import { bench, foot, notices } from "../lib/bench.js";
import { h } from "../lib/dom.js";
import { button, textExamples, textField, textIn } from "../lib/inputs.js";
import { InputError } from "../lib/media.js";
import { t } from "../lib/words.js";

const EXAMPLES = ["river", "king - man + woman", "paris - france + italy", "bigger - big + small"];

export default function nearest(context) {
  const [model] = context.part.models;
  const text = textField(t("words.text"), EXAMPLES[0], { lang: "en", maxlength: 500, on: { keydown: (event) => event.key === "Enter" && run() } });
  const examples = textExamples(EXAMPLES, (one) => {
    text.control.value = one;
    run();
  });
  const { ask } = bench(context, [h("div", { class: "stack" }, text.node, examples, button(t("words.run"), () => run()), h("p", { class: "small" }, t("words.note")))]);

  const run = () =>
    ask(async (signal) => {
      const { positive, negative } = sumOf(textIn(text));
      if (!positive.length) throw new InputError(t("words.none"));
      const reply = await call("EmbedService.Nearest", { model, positive, negative, topK: 12 }, signal);
      const words = reply.answer.words ?? [];
      return [
        notices(reply.answer.notices),
        words.length > 0 && h("p", { class: "verdict" }, words[0].word),
        h(
          "ol",
          { class: "bars" },
          words.map((one, i) =>
            h("li", { class: i ? null : "best" }, h("span", { class: "bar-label" }, one.word), h("span", { class: "bar", "aria-hidden": "true" }, h("i", { style: { width: `${Math.max(0, one.cosine) * 100}%` } })), h("span", { class: "bar-value" }, one.cosine.toFixed(3))),
          ),
        ),
        foot(reply),
      ];
    });
  run();
}

// `king - man + woman` as words to add and to take away; a hyphen within a word stays.
function sumOf(text) {
  const positive = [];
  const negative = [];
  let sign = positive;
  for (const part of text.replaceAll("−", "-").split(/\s+|(?=\+)/).filter(Boolean)) {
    if (part === "+" || part === "-") sign = part === "+" ? positive : negative;
    else {
      sign.push(part.replace(/^\+/, ""));
      sign = positive;
    }
  }
  return { positive, negative };
}
