import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { policyHeader } from "../src/runtime/policy.js";

// The gate's parser and the Rust SDK are tested against the same file.
const agreed = JSON.parse(readFileSync(new URL("../../policy-headers.json", import.meta.url), "utf8"));
for (const { policy, header } of agreed) {
  test(`the header \`${header}\` is written as the gate reads it`, () => {
    const { deadline_ms: ms, mode, regions, regions_only: regionsOnly, retries } = policy;
    assert.equal(policyHeader({ deadline: ms && ms / 1000, mode, regions, regionsOnly, retries }), header);
  });
}

test("durations are in milliseconds, and a short one is never none", () => {
  assert.equal(policyHeader({ deadline: 2.5 }), "deadline=2.5");
  assert.equal(policyHeader({ deadline: 0.0004 }), "deadline=0.001");
});

test("quotes and backslashes in a region are escaped", () => {
  assert.equal(policyHeader({ regions: ['a"\\b'] }), 'regions=("a\\"\\\\b")');
});

test("an empty policy gives an empty header", () => {
  assert.equal(policyHeader({}), "");
  assert.equal(policyHeader({ mode: undefined }), "");
});

for (const [policy, named] of [
  [{ deadline: -1 }, /tidegate\.deadline/],
  [{ deadline: "20" }, /tidegate\.deadline/],
  [{ retries: 1.5 }, /tidegate\.retries/],
  [{ mode: "fastest" }, /failover, hedge, race/],
  [{ regions: "iad" }, /tidegate\.regions must be an array/],
  [{ regionsOnly: ["iad"] }, /tidegate\.regionsOnly must be true or false/],
  [{ regions: ["zürich"] }, /printable ASCII/],
  [{ timeout: 5 }, /tidegate\.timeout is not a policy member; there are deadline, mode/],
  [{ toString: 5 }, /tidegate\.toString is not a policy member/],
]) {
  test(`${JSON.stringify(policy)} is refused by name`, () => {
    assert.throws(() => policyHeader(policy), named);
  });
}
