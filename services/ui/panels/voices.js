// HW4: do two recordings have the same speaker, and which known voice is the first most like.

import { call } from "../lib/api.js";
import { bars, bench, foot, hint } from "../lib/bench.js";
import { h } from "../lib/dom.js";
import { button, soundInput } from "../lib/inputs.js";
import { t } from "../lib/words.js";
import { waveform } from "../lib/wave.js";

const OTHER = "sentence.wav";

export default function voices(context) {
  const [model] = context.part.models;
  const clips = [null, null];
  const inputs = [0, 1].map((place) =>
    soundInput(context, {
      label: t("voices.clip", { n: place + 1 }),
      examples: [place ? "armelle_2.wav" : "armelle_1.wav", OTHER],
      use: (sound) => {
        clips[place] = sound;
        run();
      },
    }),
  );
  const both = async (...paths) => {
    for (const [place, path] of paths.entries()) await inputs[place].take(path);
  };
  const { ask } = bench(context, [
    h(
      "div",
      { class: "stack" },
      h("div", { class: "row" }, button(t("voices.same"), () => both("armelle_1.wav", "armelle_2.wav"), { kind: "quiet" }), button(t("voices.different"), () => both("armelle_1.wav", OTHER), { kind: "quiet" })),
      inputs.map((one) => one.node),
    ),
  ]);

  const run = () =>
    ask(async (signal) => {
      const [first, second] = clips;
      if (!first || !second) return hint(t("voices.both"));
      const reply = await call("ClassifyService.VerifySpeaker", { model, first: first.clip, second: second.clip }, signal);
      const likest = await call("ClassifyService.ClassifyAudio", { model, clips: [first.clip], topK: 5 }, signal);
      const { score = 0, threshold = 0, sameSpeaker = false } = reply.answer;
      const at = (value) => `${((value + 1) / 2) * 100}%`;
      return [
        h("p", { class: `verdict ${sameSpeaker ? "good" : "bad"}` }, t(sameSpeaker ? "voices.one" : "voices.two")),
        h("p", {}, t("voices.score", { score: score.toFixed(2), threshold: threshold.toFixed(2) })),
        h("div", { class: "meter", "aria-hidden": "true" }, h("i", { style: { width: at(score) } }), h("b", { style: { left: at(threshold) } }), h("span", { style: { left: at(threshold) } }, t("threshold"))),
        h("h2", { class: "sub" }, t("voices.clip", { n: 1 })),
        waveform(first),
        h("h2", { class: "sub" }, t("voices.clip", { n: 2 })),
        waveform(second),
        h("h2", { class: "sub" }, t("voices.known")),
        bars(likest.answer.results[0].classes, { most: 5 }),
        foot(reply),
      ];
    });
}
