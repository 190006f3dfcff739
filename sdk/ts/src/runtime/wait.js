// Waiting for a WASI pollable of our own. The engine's event loop knows its own (fetch, timers) and cannot be handed ours, so:
// while nothing of the engine's is under way we block the instance, which serves one request at a time anyhow; otherwise we
// block it for MAX_BLOCK_MS at most between turns of its loop. Ours is noticed at once, the engine's own a little late.
import { blockAtMost, dropPollable, pollableBlock, pollableReady } from "./wasi.js";
import { nativeSetTimeout } from "./natives.js";

const MAX_BLOCK_MS = 4;

let engineBusy = false;

/** Called when the invocation starts something that only the engine's event loop can finish. */
export const engineStarted = () => {
  engineBusy = true;
};

/** Called at the start of each invocation. */
export const resetEngine = () => {
  engineBusy = false;
};

/** Resolves when `pollable` is ready, and drops it. */
export async function ready(pollable) {
  // What the author's code does in the same turn may be what makes the engine busy: let it run first.
  await undefined;
  try {
    for (let ms = 1; ; ms = Math.min(ms * 2, MAX_BLOCK_MS)) {
      if (!engineBusy) return pollableBlock(pollable);
      if (pollableReady(pollable)) return undefined;
      await new Promise((resolve) => nativeSetTimeout(resolve, 0));
      if (pollableReady(pollable)) return undefined;
      blockAtMost(pollable, ms);
    }
  } finally {
    dropPollable(pollable);
  }
}
