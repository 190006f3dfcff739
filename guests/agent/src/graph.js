// The agent: seven nodes in a line, each one chat completion that builds on what the earlier ones said. Nothing in here knows
// where it runs; `index.ts` runs it as a Tidegate function, `node.mjs` as a plain Node program.
import { Annotation, END, START, StateGraph } from "@langchain/langgraph/web";

/**
 * The steps: a name and the question it asks, given the topic and the earlier texts.
 * @type {ReadonlyArray<readonly [string, (topic: string, texts: Record<string, string>) => string]>}
 */
export const STEPS = [
  ["plan", (topic) => `List what a short briefing on "${topic}" has to cover.`],
  ["research", (topic, t) => `Give the key facts for each point of this plan on "${topic}":\n${t.plan}`],
  ["outline", (_, t) => `Turn these facts into an outline:\n${t.research}`],
  ["draft", (_, t) => `Write a first draft from this outline:\n${t.outline}`],
  ["critique", (_, t) => `Name the three weakest points of this draft:\n${t.draft}`],
  ["revise", (_, t) => `Improve the draft.\nDraft:\n${t.draft}\nCritique:\n${t.critique}`],
  ["summary", (_, t) => `Summarise this in one sentence:\n${t.revise}`],
];

/** Which step failed, and what the client said. The texts so far are in `steps`. */
export class StepFailed extends Error {
  /**
   * @param {string} step
   * @param {Array<{step: string, text: string, ms: number}>} steps
   * @param {unknown} cause
   */
  constructor(step, steps, cause) {
    super(`step "${step}" failed: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
    this.name = "StepFailed";
    this.step = step;
    this.steps = steps;
    const status = /** @type {{status?: unknown}} */ (cause ?? {}).status;
    this.status = typeof status === "number" ? status : undefined;
  }
}

/**
 * Runs the seven steps about `topic` with an OpenAI client. Resolves to each step's text and time in milliseconds; rejects
 * with StepFailed.
 *
 * @param {{client: import("openai").OpenAI, topic: string, model: string}} options
 */
export async function runAgent({ client, topic, model }) {
  /** @type {(earlier: Record<string, string>, added: Record<string, string>) => Record<string, string>} */
  const merge = (earlier, added) => ({ ...earlier, ...added });
  const State = Annotation.Root({ texts: Annotation({ reducer: merge, default: () => ({}) }) });
  /** @type {Array<{step: string, text: string, ms: number}>} */
  const steps = [];
  /** @type {any} */
  const graph = new StateGraph(State);
  let previous = START;
  for (const [step, question] of STEPS) {
    graph.addNode(step, async (/** @type {{texts: Record<string, string>}} */ state) => {
      const started = performance.now();
      try {
        const completion = await client.chat.completions.create({
          model,
          messages: [
            { role: "system", content: "You write short, factual briefings." },
            { role: "user", content: question(topic, state.texts) },
          ],
        });
        const text = completion.choices[0]?.message.content ?? "";
        steps.push({ step, text, ms: Math.round(performance.now() - started) });
        return { texts: { [step]: text } };
      } catch (error) {
        throw new StepFailed(step, steps, error);
      }
    });
    graph.addEdge(previous, step);
    previous = step;
  }
  graph.addEdge(previous, END);

  const started = performance.now();
  await graph.compile().invoke({ texts: {} });
  return { topic, model, steps, ms: Math.round(performance.now() - started) };
}
