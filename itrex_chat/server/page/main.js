// The page: columns, the conversation, and what one asks.

import { hasKey, keepRuns, models, questionSets, Refused, share, shared, useKey } from "./api.js";
import { byId, node, variantOf } from "./dom.js";
import { number, otherLanguage, say, spoken, t } from "./language.js";
import { markdown, save } from "./markdown.js";
import { Round } from "./round.js";

const MOST_COLUMNS = 6;
const EXAMPLES = 5;
const SHARED = "#shared=";
const THEME = "itrex_chat.theme";
let offered = [];
let sets = [];
let columns = []; // {model}
let rounds = [];
let running = null; // an AbortController
let editing = false;
let sharedAt = null; // when the comparison that is shown was shared, if it is somebody's

async function begin() {
  show();
  if (location.hash.startsWith(SHARED)) return showShared(location.hash.slice(SHARED.length));
  try {
    offered = await models();
    sets = await questionSets();
  } catch (error) {
    if (error.status === 401) return askForKey();
    return complain(error);
  }
  if (!offered.length) return complain(new Refused(t("noModels")));
  complain(null);
  columns = usual().map((model) => ({ model }));
  show();
  if (matchMedia("(pointer: fine)").matches) byId("question").focus(); // elsewhere a keyboard would cover half of the page
}

// Somebody's comparison, to be read only.
async function showShared(name) {
  document.body.classList.add("shared");
  try {
    const found = await shared(name);
    rounds = found.rounds.map((each) => Round.kept(each));
    byId("rounds").replaceChildren(...rounds.map((each) => each.node));
    sharedAt = new Date(found.created);
  } catch (error) {
    if (error.status === 401) return askForKey();
    return complain(error);
  }
  complain(null);
  show();
}

function askForKey() {
  byId("key-wrong").hidden = !hasKey();
  byId("key").showModal();
}

// FP32 beside the first quantized variant of the first model; where there is only one, that.
function usual() {
  const name = (model) => model.slice(0, model.lastIndexOf(":"));
  const variants = offered.filter((model) => name(model) === name(offered[0]));
  const wide = variants.find((model) => variantOf(model) === "fp32");
  const other = variants.find((model) => variantOf(model) === "int4") ?? variants.find((model) => model !== wide);
  return [wide, other].filter(Boolean);
}

function complain(error) {
  byId("notice").hidden = !error;
  byId("notice").textContent = error?.message ?? "";
}

// What is shown, from what is known, in the page's language.
function show() {
  document.documentElement.lang = spoken() === "zh" ? "zh-CN" : "en";
  say(document);
  byId("language").textContent = t("otherLanguage");
  byId("language").lang = spoken() === "zh" ? "en" : "zh-CN";
  showColumns();
  showSets();
  for (const round of rounds) round.tell();
  if (sharedAt) tell(t("sharedAt", { date: sharedAt.toLocaleString(document.documentElement.lang) }), "/");
  showState();
}

// What came of something, and a link where there is one.
function tell(text, link = "") {
  byId("told").hidden = !text;
  byId("told-text").textContent = text;
  byId("told-link").hidden = !link || Boolean(sharedAt);
  byId("link").value = link;
  byId("told-close").hidden = Boolean(sharedAt);
  if (sharedAt) byId("told-text").append(" ", node("a", { href: link }, t("own")));
  else byId("status").textContent = text;
}

// The answers of all rounds by the names that the server gave them.
function named() {
  const whole = rounds.map((round) => round.answers.filter((each) => each.state === "done" && each.id).map((each) => each.id));
  return whole.filter((ids) => ids.length);
}

async function keepAll(work, said) {
  try {
    const found = await work(named());
    complain(null);
    said(found);
  } catch (error) {
    if (error.status === 401) return askForKey();
    complain(error);
    byId("notice").scrollIntoView({ block: "nearest" });
  }
}

function showColumns() {
  const made = columns.map((column, place) => {
    const options = offered.map((model) => node("option", { value: model, selected: model === column.model }, model));
    const select = node("select", { "aria-label": t("model", { number: place + 1 }) }, ...options);
    select.dataset.variant = variantOf(column.model);
    select.onchange = () => { column.model = select.value; showColumns(); };
    const remove = node("button", { type: "button", "aria-label": t("remove", { number: place + 1 }) }, "✕");
    remove.onclick = () => { columns = columns.filter((each) => each !== column); showColumns(); };
    remove.hidden = columns.length < 2;
    const add = node("button", { type: "button", "aria-label": t("add"), title: t("add") }, "+");
    add.onclick = () => {
      const used = new Set(columns.map((each) => each.model));
      columns = [...columns, { model: offered.find((model) => !used.has(model)) ?? offered[0] }];
      showColumns();
    };
    add.hidden = place < columns.length - 1 || columns.length >= MOST_COLUMNS;
    return node("div", { class: "column" }, select, remove, add);
  });
  byId("columns").replaceChildren(...made);
}

function showSets() {
  const groups = sets.map((set, place) => {
    const options = set.questions.map((each, at) => node("option", { value: `${place} ${at}` }, each.text));
    return node("optgroup", { label: `${set.name} (${set.language})` }, ...options);
  });
  byId("sets").replaceChildren(node("option", { value: "" }, t("setsFirst")), ...groups);
  byId("sets").hidden = !sets.length;
  const examples = sets.find((set) => set.language === spoken())?.questions.slice(0, EXAMPLES) ?? [];
  byId("examples").replaceChildren(...examples.map((each) => {
    const ask = () => { byId("question").value = each.text; send(); };
    return node("button", { type: "button", onclick: ask }, each.text);
  }));
}

function showState() {
  byId("welcome").hidden = rounds.length > 0 || !columns.length;
  byId("send").hidden = Boolean(running);
  byId("stop").hidden = !running;
  byId("send").disabled = !columns.length;
  byId("editing").hidden = !editing;
  const hidden = rounds.some((round) => round.blind);
  byId("reset").disabled = !rounds.length || Boolean(running);
  for (const id of ["export", "keep", "share"]) {
    byId(id).disabled = !rounds.length || Boolean(running) || hidden;
    byId(id).title = hidden ? t("hidden") : t(`${id}Title`);
  }
  rounds.forEach((round, place) => {
    const last = place === rounds.length - 1 && !running && !editing;
    if (sharedAt) return;
    const button = (key, action) => node("button", { type: "button", onclick: action }, t(key));
    round.actions.replaceChildren(...(last ? [button("again", again), button("edit", edit)] : []));
  });
}

// What the fields say; what is empty is left to the server.
function settings() {
  const value = (id) => (byId(id).value === "" ? undefined : Number(byId(id).value));
  return { temperature: value("temperature"), seed: value("seed"), max_completion_tokens: value("tokens") };
}

// A column's own conversation before a round, and the round's question.
function conversation(column, round) {
  const before = byId("alone").checked ? [] : rounds.slice(0, rounds.indexOf(round));
  const system = byId("system").value.trim();
  const turns = before.flatMap((each) => {
    const said = each.byColumn.get(column)?.text;
    return said ? [{ role: "user", content: each.question }, { role: "assistant", content: said }] : [];
  });
  return [
    ...(system ? [{ role: "system", content: system }] : []), ...turns, { role: "user", content: round.question },
  ];
}

async function answer(round) {
  running = new AbortController();
  showState();
  const asked = [...columns];
  try {
    const messages = (column) => conversation(column, round);
    await round.run(asked, messages, settings(), byId("in-turn").checked, byId("blind").checked, running.signal);
  } finally {
    running = null;
    showState();
  }
  const done = round.answers.filter((each) => each.state === "done");
  byId("status").textContent = round.blind ? t("blindNote") : done
    .map((each) => t("done", { name: each.model, count: each.count, speed: number(each.speed ?? 0, 1) }))
    .join(" ");
  if (round.answers.some((each) => each.status === 401)) askForKey();
}

function send() {
  const question = byId("question").value;
  if (running || !columns.length || !question.trim()) return;
  if (editing) rounds.pop().node.remove();
  editing = false;
  const round = new Round(question, showState);
  rounds.push(round);
  byId("rounds").append(round.node);
  byId("question").value = "";
  grow();
  const answered = answer(round);
  round.node.scrollIntoView({ block: "start" });
  return answered;
}

function again() {
  return answer(rounds.at(-1));
}

function edit() {
  editing = true;
  byId("question").value = rounds.at(-1).question;
  showState();
  grow();
  byId("question").focus();
}

function leave() {
  editing = false;
  byId("question").value = "";
  showState();
  grow();
}

function reset() {
  rounds = [];
  editing = false;
  tell("");
  byId("rounds").replaceChildren();
  showState();
  byId("question").focus();
}

// The question's field is as high as its text, up to a third of the window.
function grow() {
  const field = byId("question");
  field.style.height = "auto";
  field.style.height = `${Math.min(field.scrollHeight + 2, innerHeight / 3)}px`;
}

function listen() {
  const question = byId("question");
  byId("composer").addEventListener("submit", (event) => { event.preventDefault(); send(); });
  question.addEventListener("input", grow);
  question.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    byId("composer").requestSubmit();
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape" && !event.isComposing) running?.abort(); });
  byId("stop").onclick = () => running?.abort();
  byId("reset").onclick = reset;
  byId("leave").onclick = leave;
  byId("export").onclick = () => {
    const told = { system: byId("system").value.trim() || undefined, ...settings() };
    save(markdown(rounds, told), "conversation.md");
  };
  byId("keep").onclick = () => keepAll(keepRuns, (names) => tell(t("kept", { runs: names.join(", ") })));
  byId("share").onclick = () => keepAll(share, (name) => {
    tell(t("sharedAs"), `${location.origin}/${SHARED}${name}`);
    byId("link").select();
  });
  byId("copy").onclick = () => {
    byId("link").select();
    if (document.execCommand("copy")) byId("status").textContent = byId("copy").textContent = t("copied");
  };
  byId("told-close").onclick = () => { tell(""); byId("question").focus(); };
  addEventListener("hashchange", () => location.reload());
  byId("sets").onchange = () => {
    const [set, at] = byId("sets").value.split(" ").map(Number);
    question.value = sets[set].questions[at].text;
    if (sets[set].system) byId("system").value = sets[set].system;
    byId("sets").value = "";
    grow();
    question.focus();
  };
  byId("language").onclick = () => { otherLanguage(); show(); };
  byId("theme").onclick = () => {
    const dark = getComputedStyle(document.documentElement).getPropertyValue("--is-dark").trim() === "1";
    localStorage.setItem(THEME, dark ? "light" : "dark");
    document.documentElement.dataset.theme = dark ? "light" : "dark";
  };
  byId("key-form").addEventListener("submit", () => {
    useKey(byId("key-value").value.trim());
    byId("key-value").value = "";
  });
  byId("key").addEventListener("close", () => { if (!columns.length) begin(); });
}

document.documentElement.dataset.theme = localStorage.getItem(THEME) ?? "";
listen();
begin();
