// Memory and the canonical ABI, by hand and only for what the wrapper calls. `tidegate:raw` is the engine's own list of core
// imports (see build/bindings.js). Every number handed to a core import has to be a 32-bit integer inside the engine, hence
// the `| 0`.
import { memory, realloc, dealloc } from "tidegate:raw";

const encoder = new TextEncoder();
const decoder = new TextDecoder();

let buffer = memory.buffer;
export let u8 = new Uint8Array(buffer);
let u32 = new Uint32Array(buffer, 0, buffer.byteLength >>> 2);

/** Views go stale when linear memory grows; whatever may have allocated is followed by this. */
export function refresh() {
  const now = memory.buffer;
  if (now !== buffer) {
    buffer = now;
    u8 = new Uint8Array(buffer);
    u32 = new Uint32Array(buffer, 0, buffer.byteLength >>> 2);
  }
}

/** Fresh bytes in linear memory. The engine frees them after the exported call, unless `free` does before. */
export function alloc(size) {
  // Never none: the engine takes an empty answer of its allocator for the end of memory.
  const at = realloc(0, 0, 8, size === 0 ? 8 : size | 0);
  refresh();
  return at;
}

export function free(at, size) {
  if (size !== 0) dealloc(at, size, 1);
}

export const byteAt = (at) => u8[at];
/** The 32-bit word at a 4-aligned address. */
export const wordAt = (at) => u32[at >>> 2];
export const setWord = (at, value) => {
  u32[at >>> 2] = value;
};

/** Releases a returned area (the trampoline allocated it). */
export const release = (at) => dealloc(at);

/** The string at `at`, whose memory was given to us and is released. */
export function takeString(at, length) {
  if (length === 0) return "";
  const text = decoder.decode(u8.subarray(at, at + length));
  dealloc(at, length, 1);
  return text;
}

/** A copy of the bytes at `at`, whose memory was given to us and is released. */
export function takeBytes(at, length) {
  if (length === 0) return new Uint8Array(0);
  const bytes = u8.slice(at, at + length);
  dealloc(at, length, 1);
  return bytes;
}

/** Writes `text` as UTF-8 at `at` and returns how many bytes it took. There must be room for three times its length. */
export const putString = (text, at) => encoder.encodeInto(text, u8.subarray(at, at + text.length * 3)).written;
