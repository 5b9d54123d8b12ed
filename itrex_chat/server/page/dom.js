// Nodes. Text goes into them as text: what models and people say is never markup.

export function node(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") made.className = value;
    else if (key.startsWith("aria-") || key === "role") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children);
  return made;
}

export function byId(id) {
  return document.getElementById(id);
}

// The part of a model's name that says how its weights are kept, for its colour.
export function variantOf(model) {
  return model.slice(model.lastIndexOf(":") + 1);
}

export function tag(model) {
  const made = node("span", { class: "tag" }, model);
  made.dataset.variant = variantOf(model);
  return made;
}
