// HW10: a photo, the attacked photo where the server allows it, and the defended one, side by side.

import { call, cardOf, listModels, serverFacts } from "../lib/api.js";
import { bench, foot, picture, table } from "../lib/bench.js";
import { h, percent } from "../lib/dom.js";
import { checkbox, choice, pictureInput, slider } from "../lib/inputs.js";
import { pngUrl } from "../lib/media.js";
import { t } from "../lib/words.js";

const DEFENCES = ["gaussian", "median", "jpeg", "bitDepth", "resizeAndPad", "autoencoder", "robustModel"];
const ATTACKS = ["fgsm", "iFgsm", "miFgsm", "diMiFgsm", "pgd", "square"];

export default async function defend(context) {
  const [model, robust] = context.part.models;
  const [{ attacks }, models] = await Promise.all([serverFacts(), listModels()]);
  let chosen = null;
  const again = () => chosen && run(chosen);
  const input = pictureInput(context, { examples: ["cat.png", "ship.png", "horse.png", "truck.png", "photos/dog/1.png", "photos/airplane/1.png"], use: (one) => run((chosen = one)) });
  const defences = DEFENCES.map((name) => [name, checkbox(t(`defence.${name}`), name === "jpeg" || name === "median", again)]);
  const attack = choice(t("attack.method"), ATTACKS.map((name) => [name, t(`attack.${name}`)]), "pgd", again);
  const size = slider(t("attack.size"), { min: 1, max: 32, value: 8, text: (n) => `${n} / 255`, on: again });
  const attackFields = attacks ? [attack.node, size.node] : [h("p", { class: "notice" }, t("attack.off"))];
  const { ask } = bench(context, [
    h("div", { class: "stack" }, input.node, attackFields, h("fieldset", { class: "plain" }, h("legend", { class: "legend" }, t("defence")), defences.map(([, one]) => one.node))),
  ]);
  if (models.has(robust)) context.root.append(h("section", { class: "card after", "aria-label": t("defence.measured") }, comparison(await cardOf(robust))));

  const run = (one) =>
    ask(async (signal) => {
      const attacked = attacks ? await attackOn(one, signal) : null;
      const chain = defences.filter(([, box]) => box.control.checked).map(([name]) => ({ [name]: {} }));
      const shown = attacked ? attacked.image : one.data;
      const reply = await call("DefendService.Defend", { model, images: [shown], defences: chain }, signal);
      const [result] = reply.answer.results;
      const steps = [step(t("before"), one.url, attacked?.before ?? result.before)];
      if (attacked) steps.push(step(t("attack.after"), pngUrl(attacked.image), attacked.after, !attacked.success));
      steps.push(step(t("defence.after"), pngUrl(result.image), result.after));
      return [h("div", { class: "trio" }, steps), attacked && h("p", { class: "small" }, t("attack.change", { n: Math.round((attacked.linf ?? 0) * 255) })), detection(result.detection), foot(reply)];
    });

  async function attackOn(one, signal) {
    const method = { [attack.control.value]: { epsilon: Number(size.control.value) / 255 } };
    const { answer } = await call("DefendService.Attack", { model, images: [one.data], method }, signal);
    return answer.results[0];
  }
}

function step(caption, url, predicted, right = true) {
  return h(
    "div",
    {},
    picture(url, caption, { caption }),
    h("p", { class: `big ${right ? "" : "bad"}` }, predicted.label),
    h("p", { class: "small" }, percent(predicted.probability)),
  );
}

// The robust network beside the plain one, without an attack and under one, as its card has them.
function comparison({ name, metrics, baselines }) {
  const compared = metrics.map((one) => one.name).filter((metric) => baselines.some((one) => one.metric === metric));
  const own = metrics.map((one) => ({ name, metric: one.name, value: one.value }));
  const rows = [...new Set([name, ...baselines.map((one) => one.name)])].map((network) => [
    h("code", {}, network),
    ...compared.map((metric) => [...own, ...baselines].find((one) => one.name === network && one.metric === metric)).map((one) => (one ? percent(one.value) : "—")),
  ]);
  return [h("h2", {}, t("defence.measured")), table(t("defence.measuredNote"), [t("card.baseline"), ...compared.map((metric) => metric.replaceAll("_", " "))], rows)];
}

function detection(found) {
  if (!found || found.threshold === undefined) return null;
  return h(
    "p",
    { class: `notice ${found.attacked ? "warn" : ""}` },
    t(found.attacked ? "defence.attacked" : "defence.clean", { score: (found.score ?? 0).toFixed(2), threshold: found.threshold.toFixed(2) }),
  );
}
