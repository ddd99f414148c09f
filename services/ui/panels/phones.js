// HW2: which phone sounds in each hundredth of a second, under the waveform.

import { call } from "../lib/api.js";
import { asker, bars, bench, foot, heading, picture } from "../lib/bench.js";
import { h } from "../lib/dom.js";
import { choice, soundInput } from "../lib/inputs.js";
import { pngUrl } from "../lib/media.js";
import { t } from "../lib/words.js";
import { waveform } from "../lib/wave.js";

const PAUSE = "pau";

export default function phones(context) {
  const [model] = context.part.models;
  const input = soundInput(context, { examples: ["sentence.wav"], label: t("sound.speech"), use: (sound) => run(sound) });
  const { ask } = bench(context, [input.node, h("p", { class: "small" }, t("phones.note"))], { wide: true });

  const run = (sound) =>
    ask(async (signal) => {
      const reply = await call("ClassifyService.ClassifyAudio", { model, clips: [sound.clip], topK: 8 }, signal);
      const [result] = reply.answer.results;
      const segments = result.segments ?? [];
      const sequence = segments.filter((one) => one.label !== PAUSE).map((one) => one.label);
      return [
        waveform(sound, segments),
        explained(sound, segments),
        heading(t("phones.sequence")),
        h("p", { class: "passage" }, h("code", {}, sequence.join(" ") || "—")),
        heading(t("phones.share")),
        bars(result.classes, { most: 8 }),
        foot(reply),
      ];
    });

  // What makes the model hear a phone, in time and in frequency.
  function explained(sound, segments) {
    const why = h("div", { class: "inner" });
    const explain = asker(why, context.signal);
    const nameOf = ({ label, startSeconds = 0 }) => `${label} · ${startSeconds.toFixed(2)} s`;
    const options = segments.flatMap((one, i) => (one.label === PAUSE ? [] : [[String(i), nameOf(one)]]));
    const phone = choice(t("phones.explain"), [["", t("phones.choose")], ...options], "", (place) =>
      explain(async (signal) => {
        if (!place) return h("span");
        const { startSeconds = 0, endSeconds, index = 0 } = segments[place];
        const audio = { clip: sound.clip, startSeconds, endSeconds };
        const reply = await call("ExplainService.Explain", { model, input: { audio }, method: { gradientTimesInput: {} }, targetIndex: index }, signal);
        return [picture(pngUrl(reply.answer.picture), t("phones.why"), { size: "large", crisp: false }), foot(reply)];
      }),
    );
    return h("div", { class: "stack" }, phone.node, why);
  }
}
