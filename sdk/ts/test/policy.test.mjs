import assert from "node:assert/strict";
import { test } from "node:test";
import { policyHeader } from "../src/runtime/policy.js";

test("a full policy is one RFC 9651 dictionary", () => {
  const policy = { deadline: 20, mode: "hedge", regions: ["iad", "lhr"], regionsOnly: ["iad"], retries: 3 };
  assert.equal(policyHeader(policy), 'deadline=20, mode=hedge, regions=("iad" "lhr"), regions_only=("iad"), retries=3');
});

test("durations keep milliseconds and nothing finer", () => {
  assert.equal(policyHeader({ deadline: 2.5 }), "deadline=2.5");
  assert.equal(policyHeader({ deadline: 0.0004 }), "deadline=0");
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
  [{ regions: ["zürich"] }, /printable ASCII/],
  [{ timeout: 5 }, /tidegate\.timeout is not a policy member; there are deadline, mode/],
  [{ toString: 5 }, /tidegate\.toString is not a policy member/],
]) {
  test(`${JSON.stringify(policy)} is refused by name`, () => {
    assert.throws(() => policyHeader(policy), named);
  });
}
