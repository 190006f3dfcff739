// Waiting for a WASI pollable of our own. The engine's event loop knows its own (fetch, timers) and cannot be handed ours, so:
// while nothing of the engine's is under way we block the instance, which serves one request at a time anyhow; otherwise we
// look again between turns of its loop, soon at first and then at most every MAX_PAUSE_MS.
import { dropPollable, pollableBlock, pollableReady } from "./wasi.js";
import { nativeSetTimeout } from "./natives.js";

const MAX_PAUSE_MS = 4;

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
    for (let pause = 0; ; pause = pause === 0 ? 1 : Math.min(pause * 2, MAX_PAUSE_MS)) {
      if (!engineBusy) return pollableBlock(pollable);
      if (pollableReady(pollable)) return undefined;
      const ms = pause;
      await new Promise((resolve) => nativeSetTimeout(resolve, ms));
    }
  } finally {
    dropPollable(pollable);
  }
}
