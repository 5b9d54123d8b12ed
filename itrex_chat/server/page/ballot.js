// The vote on the answers of a round: which is best, whether they are equally good, or all bad.

import { vote } from "./api.js";
import { byId, node } from "./dom.js";
import { t } from "./language.js";

export class Ballot {
  constructor(round) {
    this.round = round;
    this.buttons = node("div", { class: "choices" });
    this.note = node("p", { class: "foot" });
    this.node = node("section", { class: "ballot", role: "group", hidden: true }, this.buttons, this.note);
    this.forget();
  }

  forget() {
    this.best = null; // a place among the answers, "equal" or "bad"
    this.wasBlind = false;
    this.reply = null;
    this.reason = "";
  }

  // Whether one can vote: all have answered, and they are different ones.
  open() {
    const { answers } = this.round;
    const models = new Set(answers.map((each) => each.model));
    return answers.length > 1 && models.size === answers.length && answers.every((each) => each.state === "done" && each.id);
  }

  // One that was given before: it stays as it is.
  kept(found) {
    if (!found) return;
    const { best } = found;
    this.best = best.length === 1 ? best[0] : best.length ? "equal" : "bad";
    this.wasBlind = found.blind;
    this.fixed = true;
    this.tell();
  }

  async choose(best) {
    const { round } = this;
    const blind = round.blind;
    this.reason = "";
    this.sending = true;
    this.tell();
    try {
      this.reply = await vote({ answers: round.answers.map((each) => each.id), best, blind });
      this.best = best;
      this.wasBlind = blind;
    } catch (error) {
      this.reason = error.message;
    }
    this.sending = false;
    if (this.best !== null && round.blind) round.reveal();
    this.tell();
    byId("status").textContent = this.note.textContent;
  }

  tell() {
    const { answers } = this.round;
    const asked = answers.map((each) => each.id).join();
    if (!this.fixed && this.asked !== asked) this.forget();
    this.asked = asked;
    this.node.hidden = !this.fixed && !this.open();
    this.node.setAttribute("aria-label", t("vote"));
    const locked = this.fixed || this.sending || this.wasBlind;
    const focused = [...this.buttons.children].indexOf(document.activeElement);
    this.buttons.replaceChildren(...this.choices().map(([best, text]) => {
      const chosen = this.best === best;
      const button = node("button", { type: "button", "aria-pressed": String(chosen) }, text);
      if (locked) button.setAttribute("aria-disabled", "true");
      else button.onclick = () => this.choose(best);
      return button;
    }));
    if (this.round.blind) {
      const show = () => { this.round.reveal(); this.tell(); };
      this.buttons.append(node("button", { type: "button", class: "plain", onclick: show }, t("reveal")));
    }
    if (focused >= 0) (this.buttons.children[focused] ?? this.buttons.firstChild).focus();
    this.note.replaceChildren(...this.lines().map((text) => node("span", {}, text)));
    this.note.classList.toggle("wrong", Boolean(this.reason));
  }

  // What was voted, in words; empty where nothing was.
  get choice() {
    return this.choices().find(([best]) => best === this.best)?.[1] ?? "";
  }

  choices() {
    const { answers } = this.round;
    const several = answers.length > 2;
    const each = answers.map(({ letter }, place) => [place, t(several ? "best" : "better", { letter })]);
    return [...each, ["equal", t("equal")], ["bad", t(several ? "allBad" : "bothBad")]];
  }

  lines() {
    if (this.reason) return [this.reason];
    if (this.best === null) return this.round.blind ? [t("blindNote")] : [];
    const lines = [];
    if (this.wasBlind) {
      lines.push(this.round.answers.map((each) => t("was", { letter: each.letter, name: each.model })).join(" "));
    }
    if (this.reply) {
      lines.push(t("voted", { run: this.reply.run }));
      for (const each of this.reply.votes) {
        const [first, second] = [`${each.first_model}:${each.first}`, `${each.second_model}:${each.second}`];
        lines.push(t("tally", {
          first, second, forFirst: each.for_first, forSecond: each.for_second, equal: each.equal, bad: each.bad,
        }));
      }
    }
    return lines;
  }
}
