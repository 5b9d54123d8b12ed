// One question and the answers of all columns to it.

import { Answer } from "./answer.js";
import { answer as ask, Refused } from "./api.js";
import { commonTokens, difference, sameVocabulary } from "./difference.js";
import { divergence, shade } from "./divergence.js";
import { Ballot } from "./ballot.js";
import { node } from "./dom.js";
import { t } from "./language.js";
import { Panel } from "./panel.js";

const ALTERNATIVES = 20; // the most that the API gives
const LETTERS = "ABCDEFGHIJKLMNOP";
const STEPS = { ArrowLeft: -1, ArrowRight: 1 };

export class Round {
  // `revealed()` is called once its names are shown.
  constructor(question, revealed = () => {}) {
    this.question = question;
    this.revealed = revealed;
    this.blind = false;
    this.byColumn = new Map(); // column → Answer
    this.panel = new Panel(() => this.answers);
    this.grid = node("div", { class: "columns" });
    this.ballot = new Ballot(this);
    this.actions = node("div", { class: "actions" });
    this.node = node(
      "section", { class: "round" },
      node("h2", {}, question), this.grid, this.panel.node, this.ballot.node, this.actions,
    );
  }

  // One that is shown again as it was kept.
  static kept(found) {
    const made = new Round(found.question);
    made.byColumn = new Map(found.answers.map((each, place) => [place, Answer.kept(each, LETTERS[place])]));
    made.grid.replaceChildren(...made.answers.map((each) => each.node));
    made.compare();
    made.ballot.kept(found.vote);
    return made;
  }

  get answers() {
    return [...this.byColumn.values()];
  }

  // Asks all columns at a time, or in turn. `messages(column)`: its conversation with this question at the end. `blind`: in
  // random order, and nobody sees who said what until it is revealed; the texts are shown together, since their speed tells, too.
  async run(columns, messages, settings, inTurn, blind, signal) {
    this.panel.close();
    this.blind = blind && columns.length > 1;
    const order = this.blind ? shuffled(columns) : columns;
    const make = (column, place) => this.shown(new Answer(column.model, LETTERS[place], this.blind));
    this.byColumn = new Map(order.map((column, place) => [column, make(column, place)]));
    this.grid.replaceChildren(...this.answers.map((each) => each.node));
    this.grid.classList.toggle("veiled", this.blind);
    this.ballot.tell();
    const work = columns.map((column) => () => this.fill(this.byColumn.get(column), messages(column), settings, signal));
    if (inTurn) for (const each of work) await each();
    else await Promise.all(work.map((each) => each()));
    for (const each of this.answers) each.unveil();
    this.grid.classList.remove("veiled");
    if (this.blind && !this.ballot.open()) this.reveal();
    this.ballot.tell();
  }

  // Shows who said what.
  reveal() {
    this.blind = false;
    this.compare();
    for (const each of this.answers) each.reveal();
    this.revealed();
  }

  async fill(answer, messages, settings, signal) {
    if (signal.aborted) return answer.end("stopped");
    answer.start();
    const asked = { model: answer.model, messages, logprobs: true, top_logprobs: ALTERNATIVES, ...settings };
    try {
      for await (const chunk of ask(asked, signal)) {
        answer.id = chunk.id;
        if (chunk.usage) answer.usage = chunk.usage;
        const choice = chunk.choices[0];
        if (choice?.finish_reason) answer.finish = choice.finish_reason;
        if (choice) answer.take(choice.delta.content ?? "", choice.logprobs?.content ?? []);
        this.compare();
      }
      answer.end("done");
    } catch (error) {
      if (error.name === "AbortError") answer.end("stopped");
      else {
        answer.end("failed", error instanceof Refused ? error.message : String(error));
        answer.status = error.status;
      }
    }
    this.compare();
    this.panel.tell();
  }

  // Marks where the answers part from the first one.
  compare() {
    const [first, ...others] = this.answers;
    let earliest = Infinity;
    for (const other of others) {
      if (!this.blind && !other.stored && sameVocabulary(first, other)) this.measure(first, other);
      const found = difference(first, other);
      if (found?.unit !== other.difference?.unit || found?.number !== other.difference?.number) {
        other.difference = found;
        other.tell();
      }
      if (found?.other === undefined) continue;
      other.mark(found.other);
      earliest = Math.min(earliest, found.first);
    }
    if (earliest < Infinity) first.mark(earliest);
  }

  // Shades the tokens of an answer by how far its probabilities are from the first one's, as long as both say the same.
  measure(first, other) {
    const common = commonTokens(first, other, other.common);
    const end = Math.min(common + 1, first.tokens.length, other.tokens.length);
    for (let at = other.divergences.length; at < end; at += 1) {
      const nats = divergence(first.tokens[at], other.tokens[at]);
      other.divergences.push(nats);
      other.tokens[at].span.dataset.shade = shade(nats);
    }
  }

  // Lets its tokens be opened.
  shown(answer) {
    answer.said.addEventListener("click", (event) => {
      const at = event.target.dataset?.at;
      if (at !== undefined && !this.blind && getSelection().isCollapsed) this.panel.open(answer, Number(at));
    });
    answer.said.addEventListener("keydown", (event) => {
      const open = this.panel.answer === answer;
      if (event.key === "Escape" && open) this.panel.close();
      else if (!answer.tokens.length || this.blind) return;
      else if (event.key in STEPS) this.panel.open(answer, open ? this.panel.at + STEPS[event.key] : answer.marked ?? 0);
      else if (event.key === "Enter") this.panel.open(answer, open ? this.panel.at : answer.marked ?? 0);
      else if (event.key === "Home") this.panel.open(answer, 0);
      else if (event.key === "End") this.panel.open(answer, answer.tokens.length - 1);
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    return answer;
  }

  // Says everything again, in another language.
  tell() {
    for (const each of this.answers) {
      each.tell();
      if (each.ending) each.ending.textContent = t("ends");
    }
    this.panel.tell();
    this.ballot.tell();
  }
}

function shuffled(columns) {
  const drawn = crypto.getRandomValues(new Uint32Array(columns.length));
  return columns.map((column, place) => [drawn[place], column]).sort(([one], [other]) => one - other).map(([, column]) => column);
}
