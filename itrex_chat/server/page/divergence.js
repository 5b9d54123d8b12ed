// How far two variants' probabilities are apart at one token, from the likeliest of each that the server tells.

const SHADES = [0.02, 0.1, 0.3, 1]; // nats from which a token is shaded, more and more; those of the report

// A lower bound of KL(P‖Q) in nats: tokens that only one of them names, and all others, are counted as one. Making one of many
// can only lessen the divergence.
export function divergence(p, q) {
  const [known, other] = [named(p), named(q)];
  let [bound, restOfP, restOfQ] = [0, 1, 1];
  for (const [key, logprob] of known) {
    if (!other.has(key)) continue;
    bound += Math.exp(logprob) * (logprob - other.get(key));
    restOfP -= Math.exp(logprob);
    restOfQ -= Math.exp(other.get(key));
  }
  // Of rounding alone there may be nothing left of either.
  if (restOfP > 1e-6 && restOfQ > 1e-6) bound += restOfP * Math.log(restOfP / restOfQ);
  return Math.max(bound, 0);
}

function named(entry) {
  return new Map([[entry.key, entry.logprob], ...entry.top.map((each) => [each.key, each.logprob])]);
}

export function shade(nats) {
  return SHADES.filter((least) => nats >= least).length;
}
