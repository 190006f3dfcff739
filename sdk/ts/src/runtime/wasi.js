// The few WASI calls the wrapper makes, as functions over plain numbers (handles). Each says what it does with a handle:
// a handle that is not dropped or given away stays in the host's table for the life of the instance.
import * as raw from "tidegate:raw";
import { alloc, byteAt, free, putString, refresh, release, setWord, takeBytes, takeString, u8, wordAt } from "./raw.js";

const METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
const CHUNK = 65536n;

/** Every call that answers through memory: read it before anything else allocates. */
function answer(at) {
  refresh();
  return at;
}

/** The environment as an object without prototype surprises. */
export function environment() {
  const at = answer(raw.getEnvironment());
  const [list, count] = [wordAt(at), wordAt(at + 4)];
  release(at);
  const env = {};
  for (let i = 0, entry = list; i < count; i++, entry += 16) {
    const name = takeString(wordAt(entry), wordAt(entry + 4));
    const value = takeString(wordAt(entry + 8), wordAt(entry + 12));
    Object.defineProperty(env, name, { value, enumerable: true, writable: true, configurable: true });
  }
  free(list, count * 16);
  return env;
}

/** Reads an `option<string>`; undefined when there is none. */
function optionalString(at) {
  answer(at);
  const text = byteAt(at) === 0 ? undefined : takeString(wordAt(at + 4), wordAt(at + 8));
  release(at);
  return text;
}

export function requestMethod(request) {
  const at = answer(raw.requestMethod(request));
  const tag = byteAt(at);
  const method = tag < METHODS.length ? METHODS[tag] : takeString(wordAt(at + 4), wordAt(at + 8));
  release(at);
  return method;
}

export const requestPath = (request) => optionalString(raw.requestPath(request)) ?? "/";

export const requestAuthority = (request) => optionalString(raw.requestAuthority(request)) ?? "localhost";

export function requestScheme(request) {
  const at = answer(raw.requestScheme(request));
  let scheme = "http";
  if (byteAt(at) === 1) {
    const tag = byteAt(at + 4);
    if (tag === 1) scheme = "https";
    else if (tag === 2) scheme = takeString(wordAt(at + 8), wordAt(at + 12));
  }
  release(at);
  return scheme;
}

/** All headers as [name, value] pairs in the order they came. The fields handle is dropped. */
export function requestHeaders(request) {
  const fields = raw.requestHeaders(request);
  const at = answer(raw.fieldsEntries(fields));
  const [list, count] = [wordAt(at), wordAt(at + 4)];
  release(at);
  const entries = [];
  for (let i = 0, entry = list; i < count; i++, entry += 16) {
    entries.push([takeString(wordAt(entry), wordAt(entry + 4)), takeString(wordAt(entry + 8), wordAt(entry + 12))]);
  }
  free(list, count * 16);
  raw.dropFields(fields);
  return entries;
}

/** A `result<own<T>>` without a payload in its error: the handle, or -1. */
function handleOrNone(at) {
  answer(at);
  const handle = byteAt(at) === 0 ? wordAt(at + 4) | 0 : -1;
  release(at);
  return handle;
}

/** Takes the request's body; -1 when it was taken before. */
export const consumeBody = (request) => handleOrNone(raw.requestConsume(request));
/** The stream of an incoming body; it has to be dropped before the body. */
export const bodyStream = (body) => handleOrNone(raw.bodyStream(body));

/** Results of `read` and `writable` besides data: the stream ended or was closed, it failed, nothing yet. */
export const CLOSED = Symbol("closed");
export const FAILED = Symbol("failed");
export const BLOCKED = Symbol("blocked");

/** What became of a stream operation that did not succeed. `at` points to a `stream-error`. */
function streamError(at) {
  if (byteAt(at) === 1) return CLOSED;
  raw.dropError(wordAt(at + 4) | 0);
  return FAILED;
}

/** The bytes that are there (a Uint8Array), or CLOSED, FAILED, BLOCKED. Never waits. */
export function read(stream) {
  const at = answer(raw.read(stream, CHUNK));
  let result;
  if (byteAt(at) === 0) {
    const length = wordAt(at + 8);
    result = length === 0 ? BLOCKED : takeBytes(wordAt(at + 4), length);
  } else {
    result = streamError(at + 4);
  }
  release(at);
  return result;
}

/** How many bytes may be written now (0: none yet), or CLOSED, FAILED. */
export function writable(stream) {
  const at = answer(raw.checkWrite(stream));
  const result = byteAt(at) === 0 ? (wordAt(at + 12) !== 0 ? 0x7fffffff : wordAt(at + 8)) : streamError(at + 8);
  release(at);
  return result;
}

/** Writes `length` bytes from linear memory; at most what `writable` said. True when they were taken. */
export function writeMemory(stream, from, length) {
  const at = answer(raw.write(stream, from | 0, length | 0));
  const taken = byteAt(at) === 0;
  if (!taken) streamError(at + 4);
  release(at);
  return taken;
}

export const inputPollable = (stream) => raw.subscribeInput(stream);
export const outputPollable = (stream) => raw.subscribeOutput(stream);
export const pollableReady = (pollable) => raw.pollableReady(pollable) !== 0;
export const pollableBlock = (pollable) => raw.pollableBlock(pollable);

/** Blocks the instance until `pollable` is ready, and for so many milliseconds at most. */
export function blockAtMost(pollable, ms) {
  const timer = raw.subscribeDuration(BigInt(ms) * 1_000_000n);
  const list = alloc(8);
  setWord(list, pollable);
  setWord(list + 4, timer);
  const at = answer(raw.poll(list, 2));
  const [ready, count] = [wordAt(at), wordAt(at + 4)];
  release(at);
  free(ready, count * 4);
  free(list, 8);
  raw.dropPollable(timer);
}

export const dropPollable = (handle) => raw.dropPollable(handle);
export const dropRequest = (handle) => raw.dropRequest(handle);
export const dropInput = (handle) => raw.dropInput(handle);
export const dropOutput = (handle) => raw.dropOutput(handle);
export const dropIncomingBody = (handle) => raw.dropIncomingBody(handle);
export const dropOutgoingBody = (handle) => raw.dropOutgoingBody(handle);

/**
 * A response's header fields from a flat list name, value, name, value... Returns a handle, or -1 when the host refuses one of
 * them. One allocation holds the list and its strings.
 */
export function fieldsFromList(flat) {
  const count = flat.length >> 1;
  let room = count * 16;
  for (let i = 0; i < flat.length; i++) room += flat[i].length * 3;
  const list = alloc(room);
  let text = list + count * 16;
  for (let i = 0, entry = list; i < flat.length; i += 2, entry += 16) {
    const name = putString(flat[i], text);
    setWord(entry, text);
    setWord(entry + 4, name);
    text += name;
    const value = putString(flat[i + 1], text);
    setWord(entry + 8, text);
    setWord(entry + 12, value);
    text += value;
  }
  const fields = handleOrNone(raw.fieldsFromList(list, count));
  free(list, room);
  return fields;
}

/** Starts the answer: takes the outparam and the fields, returns the outgoing body. */
export function startResponse(outparam, status, fields) {
  const response = raw.newResponse(fields);
  if (status !== 200) raw.setStatus(response, status);
  const body = handleOrNone(raw.responseBody(response));
  raw.setOutparam(outparam, 0, response, 0, 0n, 0, 0, 0, 0);
  return body;
}

/** The stream of an outgoing body; it has to be dropped before `finishBody`. */
export const bodyWriter = (body) => handleOrNone(raw.bodyWrite(body));

/** Ends the answer's body, taking its handle. False when the host says it was not complete. */
export function finishBody(body) {
  const at = answer(raw.finishBody(body, 0, 0));
  const complete = byteAt(at) === 0;
  release(at);
  return complete;
}

/** Puts `text` as UTF-8 in linear memory. Returns [address, length, room]; the caller frees `room` bytes at the address. */
export function lowerString(text) {
  const room = text.length * 3;
  const at = alloc(room);
  return [at, putString(text, at), room];
}

/** Copies `bytes` to linear memory and returns the address. */
export function lowerBytes(bytes) {
  const at = alloc(bytes.length);
  u8.set(bytes, at);
  return at;
}

export { free };
