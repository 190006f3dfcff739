import assert from "node:assert/strict";
import { test } from "node:test";
import { customSection, withReuseMark } from "../src/build/mark.js";

const EMPTY_MODULE = Uint8Array.of(0, 0x61, 0x73, 0x6d, 1, 0, 0, 0);

test("the reuse mark is a custom section that any reader finds", () => {
  const module = new WebAssembly.Module(withReuseMark(EMPTY_MODULE));
  const [content] = WebAssembly.Module.customSections(module, "tidegate:reuse");
  assert.equal(new TextDecoder().decode(content), "1");
});

test("a section longer than 127 bytes has its length in two bytes", () => {
  const content = "x".repeat(300);
  const bytes = Uint8Array.from([...EMPTY_MODULE, ...customSection("long", content)]);
  const [found] = WebAssembly.Module.customSections(new WebAssembly.Module(bytes), "long");
  assert.equal(new TextDecoder().decode(found), content);
});
