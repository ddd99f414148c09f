// HW3: the class of a photo, and which of its pixels speak for it.

import { call, explains } from "../lib/api.js";
import { bars, bench, foot, notices } from "../lib/bench.js";
import { h } from "../lib/dom.js";
import { overlaid } from "../lib/heat.js";
import { choice, pictureInput } from "../lib/inputs.js";
import { t } from "../lib/words.js";

const PHOTOS = ["cat.png", "ship.png", "horse.png", "truck.png", ...["airplane", "automobile", "bird", "deer", "dog", "frog"].map((name) => `photos/${name}/1.png`)];
const METHODS = ["gradCam", "integratedGradients", "smoothGrad", "occlusion"];

export default async function photo(context) {
  const [model] = context.part.models;
  const explained = await explains(model);
  let chosen = null;
  let method = METHODS[0];
  const input = pictureInput(context, { examples: PHOTOS, use: (picture) => run((chosen = picture)) });
  const methods = choice(t("method"), METHODS.map((name) => [name, t(`method.${name}`)]), method, (value) => {
    method = value;
    if (chosen) run(chosen);
  });
  const { ask } = bench(context, [h("div", { class: "stack" }, input.node, explained && methods.node)]);

  const run = (picture) =>
    ask(async (signal) => {
      const reply = await call("ClassifyService.ClassifyImage", { model, images: [picture.data] }, signal);
      const [result] = reply.answer.results;
      const best = result.classes[0];
      const why = explained && (await reasons(picture, best, signal));
      return [notices(result.notices), h("p", { class: "verdict" }, best.label), bars(result.classes), why, foot(reply)];
    });

  async function reasons(picture, best, signal) {
    const { answer } = await call("ExplainService.Explain", { model, input: { image: picture.data }, method: { [method]: {} }, targetIndex: best.index ?? 0 }, signal);
    return [h("h2", { class: "sub" }, t("photo.why", { label: best.label })), overlaid(picture.url, picture.name, answer.attribution)];
  }
}
