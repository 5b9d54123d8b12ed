// The page's own texts, in the browser's language or the one that was chosen.

import { TEXTS } from "./texts.js";

const KEPT = "itrex_chat.language";
let language = chosen();

function chosen() {
  const kept = localStorage.getItem(KEPT);
  if (kept in TEXTS) return kept;
  const asked = navigator.languages.map((name) => name.slice(0, 2).toLowerCase()).find((name) => name in TEXTS);
  return asked ?? "en";
}

export function t(key, fields = {}) {
  return TEXTS[language][key].replace(/\{(\w+)\}/g, (_whole, name) => fields[name]);
}

export function spoken() {
  return language;
}

export function otherLanguage() {
  language = language === "en" ? "zh" : "en";
  localStorage.setItem(KEPT, language);
}

// A number with so many digits behind the point, as the language writes it.
export function number(value, digits = 0) {
  return value.toLocaleString(language, { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

// A probability of which one sees how small it is.
export function percent(logprob) {
  const value = Math.exp(logprob) * 100;
  if (value === 0) return "0\u202f%";
  const digits = value >= 99.95 ? 2 : value >= 1 ? 1 : value >= 0.001 ? Math.min(3, 1 - Math.floor(Math.log10(value))) : null;
  return `${digits === null ? value.toExponential(0) : number(value, digits)}\u202f%`;
}

// Says everything below a node that has its text by a key.
export function say(root) {
  for (const node of root.querySelectorAll("[data-text]")) node.textContent = t(node.dataset.text);
  for (const node of root.querySelectorAll("[data-title]")) node.title = t(node.dataset.title);
  for (const node of root.querySelectorAll("[data-placeholder]")) node.placeholder = t(node.dataset.placeholder);
  for (const node of root.querySelectorAll("[data-label]")) {
    node.setAttribute("aria-label", t(node.dataset.label));
    if (node.matches("button, select")) node.title = t(node.dataset.label);
  }
}
