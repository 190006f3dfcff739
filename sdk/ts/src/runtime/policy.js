// The `tidegate-policy` request header: an RFC 9651 dictionary. Durations are numbers of seconds.

const MODES = new Set(["failover", "hedge", "race"]);

/** RFC 9651 allows three decimals; a duration below a millisecond has no meaning here. */
function decimal(name, value) {
  if (typeof value !== "number" || !Number.isFinite(value) || value < 0 || value > 999_999_999_999) {
    throw new TypeError(`tidegate.${name} must be a number of seconds, 0 or more; got ${String(value)}`);
  }
  // A short deadline is a deadline; none at all would be refused.
  const least = value > 0 ? 1 : 0;
  return String(Math.max(least, Math.round(value * 1000)) / 1000);
}

function integer(name, value) {
  if (!Number.isInteger(value) || value < 0 || value > 999_999_999_999_999) {
    throw new TypeError(`tidegate.${name} must be a whole number, 0 or more; got ${String(value)}`);
  }
  return String(value);
}

function string(name, value) {
  if (typeof value !== "string" || !/^[\x20-\x7e]*$/.test(value)) {
    throw new TypeError(`tidegate.${name} takes strings of printable ASCII; got ${JSON.stringify(value)}`);
  }
  return `"${value.replace(/[\\"]/g, "\\$&")}"`;
}

function list(name, value) {
  if (!Array.isArray(value)) throw new TypeError(`tidegate.${name} must be an array of strings`);
  return `(${value.map((item) => string(name, item)).join(" ")})`;
}

function boolean(name, value) {
  if (typeof value !== "boolean") {
    throw new TypeError(`tidegate.${name} must be true or false; got ${JSON.stringify(value)}`);
  }
  return value ? "?1" : "?0";
}

function mode(name, value) {
  if (!MODES.has(value)) {
    throw new TypeError(`tidegate.${name} must be one of ${[...MODES].join(", ")}; got ${JSON.stringify(value)}`);
  }
  return value;
}

/** How each member is written, under the name it has in the header. */
const MEMBERS = {
  deadline: ["deadline", decimal],
  mode: ["mode", mode],
  regions: ["regions", list],
  regionsOnly: ["regions_only", boolean],
  retries: ["retries", integer],
};

/**
 * The header value for `policy`, e.g. `deadline=20, mode=hedge, regions=("iad" "lhr"), retries=3`. Throws a TypeError that
 * names the member when one is unknown or out of range. An empty policy gives an empty string: send no header then.
 */
export function policyHeader(policy) {
  const parts = [];
  for (const [name, value] of Object.entries(policy)) {
    if (value === undefined) continue;
    const member = Object.hasOwn(MEMBERS, name) ? MEMBERS[name] : undefined;
    if (!member) {
      throw new TypeError(`tidegate.${name} is not a policy member; there are ${Object.keys(MEMBERS).join(", ")}`);
    }
    const [key, write] = member;
    parts.push(`${key}=${write(name, value)}`);
  }
  return parts.join(", ");
}
