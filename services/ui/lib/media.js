// Files, pictures and sound as what requests carry: base64 of bytes.

import { t } from "./words.js";

// A problem with an input, in words for its user.
export class InputError extends Error {}

const AS_THEY_ARE = new Set(["image/png", "image/jpeg", "image/webp"]);
const MOST_BYTES = 3_000_000; // larger pictures are reduced, since no model sees more than some hundred pixels
const LONGEST_SIDE = 1600;
const RATE = 16000;
const MOST_SECONDS = 60;

export function base64(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += 0x8000) text += String.fromCharCode(...bytes.subarray(i, i + 0x8000));
  return btoa(text);
}

export function bytesOf(text) {
  return Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (letter) => letter.charCodeAt(0));
}

// Little-endian float32, as tensors travel.
export function floatsOf(text) {
  const bytes = bytesOf(text);
  const view = new DataView(bytes.buffer);
  return Float32Array.from({ length: bytes.length / 4 }, (_, i) => view.getFloat32(4 * i, true));
}

export async function exampleFile(path) {
  const answer = await fetch(`examples/${path}`);
  if (!answer.ok) throw new InputError(t("error.example", { name: path }));
  const blob = await answer.blob();
  return new File([blob], path.split("/").pop(), { type: blob.type });
}

export async function exampleText(path) {
  return (await exampleFile(path)).text();
}

// A picture as {name, url, data}: `url` to show it, `data` to send it. What browsers can read and the server cannot
// (GIF, AVIF ...) becomes a PNG.
export async function readPicture(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new InputError(t("error.notPicture", { name: file.name || t("clipboard") }));
  }
  const fits = AS_THEY_ARE.has(file.type) && file.size <= MOST_BYTES;
  const sent = fits ? file : await reduced(bitmap);
  bitmap.close();
  const data = base64(new Uint8Array(await sent.arrayBuffer()));
  return { name: file.name || t("clipboard"), data, url: `data:${sent.type};base64,${data}` };
}

async function reduced(bitmap) {
  const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = new OffscreenCanvas(Math.max(1, Math.round(bitmap.width * scale)), Math.max(1, Math.round(bitmap.height * scale)));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.convertToBlob({ type: "image/png" });
}

export const pngUrl = (data) => `data:image/png;base64,${data}`;

// A canvas as a picture, as `readPicture` gives one.
export function pictureOf(canvas, name) {
  const url = canvas.toDataURL("image/png");
  return { name, url, data: url.split(",")[1] };
}

export async function imageOf(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  return image;
}

// Sound as {name, samples, rate, clip, url}: float samples to draw, `clip` to send.
export async function readSound(file) {
  const bytes = await file.arrayBuffer();
  if (!bytes.byteLength) throw new InputError(t("error.emptyFile", { name: file.name }));
  let sound;
  try {
    sound = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(bytes.slice(0));
  } catch {
    throw new InputError(t("error.notSound", { name: file.name || t("recording") }));
  }
  if (sound.duration > MOST_SECONDS) throw new InputError(t("error.longSound", { seconds: MOST_SECONDS }));
  const samples = mono(sound);
  const pcm = new Int16Array(samples.length);
  samples.forEach((value, i) => {
    pcm[i] = Math.max(-32768, Math.min(32767, Math.round(value * 32767)));
  });
  return {
    name: file.name || t("recording"),
    samples,
    rate: sound.sampleRate,
    seconds: sound.duration,
    clip: { pcm16: { samples: base64(new Uint8Array(pcm.buffer)), sampleRate: sound.sampleRate } },
    url: URL.createObjectURL(file),
  };
}

function mono(sound) {
  const channels = Array.from({ length: sound.numberOfChannels }, (_, i) => sound.getChannelData(i));
  if (channels.length === 1) return channels[0];
  return channels[0].map((_, i) => channels.reduce((sum, channel) => sum + channel[i], 0) / channels.length);
}

// Records until `stop` is called: {stop, done}, where `done` gives a file.
export async function startRecording() {
  if (!navigator.mediaDevices?.getUserMedia || !window.MediaRecorder) throw new InputError(t("error.noMicrophone"));
  let microphone;
  try {
    microphone = await navigator.mediaDevices.getUserMedia({ audio: true });
  } catch {
    throw new InputError(t("error.microphone"));
  }
  const recorder = new MediaRecorder(microphone);
  const parts = [];
  const done = new Promise((resolve) => {
    recorder.addEventListener("dataavailable", (event) => parts.push(event.data));
    recorder.addEventListener("stop", () => {
      for (const track of microphone.getTracks()) track.stop();
      resolve(new File(parts, t("recording"), { type: recorder.mimeType }));
    });
  });
  recorder.start();
  return { stop: () => recorder.state !== "inactive" && recorder.stop(), done };
}
