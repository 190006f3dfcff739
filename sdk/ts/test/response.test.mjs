// The Response of the runtime against the one Node has: same answers to the same questions.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Response as Ours, takeParts } from "../src/runtime/response.js";

const Native = globalThis.Response;

const BODIES = {
  "a string": () => "héllo",
  "an empty string": () => "",
  bytes: () => new TextEncoder().encode("bytes"),
  "a part of a buffer": () => new Uint8Array(Uint8Array.of(1, 65, 66, 2).buffer, 1, 2),
  "an ArrayBuffer": () => Uint8Array.of(65, 66).buffer,
  "a DataView": () => new DataView(Uint8Array.of(65, 66, 67).buffer, 1),
  "search params": () => new URLSearchParams({ a: "1 2" }),
  "a blob": () => new Blob(["blob"], { type: "text/x-blob" }),
  "a stream": () => new Blob(["streamed"]).stream(),
  "a number": () => 42,
  null: () => null,
};

for (const [name, make] of Object.entries(BODIES)) {
  test(`${name} as a body gives the same text and content type`, async () => {
    const [ours, native] = [new Ours(make()), new Native(make())];
    const type = (response) => response.headers.get("content-type");
    assert.equal(type(ours), type(native));
    assert.equal(ours.body === null, native.body === null);
    assert.equal(await ours.text(), await native.text());
  });
}

test("every way to read a body gives the same", async () => {
  const make = () => new Ours('{"a":1}');
  assert.deepEqual(await make().json(), { a: 1 });
  assert.deepEqual(new TextDecoder().decode(await make().arrayBuffer()), '{"a":1}');
  assert.deepEqual(await make().bytes(), new TextEncoder().encode('{"a":1}'));
  assert.equal(await (await make().blob()).text(), '{"a":1}');
  assert.equal(await new Native(make().body).text(), '{"a":1}');
});

test("a form is read from its own content type", async () => {
  const form = await new Ours(new URLSearchParams({ a: "1" })).formData();
  assert.equal(form.get("a"), "1");
});

test("a body is read once", async () => {
  const response = new Ours("once");
  await response.text();
  assert.equal(response.bodyUsed, true);
  await assert.rejects(response.text(), TypeError);
  assert.throws(() => response.clone(), TypeError);
  assert.throws(() => takeParts(response), TypeError);
});

test("a clone has its own body and headers", async () => {
  for (const body of ["text", new Blob(["text"]).stream()]) {
    const response = new Ours(body, { status: 201, headers: { "x-a": "1" } });
    const copy = response.clone();
    copy.headers.set("x-a", "2");
    assert.equal(copy.status, 201);
    assert.deepEqual([await response.text(), await copy.text()], ["text", "text"]);
    assert.equal(response.headers.get("x-a"), "1");
  }
});

test("bad arguments are refused as the standard says", () => {
  assert.throws(() => new Ours("", { status: 99 }), RangeError);
  assert.throws(() => new Ours("", { status: "abc" }), RangeError);
  assert.throws(() => new Ours("body", { status: 204 }), TypeError);
  assert.throws(() => Ours.json(undefined), TypeError);
  assert.throws(() => Ours.redirect("/", 200), RangeError);
  const locked = new Blob(["x"]).stream();
  locked.getReader();
  assert.throws(() => new Ours(locked), TypeError);
});

test("instanceof holds for ours and for answers of fetch", () => {
  assert.equal(new Ours("") instanceof Ours, true);
  assert.equal(new Native("") instanceof Ours, true);
  assert.equal({} instanceof Ours, false);
  assert.equal(null instanceof Ours, false);
});

test("JSON and redirects carry their headers to the host", () => {
  assert.deepEqual(takeParts(Ours.json({ a: 1 }, { status: 201 })), {
    status: 201,
    headers: ["content-type", "application/json"],
    body: '{"a":1}',
  });
  assert.deepEqual(takeParts(Ours.redirect("http://a/", 307)), { status: 307, headers: ["location", "http://a/"], body: null });
});

test("an author's content type wins over the body's, in any form of headers", () => {
  for (const headers of [{ "Content-Type": "text/html" }, [["Content-Type", "text/html"]], new Headers({ "content-type": "text/html" })]) {
    const parts = takeParts(new Ours("<p>", { headers }));
    assert.equal(parts.headers.length, 2);
    assert.equal(parts.headers[1], "text/html");
  }
});

test("two cookies stay two header fields", () => {
  const response = new Ours("");
  response.headers.append("set-cookie", "a=1");
  response.headers.append("set-cookie", "b=2");
  const { headers } = takeParts(response);
  assert.equal(headers.filter((entry) => entry === "set-cookie").length, 2);
});

test("fields of the upstream's connection are not passed on", () => {
  const native = new Native("x", { headers: { "transfer-encoding": "chunked", "keep-alive": "5", "x-kept": "1" } });
  const { headers } = takeParts(native);
  assert.deepEqual(headers.filter((_, i) => i % 2 === 0).sort(), ["content-type", "x-kept"]);
});

test("an async iterable streams", async () => {
  async function* lines() {
    yield "one\n";
    yield "two\n";
  }
  assert.equal(await new Ours(lines()).text(), "one\ntwo\n");
});

test("what is no response has no parts", () => {
  assert.equal(takeParts(new Map()), undefined);
});
