import type { Handler } from "@tidegate/sdk";
import OpenAI from "openai";
import { StepFailed, runAgent } from "./graph.js";

interface Env {
  /** Where the OpenAI-compatible API is; BASE_URL wins. Without either it is OpenAI itself. */
  BASE_URL?: string;
  OPENAI_BASE_URL?: string;
  OPENAI_API_KEY?: string;
  MODEL?: string;
  /** The client's own retries. Its default is 2; behind the gate it needs none. */
  MAX_RETRIES?: string;
}

/** The topic: from `?topic=`, or from a JSON body `{"topic": "..."}`. */
async function topicOf(request: Request): Promise<string> {
  const fromQuery = new URL(request.url).searchParams.get("topic");
  if (fromQuery) return fromQuery;
  if (request.method === "POST") {
    const body: unknown = JSON.parse((await request.text()) || "{}");
    if (typeof body === "object" && body !== null && "topic" in body && typeof body.topic === "string") return body.topic;
  }
  return "tides";
}

export default {
  async fetch(request, env) {
    const client = new OpenAI({
      apiKey: env.OPENAI_API_KEY ?? "none",
      baseURL: env.BASE_URL ?? env.OPENAI_BASE_URL,
      maxRetries: env.MAX_RETRIES === undefined ? undefined : Number(env.MAX_RETRIES),
    });
    try {
      return Response.json(await runAgent({ client, topic: await topicOf(request), model: env.MODEL ?? "gpt-4o-mini" }));
    } catch (error) {
      if (!(error instanceof StepFailed)) throw error;
      console.error(error.message);
      const { step, steps, status, message } = error;
      return Response.json({ error: { step, status, message }, steps }, { status: 502 });
    }
  },
} satisfies Handler<Env>;
