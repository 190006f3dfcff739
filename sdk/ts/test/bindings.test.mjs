import assert from "node:assert/strict";
import { test } from "node:test";
import { withRawImports } from "../src/build/bindings.js";

test("bindings of another version are refused with the version to install", () => {
  assert.throws(() => withRawImports("let [$memory] = $bindings;\n", [["wasi:a/b@0.2.0", "c", 1]]), /install version 0\.23\.0/);
  assert.throws(() => withRawImports("something else", []), /install version 0\.23\.0/);
});
