// The first page: every homework as a tile.

import { h } from "../lib/dom.js";
import { t } from "../lib/words.js";
import { BEHIND, HOMEWORKS, MORE } from "../tabs.js";

export default function home({ root, missing }) {
  const tile = (tab) => {
    const absent = tab.parts.every((part) => missing.has(part));
    const says = absent ? missing.get(tab.parts[0])[0] : t(`${tab.id}.tile`);
    return h(
      "li",
      {},
      h("a", { href: `#${tab.id}`, class: absent ? "absent" : null }, tab.lecture && h("span", { class: "number" }, tab.lecture), h("b", {}, t(`${tab.id}.title`)), h("p", {}, says)),
    );
  };
  const group = (title, tabs) => [h("h2", {}, title), h("ul", { class: "tiles" }, tabs.map(tile))];
  root.append(...group(t("nav.homeworks"), HOMEWORKS), ...group(t("nav.more"), MORE), ...group(t("nav.behind"), BEHIND));
  root.style.setProperty("margin-top", "1.4rem");
}
