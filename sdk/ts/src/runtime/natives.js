// The engine's own globals, taken before `globals.js` puts ours in their place.
export const NativeRequest = globalThis.Request;
export const NativeResponse = globalThis.Response;
export const nativeFetch = globalThis.fetch;
export const nativeSetTimeout = globalThis.setTimeout;
export const nativeSetInterval = globalThis.setInterval;
export const nativeClearTimeout = globalThis.clearTimeout;
export const nativeClearInterval = globalThis.clearInterval;
