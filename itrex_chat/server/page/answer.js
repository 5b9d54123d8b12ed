// One answer: what has come of it, and how it is shown.

import { node, tag } from "./dom.js";
import { number, t } from "./language.js";

export class Answer {
  constructor(model) {
    this.model = model;
    this.text = "";
    this.tokens = [];
    this.state = "waiting";
    this.common = 0; // tokens that are known to be the first column's
    this.difference = null;
    this.divergences = []; // from the first column, in nats, of the tokens whose beginnings are the same
    this.figures = node("span", { class: "figures" });
    this.said = node("div", { class: "said", tabIndex: 0, role: "group" });
    this.foot = node("p", { class: "foot" });
    this.node = node("article", { class: "answer" }, node("div", { class: "head" }, tag(model), this.figures), this.said, this.foot);
    this.decoder = new TextDecoder();
    this.tell();
  }

  start() {
    this.began = performance.now();
    this.state = "running";
    this.tell();
  }

  // A piece of the stream: its text, and the tokens that it has.
  take(text, entries) {
    const now = performance.now();
    if (entries.length || text) this.firstAt ??= now;
    this.lastAt = now;
    this.text += text;
    for (const entry of entries) this.add(entry);
    this.tell();
  }

  add(entry) {
    const bytes = new Uint8Array(entry.bytes);
    // A character of several tokens appears with the last of them; some vocabularies put a space before the first word.
    let shown = this.decoder.decode(bytes, { stream: true });
    if (!this.tokens.length && shown.startsWith(" ") && !this.text.startsWith(" ")) shown = shown.slice(1);
    const span = node("span", { class: "token" }, shown);
    span.dataset.at = this.tokens.length;
    this.tokens.push({
      key: entry.bytes.join(), name: entry.token, shown, span, logprob: entry.logprob,
      top: entry.top_logprobs.map((each) => ({ key: each.bytes.join(), name: each.token, logprob: each.logprob })),
    });
    this.said.append(span);
  }

  // The token in which a character of the text lies.
  tokenAt(character) {
    let length = 0;
    const found = this.tokens.findIndex((token) => (length += token.shown.length) > character);
    return found < 0 ? this.tokens.length : found;
  }

  end(state, reason = "") {
    this.state = state;
    this.reason = reason;
    this.tell();
  }

  get count() {
    return this.usage?.completion_tokens ?? this.tokens.length;
  }

  get speed() {
    const seconds = (this.lastAt - this.firstAt) / 1000;
    return this.tokens.length > 1 && seconds > 0 ? (this.tokens.length - 1) / seconds : null;
  }

  // Says in the page's language what is known of it.
  tell() {
    const ended = ["done", "stopped", "failed"].includes(this.state);
    this.node.dataset.state = this.state;
    this.said.setAttribute("aria-label", t("answerOf", { name: this.model }));
    this.said.setAttribute("aria-busy", String(!ended));
    const figures = [];
    if (this.state === "waiting") figures.push(t("waiting"));
    if (this.state === "running" && this.firstAt === undefined) figures.push(t("running"));
    if (this.count) figures.push(t("count", { value: number(this.count) }));
    if (this.speed) figures.push(t("speed", { value: number(this.speed, this.speed < 10 ? 2 : 1) }));
    if (this.firstAt) figures.push(t("first", { value: number((this.firstAt - this.began) / 1000, 2) }));
    this.figures.replaceChildren(...figures.map((text) => node("span", {}, text)));
    const lines = [];
    if (this.state === "stopped") lines.push(t("stopped"));
    if (this.state === "failed") lines.push(t("failed", { reason: this.reason }));
    if (this.finish === "length") lines.push(t("cut"));
    if (this.difference) lines.push(t(this.difference.unit, { number: this.difference.number }));
    if (ended && this.divergences.length) lines.push(this.divergence());
    this.foot.replaceChildren(...lines.map((text) => node("span", {}, text)));
  }

  divergence() {
    const sum = this.divergences.reduce((all, nats) => all + nats, 0);
    return t("divergence", { value: number(sum / this.divergences.length, 3), count: number(this.divergences.length) });
  }

  // Marks a token as the first that differs; behind the last one it says that the answer ends.
  mark(at) {
    if (at === this.marked) return;
    this.unmark();
    this.marked = at;
    if (at < this.tokens.length) this.tokens[at].span.classList.add("first-difference");
    else this.said.append((this.ending = node("span", { class: "first-difference ends" }, t("ends"))));
    this.said.classList.add("differs");
  }

  unmark() {
    this.said.querySelector(".first-difference:not(.ends)")?.classList.remove("first-difference");
    this.ending?.remove();
    this.said.classList.remove("differs");
    this.marked = undefined;
  }
}
