// Vectors of sentences: a search by meaning in lines that are here on the page.

import { call } from "../lib/api.js";
import { bench, foot, notices } from "../lib/bench.js";
import { h } from "../lib/dom.js";
import { button, textExamples, textField, textIn } from "../lib/inputs.js";
import { InputError, exampleText } from "../lib/media.js";
import { t } from "../lib/words.js";

const QUERIES = ["ships that sailed to distant islands", "who paid for the journey", "animals that he gathered"];
const MOST_SENTENCES = 255; // with the query, as many texts as one request may have

export default async function searching(context) {
  const [model] = context.part.models;
  const lines = (await exampleText("beagle.txt")).replace(/(\S)\n(?=\S)/g, "$1 ").replace(/([.!?])\s+/g, "$1\n").trim();
  const query = textField(t("search.query"), QUERIES[0], { lang: "en", on: { keydown: (event) => event.key === "Enter" && run() } });
  const text = textField(t("search.text"), lines, { rows: 10, lang: "en" });
  const examples = textExamples(QUERIES, (one) => {
    query.control.value = one;
    run();
  });
  const { ask } = bench(context, [h("div", { class: "stack" }, query.node, examples, button(t("search.run"), () => run()), text.node)]);

  const run = () =>
    ask(async (signal) => {
      const asked = textIn(query);
      const sentences = textIn(text).split("\n").map((one) => one.trim()).filter(Boolean);
      if (sentences.length > MOST_SENTENCES) throw new InputError(t("search.many", { n: sentences.length, most: MOST_SENTENCES }));
      const reply = await call("EmbedService.EmbedText", { model, texts: [asked, ...sentences] }, signal);
      const [first, ...others] = reply.answer.results;
      const likeness = others.map((one) => one.vector.reduce((sum, value, i) => sum + value * first.vector[i], 0));
      const order = sentences.map((_, i) => i).sort((a, b) => likeness[b] - likeness[a]);
      return [
        notices(first.notices),
        h(
          "ol",
          { class: "ranked" },
          order.slice(0, 8).map((i, place) =>
            h("li", { class: place ? null : "best" }, h("p", { lang: "en" }, sentences[i]), h("div", { class: "row" }, h("span", { class: "bar grow", "aria-hidden": "true" }, h("i", { style: { width: `${Math.max(0, likeness[i]) * 100}%` } })), h("span", { class: "bar-value" }, likeness[i].toFixed(3)))),
          ),
        ),
        foot(reply),
      ];
    });
  run();
}
