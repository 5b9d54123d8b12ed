// The conversation as a file, made here: questions and answers stand in fences that nothing in them can close.

import { t } from "./language.js";

export function markdown(rounds, settings) {
  const parts = [`# itrex_chat: ${t("saved")}`];
  const told = Object.entries(settings).filter(([, value]) => value !== undefined);
  if (told.length) parts.push(fenced(told.map(([key, value]) => `${key}: ${value}`).join("\n")));
  rounds.forEach((round, place) => {
    parts.push(`## ${place + 1}. ${t("asked")}`, fenced(round.question));
    if (round.ballot.choice) parts.push(`${t("vote")} ${round.ballot.choice}.`);
    for (const answer of round.answers) {
      const figures = [...answer.figures.children, ...answer.foot.children].map((each) => each.textContent);
      parts.push(`### ${answer.letter} \`${answer.model.replaceAll("`", "'")}\``, fenced(answer.text || t("noAnswer")), figures.join("; "));
    }
  });
  return `${parts.join("\n\n")}\n`;
}

function fenced(text) {
  const longest = Math.max(2, ...(text.match(/`+/g) ?? []).map((run) => run.length));
  const fence = "`".repeat(longest + 1);
  return `${fence}text\n${text}\n${fence}`;
}

export function save(text, name) {
  const address = URL.createObjectURL(new Blob([text], { type: "text/markdown" }));
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  URL.revokeObjectURL(address);
}
