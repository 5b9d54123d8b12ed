// One answer: what has come of it, and how it is shown.

import { node, tag } from "./dom.js";
import { number, t } from "./language.js";

const WORDS = /[\u2e80-\uffff]|[^\s\u2e80-\uffff]+\s*|\s+/g; // each character, where words are not told apart by spaces

export class Answer {
  // `letter` stands for it in a vote; `blind`: nothing but its text is shown until it is revealed.
  constructor(model, letter, blind = false) {
    this.model = model;
    this.letter = letter;
    this.blind = blind;
    this.veiled = blind; // until all of its round have ended
    this.text = "";
    this.tokens = [];
    this.state = "waiting";
    this.common = 0; // tokens that are known to be the first column's
    this.difference = null;
    this.divergences = []; // from the first column, in nats, of the tokens whose beginnings are the same
    this.figures = node("span", { class: "figures" });
    this.said = node("div", { class: "said", tabIndex: 0, role: "group" });
    this.foot = node("p", { class: "foot" });
    this.tag = tag(model);
    const head = node("div", { class: "head" }, node("span", { class: "letter" }, letter), this.tag, this.figures);
    this.node = node("article", { class: "answer" }, head, this.said, this.foot);
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

  // One that is shown again as it was kept, without what is known of its tokens: its words stand for them.
  static kept(found, letter) {
    const made = new Answer(found.model, letter);
    made.stored = true;
    made.text = found.text;
    made.finish = found.finish_reason === "stop" ? "stop" : "length";
    made.told = { count: found.tokens, speed: found.together > 1 ? null : found.tokens_per_second, first: found.ttft };
    for (const part of found.text.match(WORDS) ?? []) {
      const span = node("span", { class: "token" }, part);
      made.tokens.push({ shown: part, span });
      made.said.append(span);
    }
    made.end("done");
    return made;
  }

  unveil() {
    this.veiled = false;
    this.tell();
  }

  reveal() {
    this.blind = false;
    this.tell();
  }

  get ended() {
    return ["done", "stopped", "failed"].includes(this.state);
  }

  get name() {
    return this.blind ? this.letter : this.model;
  }

  end(state, reason = "") {
    this.state = state;
    this.reason = reason;
    this.tell();
  }

  get count() {
    return this.told?.count ?? this.usage?.completion_tokens ?? this.tokens.length;
  }

  get speed() {
    if (this.told) return this.told.speed;
    const seconds = (this.lastAt - this.firstAt) / 1000;
    return this.tokens.length > 1 && seconds > 0 ? (this.tokens.length - 1) / seconds : null;
  }

  // Seconds from the question to the first token.
  get first() {
    return this.told?.first ?? (this.firstAt ? (this.firstAt - this.began) / 1000 : null);
  }

  // Says in the page's language what is known of it.
  tell() {
    this.node.dataset.state = this.state;
    this.node.classList.toggle("blind", this.blind);
    this.tag.hidden = this.blind;
    this.said.setAttribute("aria-label", t(this.stored ? "keptAnswerOf" : "answerOf", { name: this.name }));
    this.said.setAttribute("aria-busy", String(this.veiled || !this.ended));
    this.figures.replaceChildren(...this.figured().map((text) => node("span", {}, text)));
    this.foot.replaceChildren(...this.remarks().map((text) => node("span", {}, text)));
  }

  figured() {
    if (this.blind) return this.veiled ? [t("running")] : [];
    const figures = [];
    if (this.state === "waiting") figures.push(t("waiting"));
    if (this.state === "running" && this.firstAt === undefined) figures.push(t("running"));
    if (this.count) figures.push(t("count", { value: number(this.count) }));
    if (this.speed) figures.push(t("speed", { value: number(this.speed, this.speed < 10 ? 2 : 1) }));
    if (this.first !== null) figures.push(t("first", { value: number(this.first, 2) }));
    return figures;
  }

  remarks() {
    const lines = [];
    if (this.state === "stopped") lines.push(t("stopped"));
    if (this.state === "failed") lines.push(t("failed", { reason: this.reason }));
    if (this.blind) return lines;
    if (this.finish === "length") lines.push(t("cut"));
    if (this.difference) lines.push(t(this.difference.unit, { number: this.difference.number }));
    if (this.ended && this.divergences.length) lines.push(this.divergence());
    return lines;
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
