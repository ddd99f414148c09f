// HW12: the lander, flown on the server and shown as it flies.

import { stream } from "../lib/api.js";
import { bench, foot } from "../lib/bench.js";
import { figure, h, show } from "../lib/dom.js";
import { lineChart } from "../lib/heat.js";
import { button, checkbox, numberField } from "../lib/inputs.js";
import { pngUrl } from "../lib/media.js";
import { t } from "../lib/words.js";

const FRAME_EVERY = 2;
const FRAME_WIDTH = 480;
const FRAME_MILLISECONDS = 33; // about as fast as in the game: 50 steps a second, every other shown
const ACTIONS = { "do nothing": "none", "left engine": "left", "main engine": "main", "right engine": "right" };

export default function lander(context) {
  const [model] = context.part.models;
  const seed = numberField(t("seed"), 7);
  const sample = checkbox(t("lander.sample"), false);
  const random = () => {
    seed.control.value = String(Math.floor(Math.random() * 10000));
    run();
  };
  const { ask, answer } = bench(context, [
    h("div", { class: "stack" }, seed.node, sample.node, h("div", { class: "row" }, button(t("lander.fly"), () => run()), button(t("lander.random"), random, { kind: "quiet" })), h("p", { class: "small" }, t("lander.note"))),
  ]);

  const run = () =>
    ask(async (signal) => {
      const started = performance.now();
      const screen = h("img", { class: "picture large", alt: t("lander.screen"), width: 480, height: 320 });
      const facts = h("p", { class: "small", "aria-live": "off" });
      const engines = h("div", { class: "engines" });
      const rewards = [];
      show(answer, screen, facts, engines);
      let last = {};
      let due = performance.now();
      for await (const step of stream("ActService.RunEpisode", { model, seed: seed.control.value || "0", sample: sample.control.checked, frameEvery: FRAME_EVERY, frameWidth: FRAME_WIDTH }, signal)) {
        last = step;
        rewards.push(step.totalReward ?? 0);
        if (!step.frame) continue;
        due = Math.max(due + FRAME_MILLISECONDS, performance.now());
        await new Promise((resolve) => setTimeout(resolve, due - performance.now()));
        screen.src = pngUrl(step.frame);
        facts.textContent = t("lander.step", { step: step.step, reward: (step.totalReward ?? 0).toFixed(0) });
        show(engines, engineBars(step.action));
      }
      const landed = (last.totalReward ?? 0) >= 200;
      const every = Math.max(1, Math.floor(rewards.length / 12));
      const points = rewards.filter((_, i) => i % every === 0 || i === rewards.length - 1);
      return [
        screen,
        h("p", { class: `verdict ${landed ? "good" : ""}` }, t(landed ? "lander.landed" : "lander.ended", { reward: figure(Math.round(last.totalReward ?? 0)) })),
        facts,
        h("h2", { class: "sub" }, t("lander.rewards")),
        lineChart(t("lander.rewards"), points),
        foot({ answer: last, ms: performance.now() - started }),
      ];
    });
}

function engineBars(action) {
  return h(
    "ol",
    { class: "bars" },
    Object.values(ACTIONS).map((key, i) =>
      h(
        "li",
        { class: (action.index ?? 0) === i ? "best" : null },
        h("span", { class: "bar-label" }, t(`lander.${key}`)),
        h("span", { class: "bar", "aria-hidden": "true" }, h("i", { style: { width: `${(action.probabilities?.[i] ?? 0) * 100}%` } })),
        h("span", { class: "bar-value" }, `${Math.round((action.probabilities?.[i] ?? 0) * 100)} %`),
      ),
    ),
  );
}
