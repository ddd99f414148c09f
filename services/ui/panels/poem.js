// HW7: a poem, character by character, in columns from right to left.

import { cardOf, stream } from "../lib/api.js";
import { bench, foot, notices } from "../lib/bench.js";
import { h, show } from "../lib/dom.js";
import { button, choice, numberField, slider, textExamples, textField } from "../lib/inputs.js";
import { t } from "../lib/words.js";

const TITLES = ["春望", "秋夜", "江雪", "送友人"];

export default async function poem(context) {
  const [model] = context.part.models;
  const card = await cardOf(model);
  const title = textField(t("poem.title"), TITLES[0], { lang: "zh-Hant", maxlength: 200 });
  const prompt = textField(t("poem.prompt"), "", { lang: "zh-Hant", maxlength: 2000, placeholder: "床前明月光，" });
  const form = choice(t("poem.form"), [["", t("poem.anyForm")], ...card.labels.map((one) => [one, one])], "五言律詩");
  const seed = numberField(t("seed"), 7);
  const temperature = slider(t("poem.temperature"), { min: 0, max: 2, step: 0.05, value: card.decision.temperature ?? 1, text: (n) => n.toFixed(2) });
  const again = () => {
    seed.control.value = String(Math.floor(Math.random() * 1e6));
    run();
  };
  const examples = textExamples(TITLES, (one) => {
    title.control.value = one;
    run();
  });
  const { ask, answer } = bench(context, [
    h(
      "div",
      { class: "stack" },
      title.node,
      examples,
      prompt.node,
      h("div", { class: "columns" }, form.node, seed.node),
      temperature.node,
      h("div", { class: "row" }, button(t("poem.write"), () => run()), button(t("poem.another"), again, { kind: "quiet" })),
    ),
  ]);

  const run = () =>
    ask(async (signal) => {
      const started = performance.now();
      const doubts = h("div");
      const page = h("p", { class: "poem", lang: "zh-Hant", tabindex: "0", role: "group", "aria-label": t("poem") });
      show(answer, doubts, page);
      let text = prompt.control.value;
      let last = {};
      const question = { model, title: title.control.value, prompt: text, form: form.control.value, seed: seed.control.value || "0", temperature: Number(temperature.control.value) };
      for await (const part of stream("GenerateService.GenerateText", question, signal)) {
        last = part;
        text += part.text ?? "";
        page.textContent = text.replace(/([，。！？；])(?=.)/g, "$1\n");
        if (part.notices) doubts.append(...notices(part.notices));
      }
      return [doubts, page, h("p", { class: "small" }, t("poem.tokens", { n: last.tokens ?? 0, seed: last.seed ?? 0 })), foot({ answer: last, ms: performance.now() - started })];
    });
  run();
}
