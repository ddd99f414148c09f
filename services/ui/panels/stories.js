// Attention and memory: a question about a story, and the sentences that each hop looked at.

import { call } from "../lib/api.js";
import { bars, bench, foot, notices } from "../lib/bench.js";
import { h, percent } from "../lib/dom.js";
import { button, textExamples, textField, textIn } from "../lib/inputs.js";
import { exampleText } from "../lib/media.js";
import { t } from "../lib/words.js";

const QUESTIONS = ["Where is the football?", "Where is Mary?", "Where is John?", "Where is the apple?"];

export default async function stories(context) {
  const [model] = context.part.models;
  const story = textField(t("stories.story"), (await exampleText("story.txt")).trim(), { rows: 9, lang: "en" });
  const question = textField(t("stories.question"), QUESTIONS[0], { lang: "en", on: { keydown: (event) => event.key === "Enter" && run() } });
  const examples = textExamples(QUESTIONS, (one) => {
    question.control.value = one;
    run();
  });
  const { ask } = bench(context, [h("div", { class: "stack" }, story.node, question.node, examples, button(t("reading.ask"), () => run()))]);

  const run = () =>
    ask(async (signal) => {
      const sentences = textIn(story).split("\n").map((one) => one.trim()).filter(Boolean);
      const reply = await call("AnswerService.AnswerStory", { model, sentences, question: textIn(question), topK: 4 }, signal);
      const { answers = [], hops = [], notices: doubts } = reply.answer;
      const cell = (weight) => h("td", { class: "heat", style: { "background-color": `color-mix(in srgb, var(--bar) ${Math.round(weight * 100)}%, transparent)` } }, weight >= 0.01 ? percent(weight, 0) : "");
      return [
        notices(doubts),
        h("p", { class: "verdict" }, answers[0]?.text ?? "—"),
        bars(answers.map((one) => ({ label: one.text, probability: one.probability }))),
        h("h2", { class: "sub" }, t("stories.looked")),
        h(
          "div",
          { class: "scroll", tabindex: "0", role: "group", "aria-label": t("stories.looked") },
          h(
            "table",
            {},
            h("thead", {}, h("tr", {}, h("th", { scope: "col" }, t("stories.sentence")), hops.map((_, i) => h("th", { scope: "col" }, t("stories.hop", { n: i + 1 }))))),
            h("tbody", {}, sentences.map((sentence, i) => h("tr", {}, h("td", { lang: "en" }, sentence), hops.map((hop) => cell(hop.attention?.[i] ?? 0))))),
          ),
        ),
        foot(reply),
      ];
    });
  run();
}
