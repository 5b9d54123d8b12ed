// One question and the answers of all columns to it.

import { Answer } from "./answer.js";
import { answer as ask, Refused } from "./api.js";
import { commonTokens, difference, sameVocabulary } from "./difference.js";
import { divergence, shade } from "./divergence.js";
import { node } from "./dom.js";
import { t } from "./language.js";
import { Panel } from "./panel.js";

const ALTERNATIVES = 20; // the most that the API gives
const STEPS = { ArrowLeft: -1, ArrowRight: 1 };

export class Round {
  constructor(question) {
    this.question = question;
    this.byColumn = new Map(); // column → Answer
    this.panel = new Panel(() => this.answers);
    this.grid = node("div", { class: "columns" });
    this.actions = node("div", { class: "actions" });
    this.node = node("section", { class: "round" }, node("h2", {}, question), this.grid, this.panel.node, this.actions);
  }

  get answers() {
    return [...this.byColumn.values()];
  }

  // Asks all columns at a time, or in turn. `messages(column)`: its conversation with this question at the end.
  async run(columns, messages, settings, inTurn, signal) {
    this.panel.close();
    this.byColumn = new Map(columns.map((column) => [column, this.shown(new Answer(column.model))]));
    this.grid.replaceChildren(...this.answers.map((each) => each.node));
    const work = columns.map((column) => () => this.fill(this.byColumn.get(column), messages(column), settings, signal));
    if (inTurn) for (const each of work) await each();
    else await Promise.all(work.map((each) => each()));
  }

  async fill(answer, messages, settings, signal) {
    if (signal.aborted) return answer.end("stopped");
    answer.start();
    const asked = { model: answer.model, messages, logprobs: true, top_logprobs: ALTERNATIVES, ...settings };
    try {
      for await (const chunk of ask(asked, signal)) {
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
      if (sameVocabulary(first, other)) this.measure(first, other);
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
      if (at !== undefined && getSelection().isCollapsed) this.panel.open(answer, Number(at));
    });
    answer.said.addEventListener("keydown", (event) => {
      const open = this.panel.answer === answer;
      if (event.key === "Escape" && open) this.panel.close();
      else if (!answer.tokens.length) return;
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
  }
}
