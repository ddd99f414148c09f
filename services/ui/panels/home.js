// The first page: every homework as a tile.

import { h } from "../lib/dom.js";
import { t } from "../lib/words.js";
import { BEHIND, HOMEWORKS, MORE } from "../tabs.js";

export default function home({ root }) {
  const tile = (tab) =>
    h(
      "li",
      {},
      h("a", { href: `#${tab.id}` }, tab.lecture && h("span", { class: "number" }, tab.lecture), h("b", {}, t(`${tab.id}.title`)), h("p", {}, t(`${tab.id}.tile`))),
    );
  const group = (title, tabs) => [h("h2", {}, title), h("ul", { class: "tiles" }, tabs.map(tile))];
  root.append(...group(t("nav.homeworks"), HOMEWORKS), ...group(t("nav.more"), MORE), ...group(t("nav.behind"), BEHIND));
  root.style.setProperty("margin-top", "1.4rem");
}
