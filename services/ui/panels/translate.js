// HW5: a translation as it is written, then which English words each Chinese token looked at.

import { call, stream } from "../lib/api.js";
import { bench, foot, notices } from "../lib/bench.js";
import { h, show } from "../lib/dom.js";
import { button, choice, textExamples, textField, textIn } from "../lib/inputs.js";
import { t } from "../lib/words.js";

const EXAMPLES = ["Where is the library?", "He wants to get a new dictionary.", "I don't know how to swim.", "Please write to anna.lee@example.com before 7:45."];

export default function translate(context) {
  const [model] = context.part.models;
  const text = textField(t("translate.text"), EXAMPLES[1], { rows: 4, lang: "en" });
  const script = choice(t("translate.script"), [["SCRIPT_HANT", "繁體中文"], ["SCRIPT_HANS", "简体中文"]], "SCRIPT_HANT", () => run());
  const examples = textExamples(EXAMPLES, (one) => {
    text.control.value = one;
    run();
  });
  const { ask, answer } = bench(context, [h("div", { class: "stack" }, text.node, examples, script.node, button(t("translate"), () => run()))]);

  const run = () =>
    ask(async (signal) => {
      const source = textIn(text);
      const lang = script.control.value === "SCRIPT_HANS" ? "zh-Hans" : "zh-Hant";
      const sentences = [];
      const written = h("p", { class: "translation", lang });
      const doubts = h("div");
      show(answer, doubts, written);
      for await (const part of stream("TranslateService.StreamTranslate", { model, text: source, beamSize: 4, script: script.control.value }, signal)) {
        if (part.notices) show(doubts, notices(part.notices));
        sentences[part.sentence ?? 0] = part.text ?? "";
        written.textContent = sentences.join("");
      }
      const reply = await call("TranslateService.Translate", { model, texts: [source], beamSize: 4, count: 3, alignment: true, script: script.control.value }, signal);
      const [best, ...others] = reply.answer.results[0].translations;
      written.textContent = best.text ?? "";
      const rest = others.map((one) => one.text).filter((one) => one !== best.text);
      return [
        doubts,
        written,
        rest.length > 0 && [h("h2", { class: "sub" }, t("translate.others")), h("ul", { lang }, rest.map((one) => h("li", {}, one)))],
        (best.sentences ?? []).filter((one) => one.tokens?.length).map((one) => alignment(one, lang)),
        foot(reply),
      ];
    });
  run();
}

// A row for each token of the translation, a column for each of the source; darker = more attention.
function alignment({ sourceTokens, tokens }, lang) {
  const caption = t("translate.alignment");
  const cell = (weight, row, column) =>
    h("td", { title: `${row} ← ${column}: ${Math.round(weight * 100)} %`, style: { "background-color": `color-mix(in srgb, var(--bar-best) ${Math.round(weight * 100)}%, var(--raised))` } });
  return h(
    "div",
    {},
    h("h2", { class: "sub" }, caption),
    h("p", { class: "small" }, t("translate.alignmentNote")),
    h(
      "div",
      { class: "scroll", tabindex: "0", role: "group", "aria-label": caption },
      h(
        "table",
        { class: "grid-heat" },
        h("thead", {}, h("tr", {}, h("td"), sourceTokens.map((one) => h("th", { scope: "col", lang: "en" }, one.text)))),
        h("tbody", {}, tokens.map((one) => h("tr", {}, h("th", { scope: "row", lang }, one.text), (one.attention ?? []).map((weight, i) => cell(weight, one.text, sourceTokens[i].text))))),
      ),
    ),
  );
}
