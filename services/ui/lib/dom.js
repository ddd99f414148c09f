// Elements without markup in strings: what a model or a file says can never become HTML.

const SVG = "http://www.w3.org/2000/svg";

// An element. `on` has listeners, `style` CSS properties; null and false leave an attribute out.
export function h(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

// The same, of SVG.
export function s(tag, props = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    else if (name === "style") for (const [key, rule] of Object.entries(value)) node.style.setProperty(key, rule);
    else if (name === "value" || name === "checked") node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

// Shows these children and no others.
export function show(node, ...children) {
  node.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

let ids = 0;
export const newId = (prefix = "f") => `${prefix}-${++ids}`;

export const percent = (share, digits = 1) => `${((share ?? 0) * 100).toFixed(digits)}\u00a0%`;

// A number with about three significant digits, as people write it.
export function figure(value) {
  const number = Number(value);
  if (!Number.isFinite(number)) return String(value);
  if (Number.isInteger(number)) return number.toLocaleString("en-US");
  const size = Math.abs(number);
  if (size !== 0 && size < 0.001) return number.toExponential(1);
  return number.toFixed(size >= 100 ? 1 : size >= 1 ? 2 : 3);
}

// Calls `act` once nothing has happened for a while.
export function settled(act, milliseconds = 250) {
  let timer;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => act(...values), milliseconds);
  };
}
