// Where two answers part: by tokens for variants of one model, by characters for different models.

export function sameVocabulary(one, other) {
  return one.model.slice(0, one.model.lastIndexOf(":")) === other.model.slice(0, other.model.lastIndexOf(":"));
}

// How many tokens both answers begin with. `from`: so many were found equal before.
export function commonTokens(one, other, from = 0) {
  const most = Math.min(one.tokens.length, other.tokens.length);
  let at = Math.min(from, most);
  while (at < most && one.tokens[at].key === other.tokens[at].key) at += 1;
  return at;
}

function commonCharacters(one, other) {
  const most = Math.min(one.length, other.length);
  let at = 0;
  while (at < most && one[at] === other[at]) at += 1;
  return at;
}

// The first difference of an answer from the first column's, as far as both have come: its place among the tokens of each, the
// number to tell, and whether it is known that there is none. null where it is not known yet.
export function difference(first, other) {
  if (first.stored || !sameVocabulary(first, other)) return byCharacters(first, other);
  const common = commonTokens(first, other, other.common);
  other.common = common;
  if (common < first.tokens.length && common < other.tokens.length) {
    return { first: common, other: common, number: common + 1, unit: "differs" };
  }
  return atTheEnd(first, other, { first: common, other: common, number: common + 1, unit: "differs" }, "same");
}

function byCharacters(first, other) {
  const common = commonCharacters(first.text, other.text);
  const found = {
    first: first.tokenAt(common), other: other.tokenAt(common), number: common + 1, unit: "differsText",
  };
  if (common < first.text.length && common < other.text.length) return found;
  return atTheEnd(first, other, found, "sameText");
}

// One begins with the whole of the other so far: they differ where the shorter one has ended.
function atTheEnd(first, other, found, same) {
  const whole = (answer, at) => answer.state === "done" && at >= answer.tokens.length;
  const [a, b] = [whole(first, found.first), whole(other, found.other)];
  if (a && b) return first.finish === other.finish ? { unit: same } : found;
  if ((a && other.tokens.length > found.other) || (b && first.tokens.length > found.first)) return found;
  return null;
}
