// A square to draw in, by mouse, pen or finger. Who cannot draw chooses a file or an example.

import { h } from "./dom.js";
import { button } from "./inputs.js";
import { pictureOf } from "./media.js";
import { t } from "./words.js";

const SIDE = 280;

// `use` gets the picture after each stroke. `ink` and `paper` are colours; several inks can be chosen.
export function drawing({ ink = ["#111111"], paper = "#ffffff", width = 18, use, label = t("draw") }) {
  const canvas = h("canvas", { width: SIDE, height: SIDE, class: "draw", role: "img", "aria-label": label });
  const context = canvas.getContext("2d");
  let colour = ink[0];
  let last = null;
  const clear = () => {
    context.fillStyle = paper;
    context.fillRect(0, 0, SIDE, SIDE);
  };
  clear();
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * SIDE, ((event.clientY - box.top) / box.height) * SIDE];
  };
  const line = (to) => {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.lineCap = "round";
    context.lineJoin = "round";
    context.beginPath();
    context.moveTo(...last);
    context.lineTo(...to);
    context.stroke();
    last = to;
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    last = at(event);
    line(last);
  });
  canvas.addEventListener("pointermove", (event) => last && line(at(event)));
  const end = () => {
    if (!last) return;
    last = null;
    use(pictureOf(canvas, t("drawing")));
  };
  canvas.addEventListener("pointerup", end);
  canvas.addEventListener("pointercancel", end);
  const swatches = ink.map((one, i) =>
    h("button", {
      type: "button",
      class: "swatch",
      style: { "background-color": one },
      "aria-label": t("draw.ink", { n: i + 1 }),
      "aria-pressed": String(i === 0),
      on: {
        click: (event) => {
          colour = one;
          for (const other of swatches) other.setAttribute("aria-pressed", String(other === event.currentTarget));
        },
      },
    }),
  );
  const tools = h("div", { class: "row" }, ink.length > 1 && swatches, button(t("draw.clear"), clear, { kind: "quiet" }));
  return { node: h("div", { class: "stack" }, h("p", { class: "legend" }, label), canvas, tools), clear };
}
