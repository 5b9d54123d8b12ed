// How likely each variant found one token, and what it could have said instead.

import { commonTokens, sameVocabulary } from "./difference.js";
import { divergence } from "./divergence.js";
import { byId, node, tag } from "./dom.js";
import { number, percent, t } from "./language.js";

const SHOWN = 8;
const SIGNS = { " ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍" };

export class Panel {
  // `answers()`: those of the round, in the order of the columns.
  constructor(answers) {
    this.answers = answers;
    this.node = node("section", { class: "panel", hidden: true });
  }

  open(answer, at) {
    this.close();
    this.answer = answer;
    this.at = Math.max(0, Math.min(at, answer.tokens.length - 1));
    answer.tokens[this.at].span.classList.add("chosen");
    answer.tokens[this.at].span.scrollIntoView({ block: "nearest" });
    this.node.hidden = false;
    this.tell();
    const told = [this.title(), visible(answer.tokens[this.at].name), percent(answer.tokens[this.at].logprob)];
    byId("status").textContent = told.join(": ");
  }

  close() {
    this.answer?.tokens[this.at]?.span.classList.remove("chosen");
    this.answer = undefined;
    this.node.hidden = true;
  }

  title() {
    return t("token", { number: this.at + 1, count: this.answer.tokens.length });
  }

  tell() {
    if (!this.answer) return;
    const button = (key, sign, action) => {
      const made = node("button", { type: "button", title: t(key), "aria-label": t(key), onclick: action }, sign);
      return made;
    };
    const { answer, at } = this;
    const head = node(
      "div", { class: "panel-head" },
      node("h3", {}, this.title(), " ", node("code", {}, visible(answer.tokens[at].name))),
      button("previous", "←", () => this.open(answer, at - 1)),
      button("next", "→", () => this.open(answer, at + 1)),
      button("close", "✕", () => { this.close(); answer.said.focus(); }),
    );
    const sides = this.answers().map((other) => this.side(other));
    this.node.replaceChildren(head, node("div", { class: "columns" }, ...sides));
  }

  side(other) {
    const { answer, at } = this;
    const token = answer.tokens[at];
    const made = node("div", { class: "side" }, tag(other.model), " ");
    const say = (text) => made.append(node("span", { class: "gave" }, text));
    if (other !== answer && !sameVocabulary(answer, other)) say(t("otherModel"));
    else if (other !== answer && at > commonTokens(answer, other)) say(t("parted"));
    else if (at >= other.tokens.length) say(t(other.state === "done" ? "over" : "notYet"));
    else {
      const entry = other.tokens[at];
      const known = [entry, ...entry.top].find((each) => each.key === token.key);
      const least = Math.min(...entry.top.map((each) => each.logprob));
      const value = known ? percent(known.logprob) : t("rare", { value: percent(least), count: entry.top.length });
      say(t("gave", { value }));
      if (entry.key !== token.key) say(t("chose", { token: visible(entry.name) }));
      const first = this.answers()[0];
      if (other !== first && sameVocabulary(first, other) && at < other.divergences.length) {
        say(t("apart", { value: number(divergence(first.tokens[at], entry), 3) }));
      }
      made.append(alternatives(entry, token.key));
    }
    return made;
  }
}

function alternatives(entry, key) {
  const shown = entry.top.filter((each, place) => place < SHOWN || each.key === key);
  const listed = shown.some((each) => each.key === entry.key) ? shown : [entry, ...shown];
  const rows = listed.map((each) => {
    const bar = node("span", { class: "bar" });
    bar.style.width = `${Math.max(Math.exp(each.logprob) * 100, 0.5)}%`;
    const classes = [each.key === entry.key ? "its-choice" : "", each.key === key ? "the-token" : ""];
    return node(
      "tr", { class: classes.join(" ").trim() },
      node("th", { scope: "row" }, node("code", {}, visible(each.name))),
      node("td", { class: "value" }, percent(each.logprob)),
      node("td", { class: "bars", "aria-hidden": "true" }, bar),
    );
  });
  const caption = node("caption", { class: "unseen" }, t("others"));
  return node("table", {}, caption, node("tbody", {}, ...rows));
}

// A token's text with signs for what one does not see.
export function visible(text) {
  return text.replace(/[ \n\t\r]/g, (sign) => SIGNS[sign]) || "∅";
}
