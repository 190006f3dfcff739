import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { build, BuildError } from "../src/build/index.js";
import { main } from "../src/build/cli.js";

let folder;
before(async () => (folder = await mkdtemp(join(tmpdir(), "tidegate-sdk-test-"))));
after(() => rm(folder, { recursive: true, force: true }));

async function entry(name, source) {
  const path = join(folder, name);
  await writeFile(path, source);
  return path;
}

/** The error a build of `source` ends with. */
async function failure(name, source) {
  const error = await build({ entry: await entry(name, source), out: join(folder, "out.wasm") }).then(
    () => assert.fail("the build succeeded"),
    (error) => error,
  );
  assert.ok(error instanceof BuildError, String(error.stack));
  return error.message;
}

test("a handler becomes a marked component", async () => {
  const out = await build({
    entry: await entry("ok.ts", "export default { fetch: (_: Request) => new Response('ok') };"),
    out: join(folder, "ok.wasm"),
  });
  const bytes = await readFile(out);
  // A component: the layer field of the preamble is 1.
  assert.deepEqual([...bytes.subarray(0, 8)], [0, 0x61, 0x73, 0x6d, 0x0d, 0, 1, 0]);
  assert.ok(bytes.subarray(-32).includes("tidegate:reuse1"));
  assert.ok(bytes.includes("wasi:http/incoming-handler@0.2.10"));
  assert.ok(bytes.includes("wasi:cli/environment@0.2.10"));
  assert.ok(!bytes.includes("wasi:sockets"), "a function has no sockets");
});

test("a syntax error is shown with its file and line", async () => {
  assert.match(await failure("broken.ts", "export default {\n  fetch( {\n};"), /broken\.ts:\d+:\d+/);
});

test("a package that is not installed is named", async () => {
  assert.match(await failure("missing.ts", 'import "not-a-package";'), /not-a-package/);
});

test("an entry without a handler is told the form and what it exports", async () => {
  const message = await failure("empty.ts", "export const handler = 1;");
  assert.match(message, /export default \{ fetch\(req, env, ctx\)/);
  assert.match(message, /its exports are: handler/);
});

test("an exception at module scope is shown with the cure", async () => {
  const message = await failure("throws.ts", "throw new Error('not at build time');\nexport default { fetch() {} };");
  assert.match(message, /not at build time/);
  assert.match(message, /Move such work into fetch\(\)/);
});

test("a command that is not understood prints the usage and ends with 2", async (context) => {
  const written = [];
  context.mock.method(process.stderr, "write", (text) => written.push(text));
  assert.equal(await main(["deploy"]), 2);
  assert.equal(await main(["build", "--nope"]), 2);
  assert.match(written.join(""), /usage: tidegate-sdk build/);
});
