// What people put in: fields, examples, files that are dropped, pasted or chosen.

import { h, newId, show } from "./dom.js";
import { InputError, exampleFile, readPicture, readSound, startRecording } from "./media.js";
import { t } from "./words.js";

function field(label, control, note) {
  control.id = newId();
  return h("div", { class: "field" }, h("label", { for: control.id }, label), control, note && h("p", { class: "small" }, note));
}

export function textField(label, value, { rows = 0, on = {}, maxlength = 1_000_000, placeholder = "", lang = null } = {}) {
  const control = rows
    ? h("textarea", { rows, maxlength, placeholder, lang, on }, value)
    : h("input", { type: "text", value, maxlength, placeholder, lang, on, autocomplete: "off" });
  control.value = value;
  return { node: field(label, control), control, label };
}

// What somebody wrote into a field of texts; who wrote nothing is told where to.
export function textIn({ control, label }) {
  if (!control.value.trim()) throw new InputError(t("error.empty", { field: label }));
  return control.value;
}

export function numberField(label, value, { min = 0, max = 1e15, step = 1, on = {} } = {}) {
  const control = h("input", { type: "number", value: String(value), min, max, step, on });
  return { node: field(label, control), control };
}

// A choice among [value, words].
export function choice(label, options, value, on) {
  const control = h("select", { on: { change: () => on?.(control.value) } }, options.map(([key, words]) => h("option", { value: key, selected: key === value }, words)));
  return { node: field(label, control), control };
}

export function slider(label, { min, max, step = 1, value, text = (number) => String(number), on }) {
  const control = h("input", { type: "range", min, max, step });
  control.value = String(value);
  const output = h("output", {}, text(Number(value)));
  const told = () => {
    output.textContent = text(Number(control.value));
    control.setAttribute("aria-valuetext", output.textContent);
  };
  control.addEventListener("input", () => {
    told();
    on?.(Number(control.value));
  });
  told();
  control.id = newId();
  const node = h("div", { class: "field slider" }, h("div", { class: "row" }, h("label", { for: control.id }, label), output), control);
  return { node, control, tell: told };
}

export function checkbox(label, checked, on) {
  const control = h("input", { type: "checkbox", checked, id: newId(), on: { change: () => on?.(control.checked) } });
  return { node: h("div", { class: "check" }, control, h("label", { for: control.id }, label)), control };
}

export const button = (label, on, { kind = "primary" } = {}) => h("button", { type: "button", class: kind, on: { click: on } }, label);

// Text examples, one click each.
export function textExamples(list, use) {
  return h(
    "div",
    { class: "examples", role: "group", "aria-label": t("examples") },
    h("span", { class: "small", "aria-hidden": "true" }, t("examples")),
    list.map((one) => {
      const text = Array.isArray(one) ? one[0] : one;
      return h("button", { type: "button", class: "chip", on: { click: () => use(one) } }, text);
    }),
  );
}

// Pictures of docs/examples, one click each.
export function pictureExamples(paths, use) {
  const nameOf = (path) => path.replace(/\.\w+$/, "").replace(/^photos\//, "").replace("/", " ");
  return h(
    "div",
    { class: "thumbs", role: "group", "aria-label": t("examples") },
    paths.map((path) =>
      h(
        "button",
        { type: "button", class: "thumb", "aria-label": t("example.use", { name: nameOf(path) }), title: nameOf(path), on: { click: () => use(path) } },
        h("img", { src: `examples/${path}`, alt: "", loading: "lazy", class: "crisp" }),
      ),
    ),
  );
}

// The file that was given, or the example of this name.
export const fileOf = (source) => (typeof source === "string" ? exampleFile(source) : source);

// Where a picture is dropped, pasted or chosen, with examples below. `use` gets a picture.
export function pictureInput(context, { examples = [], label = t("picture"), use }) {
  const preview = h("div", { class: "preview" });
  const take = (source) =>
    context.ask(async (signal) => {
      const picture = await readPicture(await fileOf(source));
      if (signal.aborted) return;
      show(preview, h("img", { src: picture.url, alt: t("picture.yours", { name: picture.name }), class: "picture medium crisp" }));
      use(picture);
    });
  const zone = dropZone(context, label, "image/*", take);
  document.addEventListener(
    "paste",
    (event) => {
      const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
      if (file) take(file);
    },
    { signal: context.signal },
  );
  const node = h("div", { class: "stack" }, zone, preview, examples.length > 0 && pictureExamples(examples, take));
  return { node, take, preview };
}

// A file input that is a place to drop files too.
export function dropZone(context, label, accept, take) {
  const chosen = h("input", { type: "file", accept, id: newId(), class: "visually-hidden" });
  chosen.addEventListener("change", () => {
    if (chosen.files[0]) take(chosen.files[0]);
    chosen.value = "";
  });
  const zone = h(
    "label",
    { class: "drop", for: chosen.id },
    h("span", { class: "drop-icon", "aria-hidden": "true" }, "↥"),
    h("span", {}, h("strong", {}, label), " ", accept.startsWith("image") ? t("drop.paste") : t("drop")),
  );
  const over = (on) => (event) => {
    event.preventDefault();
    zone.classList.toggle("over", on);
  };
  zone.addEventListener("dragover", over(true), { signal: context.signal });
  zone.addEventListener("dragleave", over(false), { signal: context.signal });
  zone.addEventListener("drop", (event) => {
    over(false)(event);
    if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
  });
  return h("div", { class: "drop-row" }, chosen, zone);
}

// Where sound is dropped, chosen or recorded. `use` gets a sound.
export function soundInput(context, { examples = [], label = t("sound"), use }) {
  const name = h("p", { class: "small" });
  const take = (source) =>
    context.ask(async (signal) => {
      const sound = await readSound(await fileOf(source));
      if (signal.aborted) return;
      name.textContent = t("sound.yours", { name: sound.name, seconds: sound.seconds.toFixed(1) });
      use(sound);
    });
  let running = null;
  const record = button(
    t("record"),
    async () => {
      if (running) return running.stop();
      try {
        running = await startRecording();
        context.signal.addEventListener("abort", () => running?.stop());
        record.textContent = t("record.stop");
        record.classList.add("recording");
        await take(await running.done);
      } catch (error) {
        await context.ask(() => Promise.reject(error));
      } finally {
        running = null;
        record.textContent = t("record");
        record.classList.remove("recording");
      }
      return undefined;
    },
    { kind: "quiet" },
  );
  const chips = examples.length > 0 && textExamples(examples, take);
  return { node: h("div", { class: "stack" }, dropZone(context, label, "audio/*", take), record, name, chips), take };
}
