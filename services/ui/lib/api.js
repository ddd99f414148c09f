// Calls of the HTTP/JSON door: POST /lectern.v1.X/Y, `google.rpc.Status` for errors, server-sent events for streams.

const CODES = [
  "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
  "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
  "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
];
const MOST_KEPT = 200;

// An answer that is an error.
export class CallError extends Error {
  constructor(code, message, { fields = [], requestId = "", retry = null } = {}) {
    super(message);
    Object.assign(this, { code, fields, requestId, retry });
  }
}

// How long calls took, the newest last: {at, path, ms, ok}. The server's page draws them.
export const latencies = [];
export const watchers = new EventTarget();

function record(path, started, ok) {
  latencies.push({ at: Date.now(), path, ms: performance.now() - started, ok });
  if (latencies.length > MOST_KEPT) latencies.shift();
  watchers.dispatchEvent(new Event("call"));
}

// One answer: {answer, ms, requestId}.
export async function call(method, request, signal) {
  const path = pathOf(method);
  const started = performance.now();
  const response = await post(path, request, signal, "application/json");
  const requestId = response.headers.get("x-request-id") ?? "";
  const body = await response.json().catch(() => null);
  record(path, started, response.ok);
  if (!response.ok) throw errorOf(body, response.status, requestId);
  if (body === null) throw new CallError("INTERNAL", "the answer is no JSON", { requestId });
  return { answer: body, ms: performance.now() - started, requestId };
}

// Each message of a stream as it comes.
export async function* stream(method, request, signal) {
  const path = pathOf(method);
  const started = performance.now();
  const response = await post(path, request, signal, "text/event-stream");
  const requestId = response.headers.get("x-request-id") ?? "";
  if (!response.ok) {
    record(path, started, false);
    throw errorOf(await response.json().catch(() => null), response.status, requestId);
  }
  let first = true;
  for await (const { event, data } of events(response.body)) {
    if (first) record(path, started, event !== "error");
    first = false;
    if (event === "error") throw errorOf(JSON.parse(data), 500, requestId);
    if (event === "end" || data === "") continue;
    yield JSON.parse(data);
  }
}

async function post(path, request, signal, accept) {
  try {
    return await fetch(path, {
      method: "POST",
      headers: { "content-type": "application/json", accept },
      body: JSON.stringify(request),
      signal,
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new CallError("OFFLINE", "");
  }
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (text + value).split(/\r?\n\r?\n/);
      text = parts.pop();
      for (const part of parts) {
        const lines = part.split(/\r?\n/).filter((line) => line && !line.startsWith(":"));
        const of = (name) => lines.filter((line) => line.startsWith(`${name}:`)).map((line) => line.slice(name.length + 1).trimStart());
        if (lines.length) yield { event: of("event")[0] ?? "message", data: of("data").join("\n") };
      }
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}

function errorOf(status, httpStatus, requestId) {
  if (!status || typeof status !== "object" || !("code" in status)) {
    return new CallError(httpStatus === 503 ? "UNAVAILABLE" : "UNKNOWN", `HTTP ${httpStatus}`, { requestId });
  }
  const code = typeof status.code === "number" ? CODES[status.code] : status.code;
  const details = status.details ?? [];
  const fields = details.flatMap((detail) => detail.fieldViolations ?? []);
  const retry = details.map((detail) => detail.retryDelay).find(Boolean) ?? null;
  const named = details.map((detail) => detail.requestId).find(Boolean);
  return new CallError(code ?? "UNKNOWN", status.message ?? "", { fields, retry, requestId: named ?? requestId });
}

function pathOf(method) {
  return method.includes("/") ? method : `lectern.v1.${method.replace(".", "/")}`;
}

const about = { promise: null };

// What the server is: {version, services, attacks}. Asked for once.
export function serverFacts() {
  about.promise ??= fetch("about.json").then((answer) => answer.json());
  return about.promise;
}

const models = { promise: null };

// Every model without its card, by name.
export function listModels({ fresh = false } = {}) {
  if (fresh || !models.promise) {
    models.promise = call("ModelService.ListModels", {}).then(({ answer }) => new Map((answer.models ?? []).map((model) => [model.name, model])));
    models.promise.catch(() => {
      models.promise = null;
    });
  }
  return models.promise;
}

export const isReady = (version) => version.state === "MODEL_STATE_READY";

const cards = new Map();

// The card of a model's newest version that answers, or of the version asked for.
export async function cardOf(name, version = 0) {
  const key = `${name}/${version}`;
  if (!cards.has(key)) {
    const { answer } = await call("ModelService.GetModel", { model: name, version: String(version) });
    const versions = answer.model.versions ?? [];
    const ready = versions.find(isReady) ?? versions[0];
    if (!ready?.card) throw new CallError("UNAVAILABLE", ready?.reason ?? "");
    cards.set(key, ready.card);
  }
  return cards.get(key);
}

// Whether this server explains a model's answers. Pictures and rows need graphs for that, texts none.
export async function explains(name) {
  const [facts, card] = await Promise.all([serverFacts(), cardOf(name)]);
  return facts.services.includes("lectern.v1.ExplainService") && (card.preprocessing.kind === "text" || Boolean(card.explanation));
}
