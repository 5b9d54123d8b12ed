// What the page asks of its server: OpenAI's API, with the key where one is needed.

import { t } from "./language.js";

const KEPT = "itrex_chat.key";

// What the server, or the way to it, has against a request, in words.
export class Refused extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

export function useKey(key) {
  sessionStorage.setItem(KEPT, key);
}

export function hasKey() {
  return Boolean(sessionStorage.getItem(KEPT));
}

async function ask(path, options = {}) {
  const key = sessionStorage.getItem(KEPT);
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  let reply;
  try {
    reply = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw error instanceof TypeError ? new Refused(t("unreachable")) : error;
  }
  if (!reply.ok) throw await refusal(reply);
  return reply;
}

async function refusal(reply) {
  let reason;
  try {
    reason = String((await reply.json()).error.message);
  } catch {
    reason = t("status", { status: reply.status });
  }
  const seconds = reply.headers.get("Retry-After");
  return new Refused(seconds ? t("retry", { reason, seconds }) : reason, reply.status);
}

export async function models() {
  return (await (await ask("/v1/models")).json()).data.map((model) => model.id);
}

export async function questionSets() {
  return (await ask("/page/questions")).json();
}

async function send(path, content) {
  const reply = await ask(path, { method: "POST", body: JSON.stringify(content), headers: { "Content-Type": "application/json" } });
  return reply.json();
}

// Keeps a vote on answers that are named. Tells the run that has it, and what all its votes say.
export async function vote(given) {
  return send("/page/votes", given);
}

// Keeps rounds of answers that are named as runs; their names.
export async function keepRuns(rounds) {
  return (await send("/page/runs", { rounds })).runs;
}

// Keeps rounds of answers that are named for everybody who has the name that this gives.
export async function share(rounds) {
  return (await send("/page/shares", { rounds })).name;
}

export async function shared(name) {
  return (await ask(`/page/shares/${encodeURIComponent(name)}`)).json();
}

// The chunks of an answer as they come. Raises Refused, and AbortError where `signal` ends it.
export async function* answer(asked, signal) {
  const body = JSON.stringify({ ...asked, stream: true, stream_options: { include_usage: true } });
  const reply = await ask("/v1/chat/completions", {
    method: "POST", body, signal, headers: { "Content-Type": "application/json" },
  });
  for await (const data of events(reply.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Refused(String(chunk.error.message));
    yield chunk;
  }
  throw new Refused(t("broken"));
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        if (part.startsWith("data: ")) yield part.slice(6);
      }
    }
  } catch (error) {
    throw error instanceof TypeError ? new Refused(t("broken")) : error;
  } finally {
    reader.cancel().catch(() => {});
  }
}
