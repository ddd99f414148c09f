// The page's words: one dictionary for each language, with the same keys.

export const LANGUAGES = { en: "English", "zh-TW": "繁體中文" };

const KEPT = "lectern.language";
let words = {};
let language = "en";

export const currentLanguage = () => language;

// The language that was chosen before, else the browser's, else English.
export function preferredLanguage() {
  const chosen = kept(KEPT);
  if (chosen in LANGUAGES) return chosen;
  return (navigator.languages ?? []).some((one, place) => place === 0 && one.toLowerCase().startsWith("zh")) ? "zh-TW" : "en";
}

export async function useLanguage(name) {
  const answer = await fetch(`words/${name}.json`);
  if (!answer.ok) throw new Error(`words/${name}.json: ${answer.status}`);
  words = await answer.json();
  language = name;
  document.documentElement.lang = name === "zh-TW" ? "zh-Hant-TW" : name;
}

export const keepLanguage = (name) => keep(KEPT, name);

// The words of a key, with `{name}` replaced. A missing key shows itself, and a test sees that none is missing.
export function t(key, values = {}) {
  return (words[key] ?? key).replace(/\{(\w+)\}/g, (whole, name) => (name in values ? values[name] : whole));
}

export const has = (key) => key in words;

// What the browser keeps of a choice; a browser that keeps nothing forgets it.
export function kept(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

export function keep(key, value) {
  try {
    if (value === null) localStorage.removeItem(key);
    else localStorage.setItem(key, value);
  } catch {
    // private windows of some browsers keep nothing
  }
}
