#!/usr/bin/env node
// The same agent as a plain Node program, to see what it does without a gate.
//   BASE_URL=http://127.0.0.1:8000/v1 node node.mjs --max-retries 2 --agents 20
// Prints one JSON object. Exit code 0: every agent finished; 1: at least one did not.
import { parseArgs } from "node:util";
import OpenAI from "openai";
import { STEPS, StepFailed, runAgent } from "./src/graph.js";

const { values } = parseArgs({
  options: {
    "max-retries": { type: "string", default: process.env.MAX_RETRIES },
    agents: { type: "string", default: "1" },
    topic: { type: "string", default: "tides" },
  },
});

function wholeNumber(name, text) {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 0) {
    process.stderr.write(`--${name} must be a whole number, got ${text}\n`);
    process.exit(2);
  }
  return value;
}

const agents = wholeNumber("agents", values.agents);
const maxRetries = values["max-retries"] === undefined ? undefined : wholeNumber("max-retries", values["max-retries"]);
const client = new OpenAI({
  apiKey: process.env.OPENAI_API_KEY ?? "none",
  baseURL: process.env.BASE_URL ?? process.env.OPENAI_BASE_URL,
  maxRetries,
});
const model = process.env.MODEL ?? "gpt-4o-mini";

async function one() {
  const started = performance.now();
  try {
    return { ok: true, ...(await runAgent({ client, topic: values.topic, model })) };
  } catch (error) {
    if (!(error instanceof StepFailed)) throw error;
    const { step, steps, status, message } = error;
    return { ok: false, error: { step, status, message }, steps, ms: Math.round(performance.now() - started) };
  }
}

const results = await Promise.all(Array.from({ length: agents }, one));
const finished = results.filter((result) => result.ok).length;
const report = agents === 1 ? results[0] : { agents, finished, steps: STEPS.length, maxRetries: client.maxRetries, results };
process.stdout.write(`${JSON.stringify(report, null, 2)}\n`);
process.exitCode = finished === agents ? 0 : 1;
