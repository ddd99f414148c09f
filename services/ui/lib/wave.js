// A waveform that plays where it is clicked, and what sounds below it.

import { h } from "./dom.js";
import { t } from "./words.js";

const HEIGHT = 110;
const PIXELS_A_SECOND = 300;

// The samples as a picture; sizes follow the length, and the strip around it scrolls.
export function waveform(sound, segments = []) {
  const width = Math.max(480, Math.round(sound.seconds * PIXELS_A_SECOND));
  const canvas = h("canvas", { class: "wave", width, height: HEIGHT, role: "img", "aria-label": t("wave", { seconds: sound.seconds.toFixed(1) }), style: { width: `${width}px` } });
  paint(canvas, sound.samples);
  const player = h("audio", { src: sound.url, controls: true, preload: "auto" });
  canvas.addEventListener("click", (event) => {
    player.currentTime = (event.offsetX / canvas.clientWidth) * sound.seconds;
    player.play().catch(() => undefined);
  });
  const below =
    segments.length > 0 &&
    h(
      "div",
      { class: "phones", style: { width: `${width}px` } },
      segments.map((one, i) => {
        const start = one.startSeconds ?? 0;
        const kind = one.label === "pau" ? "pause" : i % 2 ? "even" : null;
        return h(
          "span",
          {
            class: kind,
            title: `${one.label} ${start.toFixed(2)}–${one.endSeconds.toFixed(2)} s, ${Math.round((one.confidence ?? 0) * 100)} %`,
            style: { left: `${(start / sound.seconds) * width}px`, width: `${((one.endSeconds - start) / sound.seconds) * width}px` },
          },
          one.label === "pau" ? "·" : one.label,
        );
      }),
    );
  return h("div", { class: "stack" }, h("div", { class: "strip", tabindex: "0", role: "group", "aria-label": `${sound.name}: ${t("wave.strip")}` }, canvas, below), player);
}

function paint(canvas, samples) {
  const context = canvas.getContext("2d");
  const middle = HEIGHT / 2;
  const step = samples.length / canvas.width;
  let loudest = 1e-4;
  for (const value of samples) loudest = Math.max(loudest, Math.abs(value));
  context.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--wave") || "#4f7ed1";
  for (let x = 0; x < canvas.width; x++) {
    let peak = 0;
    for (let i = Math.floor(x * step); i < (x + 1) * step && i < samples.length; i++) peak = Math.max(peak, Math.abs(samples[i]));
    const size = Math.max(1, (peak / loudest) * (middle - 4));
    context.fillRect(x, middle - size, 1, 2 * size);
  }
}
