// The server: its version, what it serves, and how long this page's calls take.

import { call, isReady, latencies, listModels, serverFacts, watchers } from "../lib/api.js";
import { table } from "../lib/bench.js";
import { h, s, show } from "../lib/dom.js";
import { t } from "../lib/words.js";

const PULSE_MILLISECONDS = 2000;
const SHOWN = 60;
const HEALTH = "grpc.health.v1.Health";

export default async function server({ root, signal }) {
  const [facts, models] = await Promise.all([serverFacts(), listModels({ fresh: true })]);
  const live = h("div");
  const health = h("div");
  const section = (title, ...nodes) => h("section", { class: "card after", "aria-label": title }, h("h2", {}, title), ...nodes);
  const all = [...models.values()];
  const versions = all.flatMap((model) => model.versions);
  const ready = versions.filter(isReady).length;
  root.append(
    section(
      t("server.facts"),
      h(
        "dl",
        { class: "facts" },
        [
          [t("server.version"), facts.version],
          [t("server.address"), location.host],
          [t("server.models"), t("server.ready", { ready, all: versions.length })],
          [t("server.attacks"), t(facts.attacks ? "server.allowed" : "server.off")],
          [t("server.interface"), h("a", { href: "docs/" }, t("server.openapi"))],
        ].map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]),
      ),
    ),
    section(t("server.live"), h("p", { class: "small" }, t("server.liveNote")), live),
    section(t("server.health"), health),
    section(
      t("server.versions"),
      table(t("server.versions"), [t("server.model"), t("server.lecture"), t("server.version"), t("server.state")], all.flatMap((model) => model.versions.map((one) => [h("a", { href: `#models/${model.name}` }, model.name), model.lecture, one.version, isReady(one) ? t("state.ready") : `${t("state.unavailable")} ${one.reason ?? ""}`])), { quiet: true }),
    ),
  );

  const draw = () => show(live, chart(latencies.slice(-SHOWN)), methods());
  const services = facts.services.filter((name) => name !== HEALTH);
  const pulse = async () => {
    if (document.visibilityState !== "visible") return;
    const states = await Promise.all(services.map((service) => call(`${HEALTH}/Check`, { service }, signal).then(({ answer }) => answer.status, (error) => error.code)));
    if (signal.aborted) return;
    show(health, h("ul", { class: "services" }, services.map((service, i) => h("li", {}, h("span", { class: `health ${states[i] === "SERVING" ? "good" : "bad"}` }, service.split(".").at(-1)), h("span", { class: "small" }, states[i])))));
  };
  watchers.addEventListener("call", draw, { signal });
  draw();
  await pulse();
  const timer = setInterval(pulse, PULSE_MILLISECONDS);
  signal.addEventListener("abort", () => clearInterval(timer));
}

// A bar for each of the last calls.
function chart(calls) {
  const [width, height, low] = [640, 150, 24];
  const most = Math.max(10, ...calls.map((one) => one.ms));
  const step = (width - 64) / SHOWN;
  return s(
    "svg",
    { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": t("server.live") },
    [0, 0.5, 1].map((share) => [s("line", { class: "axis", x1: 60, x2: width, y1: height - low - share * (height - low - 12), y2: height - low - share * (height - low - 12) }), s("text", { x: 54, y: height - low - share * (height - low - 12) + 4, "text-anchor": "end" }, `${Math.round(most * share)} ms`)]),
    calls.map((one, i) => {
      const size = Math.max(1, (one.ms / most) * (height - low - 12));
      return s("rect", { class: one.ok ? "dot" : "new", x: 62 + i * step, y: height - low - size, width: Math.max(1, step - 2), height: size, rx: 1.5 }, s("title", {}, `${one.path} ${one.ms.toFixed(1)} ms`));
    }),
  );
}

function methods() {
  const byPath = Map.groupBy ? Map.groupBy(latencies, (one) => one.path) : group(latencies);
  const rows = [...byPath].map(([path, calls]) => {
    const times = calls.map((one) => one.ms).sort((a, b) => a - b);
    const at = (share) => `${times[Math.min(times.length - 1, Math.floor(share * times.length))].toFixed(1)} ms`;
    return [path.replace("lectern.v1.", ""), calls.length, at(0.5), at(0.95), calls.filter((one) => !one.ok).length];
  });
  return table(t("server.methods"), [t("server.method"), t("server.calls"), t("server.median"), t("server.p95"), t("server.errors")], rows);
}

function group(calls) {
  const byPath = new Map();
  for (const one of calls) byPath.set(one.path, [...(byPath.get(one.path) ?? []), one]);
  return byPath;
}
