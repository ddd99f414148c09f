// Pointer network: English in another style, each token darker the more of it was copied.

import { call } from "../lib/api.js";
import { bench, foot, notices } from "../lib/bench.js";
import { h } from "../lib/dom.js";
import { button, choice, textExamples, textField, textIn } from "../lib/inputs.js";
import { t } from "../lib/words.js";

const EXAMPLES = [
  ["You will see your brother.", "STYLE_ARCHAIC"],
  ["He has gone to his house because his father called him.", "STYLE_ARCHAIC"],
  ["He spake unto them, saying, Ye shall not eat.", "STYLE_MODERN"],
];

export default function rewriting(context) {
  const [model] = context.part.models;
  const text = textField(t("rewriting.text"), EXAMPLES[0][0], { rows: 3, lang: "en" });
  const style = choice(t("rewriting.style"), [["STYLE_ARCHAIC", t("rewriting.archaic")], ["STYLE_MODERN", t("rewriting.modern")]], "STYLE_ARCHAIC", () => run());
  const examples = textExamples(EXAMPLES, ([sentence, wanted]) => {
    text.control.value = sentence;
    style.control.value = wanted;
    run();
  });
  const { ask } = bench(context, [h("div", { class: "stack" }, text.node, examples, style.node, button(t("rewriting.run"), () => run()))]);

  const run = () =>
    ask(async (signal) => {
      const reply = await call("TranslateService.Rewrite", { model, texts: [textIn(text)], style: style.control.value }, signal);
      const [result] = reply.answer.results;
      return [notices(result.notices), h("p", { class: "translation", lang: "en" }, result.text ?? ""), result.tokens?.length > 0 && copies(result.text, result.tokens), foot(reply)];
    });
  run();
}

function copies(text, tokens) {
  const shade = (share) => `color-mix(in srgb, var(--bar-best) ${Math.round(share * 40)}%, var(--raised))`;
  return h(
    "div",
    {},
    h("h2", { class: "sub" }, t("rewriting.copied")),
    h("p", { class: "small" }, t("rewriting.copiedNote")),
    h("p", { lang: "en" }, withGaps(text, tokens, (one) => h("span", { title: `${Math.round((one.pCopy ?? 0) * 100)} %`, style: { "background-color": shade(one.pCopy ?? 0) } }, one.text))),
  );
}

// A node for each token, and what the text has between them: line breaks are no tokens.
function withGaps(text, tokens, node) {
  let end = 0;
  return tokens.flatMap((one) => {
    const start = Math.max(end, text.indexOf(one.text, end));
    const gap = text.slice(end, start);
    end = start + one.text.length;
    return [gap, node(one)];
  });
}
